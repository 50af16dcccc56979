"""The order in which kernels run: operands first, checks as early as possible, memory released early.

In-place updates of state add the constraint that every reader of the old value comes first; an update for which that
is impossible is computed elsewhere and copied at the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from tessera.ir.value import Value
from tessera.schedule import cost
from tessera.schedule.fusion import Group
from tessera.schedule.pieces import CHECK, MAP, REDUCE, SCAN, WINDOW

SMALL = 1 << 20
"""Bytes that a kernel may keep from being released while it waits for others to run beside."""


class Order:
    """Steps (groups, and copies that must happen at a certain point) and which comes before which."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self.groups: list[Group] = sorted(groups, key=lambda g: g.position)
        self._number = {g: i for i, g in enumerate(self.groups)}
        self.after: dict[Group, dict[Group, None]] = {g: dict(g.successors) for g in self.groups}
        self.readers: dict[int, list[Group]] = {}
        for group in self.groups:
            for root in group.reads:
                self.readers.setdefault(root, []).append(group)

    def reachable(self, start: Group) -> set[Group]:
        """All steps that come after a step."""
        seen: set[Group] = set()
        stack = [start]
        while stack:
            for later in self.after[stack.pop()]:
                if later not in seen:
                    seen.add(later)
                    stack.append(later)
        return seen

    def write_in_place(self, writer: Group, state: Value) -> bool:
        """Constrain the order so that ``writer`` may overwrite ``state``; False when that is impossible."""
        first = [g for g in self.readers.get(id(state), ()) if g is not writer]
        first += [g for g in self.groups if g.kind == CHECK and g is not writer]
        later = self.reachable(writer)
        if any(g in later for g in first):
            return False
        for group in first:
            self.after[group][writer] = None
        return True

    def sequence(self, sizes: dict[int, int], together: bool = False) -> list[Group]:
        """A topological order. ``sizes``: typical bytes of the values that live in the arena.

        ``together``: small kernels that nothing large waits for come last, those side by side that need nothing of each
        other: they can be launched together.
        """
        waiting: dict[Group, int] = dict.fromkeys(self.groups, 0)
        for group in self.groups:
            for later in self.after[group]:
                waiting[later] += 1
        unread = {root: len(groups) for root, groups in self.readers.items()}
        urgent = self._before_checks()
        ready: list[tuple[tuple[int, ...], Group]] = []
        heights = self._heights() if together else {}

        def offer(group: Group) -> None:
            growth = self._growth(group, sizes, unread)
            late = -heights[group] if group in heights and growth > -SMALL else -len(self.groups) - 1
            key = (_urgency(group, urgent), late, growth, group.position, self._number[group])
            heapq.heappush(ready, (key, group))

        for group in self.groups:
            if waiting[group] == 0:
                offer(group)
        out: dict[Group, None] = {}
        while ready:
            _, group = heapq.heappop(ready)
            if group in out:
                continue
            out[group] = None
            for root in group.reads:
                unread[root] -= 1
                if unread[root] == 1 and root in sizes:
                    # The last reader now frees the value: its place among the ready improves.
                    last = next(g for g in self.readers[root] if g not in out)
                    if waiting[last] == 0:
                        offer(last)
            for later in self.after[group]:
                waiting[later] -= 1
                if waiting[later] == 0:
                    offer(later)
        assert len(out) == len(self.groups), "the order of kernels has a cycle"
        return list(out)

    def _heights(self) -> dict[Group, int]:
        """Of loops that nothing but loops waits for: how many steps follow, one upon another."""
        found: dict[Group, int] = {}
        for group in sorted(self.groups, key=lambda g: -g.rank):
            later = self.after[group]
            if group.kind in (MAP, REDUCE, SCAN) and all(g in found for g in later):
                found[group] = 1 + max((found[g] for g in later), default=0)
        return found

    def _growth(self, group: Group, sizes: dict[int, int], unread: dict[int, int]) -> int:
        """Bytes that running the group now adds to what is live."""
        if group.kind == WINDOW:
            return -1
        allocated = sum(sizes.get(root, 0) for root in group.roots)
        freed = sum(sizes.get(root, 0) for root in group.reads if unread[root] == 1)
        return allocated - freed

    def _before_checks(self) -> set[Group]:
        """Steps that some check needs."""
        before: dict[Group, list[Group]] = {g: [] for g in self.groups}
        for group in self.groups:
            for later in self.after[group]:
                before[later].append(group)
        seen: set[Group] = set()
        stack = [g for g in self.groups if g.kind == CHECK]
        while stack:
            for earlier in before[stack.pop()]:
                if earlier not in seen:
                    seen.add(earlier)
                    stack.append(earlier)
        return seen


def _urgency(group: Group, urgent: set[Group]) -> int:
    return 0 if group.kind == CHECK else 1 if group in urgent else 2


def typical_bytes(v: Value) -> int:
    """Bytes of a value, at typical sizes."""
    return cost.typical_size(v.shape) * v.dtype.itemsize
