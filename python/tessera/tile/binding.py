"""Where stored values live: inputs, state, constants, outputs, and the arena."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import replace

from tessera.ir.dims import Dim, add, mul
from tessera.ir.graph import Graph
from tessera.ir.value import LEAVES, Value
from tessera.schedule.fusion import Group
from tessera.schedule.memory import Storage, lay_out
from tessera.schedule.order import Order
from tessera.schedule.overlap import Step
from tessera.schedule.pieces import PORTABLE
from tessera.schedule.placement import Placement
from tessera.schedule.plan import PlanBuffer, PlanTensor
from tessera.tile.aliasing import may_replace
from tessera.tile.draft import Draft, has_instruction


def value_bytes(v: Value) -> Dim:
    """Bytes of a value."""
    return mul(v.size, v.dtype.itemsize)


class Binding:
    """Buffer numbers of values, by identity, and the copies that the kernels leave to do.

    ``saves`` (source buffer, target buffer, bytes) are made before anything runs, ``final`` (source value, target
    buffer, bytes) at the end.
    """

    def __init__(self, graph: Graph, placement: Placement, drafts: dict[Group, Draft], order: Order) -> None:
        self.graph, self.placement, self.drafts, self.order = graph, placement, drafts, order
        self.buffers: list[PlanBuffer] = []
        self.of: dict[int, int] = {}
        self.saves: list[tuple[int, int, Dim]] = []
        self.final: list[tuple[int, int, Dim]] = []
        self._writers = {root: group for group in order.groups for root in group.roots}
        self._in_parts = {r for g in order.groups for r, p in g.roots.items() if p.part is not None}
        self.inputs = self._leaves("input", graph.inputs)
        self.state = self._leaves("state", graph.params())
        self.constants = self._leaves("constant", graph.constants())
        self.outputs = self._bind_outputs()
        self._bind_updates()

    def _add(self, kind: str, size: Dim, label: str) -> int:
        self.buffers.append(PlanBuffer(kind, size, label))
        return len(self.buffers) - 1

    def _root(self, v: Value) -> Value:
        root = self.placement.root(v)
        assert root is not None, f"{v!r} has no storage"
        return root

    # What the caller holds.

    def _leaves(self, kind: str, leaves: Iterable[Value]) -> list[PlanTensor]:
        found = []
        for v in leaves:
            name = v.node.attrs["name"]
            number = self.of[id(v)] = self._add(kind, value_bytes(v), name)
            mutated = v in self.graph.updates and self._root(self.graph.updates[v]) is not v
            trainable = bool(v.node.attrs.get("trainable", False))
            found.append(PlanTensor(name, v.dtype, v.shape, number, trainable, mutated))
        return found

    def _bind_outputs(self) -> list[PlanTensor]:
        found = []
        for name, v in self.graph.outputs.items():
            number = self._add("output", value_bytes(v), name)
            found.append(PlanTensor(name, v.dtype, v.shape, number))
            root = self._root(v)
            if root.node.op not in LEAVES and id(root) not in self.of:
                self.of[id(root)] = number
            else:
                self.final.append((id(root), number, value_bytes(v)))
        return found

    # State.

    def _bind_updates(self) -> None:
        mutated = {id(p) for p, v in self.graph.updates.items() if self._root(v) is not p}
        copies: list[tuple[int, int, Dim]] = []
        for param, v in self.graph.updates.items():
            root = self._root(v)
            if root is param:
                continue
            number = self.of[id(param)]
            if self._in_place(param, root):
                self.of[id(root)] = number
            else:
                copies.append((id(root), number, value_bytes(param)))
        self._save_old_state(mutated)
        for source, target, size in copies:
            if source in mutated:  # the old value of another parameter that changes too
                source = self._saved(source, size)
            self.final.append((source, target, size))

    def _in_place(self, param: Value, root: Value) -> bool:
        """Whether the new value can be written over the old one by the kernel that computes it."""
        if root.node.op in LEAVES or id(root) in self.of or id(root) in self._in_parts:
            return False
        writer = self._writers[id(root)]
        draft = self.drafts.get(writer)
        if draft is None:
            return False
        sources = [i for i, a in enumerate(draft.arguments) if a.root is param]
        targets = [i for i, a in enumerate(draft.arguments) if a.root is root]
        if len(targets) != 1 or not all(may_replace(draft.kernel, s, targets[0]) for s in sources):
            return False
        return self.order.write_in_place(writer, param)

    def _save_old_state(self, mutated: set[int]) -> None:
        """Outputs that are old values of parameters that change: copied before anything is written."""
        self.saves += [(self.of[source], target, size) for source, target, size in self.final if source in mutated]
        self.final = [copy for copy in self.final if copy[0] not in mutated]

    def _saved(self, source: int, size: Dim) -> int:
        """A copy of a parameter's old value, made before anything is written; its key in ``of``."""
        number = self._add("arena", size, f"old {self.buffers[self.of[source]].label}")
        self.saves.append((self.of[source], number, size))
        key = -number - 1
        self.of[key] = number
        return key

    # The arena.

    def copy(self) -> Binding:
        """The same, to lay out on trial."""
        found = copy(self)
        found.buffers, found.of = [replace(b) for b in self.buffers], dict(self.of)
        return found

    def lay_out_arena(self, sequence: list[Step]) -> Dim:
        """Bind what is left to the arena; its size."""
        steps, end = self._steps(sequence)
        first, last = self._lives(steps, end)
        values = {id(v): v for v in self.placement.values()}
        storages: dict[int, Storage] = {}
        for (group, kind), step in steps:
            for root in map(self._holder, self._written(group) if kind != "wait" else ()):
                if root in self.of or root not in values:
                    continue
                v = values[root]
                number = self._taken_over(group, v, step, last, storages)
                if number is None:
                    number = self._add("arena", value_bytes(v), v.node.op)
                    storages[number] = Storage(value_bytes(v), first[root], last[root])
                self.of[root] = number
        for number, buffer in enumerate(self.buffers):
            if buffer.kind == "arena" and number not in storages:
                storages[number] = Storage(buffer.bytes, 0, end)
        arena = lay_out(list(storages.values()))
        for number, storage in storages.items():
            buffer = self.buffers[number]
            buffer.offset, buffer.live = storage.offset, (storage.first, storage.last)
        self._add_windows(values, first, last)
        return arena

    def _holder(self, root: int) -> int:
        """The value, by identity, whose storage holds a value with storage."""
        window = self.placement.windows.get(root)
        return root if window is None else id(window.whole)

    def _add_windows(self, values: dict[int, Value], first: dict[int, int], last: dict[int, int]) -> None:
        """Buffers for the parts of values."""
        for root, window in self.placement.windows.items():
            v, holder = values[root], self.of[id(window.whole)]
            start = self.buffers[holder].offset
            assert start is not None, f"{window.whole!r} is not in the arena"
            number = self.of[root] = self._add("arena", value_bytes(v), v.node.op)
            part = self.buffers[number]
            part.offset = add(start, mul(window.start, v.dtype.itemsize))
            part.live, part.within = (first[root], last[root]), holder

    def _steps(self, sequence: list[Step]) -> tuple[list[tuple[tuple[Group, str], int]], int]:
        """Group and kind of each step with the number of its instruction, and the number of instructions."""
        steps: list[tuple[tuple[Group, str], int]] = []
        at = len(self.saves)
        for step in sequence:
            steps.append(((step.group, step.kind), at))
            at += has_instruction(step.group, self.drafts.get(step.group))
        return steps, at + len(self.final)

    def _lives(
        self, steps: list[tuple[tuple[Group, str], int]], end: int
    ) -> tuple[dict[int, int], dict[int, int]]:
        """The first and the last instruction that needs each value; until the wait an exchange needs its own."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for (group, _), step in steps:
            for root in group.roots:
                first.setdefault(root, step)
                last[root] = step
            for root in group.reads:
                last[root] = step
        for source, _, _ in self.final:
            last[source] = end
        for root, window in self.placement.windows.items():
            whole = id(window.whole)
            first[whole], last[whole] = min(first[whole], first[root]), max(last[whole], last[root])
        return first, last

    def _written(self, group: Group) -> list[int]:
        """The values of a group that exist in memory."""
        if group.kind == PORTABLE:
            return list(group.roots)
        draft = self.drafts.get(group)
        return [] if draft is None else list(dict.fromkeys(id(a.root) for a in draft.arguments if a.written))

    def _taken_over(
        self, group: Group, v: Value, step: int, last: dict[int, int], storages: dict[int, Storage]
    ) -> int | None:
        """The buffer of an operand that dies here, when the value may be written over it."""
        draft = self.drafts.get(group)
        if draft is None or id(v) in self._in_parts or self.placement.shares_memory(v):
            return None
        targets = [i for i, a in enumerate(draft.arguments) if a.root is v]
        for position, argument in enumerate(draft.arguments):
            key = id(argument.root)
            number = self.of.get(key, -1)
            storage = storages.get(number)
            if storage is None or argument.written or last.get(key) != step or storage.last != step:
                continue
            if self.placement.shares_memory(argument.root):
                continue
            if storage.bytes != value_bytes(v) or sum(a.root is argument.root for a in draft.arguments) != 1:
                continue
            if len(targets) == 1 and may_replace(draft.kernel, position, targets[0]):
                storage.last = last[id(v)]
                return number
        return None
