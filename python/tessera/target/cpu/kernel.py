"""The frame of a kernel: its entry with the kernel ABI, and the body function that the generators fill."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from tessera.errors import CompileError
from tessera.ir.dims import Dim, Symbol
from tessera.target.cpu.convert import check_supported
from tessera.target.cpu.emit import Builder, Module, Val
from tessera.target.cpu.levels import Level
from tessera.tile.ir import Kernel

MARK_BYTES = 16
"""Size of the mark right before every entry."""


def entry_mark(kernel: Kernel) -> bytes:
    """The mark of a kernel's entry: the loader finds by it that an offset is one, and how many arguments it takes."""
    return b"\xcctessera" + struct.pack("<II", len(kernel.buffers), len(kernel.sizes))


@dataclass(frozen=True, slots=True)
class CompiledText:
    """What a generator knows about an entry that it wrote: see the kernel ABI for the fields."""

    name: str
    grid: Dim
    grain: Dim
    scratch: Dim


def open_kernel(module: Module, level: Level, kernel: Kernel, name: str
                ) -> tuple[Builder, list[Val], dict[Symbol, Val], Callable[[], None]]:
    """A builder for the kernel's body, its buffer pointers, its sizes, and what to call when it is written.

    The body is a function of its own so that pointers can be declared not to alias.
    """
    for buffer in kernel.buffers:
        check_supported(buffer.dtype)
    args = []
    for i, buffer in enumerate(kernel.buffers):
        aliased = buffer.may_alias or any(i in other.may_alias for other in kernel.buffers)
        args.append(("ptr" if aliased else "ptr noalias", f"b{i}"))
    args += [("i64", f"s{i}") for i in range(len(kernel.sizes))]
    args += [("i64", "begin"), ("i64", "end"), ("ptr noalias", "scratch")]
    b = Builder(module, f"{name}.body", "void", args, level.has_fma)
    pointers = [b.args[f"b{i}"] for i in range(len(kernel.buffers))]
    sizes = {s: b.args[f"s{i}"] for i, s in enumerate(kernel.sizes)}
    _write_entry(module, kernel, name, args)

    def finish() -> None:
        module.functions[b.name] = b.finish()

    return b, pointers, sizes, finish


def _write_entry(module: Module, kernel: Kernel, name: str, args: list[tuple[str, str]]) -> None:
    if len({s.name for s in kernel.sizes}) != len(kernel.sizes):
        raise CompileError(f"kernel {kernel.name}: two size arguments have the same name")
    b = Builder(module, name, "i64", [("ptr", "buffers"), ("ptr", "sizes"), ("i64", "begin"), ("i64", "end"),
                                      ("ptr", "scratch")], False, internal=False, mark=entry_mark(kernel))
    values = [b.load(b.pointer(b.args["buffers"], i, "ptr"), "ptr", 1, 8) for i in range(len(kernel.buffers))]
    values += [b.load(b.pointer(b.args["sizes"], i, "i64"), "i64", 1, 8) for i in range(len(kernel.sizes))]
    values += [b.args["begin"], b.args["end"], b.args["scratch"]]
    b.line(f"call void @{name}.body({', '.join(map(str, values))})")
    module.functions[name] = b.finish(b.const(0, "i64"))
