"""Triton programs → machine code, ahead of time: no GPU, no driver, nothing outside the package."""

from __future__ import annotations

import linecache
import struct
import threading
from collections.abc import Mapping
from typing import Any

from tessera.errors import CompileError
from tessera.target.triton.convert import pointer_type
from tessera.target.triton.early import FIRST, may_start_early
from tessera.target.triton.launch import (
    Binary,
    BufferArgument,
    Program,
    SizeArgument,
    StatusArgument,
    TensorMapArgument,
)

_ALIGNED = 16
_importing = threading.Lock()
"""Held while Triton is imported. Its modules import each other, so that a thread that comes while another imports them
would find modules that are not whole."""
_loading = threading.Lock()
_front_end = threading.Lock()
"""Held while Triton reads a program. That is Python, one thread at a time anyway, and CPython before 3.11.8 raises
SystemError where two threads are in ``ast.parse`` at once (python/cpython#106905)."""


def compile_program(program: Program, backend: str, architecture: int | str, warp: int) -> Binary:
    """Compile one program for an architecture (90, "gfx942"). Raises CompileError."""
    with _importing:
        from triton.backends.compiler import GPUTarget, Language  # type: ignore[import-not-found]
        from triton.compiler.compiler import make_backend  # type: ignore[import-not-found]

    target = GPUTarget(backend, architecture, warp)
    early = isinstance(architecture, int) and architecture >= FIRST
    compiler: Any = make_backend(target)
    try:
        options = compiler.parse_options(_options(program, backend))
        stages: dict[str, Any] = {}
        compiler.add_stages(stages, options, Language.GLUON if program.gluon else Language.TRITON)
        made: dict[str, Any] = {}
        metadata: dict[str, Any] = {"target": target, **options.__dict__}
        with _front_end:
            module = _first_form(program, target, compiler, options)
        for name, stage in stages.items():
            module = stage(module, metadata)
            if name == "ptx" and early:
                module = may_start_early(module)
            made[name] = module
    except Exception as error:
        raise CompileError(
            f"kernel {program.name}: Triton does not compile it for {architecture}: {error}\n{program.source}"
        ) from error
    return _binary(metadata, made, backend, warp, early)


def _options(program: Program, backend: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_warps": program.warps, "num_stages": program.stages, "enable_fp_fusion": program.contract,
    }
    if backend == "cuda":
        options |= {"num_ctas": program.clusters, "maxnreg": program.registers, "enable_reflect_ftz": False}
    return options


def _first_form(program: Program, target: Any, compiler: Any, options: Any) -> Any:
    """The program in Triton's own IR."""
    from triton import knobs  # type: ignore[import-not-found]
    from triton._C.libtriton import ir  # type: ignore[import-not-found]
    from triton.compiler.compiler import ASTSource  # type: ignore[import-not-found]
    from triton.experimental.gluon._runtime import GluonASTSource  # type: ignore[import-not-found]

    knobs.compilation.disable_line_info = True
    function = load(program)
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for at, (name, argument) in enumerate(zip(function.arg_names, program.arguments)):
        divisor = 1
        if isinstance(argument, BufferArgument):
            signature[name], divisor = pointer_type(argument.dtype), _ALIGNED
        elif isinstance(argument, SizeArgument):
            signature[name], divisor = argument.type, argument.multiple_of
        elif isinstance(argument, StatusArgument):
            signature[name] = "*i64"
        elif isinstance(argument, TensorMapArgument):
            signature[name] = map_type(argument)
        else:
            raise CompileError(f"kernel {program.name}: an argument of kind {type(argument).__name__}")
        if divisor % _ALIGNED == 0:
            attributes[at,] = [["tt.divisibility", _ALIGNED]]
    context = ir.context()
    ir.load_dialects(context)
    compiler.load_dialects(context)
    source = (GluonASTSource if program.gluon else ASTSource)(function, signature, {}, attributes)
    return source.make_ir(
        target, options, compiler.get_codegen_implementation(options), compiler.get_module_map(), context
    )


def map_type(argument: TensorMapArgument) -> str:
    """The type of a tensor map, as in a Gluon signature."""
    from tessera.target.triton.gluon import shared_layout

    element = {"f8e4m3": "fp8e4nv", "f8e5m2": "fp8e5"}.get(argument.dtype.name, pointer_type(argument.dtype)[1:])
    layout = shared_layout(argument.swizzle, argument.dtype, len(argument.block))
    return f"tensordesc<{element}{list(argument.block)},{layout}>"


def load(program: Program) -> Any:
    """The Triton function of a program. Its text is given to ``linecache``, where Triton looks for it."""
    file = f"<kernel {program.name}>"
    with _loading:  # kernels of one name share a file name
        linecache.cache[file] = (len(program.source), None, program.source.splitlines(True), file)
        names: dict[str, Any] = {"__name__": f"tessera_kernel_{program.name}"}
        exec(compile(program.source, file, "exec"), names)  # noqa: S102
        return names[program.name]


def _binary(metadata: Mapping[str, Any], made: Mapping[str, Any], backend: str, warp: int, early: bool) -> Binary:
    nvidia = backend == "cuda"
    code = made["cubin" if nvidia else "hsaco"]
    return Binary(
        symbol=metadata["name"], code=bytes(code), format="cubin" if nvidia else "hsaco",
        threads=metadata["num_warps"] * warp, shared=metadata["shared"],
        scratch=metadata.get("global_scratch_size") or 0,
        registers=_registers(bytes(code)) if nvidia else _vector_registers(made["amdgcn"]),
        text=made["ptx"].encode() if nvidia else b"", early=early,
    )


_REGISTER_COUNT = 0x2F04
"""The attribute of ``.nv.info`` whose value is a function's number and its registers."""


def _registers(cubin: bytes) -> int | None:
    """Registers of each thread, from the section ``.nv.info``; None where there is no such record."""
    table, = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    strings, = struct.unpack_from("<Q", cubin, table + names * size + 24)
    for number in range(count):
        name, _, _, _, start, length = struct.unpack_from("<IIQQQQ", cubin, table + number * size)
        if cubin[strings + name:].startswith(b".nv.info\0"):
            return _record(cubin[start : start + length])
    return None


def _record(info: bytes) -> int | None:
    at = 0
    while at + 4 <= len(info):
        kind, length = struct.unpack_from("<HH", info, at)
        if kind == _REGISTER_COUNT:
            return struct.unpack_from("<II", info, at + 4)[1]
        at += 4 + (length if kind & 0xFF == 4 else 0)
    return None


def _vector_registers(assembly: str) -> int | None:
    _, found, rest = assembly.partition(".vgpr_count:")
    return int(rest.split(None, 1)[0]) if found else None
