"""The collective plan as users read it: every exchange, what it costs, why it is there, what would remove it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tessera.errors import UnsupportedError
from tessera.ir.dims import Dim, Expr, Symbol, bounds, substitute, symbols
from tessera.ir.graph import Graph
from tessera.ir.provenance import Location
from tessera.ir.sharding import COORDINATE, MeshShape
from tessera.op.collective import NAMES, received_bytes


@dataclass(frozen=True, slots=True)
class CollectiveInfo:
    """One exchange of one device's program.

    ``kind``: the operator; ``axes``: the mesh axes it runs over; ``bytes``: what the device receives (an expression
    where the shards are uneven or sizes symbolic); ``tensor``: dtype and shape of what the device gives; ``link``: what
    the bytes go over; ``cause``: the operator that needs it; ``line``: the user's; ``fix``: what would remove it.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: Dim
    tensor: str
    link: str
    cause: str
    line: Location | None
    fix: str

    def __str__(self) -> str:
        where = "" if self.line is None else f" at {self.line}"
        return (
            f"{self.kind} over {' and '.join(self.axes)} of {self.tensor}: {self.bytes} bytes over {self.link}, for "
            f"{self.cause}{where}; to avoid it, {self.fix}"
        )


class CollectivePlan(Sequence[CollectiveInfo]):
    """All exchanges of a program, in order; prints as a list.

    ``bytes_of(rank, sizes)`` gives the bytes that a device receives in one run, ``total(sizes)`` those of all devices.
    """

    def __init__(self, mesh: MeshShape, items: Sequence[CollectiveInfo]) -> None:
        self.mesh = mesh
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: object) -> CollectiveInfo:  # type: ignore[override]
        return self._items[index]  # type: ignore[index]

    def __iter__(self) -> Iterator[CollectiveInfo]:
        return iter(self._items)

    def bytes_of(self, rank: int, sizes: dict[str, int] | None = None) -> int:
        """Bytes that device ``rank`` receives in one run, for the sizes of the symbolic dimensions by name."""
        values = {**self.mesh.coordinates(rank), **(sizes or {})}
        return sum(_evaluate(i.bytes, values) for i in self._items)

    def total(self, sizes: dict[str, int] | None = None) -> int:
        """Bytes that all devices receive together in one run."""
        return sum(self.bytes_of(rank, sizes) for rank in range(self.mesh.count(self.mesh.names)))

    def most_bytes(self) -> int | None:
        """The most that one device may receive, over all legal sizes; None when there is no bound."""
        total = 0
        for item in self._items:
            high = bounds(item.bytes)[1]
            if high is None:
                return None
            total += high
        if all(isinstance(i.bytes, int) or _only_coordinates(i.bytes) for i in self._items):
            return max(self.bytes_of(rank) for rank in range(self.mesh.count(self.mesh.names)))
        return total

    def __str__(self) -> str:
        if not self._items:
            return f"mesh {self.mesh}: no collectives"
        lines = [f"mesh {self.mesh}: {len(self._items)} collective{'s' if len(self._items) > 1 else ''}"]
        return "\n".join([*lines, *(f"  {i + 1}. {item}" for i, item in enumerate(self._items))])

    __repr__ = __str__


def _only_coordinates(d: Expr) -> bool:
    return all(s.name.startswith(COORDINATE) for s in symbols(d))


def _evaluate(d: Dim, values: dict[str, int]) -> int:
    if not isinstance(d, Expr):
        return d
    known: dict[Symbol, Dim] = {s: values[s.name] for s in symbols(d) if s.name in values}
    found = substitute(d, known)
    if not isinstance(found, int):
        raise UnsupportedError(f"the bytes {d} depend on sizes that are not given: {', '.join(map(str, symbols(found)))}")
    return found


def collective_plan(graph: Graph, mesh: MeshShape, link: str) -> CollectivePlan:
    """The exchanges of one device's program."""
    found: list[CollectiveInfo] = []
    for node in graph.nodes():
        if node.op in NAMES:
            operand = node.operands[0].type
            found.append(CollectiveInfo(
                node.op, tuple(node.attrs["axes"]), received_bytes(node), str(operand), link, node.attrs["cause"],
                node.loc, node.attrs["fix"],
            ))
    return CollectivePlan(mesh, found)
