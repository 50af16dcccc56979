"""Text of a Tile IR kernel, for reading and for comparing kernels by content."""

from __future__ import annotations

from typing import Any

from tessera.tile.ir import (
    AttentionKernel,
    Axis,
    Buffer,
    Compute,
    Const,
    DotKernel,
    Index,
    Kernel,
    Load,
    LoopKernel,
    Op,
    Random,
    Reduce,
    Ref,
    Scan,
)

_WAYS = {"set": "store", "add": "add to", "sum": "sum into"}


def print_kernel(kernel: Kernel) -> str:
    """The kernel as text: buffers, axes, and one line per op."""
    sizes = ", ".join(f"{s.name} in [{s.min}, {'inf' if s.max is None else s.max}]" for s in kernel.sizes)
    head = f'{kind(kernel)} kernel "{kernel.name}"'
    lines = [f"{head} sizes({sizes})" + (f" at {kernel.loc}" if kernel.loc else "")]
    return "\n".join([*lines, *_content(kernel)])


def kind(kernel: Kernel) -> str:
    """The form of a kernel in a word."""
    if isinstance(kernel, AttentionKernel):
        return "attention"
    return "dot" if isinstance(kernel, DotKernel) else "loop"


def content_key(kernel: Kernel) -> str:
    """Text that is equal for kernels that do the same, whatever their name and origin."""
    sizes = ",".join(f"{s.name}:{s.min}:{s.max}:{s.multiple_of}" for s in kernel.sizes)
    return "\n".join([type(kernel).__name__, sizes, *_content(kernel)])


def _content(kernel: Kernel) -> list[str]:
    lines = [f"  {_buffer(i, b)}" for i, b in enumerate(kernel.buffers)]
    if isinstance(kernel, LoopKernel):
        lines.append(f"  grid {_axes(kernel.grid)}")
        for number, stage in enumerate(kernel.stages):
            lines.append(f"  stage {number} {_axes(stage.axes)}")
            lines += [f"    %{number}.{i} = {_op(op)}" for i, op in enumerate(stage.ops)]
        return lines
    if isinstance(kernel, AttentionKernel):
        direction = "gradient" if kernel.backward else "forward"
        words = [direction, *(["causal"] if kernel.causal else []), *(["masked"] if kernel.masked else [])]
        return [*lines, f"  {' '.join(words)} scale {kernel.scale!r}"]
    lines.append(f"  batch {_axes(kernel.batch)} m {_axes((kernel.m,))} n {_axes((kernel.n,))} k {_axes((kernel.k,))}")
    lines.append(f"  accumulate in {kernel.acc.name}")
    for number, (name, body) in enumerate((("a", kernel.a), ("b", kernel.b), ("epilogue", kernel.epilogue))):
        lines.append(f"  {name}")
        lines += [f"    %{number}.{i} = {_op(op)}" for i, op in enumerate(body)]
    return lines


def _axes(axes: tuple[Axis, ...]) -> str:
    return "(" + ", ".join(f"{a.symbol.name} < {a.extent}" for a in axes) + ")"


def _buffer(number: int, buffer: Buffer) -> str:
    alias = f" may alias {list(buffer.may_alias)}" if buffer.may_alias else ""
    shape = ", ".join(map(str, buffer.shape))
    steps = ", ".join(map(str, buffer.strides))
    return f"buffer {number} {buffer.role} {buffer.dtype.name}[{shape}] strides [{steps}]{alias}"


def _ref(ref: Ref | None) -> str:
    return "none" if ref is None else f"%{ref.scope}.{ref.index}"


def _index(index: tuple[Any, ...]) -> str:
    return "[" + ", ".join(_ref(e) if isinstance(e, Ref) else str(e) for e in index) + "]"


def _op(op: Op) -> str:
    if isinstance(op, Const):
        return f"const {op.value!r} : {op.dtype.name}"
    if isinstance(op, Index):
        return f"index {op.expr}"
    if isinstance(op, Load):
        mask = "" if op.mask is None else f" where {_ref(op.mask)} else {op.other!r}"
        return f"load {op.buffer}{_index(op.index)}{mask}"
    if isinstance(op, Compute):
        return f"{op.function}({', '.join(map(_ref, op.args))}) : {op.dtype.name}"
    if isinstance(op, Random):
        return f"random({_ref(op.key[0])}, {_ref(op.key[1])}, {op.operation}, {op.element}) : {op.dtype.name}"
    if isinstance(op, (Reduce, Scan)):
        return f"{'reduce' if isinstance(op, Reduce) else 'scan'} {op.combine}({_ref(op.value)}) : {op.dtype.name}"
    mask = "" if op.mask is None else f" where {_ref(op.mask)}"
    return f"{_WAYS[op.mode]} {op.buffer}{_index(op.index)} = {_ref(op.value)}{mask}"
