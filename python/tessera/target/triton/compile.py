"""Programs → one image for a GPU architecture: what ``target.ptx.compile`` and ``target.hsaco.compile`` share."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from tessera.ir.dims import Dim
from tessera.target.triton.build import compile_program
from tessera.target.triton.cache import ProgramCache, key_of
from tessera.target.triton.launch import (
    AppendedArgument,
    Argument,
    Binary,
    CompiledKernel,
    ConstantArgument,
    Generated,
    Image,
    Module,
    Program,
    TensorMapArgument,
)
from tessera.target.triton.worker import compile_in_processes

_ALIGN = 64
_MANY, _CORES, _PROCESSES = 8, 4, 16
"""Programs from which, and cores on which, it is worth while to start processes; how many at most."""
_APPENDED = (AppendedArgument("global_scratch"), AppendedArgument("profile_scratch"))


@dataclass(frozen=True, slots=True)
class Architecture:
    """A GPU architecture. ``portable``: its assembly text runs on later devices, and is stored beside its code."""

    target: str
    name: str
    backend: str
    number: int | str
    warp: int
    portable: bool = False


def present(target: str) -> list[str]:
    """The architectures, as levels of plans, of this machine's GPUs that the target serves; none without a driver."""
    from tessera import _core

    return list(dict.fromkeys(_core.gpu_levels(target)))


def processes_for(programs: int) -> int:
    """How many processes compile so many programs; 0: they are compiled in this one."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, _PROCESSES, programs // 2) if programs >= _MANY and cores >= _CORES else 0


_cache = ProgramCache()
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def build_image(generated: Sequence[Generated], architecture: Architecture) -> Image:
    """Compile the programs of kernels, each different one once. Raises CompileError."""
    programs = {key_of(p, architecture.name): p for g in generated for p in g.programs}
    _compile_missing({k: p for k, p in programs.items() if _cache.find(k) is None}, architecture)
    code = bytearray()
    modules: list[Module] = []
    numbers: dict[str, int] = {}
    kernels: list[CompiledKernel] = []
    launches: list[tuple[int, ...]] = []
    for one in generated:
        mine: list[int] = []
        for program in one.programs:
            key = key_of(program, architecture.name)
            binary = _cache.find(key)
            assert binary is not None
            if key not in numbers:
                numbers[key] = len(modules)
                _append(code, modules, binary, architecture)
            mine.append(len(kernels))
            kernels.append(_compiled(program, binary, numbers[key]))
        launches.append(tuple(mine))
    workspaces: list[Dim] = [g.workspace for g in generated]
    return Image(architecture.target, architecture.name, bytes(code), modules, kernels, launches, workspaces)


def _append(code: bytearray, modules: list[Module], binary: Binary, architecture: Architecture) -> None:
    forms = [(binary.format, binary.code)]
    if architecture.portable:
        forms.append(("ptx", binary.text + b"\0"))
    for number, (form, data) in enumerate(forms):
        code.extend(bytes(-len(code) % _ALIGN))
        modules.append(Module(len(code), len(data), form, number > 0))
        code.extend(data)


def _compiled(program: Program, binary: Binary, module: int) -> CompiledKernel:
    return CompiledKernel(
        program.name, module, binary.symbol, binary.threads, binary.shared, (program.clusters, 1, 1), binary.scratch,
        (*_passed(program.arguments), *_APPENDED), program.grid, binary.registers, program.source,
        binary.early,
    )


def _passed(arguments: Sequence[Argument]) -> list[Argument]:
    """The arguments as the machine code takes them: a tensor map is followed by its shape and strides, never read."""
    found: list[Argument] = []
    for a in arguments:
        found.append(a)
        if isinstance(a, TensorMapArgument):
            found += [ConstantArgument(0, kind) for kind in ("i32", "i64") for _ in a.shape]
    return found


def _compile_missing(programs: dict[str, Program], architecture: Architecture) -> None:
    """Compile what is not known yet: a few programs in threads, many in processes."""
    global _pool
    cores = len(os.sched_getaffinity(0))
    missing = dict(programs)
    if processes := processes_for(len(missing)):
        jobs = [(p, architecture.backend, architecture.number, architecture.warp) for p in missing.values()]
        for key, binary in zip(list(missing), compile_in_processes(jobs, processes)):
            if binary is not None:
                _cache.add(key, binary)
                del missing[key]

    def one(item: tuple[str, Program]) -> None:
        key, program = item
        _cache.add(key, compile_program(program, architecture.backend, architecture.number, architecture.warp))

    if len(missing) <= 1:
        for item in missing.items():
            one(item)
        return
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=min(16, cores), thread_name_prefix="compile")
    compiling = [_pool.submit(one, item) for item in missing.items()]
    wait(compiling)
    for done in compiling:
        done.result()
