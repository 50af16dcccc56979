"""Tensors that are parts of another, so that they can lie in its memory instead of being copied from or to it.

What is cut out of one tensor in equal parts (queries, keys and values of one projection) and what is put together from
several (their gradients) is brought into a form in which every part is contiguous: the number of the part is the
outermost dimension, and the views that all parts go through stand before the cut, or behind the joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.ir.dims import Dim, add, mul, product
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule.memory import is_aligned
from tessera.schedule.placement import held_values
from tessera.schedule.split import derived
from tessera.schedule.views import VIEWS, are_alike, in_one_step, moved, of_each, reshaped, views_of

MOST_TERMS = 32
"""Terms of a sum that are looked at: parts of one tensor are few."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Part ``number`` of ``count`` along ``axis`` of ``whole``, seen through views."""

    whole: Value
    axis: int
    count: int
    number: int
    views: tuple[Node, ...]


def in_memory(node: Node) -> bool:
    """Whether an operator takes and gives tensors in memory, whatever surrounds it."""
    return node.op not in LEAVES and isinstance(get(node.op).lower, (low.Portable, low.Composite))


def place_in(node: Node) -> Dim | None:
    """Where in its operand, in elements, a slice begins whose elements follow each other there; None for others."""
    if node.op != "slice":
        return None
    shape = node.operands[0].shape
    cut = [i for i, (a, b) in enumerate(zip(shape, node.results[0].shape)) if a != b]
    if len(cut) != 1 or node.attrs["step"][cut[0]] != 1:
        return None
    if any(d != 1 for d in shape[: cut[0]]):
        return None
    return mul(node.attrs["start"][cut[0]], product(shape[cut[0] + 1 :]))


def with_parts(graph: Graph) -> Graph:
    """The graph with its parts outermost; the same graph where there are none."""
    nodes = graph.nodes()
    readers = _readers(nodes)
    cuts = _cuts(nodes, readers)
    new: dict[int, Value] = {}
    wholes: dict[tuple[int, int, int], Value] = {}
    held = held_values(graph)
    taken: set[int] = set()

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        results = keep(node, operands)
        cut = cuts.get(id(node.results[0]))
        if cut is not None:
            results = (_part(cut, new.get(id(cut.whole), cut.whole), wholes, node),)
        elif node.op == "add" and not _is_term(node.results[0], readers):
            results = (_joined(results[0]),)
        if results[0].node.op == "concat":
            results = (_with_views_behind(results[0].node, taken),)
        elif node.op == "reshape" and results[0].node is not node and operands[0].node.op == "reshape":
            results = (reshaped(operands[0].node.operands[0], results[0].shape, node),)
        new.update((id(old), v) for old, v in zip(node.results, results))
        taken.update(id(v) for old, v in zip(node.results, results) if id(old) in held)
        return results

    found = rebuild(graph, visit)
    return graph if all(new[id(v)] is v for node in nodes for v in node.results) else found


# Parts that are cut out.


def _readers(nodes: Sequence[Node]) -> dict[int, list[Node]]:
    """By identity of a value, the nodes that have it as operand."""
    found: dict[int, list[Node]] = {}
    for node in nodes:
        for v in node.operands:
            found.setdefault(id(v), []).append(node)
    return found


def _cuts(nodes: Sequence[Node], readers: dict[int, list[Node]]) -> dict[int, Cut]:
    """The values, by identity, that operators read in memory and that are parts of one tensor, all in the same way."""
    found: dict[int, Cut] = {}
    for node in nodes:
        if node.op in LEAVES:
            continue
        for v in node.results:
            slices = [n for n in readers.get(id(v), ()) if n.op == "slice"]
            if len(slices) > 1 and (axis := _equal_parts(v, slices)) is not None:
                ends = [_end(n, readers) for n in slices]
                alike = all(are_alike(views, ends[0][1]) for _, views in ends)
                if alike and all(_is_read_in_memory(end, readers) for end, _ in ends):
                    for number, (end, views) in enumerate(ends):
                        found[id(end)] = Cut(v, axis, len(slices), number, views)
    return found


def _equal_parts(v: Value, slices: list[Node]) -> int | None:
    """The axis along which slices are equal parts, which are then in order; None where they are not."""
    axes = {i for n in slices for i, (a, b) in enumerate(zip(v.shape, n.results[0].shape)) if a != b}
    if len(axes) != 1:
        return None
    axis, = axes
    size = slices[0].results[0].shape[axis]
    wanted = [mul(i, size) for i in range(len(slices))]
    by_start = {n.attrs["start"][axis]: n for n in slices}
    if mul(len(slices), size) != v.shape[axis] or any(w not in by_start for w in wanted):
        return None
    slices[:] = [by_start[w] for w in wanted]
    return axis if all(n.attrs["step"][axis] == 1 and n.results[0].shape[axis] == size for n in slices) else None


def _end(node: Node, readers: dict[int, list[Node]]) -> tuple[Value, tuple[Node, ...]]:
    """What a slice is after the views that alone read it, and these."""
    views: list[Node] = []
    v = node.results[0]
    while len(found := readers.get(id(v), ())) == 1 and found[0].op in VIEWS:
        views.append(found[0])
        v = found[0].results[0]
    return v, tuple(views)


def _is_read_in_memory(v: Value, readers: dict[int, list[Node]]) -> bool:
    return any(in_memory(n) for n in readers.get(id(v), ()))


def _part(cut: Cut, whole: Value, wholes: dict[tuple[int, int, int], Value], at: Node) -> Value:
    """The part as a slice of the outermost dimension; ``wholes``: what slices were taken of so far."""
    key = (id(cut.whole), cut.axis, cut.count)
    if key not in wholes:
        shape, size = list(whole.shape), cut.views[0].operands[0].shape if cut.views else at.results[0].shape
        parts = (*shape[: cut.axis], cut.count, *size[cut.axis :])
        x = moved(reshaped(whole, parts, at), cut.axis, 0, at)
        wholes[key] = in_one_step(of_each(x, cut.views, at))
    x = wholes[key]
    start, stop = [0] * x.ndim, list(x.shape)
    start[0], stop[0] = cut.number, cut.number + 1
    attrs = {"start": start, "stop": stop, "step": [1] * x.ndim}
    one = derived("slice", (x,), attrs, x.dtype, (1, *x.shape[1:]), at)
    return reshaped(one, x.shape[1:], at)


# Parts that are put together.


def _is_term(v: Value, readers: dict[int, list[Node]]) -> bool:
    """Whether a sum is but a term of another."""
    found = readers.get(id(v), ())
    return len(found) == 1 and found[0].op == "add" and found[0].results[0].shape == v.shape


def _joined(total: Value) -> Value:
    """A sum of tensors in margins of zeros that do not overlap as one tensor, put together; or the sum."""
    terms = _terms(total)
    axes = {i for p in terms for i in range(total.ndim) if (p.attrs["low"][i], p.attrs["high"][i]) != (0, 0)}
    if len(terms) < 2 or len(axes) != 1:
        return total
    axis, = axes
    at = {p.attrs["low"][axis]: p for p in terms}
    ends = {add(p.attrs["low"][axis], p.operands[0].shape[axis]) for p in terms}
    starts = [d for d in at if d not in ends]
    if len(at) != len(terms) or len(starts) != 1:
        return total
    parts: list[Node] = []
    place: Dim = starts[0]
    while place in at and len(parts) < len(terms):
        parts.append(at[place])
        place = add(place, parts[-1].operands[0].shape[axis])
    if len(parts) != len(terms):
        return total
    shape = list(total.shape)
    shape[axis] = add(place, mul(-1, starts[0]))
    x = derived("concat", tuple(p.operands[0] for p in parts), {"axis": axis}, total.dtype, tuple(shape), total.node)
    first, last = parts[0].attrs, parts[-1].attrs
    if first["low"][axis] == 0 and last["high"][axis] == 0:
        return x
    attrs = {"low": list(first["low"]), "high": list(last["high"]), "value": first["value"]}
    return derived("pad", (x,), attrs, total.dtype, total.shape, total.node)


def _terms(total: Value) -> list[Node]:
    """The terms of a sum where all of them are tensors in margins of zeros; nothing where one is not."""
    found: list[Node] = []
    stack = [total]
    while stack:
        v = stack.pop()
        node = v.node
        if v.shape != total.shape or len(found) + len(stack) > MOST_TERMS:
            return []
        if node.op == "add":
            stack += node.operands
        elif node.op == "pad" and node.attrs["value"] == 0:
            found.append(node)
        else:
            return []
    return found


def _with_views_behind(concat: Node, taken: set[int]) -> Value:
    """What results of operators in memory, all seen in the same way, are put together to: seen so afterwards.

    ``taken``: by identity, the values that must lie elsewhere; what is put together is added.
    """
    result, axis = concat.results[0], concat.attrs["axis"]
    chains = [views_of(v) for v in concat.operands]
    first, views = chains[0]
    if all(d == 1 for d in result.shape[:axis]) and not any(n.op == "transpose" for n in views):
        return result
    if len({id(v) for v, _ in chains} - taken) != len(chains) or not is_aligned(first.size, first) or not all(
        in_memory(v.node) and v.shape == first.shape and are_alike(other, views) for v, other in chains
    ):
        return result
    taken.update(id(v) for v, _ in chains)
    count = len(chains)
    parts = tuple(reshaped(v, (1, *v.shape), concat) for v, _ in chains)
    x = derived("concat", parts, {"axis": 0}, first.dtype, (count, *first.shape), concat)
    return in_one_step(reshaped(moved(of_each(x, views, concat), 0, axis, concat), result.shape, concat))
