"""Reductions between GPUs as exchanges that only copy, and sums by kernels: copy engines can do all of them.

A kernel of a library that reduces between GPUs needs multiprocessors, which the kernels beside it have; a copy needs none.
"""

from __future__ import annotations

from tessera.ir.dtype import f32
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.provenance import location
from tessera.ir.value import Node, Value
from tessera.op.collective import group_size
from tessera.op.opdef import build

_PAIRS = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}
_MOST_MEMBERS = 8
"""GPUs that each other's links join directly, as far as can be said without their names."""
_LEAST_BYTES = 1 << 22
"""Below, a message more costs more than is hidden."""


def reductions_by_copies(graph: Graph) -> Graph:
    """One device's program in which large reductions are an all-to-all of parts and the sum of what arrives.

    Each device gets the same bytes as before, from the same devices: a part of the operand from each other one, which it
    combines in the order of members, in f32 for 16-bit floats; of an ``all_reduce`` then the combined parts of the others.
    Groups of more than eight devices, sizes that are not known or do not divide, and small operands stay as they are.
    """

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if node.op not in ("all_reduce", "reduce_scatter") or not _divides(node):
            return keep(node, operands)
        with location(node.loc):
            return (_reduced(node, operands[0]),)

    return rebuild(graph, visit)


def _divides(node: Node) -> bool:
    x, count = node.operands[0], group_size(node.attrs)
    if not isinstance(x.size, int) or not 1 < count <= _MOST_MEMBERS or x.size * x.dtype.itemsize < _LEAST_BYTES:
        return False
    if node.op == "all_reduce":
        return x.size % count == 0
    dim = node.attrs["dim"]
    whole, part = x.shape[dim], node.results[0].shape[dim]
    return isinstance(whole, int) and isinstance(part, int) and whole == part * count


def _reduced(node: Node, x: Value) -> Value:
    attrs, count = node.attrs, group_size(node.attrs)
    group = {k: attrs[k] for k in ("axes", "sizes", "member", "cause", "fix")}
    assert isinstance(x.size, int)
    if node.op == "all_reduce":
        flat = build("reshape", x, shape=[count, x.size // count])
        part = _sum_of_parts(flat, attrs["combine"], group)
        whole = build("all_gather", part, **group, dim=0, shape=[x.size])
        return build("reshape", whole, shape=list(x.shape))
    dim, own = attrs["dim"], list(node.results[0].shape)
    apart = build("reshape", x, shape=[*own[:dim], count, *own[dim:]])  # rows of parts stay rows in memory
    parts = build("transpose", apart, perm=[dim, *(i for i in range(x.ndim + 1) if i != dim)])
    return _sum_of_parts(parts, attrs["combine"], group)


def _sum_of_parts(parts: Value, combine: str, group: dict[str, object]) -> Value:
    """[members, n, …], one part for each → [n, …]: this device's part, combined."""
    count, rows, *rest = parts.shape
    arrived = build("all_to_all", parts, **group, dim=1, split_dim=0, shape=[1, count * rows, *rest])  # type: ignore[operator]
    arrived = build("reshape", arrived, shape=[count, rows, *rest])
    return _combined([_part(arrived, i) for i in range(count)], combine)  # type: ignore[arg-type]


def _part(stacked: Value, i: int) -> Value:
    shape = stacked.shape
    found = build("slice", stacked, start=[i, *[0] * (len(shape) - 1)], stop=[i + 1, *shape[1:]], step=[1] * len(shape))
    return build("reshape", found, shape=list(shape[1:]))


def _combined(parts: list[Value], combine: str) -> Value:
    """One after the other, so that kernels read each part once; 16-bit floats are rounded at the end."""
    dtype = parts[0].dtype
    wide = f32 if dtype.is_float and dtype.bits < 32 else dtype
    found = build("cast", parts[0], dtype=wide)
    for part in parts[1:]:
        found = build(_PAIRS[combine], found, build("cast", part, dtype=wide))
    return build("cast", found, dtype=dtype)
