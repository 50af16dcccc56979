"""Products and the exchanges before and behind them in chunks, so that an exchange runs beside another chunk's product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tessera.dist.cost import Machine
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.provenance import location
from tessera.ir.value import Node, Value
from tessera.op.collective import group_size, received_elements
from tessera.op.opdef import build

_CHUNKS = (8, 4, 2)
_LEAST = 512  # rows or columns of a chunk's product
_LAUNCH = 3e-6


@dataclass(frozen=True, slots=True)
class _Case:
    """A product whose exchange is made in chunks: of which the node ``exchange``, how many, and how that is done.

    ``side``: the operand that is gathered, or None where the result is reduced; ``dim``: the dimension of the exchange's
    operand that is cut; ``apart``: the parts of a chunk lie apart in the result, one for each member.
    """

    product: Node
    exchange: Node
    side: int | None
    dim: int
    apart: bool
    count: int


def in_chunks(graph: Graph, machine: Machine) -> Graph:
    """One device's program with large products next to an exchange cut in two, four or eight.

    ``matmul(a, all_gather(b))`` gathers b in chunks, each of which gives some columns of the result; a reduction of a
    product reduces some rows after the other. Terms of a product are added as before. It is done where the time that the
    exchange then takes beside products is more than what more messages, kernels and copies cost.
    """
    nodes = graph.nodes()
    readers: Counter[Value] = Counter(v for n in nodes for v in n.operands)
    readers.update([*graph.outputs.values(), *graph.updates.values()])
    cases: dict[Node, _Case] = {}
    taken: set[Node] = set()
    for find in (_reduced, _gathered):  # a reduction's chunks need not be put together before it
        for node in nodes:
            found = find(node, readers, machine)
            if found is not None and found.product not in taken:
                cases[node] = found
                taken.add(found.product)
    if not cases:
        return graph

    def visit(node: Node, operands: tuple[Value, ...]) -> Sequence[Value]:
        case = cases.get(node)
        if case is None:
            return keep(node, operands)
        with location(node.loc):
            return (_cut_gather(case, operands) if case.side is not None else _cut_reduction(case, operands),)

    return rebuild(graph, visit)


def _seconds(product: Node, machine: Machine) -> float:
    """Of the product alone."""
    a, b, y = product.operands[0], product.operands[1], product.results[0]
    assert isinstance(y.size, int) and isinstance(a.size, int) and isinstance(b.size, int)
    terms = a.shape[-1]
    assert isinstance(terms, int)
    return machine.compute(2.0 * y.size * terms, (a.size + b.size + y.size) * y.dtype.itemsize)


def _best(product: Node, exchange: Node, size: int, other: int, machine: Machine) -> int | None:
    """How many chunks of a dimension of ``size`` (the product's other one is ``other``) save most; None: none do."""
    received = received_elements(exchange)
    operand, result = exchange.operands[0].size, exchange.results[0].size
    if not all(isinstance(n, int) for n in (received, operand, result)) or other < _LEAST:
        return None
    messages = (group_size(exchange.attrs) - 1).bit_length()
    bytes_ = exchange.operands[0].dtype.itemsize
    moved = machine.exchange(bytes_ * received, messages)  # type: ignore[operator]
    beside = min(moved, _seconds(product, machine))
    copied = machine.compute(0, 2.0 * bytes_ * min(operand, result))  # type: ignore[type-var, operator]
    copied += machine.compute(0, 2.0 * product.results[0].size * bytes_ if exchange.op == "all_gather" else 0)  # type: ignore[operator]
    saved = {
        n: beside * (1 - 1 / n) - copied - (n - 1) * (messages * machine.link.latency + _LAUNCH)
        for n in _CHUNKS if size % n == 0 and size // n >= _LEAST
    }
    best = max(saved, key=lambda n: saved[n], default=None)
    return best if best is not None and saved[best] > 0 else None


def _is_plain(product: Node) -> bool:
    """Whether it is a product of two matrices of known sizes."""
    return product.op == "matmul" and all(
        v.ndim == 2 and all(isinstance(d, int) for d in v.shape) for v in product.operands
    )


def _gathered(product: Node, readers: Counter[Value], machine: Machine) -> _Case | None:
    """The product of a matrix that is gathered for it alone, perhaps transposed."""
    if not _is_plain(product):
        return None
    for side, value in enumerate(product.operands):
        node, turned = value.node, False
        if node.op == "transpose" and readers[value] == 1:
            node, turned = node.operands[0].node, True
        if node.op != "all_gather" or readers[node.results[0]] != 1 or group_size(node.attrs) == 1:
            continue
        free = (0 if side == 0 else 1) ^ turned  # the dimension of the gathered matrix that the result has
        apart = node.attrs["dim"] == free
        x = node.operands[0]
        size = x.shape[free] if isinstance(x.shape[free], int) else 0
        members = group_size(node.attrs)
        if apart and size * members != node.results[0].shape[free]:  # type: ignore[operator]
            continue  # uneven parts
        other = product.operands[1 - side].shape[1 if side == 0 else 0]
        assert isinstance(size, int) and isinstance(other, int)
        count = _best(product, node, size, other, machine)
        if count is not None:
            return _Case(product, node, side, free, apart, count)
    return None


def _reduced(node: Node, readers: Counter[Value], machine: Machine) -> _Case | None:
    """The sum over devices of a product that nobody else reads."""
    if node.op not in ("all_reduce", "reduce_scatter") or group_size(node.attrs) == 1:
        return None
    product = node.operands[0].node
    if not _is_plain(product) or readers[node.operands[0]] != 1:
        return None
    scattered = node.attrs["dim"] if node.op == "reduce_scatter" else 1
    dim = 1 - scattered
    size, other = product.results[0].shape[dim], product.results[0].shape[scattered]
    if not isinstance(size, int) or not isinstance(other, int):
        return None
    count = _best(product, node, size, other, machine)
    return None if count is None else _Case(product, node, None, dim, False, count)


def _cut(x: Value, dim: int, number: int, count: int) -> Value:
    size = x.shape[dim]
    assert isinstance(size, int)
    first, part = number * (size // count), size // count
    return build(
        "slice", x, start=[first if i == dim else 0 for i in range(x.ndim)],
        stop=[first + part if i == dim else d for i, d in enumerate(x.shape)], step=[1] * x.ndim,
    )


def _cut_gather(case: _Case, operands: Sequence[Value]) -> Value:
    """The product with its gathered operand in chunks."""
    side, exchange = case.side, case.exchange
    assert side is not None
    other, gathered = operands[1 - side], operands[side]
    turned = gathered.node.op == "transpose"
    source = (gathered.node.operands[0] if turned else gathered).node.operands[0]
    members = group_size(exchange.attrs)
    out: list[Value] = []
    for number in range(case.count):
        part = _cut(source, case.dim, number, case.count)
        shape = list(part.shape)
        shape[exchange.attrs["dim"]] = exchange.results[0].shape[exchange.attrs["dim"]] if not case.apart else (
            part.shape[case.dim] * members  # type: ignore[operator]
        )
        whole = build("all_gather", part, **{**exchange.attrs, "shape": shape})
        whole = build("transpose", whole, perm=[1, 0]) if turned else whole
        found = build("matmul", whole, other) if side == 0 else build("matmul", other, whole)
        if case.apart:  # as (…, member, chunk, row or column)
            lead, trail = ([], [found.shape[1]]) if side == 0 else ([found.shape[0]], [])
            inside = found.shape[side] // members  # type: ignore[operator]
            found = build("reshape", found, shape=[*lead, members, 1, inside, *trail])
        out.append(found)
    axis = side if not case.apart else 1 if side == 0 else 2
    joined = build("concat", *out, axis=axis)
    return build("reshape", joined, shape=list(case.product.results[0].shape)) if case.apart else joined


def _cut_reduction(case: _Case, operands: Sequence[Value]) -> Value:
    """The reduction of a product in chunks."""
    product, exchange = operands[0].node, case.exchange
    a, b = product.operands
    out: list[Value] = []
    for number in range(case.count):
        left, right = (_cut(a, 0, number, case.count), b) if case.dim == 0 else (a, _cut(b, 1, number, case.count))
        found = build("matmul", left, right)
        attrs = dict(exchange.attrs)
        if exchange.op == "reduce_scatter":
            attrs["shape"] = [
                found.shape[i] if i == case.dim else d for i, d in enumerate(exchange.results[0].shape)
            ]
        out.append(build(exchange.op, found, **attrs))
    return build("concat", *out, axis=case.dim)
