"""Lay the arena out: tensors whose lifetimes do not meet share memory.

Tensors of constant size are packed by offset (best fit, largest first). Tensors of symbolic size share slots, whose
size is the largest of their tenants; slots follow one another, so that the layout holds for all legal sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Dim, add, bounds, dmax, floordiv, is_multiple, mul
from tessera.ir.value import Value
from tessera.schedule import cost

ALIGNMENT = 64


@dataclass(slots=True)
class Storage:
    """Memory that is live from instruction ``first`` to instruction ``last``, both included."""

    bytes: Dim
    first: int
    last: int
    offset: Dim = 0

    def meets(self, other: Storage) -> bool:
        """Whether both are live at some instruction."""
        return self.first <= other.last and other.first <= self.last


def aligned(d: Dim) -> Dim:
    """The dimension rounded up to a multiple of the alignment."""
    if is_multiple(d, ALIGNMENT):
        return d
    return mul(floordiv(add(d, ALIGNMENT - 1), ALIGNMENT), ALIGNMENT)


def is_aligned(start: Dim, v: Value) -> bool:
    """Whether memory may begin at an element of a value."""
    return is_multiple(mul(start, v.dtype.itemsize), ALIGNMENT)


def lay_out(storages: list[Storage]) -> Dim:
    """Give every storage its offset; the result is the size of the arena."""
    constant = [s for s in storages if isinstance(s.bytes, int)]
    symbolic = [s for s in storages if not isinstance(s.bytes, int)]
    return _share_slots(symbolic, _pack(constant))


def _pack(storages: list[Storage]) -> int:
    placed: list[tuple[int, int, int, int]] = []  # first, last, start, stop
    total = 0
    for storage in sorted(storages, key=lambda s: (-int(s.bytes), s.first)):
        size = int(aligned(storage.bytes))
        first, last = storage.first, storage.last
        busy = sorted((p[2], p[3]) for p in placed if p[0] <= last and first <= p[1])
        best: int | None = None
        smallest = 0
        end = 0
        for start, stop in busy:
            if start - end >= size and (best is None or start - end < smallest):
                best, smallest = end, start - end
            end = max(end, stop)
        offset = end if best is None else best
        storage.offset = offset
        placed.append((first, last, offset, offset + size))
        total = max(total, offset + size)
    return total


@dataclass(slots=True)
class _Slot:
    bytes: Dim
    tenants: list[Storage]


def _share_slots(storages: list[Storage], start: Dim) -> Dim:
    slots: list[_Slot] = []
    for storage in sorted(storages, key=lambda s: (-cost.typical(s.bytes), s.first)):
        size = storage.bytes
        free = [s for s in slots if not any(t.meets(storage) for t in s.tenants)]
        slot = min(free, key=lambda s: _misfit(s.bytes, size), default=None)
        if slot is None:
            slots.append(_Slot(size, [storage]))
        else:
            slot.bytes = dmax(slot.bytes, size)
            slot.tenants.append(storage)
    offset = start
    for slot in slots:
        for tenant in slot.tenants:
            tenant.offset = offset
        offset = add(offset, aligned(slot.bytes))
    return offset


def _misfit(slot: Dim, size: Dim) -> tuple[int, int]:
    """How badly a tensor fits a slot: slots that certainly hold it first, then by wasted or missing bytes."""
    spare = add(slot, mul(size, -1))
    holds = bounds(spare)[0] >= 0
    return (0 if holds else 1, abs(cost.typical(spare)))
