"""Exchanges beside computation: started as soon as their operands are there, waited for as late as possible.

Every device runs the same plan, so that all start their exchanges in the same order and none waits for ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tessera.schedule.fusion import Group
from tessera.schedule.order import Order
from tessera.schedule.pieces import CHECK, WINDOW


@dataclass(frozen=True, slots=True)
class Step:
    """What a group does at a place of the order: all of its work, or of an exchange its start or the wait for it."""

    group: Group
    kind: Literal["run", "start", "wait"] = "run"


def in_order(sequence: Sequence[Group]) -> list[Step]:
    """Every group runs at once."""
    return [Step(g) for g in sequence]


class Overlap:
    """The order of groups again, so that exchanges and kernels run beside each other.

    ``seconds``: how long a group takes; ``exchanges``: the groups that are collectives; ``sizes``: typical bytes of the
    values that live in the arena. Estimates decide what is put where, and nothing else: any order is right that puts
    operands first.
    """

    def __init__(
        self, order: Order, exchanges: set[Group], seconds: Callable[[Group], float], sizes: Mapping[int, int]
    ) -> None:
        self.order, self.exchanges, self.seconds, self.sizes = order, exchanges, seconds, sizes

    def steps(self, sequence: Sequence[Group], arena: Callable[[list[Step]], int], extra: int | None) -> list[Step]:
        """The steps for a sequence of groups, with at most ``extra`` bytes more of working memory than it needs.

        ``arena``: the bytes of working memory of steps. None for ``extra``: an eighth of it, or as much as the two
        exchanges that have the most.
        """
        apart = in_order(sequence)
        if not self.exchanges:
            return apart
        least = arena(apart)
        if extra is None:
            moved = [sum(self.sizes.get(r, 0) for r in (*g.roots, *g.reads)) for g in self.exchanges]
            extra = max(least // 8, sum(sorted(moved)[-2:]))
        # What is live is an estimate of the arena: values are overwritten in place, and memory has gaps.
        peak = self._peak(sequence)
        for much in (extra, extra // 2, extra // 4, 0, -peak // 8):
            steps = self._with_waits(self._rearranged(sequence, peak + much))
            if arena(steps) <= least + extra:
                return steps
        steps = self._with_waits(sequence)
        return steps if arena(steps) <= least + extra else apart

    def _peak(self, sequence: Sequence[Group]) -> int:
        memory = _Live(self.order, self.sizes)
        for group in sequence:
            memory.run(group)
        return memory.peak

    def _rearranged(self, sequence: Sequence[Group], limit: int) -> list[Group]:
        """A topological order by simulating both lanes; what checks need, and checks, stay in front."""
        last_check = max((i for i, g in enumerate(sequence) if g.kind == CHECK), default=-1)
        state = _Lanes(self, sequence, limit)
        for group in sequence[: last_check + 1]:
            state.put(group)
        while len(state.out) < len(sequence):
            state.put(state.next())
        return list(state.out)

    def _with_waits(self, sequence: Sequence[Group]) -> list[Step]:
        """Waits before the first group that needs an exchange to be over, or at the end."""
        steps: list[Step] = []
        open_: dict[Group, None] = {}

        def wait(exchange: Group) -> None:
            for other in list(open_):  # whose result it reads: that one is over as well
                if other is not exchange and exchange in self.order.after[other]:
                    wait(other)
            if exchange in open_:
                del open_[exchange]
                start = Step(exchange, "start")
                if steps[-1] == start:
                    steps[-1] = Step(exchange)
                else:
                    steps.append(Step(exchange, "wait"))

        for group in sequence:
            if group in self.exchanges:
                steps.append(Step(group, "start"))
                open_[group] = None
                continue
            for exchange in [e for e in open_ if group in self.order.after[e]]:
                wait(exchange)
            steps.append(Step(group))
        for exchange in list(open_):
            wait(exchange)
        return steps


class _Live:
    """Bytes of values that are needed, group by group."""

    def __init__(self, order: Order, sizes: Mapping[int, int]) -> None:
        self.sizes = sizes
        self.unread = {root: len(groups) for root, groups in order.readers.items()}
        self.made: set[int] = set()
        self.bytes = self.peak = 0

    def more(self, group: Group) -> int:
        """What the group allocates; a part of another value is allocated with whichever of them is written."""
        if group.kind == WINDOW:
            return 0
        return sum(self.sizes.get(r, 0) for r in group.roots if r not in self.made)

    def run(self, group: Group, *, reads: bool = True) -> None:
        """The group runs; ``reads``: and is done with its operands."""
        self.bytes += self.more(group)
        self.made.update(group.roots)
        self.peak = max(self.peak, self.bytes)
        if reads:
            self.done(group)

    def done(self, group: Group) -> None:
        """The operands of the group are read."""
        if group.kind == WINDOW:
            return
        for root in group.reads:
            self.unread[root] -= 1
            if self.unread[root] == 0:
                self.bytes -= self.sizes.get(root, 0)


class _Lanes:
    """A simulation of kernels and exchanges beside each other, which says what comes next."""

    def __init__(self, overlap: Overlap, sequence: Sequence[Group], limit: int) -> None:
        self.overlap, self.limit = overlap, limit
        self.after = overlap.order.after
        self.memory = _Live(overlap.order, overlap.sizes)
        self.place = {g: i for i, g in enumerate(sequence)}
        self.sequence = sequence
        self.waiting = dict.fromkeys(sequence, 0)
        for group in sequence:
            for later in self.after[group]:
                self.waiting[later] += 1
        self.out: dict[Group, None] = {}
        self.first = 0  # of the sequence, not put yet
        self.now = {"compute": 0.0, "exchange": 0.0}
        self.ends: dict[Group, float] = {}  # of exchanges that have not been waited for
        self.needs: dict[Group, float] = {}  # when the exchanges that a group reads are over
        self.kernels: list[tuple[int, int, Group]] = []
        self.blocked: list[tuple[float, int, Group]] = []
        self.ready_exchanges: list[tuple[int, int, Group]] = []
        for group in sequence:
            if self.waiting[group] == 0:
                self._offer(group)

    def _offer(self, group: Group) -> None:
        at = self.place[group]
        if group in self.overlap.exchanges:
            heapq.heappush(self.ready_exchanges, (at, at, group))
        elif self.needs.get(group, 0.0) > self.now["compute"]:
            heapq.heappush(self.blocked, (self.needs[group], at, group))
        else:
            heapq.heappush(self.kernels, (at, at, group))

    def _fits(self, group: Group) -> bool:
        return self.memory.bytes + self.memory.more(group) <= self.limit

    def next(self) -> Group:
        """The exchange, or else the kernel, that can be put without a wait and within the memory; else the first."""
        while self.sequence[self.first] in self.out:
            self.first += 1
        due = self.sequence[self.first]
        _drop(self.ready_exchanges, self.out)
        if self.ready_exchanges and self._fits(self.ready_exchanges[0][2]):
            return self.ready_exchanges[0][2]
        while self.blocked and self.blocked[0][0] <= self.now["compute"]:
            _, at, group = heapq.heappop(self.blocked)
            heapq.heappush(self.kernels, (at, at, group))
        _drop(self.kernels, self.out)
        if self.kernels and (self.kernels[0][2] is due or self._fits(self.kernels[0][2])):
            return self.kernels[0][2]
        return due

    def put(self, group: Group) -> None:
        """The group is next."""
        self.out[group] = None
        seconds = self.overlap.seconds(group)
        if group in self.overlap.exchanges:
            start = max(self.now["compute"], self.now["exchange"])
            self.ends[group] = self.now["exchange"] = start + seconds
            self.memory.run(group, reads=False)
            for later in self.after[group]:
                self.needs[later] = max(self.needs.get(later, 0.0), self.ends[group])
        else:
            self.now["compute"] = max(self.now["compute"], self.needs.get(group, 0.0)) + seconds
            self.memory.run(group)
            for exchange in [e for e, end in self.ends.items() if end <= self.now["compute"]]:
                self.memory.done(exchange)
                del self.ends[exchange]
        for later in self.after[group]:
            self.waiting[later] -= 1
            if self.waiting[later] == 0:
                self._offer(later)


def _drop(heap: list[tuple[int, int, Group]], out: Mapping[Group, None]) -> None:
    """Remove from the top what has been put already."""
    while heap and heap[0][2] in out:
        heapq.heappop(heap)
