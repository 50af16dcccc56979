"""The text of ``graph.schedule``: what runs, what it reads, writes and computes, and where its tensors lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tessera.ir.dims import Dim, add, evaluate, floordiv, mul, product, substitute, sym
from tessera.ir.provenance import Location
from tessera.schedule import cost
from tessera.schedule.cost import typical
from tessera.schedule.plan import CollectiveCall, Copy, Instruction, KernelCall, Plan, RangeCheck, Wait
from tessera.tile.ir import AttentionKernel, Compute, DotKernel, Kernel, Load, LoopKernel, Random, Reduce, Scan, Store
from tessera.tile.printer import kind
from tessera.tile.rewrite import bodies

FORWARD_WORK, BACKWARD_WORK = 19, 75
"""For each score. Heads of 64 reached 294 and 232 TFLOP/s; for heads of 128 these give 450 and 375, measured were 519
and 391.
"""


def kernel_grid(kernel: Kernel) -> tuple[Dim, ...]:
    """Extents of the independent axes."""
    if isinstance(kernel, DotKernel):
        return (*(a.extent for a in kernel.batch), kernel.m.extent, kernel.n.extent)
    if isinstance(kernel, AttentionKernel):
        return kernel.buffers[0].shape[:2]
    return tuple(a.extent for a in kernel.grid)


def kernel_flops(kernel: Kernel) -> Dim:
    """Arithmetic operations: one per computed element, two per term of a product; of attention, its products."""
    if isinstance(kernel, DotKernel):
        points = product(kernel_grid(kernel))
        total = mul(mul(points, kernel.k.extent), 2)
        return add(total, mul(points, _arithmetic(kernel.epilogue)))
    if isinstance(kernel, AttentionKernel):
        q, k = (b.shape for b in kernel.buffers[:2])
        return floordiv(mul(product((*q, k[1])), 10 if kernel.backward else 4), 2 if kernel.causal else 1)
    total: Dim = 0
    points = product(kernel_grid(kernel))
    for stage in kernel.stages:
        total = add(total, mul(mul(points, product(a.extent for a in stage.axes)), _arithmetic(stage.ops)))
    return total


def kernel_work(kernel: Kernel) -> Dim:
    """Simple operations of a kernel with matrix units that take time on top of what these do, as measured on an H100.

    Two for each unit of work of an epilogue; for each score of attention ``FORWARD_WORK``, with the gradients
    ``BACKWARD_WORK``.
    """
    if isinstance(kernel, DotKernel):
        work = sum(cost.function_work(op.function) for op in kernel.epilogue
                   if isinstance(op, Compute) and op.function != "cast")
        return mul(product(kernel_grid(kernel)), 2 * work)
    if isinstance(kernel, AttentionKernel):
        q, k = (b.shape for b in kernel.buffers[:2])
        scores = floordiv(mul(product(q[:2]), k[1]), 2 if kernel.causal else 1)
        return mul(scores, BACKWARD_WORK if kernel.backward else FORWARD_WORK)
    return 0


def _arithmetic(ops: tuple[object, ...]) -> int:
    return sum(
        isinstance(op, (Random, Reduce, Scan)) or (isinstance(op, Compute) and op.function != "cast") for op in ops
    )


def kernel_bytes(kernel: Kernel) -> tuple[Dim, Dim]:
    """Bytes that a kernel reads and writes of its tensors, each counted once; of a part that it uses, the part."""
    read: Dim = 0
    written: Dim = 0
    points = _points(kernel)
    for number, buffer in enumerate(kernel.buffers):
        elements = product(buffer.shape)
        if points is not None and isinstance(elements, int):
            uses = sum(op.buffer == number for body in bodies(kernel) for op in body if isinstance(op, (Load, Store)))
            elements = min(elements, points * max(uses, 1))
        size = mul(elements, buffer.dtype.itemsize)
        if buffer.role != "out":
            read = add(read, size)
        if buffer.role != "in":
            written = add(written, size)
    return read, written


def _points(kernel: Kernel) -> int | None:
    """The most places at which a loop kernel reads or writes; None for others, and for symbolic sizes."""
    if not isinstance(kernel, LoopKernel):
        return None
    most = 0
    for stage in kernel.stages:
        points = mul(product(kernel_grid(kernel)), product(a.extent for a in stage.axes))
        if not isinstance(points, int):
            return None
        most = max(most, points)
    return most


def report(plan: Plan, sizes: Mapping[str, int] | None = None) -> str:
    """Tables of instructions and buffers, and the peak.

    Symbolic amounts are shown as they are, and evaluated at ``sizes``, or at typical sizes without them.
    """
    numbers = _Numbers(plan, sizes)
    rows = [("", "instruction", "kind", "grid", "read", "written", "flops", "line")]
    rows += [(str(i), *_instruction_row(plan, instruction, numbers)) for i, instruction in enumerate(plan.instructions)]
    buffers = [("", "buffer", "kind", "bytes", "offset", "live", "")]
    for i, b in enumerate(plan.buffers):
        live = "" if b.live is None else f"{b.live[0]}-{b.live[1]}"
        offset = "" if b.offset is None else numbers.plain(b.offset)
        symbolic = "" if isinstance(b.bytes, int) else f"= {b.bytes}"
        buffers.append((str(i), b.label, b.kind, numbers.amount(b.bytes), offset, live, symbolic))
    calls = sum(isinstance(i, KernelCall) for i in plan.instructions)
    lines = [f"{len(plan.instructions)} instructions: {calls} kernel calls of {len(plan.kernels)} kernels"]
    if numbers.at:
        lines[0] += f"; amounts at {numbers.at}"
    if plan.tiles and any(isinstance(k, DotKernel) for k in plan.kernels):
        lines[0] += "; products in blocks of {} x {}, {} terms at a time".format(*plan.tiles)
    peak = f"peak working memory: {numbers.amount(plan.arena)}"
    if not isinstance(plan.arena, int):
        peak += f" = {plan.arena} bytes"
    return "\n".join([*lines, "", *table(rows, (0, 3, 4, 5, 6)), "", *table(buffers, (0, 3, 4, 5)), "", peak])


class _Numbers:
    """Amounts at given or typical sizes."""

    def __init__(self, plan: Plan, sizes: Mapping[str, int] | None) -> None:
        self.sizes = {d.name: (sizes or {}).get(d.name, typical(sym(d))) for d in plan.dims}
        self.at = ", ".join(f"{name} = {n}" for name, n in self.sizes.items())

    def value(self, d: Dim) -> int:
        return evaluate(d, self.sizes)

    def amount(self, d: Dim) -> str:
        """Bytes with a unit."""
        n = self.value(d)
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if n >= size:
                return f"{n / size:.2f} {unit}"
        return f"{n} B"

    def count(self, d: Dim) -> str:
        """A number with a decimal prefix."""
        n = self.value(d)
        for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
            if n >= size:
                return f"{n / size:.2f} {unit}"
        return str(n)

    def plain(self, d: Dim) -> str:
        return str(self.value(d))


def _instruction_row(plan: Plan, i: Instruction, numbers: _Numbers) -> tuple[str, ...]:
    if isinstance(i, KernelCall):
        kernel = plan.kernels[i.kernel]
        values = plan.kernel_sizes(i)

        def here(d: Dim) -> Dim:
            return substitute(d, values)

        read, written = kernel_bytes(kernel)
        grid = " x ".join(str(here(d)) for d in kernel_grid(kernel)) or "1"
        return (
            kernel.name, kind(kernel), grid, numbers.amount(here(read)), numbers.amount(here(written)),
            numbers.count(here(kernel_flops(kernel))), _line(i.loc),
        )
    if isinstance(i, RangeCheck):
        read = numbers.amount(mul(i.count, i.dtype.itemsize))
        return f"check {i.what}", "check", str(i.count), read, "", "", _line(i.loc)
    if isinstance(i, Copy):
        name = f"copy {plan.buffers[i.source].label} to {plan.buffers[i.target].label}"
        return name, "copy", "", numbers.amount(i.bytes), numbers.amount(i.bytes), "", _line(i.loc)
    if isinstance(i, Wait):
        return f"wait for {i.start}", "collective", "", "", "", "", _line(i.loc)
    if isinstance(i, CollectiveCall):
        started = "" if i.start is None else f", started as {i.start}"
        return f"{i.op} {'*'.join(i.axes)}{started}", "collective", "", numbers.amount(i.bytes), "", "", _line(i.loc)
    return i.op, "portable", "", "", "", "", _line(i.loc)


def _line(loc: Location | None) -> str:
    return "" if loc is None else str(loc)


def table(rows: Sequence[tuple[str, ...]], right: Collection[int]) -> list[str]:
    """The lines of a table; the columns ``right`` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return lines
