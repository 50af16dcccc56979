"""How a LoopKernel is vectorised: merged axes, the axis of the lanes, their number, the unrolling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.ir.dims import Dim, Symbol, bounds
from tessera.target.cpu.access import (
    FlatLoad,
    FlatOp,
    FlatStore,
    dims_of,
    flatten_stages,
    linear,
    merge_axes,
    substitute_stages,
)
from tessera.target.cpu.body import prepare
from tessera.target.cpu.cost import cycles_per_vector
from tessera.target.cpu.levels import Level
from tessera.tile.ir import Axis, Compute, Const, LoopKernel, Random, Reduce, Scan

Stages = list[tuple[list[Axis], list[FlatOp]]]


@dataclass
class LoopPlan:
    """Decisions for one kernel."""

    grid: list[Axis]
    stages: Stages
    vector: Symbol | None  # a grid axis, or None: lanes over the stages
    lanes: int
    unroll: int


def plan_loops(level: Level, kernel: LoopKernel) -> LoopPlan:
    """Merge axes and choose what the lanes run over."""
    stages = flatten_stages(kernel.stages, kernel.buffers)
    stages = [(axes, prepare(ops)) for axes, ops in stages]
    dims = [d for _, ops in stages for o in ops for d in dims_of(o)]
    grid, mapping = merge_axes(kernel.grid, dims)
    stages = substitute_stages(stages, mapping)
    merged: Stages = []
    for axes, ops in stages:
        observed = any(isinstance(o, Scan) or (isinstance(o, Reduce) and o.combine.startswith("arg")) for o in ops)
        axes, mapping = merge_axes(axes, [d for o in ops for d in dims_of(o)], observed and len(axes) == 1)
        merged.append((axes, substitute_stages([(axes, ops)], mapping)[0][1]))
    lanes = _lanes(level, kernel, merged)
    vector, scalar = _choose_axis(grid, merged, lanes, level.ordered)
    if scalar:
        return LoopPlan(grid, merged, None, 1, 1)
    if vector is not None:
        position = [a.symbol for a in grid].index(vector)
        grid = [*grid[:position], *grid[position + 1:], grid[position]]
        return LoopPlan(grid, merged, vector, lanes, _unroll(merged, True))
    merged = [(_innermost_best(axes, ops), ops) for axes, ops in merged]
    return LoopPlan(grid, merged, None, lanes, _unroll(merged, False))


def _unroll(stages: Stages, over_grid: bool) -> int:
    cycles = sum(cycles_per_vector(ops) for _, ops in stages)
    reduces = any(isinstance(o, (Reduce, Scan)) for _, ops in stages for o in ops)
    if reduces:
        return 4 if cycles <= 14 else 2 if cycles <= 40 else 1
    return 2 if over_grid and cycles <= 8 else 1


def _lanes(level: Level, kernel: LoopKernel, stages: Stages) -> int:
    """Lanes by the widest type that is computed with, at least 32 bits when floats take part."""
    widest = 8
    for _, ops in stages:
        for op in ops:
            if isinstance(op, (FlatLoad, FlatStore)):
                dtype = kernel.buffers[op.place.buffer].dtype
            elif isinstance(op, (Compute, Const, Reduce, Scan, Random)):
                dtype = op.dtype
            else:
                continue
            bits = 32 if dtype.is_float and dtype.bits < 32 else dtype.bits
            if dtype.name == "i64":
                bits = 32  # index arithmetic must not halve the lanes of f32 work
            widest = max(widest, bits)
    only_i64 = all(b.dtype.bits == 64 for b in kernel.buffers) and kernel.buffers
    return level.lanes(64 if only_i64 else widest)


def _penalty(op: FlatOp, axis: Symbol) -> int:
    if isinstance(op, (FlatLoad, FlatStore)):
        step = linear(op.place.offset, [axis]).along(axis)
        if step in (0, 1):
            return 0
        return 6 if isinstance(op, FlatStore) else 4
    return 0


def _choose_axis(grid: Sequence[Axis], stages: Stages, lanes: int, in_order: bool) -> tuple[Symbol | None, bool]:
    """(grid axis to vectorise over or None for the stage axes, whether lanes cannot be used at all)."""
    has_axes = any(axes for axes, _ in stages)
    ordered = any(isinstance(o, Scan) or (isinstance(o, FlatStore) and o.mode == "add" and axes)
                  or (in_order and isinstance(o, Reduce) and o.dtype.is_float)
                  for axes, ops in stages for o in ops)
    candidates = []
    for position, axis in enumerate(grid):
        cost = _short(axis.extent, lanes) * 2.0
        for axes, ops in stages:
            cost += sum(_penalty(o, axis.symbol) for o in ops) * (4 if axes else 1)
        candidates.append((cost, -position, axis.symbol))
    best = min(candidates, default=None)
    if not has_axes:
        return (None, True) if best is None else (best[2], False)
    if ordered:
        # lanes over a stage axis would break the order
        if best is None or best[0] >= 8:
            return None, True
        return best[2], False
    cost = 0.0
    for axes, ops in stages:
        if not axes:
            continue
        inner = _innermost_best(axes, ops)[-1]
        cost += _short(inner.extent, lanes) * 2.0 + sum(_penalty(o, inner.symbol) for o in ops) * 4
    if best is None or cost <= best[0]:
        return None, False
    return best[2], False


def _short(extent: Dim, lanes: int) -> float:
    """0 for an axis that fills the lanes, up to 4 for one that leaves most idle."""
    high = bounds(extent)[1]
    if high is not None and high < lanes:
        return 4.0 * (1 - high / lanes)
    return 0.0


def _innermost_best(axes: list[Axis], ops: Sequence[FlatOp]) -> list[Axis]:
    """The axes with the one that is best to vectorise last (the order of the others is kept)."""
    if len(axes) < 2:
        return axes
    scores = [(sum(_penalty(o, a.symbol) for o in ops), -i) for i, a in enumerate(axes)]
    i = scores.index(min(scores))
    return [*axes[:i], *axes[i + 1:], axes[i]]
