"""What a choice costs: bytes on each class of link, latency, arithmetic, memory traffic; in seconds.

The numbers need not be exact: they rank candidates, the same way on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Dim, Expr, Symbol, bounds, substitute, symbols
from tessera.ir.sharding import COORDINATE, MeshShape

_TYPICAL = 1024  # what an unbounded symbolic size counts as
_PER_DEVICE = 128  # the least that it counts as on each device of a mesh


@dataclass(frozen=True, slots=True)
class Link:
    """What joins the devices along a mesh axis: its name, bytes per second in each direction, seconds per message."""

    name: str
    bandwidth: float
    latency: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Devices of one kind: their link, arithmetic (operations per second) and memory bandwidth (bytes per second)."""

    link: Link
    arithmetic: float
    memory: float

    def exchange(self, received: float, messages: int) -> float:
        """Seconds for a device to receive bytes in messages."""
        return messages * self.link.latency + received / self.link.bandwidth

    def compute(self, operations: float, touched: float) -> float:
        """Seconds for arithmetic and memory traffic of one device, whichever takes longer."""
        return max(operations / self.arithmetic, touched / self.memory)


MACHINES = {
    "cpu": Machine(Link("shared memory", 1e10, 2e-5), 5e10, 2e10),
    "cuda": Machine(Link("NVLink", 3e11, 1e-5), 4e14, 3e12),
    "hip": Machine(Link("Infinity Fabric", 1.5e11, 1.5e-5), 3e14, 3e12),
}
"""Per kind of device."""


def assumed_size(mesh: MeshShape) -> int:
    """What an unbounded symbolic size counts as on a mesh: nobody splits 1024 rows over thousands of devices."""
    return max(_TYPICAL, _PER_DEVICE * mesh.count(mesh.names))


def typical(d: Dim, assumed: int = _TYPICAL) -> float:
    """A number for a size: symbols at the top of their range or at ``assumed``; device 0's share."""
    if not isinstance(d, Expr):
        return float(d)
    values: dict[Symbol, Dim] = {}
    for s in symbols(d):
        values[s] = 0 if s.name.startswith(COORDINATE) else max(s.min, min(assumed, s.max or assumed))
    found = substitute(d, values)
    return float(found) if isinstance(found, int) else float(max(bounds(found)[0], 1))


def typical_elements(shape: tuple[Dim, ...], assumed: int = _TYPICAL) -> float:
    """The typical number of elements of a shape."""
    out = 1.0
    for d in shape:
        out *= typical(d, assumed)
    return out


def share(mesh: MeshShape, elements: float, axes: frozenset[str]) -> float:
    """The part of ``elements`` that one device holds when they are split over axes."""
    return elements / mesh.count(tuple(axes)) if axes else elements
