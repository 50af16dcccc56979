"""Kernel arguments that are the same memory: when an output may take an operand's place, and how the kernel says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tessera.tile.ir import DotKernel, Kernel, Load, LoopKernel, Op, Ref, Stage, Store
from tessera.tile.rewrite import accesses, bodies, with_bodies


def may_replace(kernel: Kernel, source: int, target: int) -> bool:
    """Whether argument ``target`` may be written over argument ``source``.

    Every element of the source must be read at the very index at which the target is written, and not after it.
    """
    loads: list[tuple[int, int, tuple[Any, ...]]] = []
    again: list[tuple[int, int]] = []
    stores: list[tuple[int, int, Store]] = []
    for scope, position, op in accesses(kernel):
        if op.buffer == source:
            if isinstance(op, Store):
                return False
            loads.append((scope, position, op.index))
        elif op.buffer == target:
            if isinstance(op, Load):
                again.append((scope, position))
            else:
                stores.append((scope, position, op))
    a, b = kernel.buffers[source], kernel.buffers[target]
    if not stores or a.dtype.bits != b.dtype.bits or a.shape != b.shape:
        return False
    if isinstance(kernel, DotKernel) and any(scope != 2 for scope, _, _ in loads):
        return False
    scope, position, first = stores[0]
    if any(isinstance(e, Ref) for e in first.index) or first.mode != "set":
        return False
    if any(at < (scope, position) for at in again):
        return False
    if any(s.mode == "add" for _, _, s in stores):  # a scatter: the base is copied in a stage of its own
        return all(s == scope and i == first.index for s, _, i in loads) and a.dtype == b.dtype
    if any(s.index != first.index for _, _, s in stores):
        return False
    return all(index == first.index and (s, p) < (scope, position) for s, p, index in loads)


def share(kernel: Kernel, groups: list[list[int]]) -> tuple[Kernel, list[int]]:
    """The kernel in which the arguments of each group are the same memory, and the arguments that remain.

    Arguments of equal dtype and shape become one ``inout`` argument; others are declared ``may_alias``.
    """
    stand_in: dict[int, int] = {}
    for group in groups:
        for number in group[1:]:
            first, other = kernel.buffers[group[0]], kernel.buffers[number]
            if first.dtype == other.dtype and first.shape == other.shape:
                stand_in[number] = group[0]
    kept = [i for i in range(len(kernel.buffers)) if i not in stand_in]
    number = {old: new for new, old in enumerate(kept)}
    for old, into in stand_in.items():
        number[old] = number[into]
    buffers = []
    for old in kept:
        same = [i for g in groups if old in g for i in g]
        merged = [kernel.buffers[i] for i in same if number[i] == number[old]] or [kernel.buffers[old]]
        roles = {b.role for b in merged}
        role = roles.pop() if len(roles) == 1 else "inout"
        aliases = tuple(sorted({number[i] for i in same} - {number[old]}))
        buffers.append(replace(kernel.buffers[old], role=role, may_alias=aliases))
    new = [tuple(_renamed(op, number) for op in body) for body in bodies(kernel)]
    kernel = replace(with_bodies(kernel, new), buffers=tuple(buffers))
    return (_without_self_copies(kernel) if isinstance(kernel, LoopKernel) else kernel), kept


def _renamed(op: Op, number: dict[int, int]) -> Op:
    if isinstance(op, (Load, Store)) and number[op.buffer] != op.buffer:
        return replace(op, buffer=number[op.buffer])
    return op


def _without_self_copies(kernel: LoopKernel) -> LoopKernel:
    """Drop leading stages that only copy a buffer onto itself."""
    stages = list(kernel.stages)
    while len(stages) > 1 and _copies_itself(stages[0]):
        del stages[0]
        stages = [Stage(s.axes, tuple(_earlier(op) for op in s.ops)) for s in stages]
    return replace(kernel, stages=tuple(stages))


def _copies_itself(stage: Stage) -> bool:
    if len(stage.ops) != 2:
        return False
    load, store = stage.ops
    return (
        isinstance(load, Load) and isinstance(store, Store) and load.buffer == store.buffer and load.mask is None
        and load.index == store.index and store.mode == "set" and store.value.index == 0
    )


def _earlier(op: Op) -> Op:
    """The op with the scopes of its references lowered by one."""
    from tessera.tile.loop import renumber

    return renumber(op, _Shift())


class _Shift(dict):
    def __missing__(self, scope: int) -> int:
        return scope - 1
