"""Kernels of groups before memory is assigned: their arguments are stored values."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.graph import Graph
from tessera.schedule.fusion import Group
from tessera.schedule.index import Axes
from tessera.schedule.machine import CPU, Machine
from tessera.schedule.pieces import CHECK, DOT, PORTABLE, SCATTER, WHOLE, WINDOW
from tessera.schedule.placement import Placement
from tessera.tile import attention
from tessera.tile.collapse import collapse
from tessera.tile.dot import DotBuilder
from tessera.tile.emission import Argument
from tessera.tile.ir import Kernel
from tessera.tile.loop import LoopBuilder, ScatterBuilder


@dataclass(slots=True)
class Draft:
    """A kernel, over axes and sizes as the schedule names them, and its arguments."""

    kernel: Kernel
    arguments: list[Argument]

    @property
    def writes_nothing(self) -> bool:
        """Whether all its results are certainly empty."""
        return all(a.root.size == 0 for a in self.arguments if a.written)


def has_instruction(group: Group, draft: Draft | None) -> bool:
    """Whether anything runs for a group: not for a part of another value, nor where all results are empty."""
    return group.kind != WINDOW and (draft is None or not draft.writes_nothing)


def draft_kernels(
    graph: Graph, groups: list[Group], placement: Placement, axes: Axes, machine: Machine = CPU
) -> dict[Group, Draft]:
    """The kernel of every group that has one."""
    external = external_values(graph, groups, placement)
    drafts: dict[Group, Draft] = {}
    for group in groups:
        if group.kind in (CHECK, PORTABLE, WINDOW):
            continue
        if group.kind == WHOLE:
            drafts[group] = Draft(*attention.build(group, placement))
            continue
        builder = {DOT: DotBuilder, SCATTER: ScatterBuilder}.get(group.kind, LoopBuilder)
        emitter = builder(group, placement, axes, external)
        if isinstance(emitter, LoopBuilder):
            emitter.spills = machine.spills
        kernel, arguments = emitter.build()
        drafts[group] = Draft(collapse(kernel), arguments)
    return drafts


def external_values(graph: Graph, groups: list[Group], placement: Placement) -> set[int]:
    """Identities of the values that another group, or the caller, reads from memory."""
    found: set[int] = set()
    for v in (*graph.outputs.values(), *graph.updates.values()):
        root = placement.root(v)
        assert root is not None
        found.add(id(root))
    for group in groups:
        found.update(root for root in group.reads if root not in group.roots)
        if group.kind in (CHECK, PORTABLE, SCATTER, WHOLE, WINDOW):
            found.update(group.reads)
    return found
