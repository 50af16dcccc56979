"""Tile IR kernels → one kernel image for a CPU level."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from tessera.config import CACHE_DIR
from tessera.errors import CompileError
from tessera.ir.dims import Dim
from tessera.target.cpu import dot, loops
from tessera.target.cpu.emit import Module
from tessera.target.cpu.image import flatten
from tessera.target.cpu.kernel import CompiledText
from tessera.target.cpu.levels import Level, level_named
from tessera.tile.ir import DotKernel, Kernel

_CODE_VERSION = 1


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


_cache: dict[str, tuple[bytes, dict[str, int], list[CompiledText]]] = {}
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_ready = False


def compile_kernels(kernels: Sequence[Kernel], level: str | None = None) -> Image:
    """Compile kernels for a code level (None: ``TESSERA_CPU_LEVEL`` or the running CPU's).

    Kernels of equal content share code. Raises CompileError, UnsupportedError or ArgumentError.
    """
    target = level_named(level)
    keys = [_content(k) for k in kernels]
    order: dict[str, Kernel] = {}
    for key, kernel in zip(keys, kernels):
        order.setdefault(key, kernel)
    code = bytearray()
    compiled: dict[str, CompiledKernel] = {}
    missing = [key for key in order if _cache_key(key, target) not in _cache]
    for key in list(missing):
        found = _read_disk(_cache_key(key, target))
        if found is not None:
            _cache[_cache_key(key, target)] = found
            missing.remove(key)
    _compile_missing([(key, order[key]) for key in missing], target)
    for key in order:
        blob, entries, texts = _cache[_cache_key(key, target)]
        base = len(code)
        code += blob
        text = texts[0]
        compiled[key] = CompiledKernel(order[key].name, base + entries[text.name], text.grid, text.grain, text.scratch)
    return Image(target.name, bytes(code), [replace(compiled[k], name=kernel.name) for k, kernel in zip(keys, kernels)])


def _content(kernel: Kernel) -> str:
    """A key of the kernel's content: everything but its name and source location."""
    return hashlib.blake2b(repr(_anonymous(kernel)).encode(), digest_size=16).hexdigest()


def _anonymous(kernel: Kernel) -> Any:
    symbols = [(s.name, s.min, s.max, s.multiple_of) for s in kernel.sizes]
    return symbols, replace(kernel, name="", loc=None)


def _cache_key(content: str, level: Level) -> str:
    return f"{_CODE_VERSION}-{level.name}-{content}"


def _compile_missing(items: Sequence[tuple[str, Kernel]], level: Level) -> None:
    global _pool
    if not items:
        return
    if len(items) == 1:
        _compile_one(items[0], level)
        return
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=min(16, len(os.sched_getaffinity(0))), thread_name_prefix="compile")
    initialize_llvm()
    for done in [_pool.submit(_compile_one, item, level) for item in items]:
        done.result()


def _compile_one(item: tuple[str, Kernel], level: Level) -> None:
    key, kernel = item
    module = Module()
    text = generate(module, level, kernel, "entry")
    image = flatten(assemble(module.text(attributes(level)), level, kernel.name))
    result = (image.code, image.entries, [text])
    _cache[_cache_key(key, level)] = result
    _write_disk(_cache_key(key, level), result)


def generate(module: Module, level: Level, kernel: Kernel, name: str) -> CompiledText:
    """Write one kernel into a module as the function ``name``."""
    if isinstance(kernel, DotKernel):
        return dot.generate(module, level, kernel, name)
    return loops.generate(module, level, kernel, name)


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


def _disk_path(key: str) -> str | None:
    folder = CACHE_DIR.text()
    return os.path.join(folder, f"cpu-{key}.bin") if folder else None


def _read_disk(key: str) -> tuple[bytes, dict[str, int], list[CompiledText]] | None:
    path = _disk_path(key)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            data = file.read()
        digest, payload = data[:16], data[16:]
        if hashlib.blake2b(payload, digest_size=16).digest() != digest:
            return None
        return pickle.loads(payload)
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError):
        return None


def _write_disk(key: str, value: tuple[bytes, dict[str, int], list[CompiledText]]) -> None:
    path = _disk_path(key)
    if path is None:
        return
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        payload = pickle.dumps(value)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.blake2b(payload, digest_size=16).digest() + payload)
        os.replace(temporary, path)
    except OSError:
        return  # the cache is only an optimisation
