"""Rewrites before fusion: forms that kernels do better, checks of indices, large reductions in two steps."""

from __future__ import annotations

from tessera.ir.dims import Dim
from tessera.ir.dtype import DType, f32, i64
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule.machine import CPU, Machine
from tessera.schedule.parts import with_parts
from tessera.schedule.ranges import Ranges, with_check
from tessera.schedule.split import derived, in_two_steps, is_long
from tessera.schedule.views import transposed

_INDEXED = (low.Take, low.TakeAlongAxis, low.IndexAdd, low.ScatterAdd)


def prepare(graph: Graph, nodes: list[Node], machine: Machine = CPU, parts: bool = True) -> Graph:
    """The graph as fusion expects it; the same graph when there is nothing to do.

    ``parts``: parts of tensors are brought into a form in which they can lie in these.
    """
    together = with_parts(graph) if parts else graph
    if together is not graph:
        graph, nodes = together, together.nodes()
    if not any(_concerns(node, machine) for node in nodes):
        return graph
    ranges = Ranges()

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if not _concerns(node, machine):
            return keep(node, operands)
        rule = get(node.op).lower
        if isinstance(rule, low.Dot):
            return (_matrix_vector(node, operands[0], operands[1], machine),)
        if isinstance(rule, low.Reduction):
            return (in_two_steps(node, operands[0], machine),)
        return with_check(node, operands, ranges)

    return rebuild(graph, visit)


def _concerns(node: Node, machine: Machine) -> bool:
    if node.op in LEAVES:
        return False
    rule = get(node.op).lower
    if isinstance(rule, low.Dot):
        return node.results[0].shape[-1] == 1 and node.operands[0].shape[-1] != 1 and not machine.ordered
    return isinstance(rule, _INDEXED) or is_long(node, machine)


def _accumulator(dtype: DType) -> DType:
    """The dtype in which a sum of products is formed."""
    if dtype.is_float:
        return f32 if dtype.bits < 32 else dtype
    return i64


def _cast(x: Value, dtype: DType, at: Node) -> Value:
    return x if x.dtype == dtype else derived("cast", (x,), {"dtype": dtype}, dtype, x.shape, at)


def _sum(x: Value, axes: list[int], shape: tuple[Dim, ...], at: Node, machine: Machine) -> Value:
    total = derived("sum", (x,), {"axes": axes, "keepdims": True}, x.dtype, shape, at)
    return in_two_steps(total.node, x, machine) if is_long(total.node, machine) else total


def _matrix_vector(node: Node, a: Value, b: Value, machine: Machine) -> Value:
    """A matrix times a vector is a row reduction: it reads the matrix once, in its own order."""
    result = node.results[0]
    wide = _accumulator(result.dtype)
    a, b = _cast(a, wide, node), _cast(b, wide, node)
    rank = b.ndim
    row = transposed(b, [*range(rank - 2), rank - 1, rank - 2], node)
    terms = (*result.shape[:-1], a.shape[-1])
    products = derived("mul", (a, row), {}, wide, terms, node)
    return _cast(_sum(products, [len(terms) - 1], result.shape, node, machine), result.dtype, node)
