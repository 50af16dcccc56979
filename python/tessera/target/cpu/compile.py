"""Tile IR kernels → one kernel image for a CPU level."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from tessera.errors import CompileError
from tessera.ir.dims import Dim
from tessera.target.cpu import dot, loops
from tessera.target.cpu.cache import Compiled, KernelCache, key_of
from tessera.target.cpu.emit import Module
from tessera.target.cpu.image import flatten
from tessera.target.cpu.kernel import MARK_BYTES, CompiledText, entry_mark
from tessera.target.cpu.levels import Level, level_named
from tessera.tile.ir import DotKernel, Kernel, LoopKernel


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """An entry of an image: its offset; grid, grain and scratch (bytes per thread) over the kernel's sizes."""

    name: str
    entry: int
    grid: Dim
    grain: Dim
    scratch: Dim


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel image: position-independent ``code`` and one CompiledKernel per kernel, in the order given."""

    level: str
    code: bytes
    kernels: list[CompiledKernel]


_cache = KernelCache()
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_ready = False


def compile_kernels(
    kernels: Sequence[Kernel], level: str | None = None, tiles: tuple[int, int, int] | None = None,
    ordered: bool = False,
) -> Image:
    """Compile kernels for a code level (None: ``TESSERA_CPU_LEVEL`` or the running CPU's).

    ``tiles``: block sizes of products, as in ``graph.Schedule``; ``ordered``: as in ``Level``.
    Kernels of equal content share code. Raises CompileError, UnsupportedError or ArgumentError.
    """
    target = replace(level_named(level), ordered=ordered)
    keys = [key_of(k, target, tiles) for k in kernels]
    unique: dict[str, Kernel] = {}
    for key, kernel in zip(keys, kernels):
        unique.setdefault(key, kernel)
    found = {key: _cache.find(key, kernel.sizes) for key, kernel in unique.items()}
    _compile_missing([(key, unique[key]) for key, value in found.items() if value is None], target, tiles)
    code = bytearray()
    compiled: dict[str, CompiledKernel] = {}
    for key, kernel in unique.items():
        value = _cache.find(key, kernel.sizes)
        assert value is not None
        compiled[key] = CompiledKernel(kernel.name, len(code) + value.entry, value.grid, value.grain, value.scratch)
        code += value.code
    return Image(target.name, bytes(code), [replace(compiled[k], name=kernel.name) for k, kernel in zip(keys, kernels)])


def _compile_missing(
    items: Sequence[tuple[str, Kernel]], level: Level, tiles: tuple[int, int, int] | None
) -> None:
    global _pool
    if len(items) == 1:
        _compile_one(items[0], level, tiles)
        return
    if not items:
        return
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=min(16, len(os.sched_getaffinity(0))), thread_name_prefix="compile")
    initialize_llvm()
    for done in [_pool.submit(_compile_one, item, level, tiles) for item in items]:
        done.result()


def _compile_one(item: tuple[str, Kernel], level: Level, tiles: tuple[int, int, int] | None) -> None:
    key, kernel = item
    module = Module(level.ordered)
    text = generate(module, level, kernel, "entry", tiles)
    image = flatten(assemble(module.text(attributes(level)), level, kernel.name))
    entry = image.entries[text.name]
    if image.code[max(0, entry - MARK_BYTES):entry] != entry_mark(kernel):
        raise CompileError(f"kernel {kernel.name}: its entry has no mark before it")
    _cache.add(key, Compiled(image.code, entry, text.grid, text.grain, text.scratch))


def generate(
    module: Module, level: Level, kernel: Kernel, name: str, tiles: tuple[int, int, int] | None
) -> CompiledText:
    """Write one kernel into a module as the function ``name``."""
    if isinstance(kernel, DotKernel):
        return dot.generate(module, level, kernel, name, tiles)
    if isinstance(kernel, LoopKernel):
        return loops.generate(module, level, kernel, name)
    raise CompileError(f"kernel {kernel.name}: the CPU has no {type(kernel).__name__}; operators are decomposed for it")


def attributes(level: Level) -> str:
    """The attributes of every function: no library calls, no unwinding, full vector width."""
    bits = level.vector_bytes * 8
    return (
        f'nounwind "no-builtins" "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" '
        f'"target-cpu"="{level.name}"'
    )


def initialize_llvm() -> None:
    """Set LLVM up for native code, once."""
    global _ready
    with _lock:
        if not _ready:
            import llvmlite.binding as llvm

            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            _ready = True


def assemble(text: str, level: Level, what: str) -> bytes:
    """LLVM IR text to an object file."""
    import llvmlite.binding as llvm

    initialize_llvm()
    try:
        module = llvm.parse_assembly(text)
    except RuntimeError as error:
        raise CompileError(f"kernel {what}: LLVM does not accept the generated code: {error}") from error
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu=level.name, opt=2, reloc="pic", codemodel="small"
    )
    try:
        optimize(module, machine)
        return machine.emit_object(module)
    finally:
        module.close()


def optimize(module: Any, machine: Any) -> None:
    """The few passes that the generated code still profits from."""
    import llvmlite.binding as llvm

    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(2))
    passes = llvm.create_new_module_pass_manager()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, builder)
