"""Decide which values get storage and which are recomputed inside their consumers.

Values that only an expensive computation or a particular kernel form can produce (reductions, products, scans,
scatters) and values that must exist in memory are stored. Of the others, one with a single consumer is inlined; one
with several is inlined when recomputing it costs less than a round trip through memory. A 16-bit float that is read as
a wider one is stored, if at all, in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Dim, add, is_multiple, product
from tessera.ir.graph import Graph
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule import cost
from tessera.schedule.expression import is_single_update, reduced_axes
from tessera.schedule.index import blocks, squeeze
from tessera.schedule.machine import CPU, Machine
from tessera.schedule.memory import is_aligned
from tessera.schedule.options import Schedule
from tessera.schedule.parts import in_memory, place_in
from tessera.schedule.placement import ALIASES, Placement, held_values

HEAD, ROWS = 64, 256
"""Elements of a head that products of GPUs read in place, and what the positions are a multiple of.

So are the elements of all heads together where several tensors of heads lie beside each other.
"""
_INLINE = (
    low.Pointwise, low.View, low.Pad, low.Concat, low.Iota, low.Fill, low.Take, low.TakeAlongAxis, low.Random,
)


@dataclass(slots=True)
class _Uses:
    """How a value is read, views looked through."""

    count: int = 0
    larger: bool = False
    """Some consumer reads an element more than once."""
    memory: bool = False
    """Some consumer needs it in memory, in row-major order."""
    operand: bool = False
    """Some matrix product has it as operand."""
    parts: Dim = 0
    """Elements of the slices of it that consumers need in memory and that can be windows into it."""


@dataclass(slots=True)
class _Inlined:
    """What computing an element involves, down to stored values."""

    work: int
    tensors: dict[int, int]
    """The stored tensors, by identity, with the bytes of an element; 0 for one that is broadcast on the way."""
    depth: int
    product: bool
    """Reads the result of a matrix product, which can store a finished value instead."""


_LEAF = _Inlined(0, {}, 0, False)


def can_inline(node: Node) -> bool:
    """Whether a result element is a scalar expression of operand elements."""
    rule = get(node.op).lower
    if isinstance(rule, _INLINE):
        return True
    if isinstance(rule, (low.Reduction, low.Scan)):
        return all(node.operands[0].shape[i] == 1 for i in reduced_axes(node))
    if isinstance(rule, (low.IndexAdd, low.ScatterAdd)):
        return is_single_update(node)
    return isinstance(rule, low.Dot) and node.operands[0].shape[-1] == 1


def is_view(node: Node) -> bool:
    """Whether the operator only re-indexes."""
    return isinstance(get(node.op).lower, (low.View, low.CheckRange))


def _is_widening(node: Node) -> bool:
    """Whether the operator reads a 16-bit float as a wider one: exact, nearly free, and half the bytes unread."""
    rule = get(node.op).lower
    if not isinstance(rule, low.Pointwise) or rule.compute != "cast":
        return False
    source, target = node.operands[0].dtype, node.results[0].dtype
    return source.is_float and target.is_float and source.bits == 16 < target.bits


def place(
    graph: Graph, nodes: list[Node], options: Schedule, recompute: int, machine: Machine = CPU, parts: bool = True
) -> Placement:
    """The values with storage. ``recompute``: the work per element up to which a value is recomputed.

    ``parts``: values may lie in the storage of others.
    """
    uses = _count_uses(graph, nodes, machine, parts)
    required = {id(v) for v in (*graph.outputs.values(), *graph.updates.values())}
    held = held_values(graph)
    placement = Placement()
    inlined: dict[int, _Inlined] = {}
    for node in nodes:
        if node.op in LEAVES:
            continue
        for v in node.results:
            use = uses.get(id(v), _Uses())
            info = _information(node, placement, inlined)
            if node.op in ALIASES and placement.root(node.operands[0]) is not None:
                inlined[id(v)] = _LEAF
            elif parts and use.memory and (window := _window(node, placement, held)) is not None:
                placement.store(v)
                placement.put_into(v, *window)
            else:
                inside = _inside(node, placement, held) if parts else []
                if (
                    not (can_inline(node) or is_view(node)) or id(v) in required
                    or (inside and len(inside) == sum(o.size != 0 for o in node.operands))
                    or _must_store(node, v, use, info, placement, options, recompute, machine)
                ):
                    placement.store(v)
                    for part, start in inside:
                        placement.put_into(part, v, start)
            inlined[id(v)] = info
    return placement


def _is_in_arena(v: Value, held: set[int]) -> bool:
    return v.node.op not in LEAVES and id(v) not in held


def _window(node: Node, placement: Placement, held: set[int]) -> tuple[Value, Dim] | None:
    """Where a slice that is needed in memory is already: what is stored that it is a part of, and the first element."""
    start = _start_of_window(node)
    if start is None or id(node.results[0]) in held:
        return None
    whole = placement.root(node.operands[0])
    if whole is None or not _is_in_arena(whole, held) or id(whole) in placement.windows:
        return None
    return whole, start


def _start_of_window(node: Node) -> Dim | None:
    """The element of its operand with which a slice begins that lies there as it would in memory of its own."""
    start = place_in(node)
    return start if start is not None and is_aligned(start, node.results[0]) else None


def _inside(concat: Node, placement: Placement, held: set[int]) -> list[tuple[Value, Dim]]:
    """Results of operators in memory that may lie where they are put together, and the elements with which they begin.

    Where these are all that there is, storing what they are put together to costs nothing.
    """
    v = concat.results[0]
    if not isinstance(get(concat.op).lower, low.Concat) or id(v) in held:
        return []
    if any(d != 1 for d in v.shape[: concat.attrs["axis"]]):
        return []
    found: dict[int, tuple[Value, Dim]] = {}
    start: Dim = 0
    for operand in concat.operands:
        root = placement.root(operand)
        if (
            root is not None and in_memory(root.node) and _is_in_arena(root, held) and not placement.shares_memory(root)
            and is_aligned(start, v) and operand.size != 0
        ):
            found.setdefault(id(root), (root, start))
        start = add(start, operand.size)
    return list(found.values())


def _must_store(
    node: Node, v: Value, use: _Uses, info: _Inlined, placement: Placement, options: Schedule, recompute: int,
    machine: Machine,
) -> bool:
    """Whether an inlinable value is stored all the same."""
    if use.memory or (use.parts != 0 and use.parts == v.size):
        return True
    if use.operand and not _fits_operand(v, placement, machine):
        return True
    if is_view(node) or info.work == 0 or (options.fusion and _is_widening(node)):
        return False
    if not options.fusion:
        return True
    if info.work > cost.MOST_WORK or len(info.tensors) > cost.MOST_TENSORS or info.depth > cost.MOST_DEPTH:
        return True
    if use.larger and info.work > max(cost.CHEAP_BROADCAST, recompute - 1):
        return True
    if use.count > 1:
        if recompute and machine.work and _is_cheaper_again(v, use, info, machine.work):
            return False
        return info.work > recompute or (recompute <= cost.CHEAP and (len(info.tensors) > 1 or info.product))
    return False


def _is_cheaper_again(v: Value, use: _Uses, info: _Inlined, work: float) -> bool:
    """Whether a value is wider than all that it is computed from, so that every consumer better reads that instead."""
    size, sources = v.dtype.itemsize, sum(info.tensors.values())
    return sources < size and (use.count - 1) * sources + use.count * info.work * work <= use.count * size


def _fits_operand(v: Value, placement: Placement, machine: Machine) -> bool:
    """Whether a product can load the operand in place: views and casts of a stored value."""
    while placement.root(v) is None:
        rule = get(v.node.op).lower
        cast = isinstance(rule, low.Pointwise) and rule.compute == "cast" and v.dtype.is_float
        if not cast and not isinstance(rule, low.View):
            return False
        if cast and not v.node.operands[0].dtype.is_float:
            return False
        if cast and not machine.narrows and v.dtype.bits < v.node.operands[0].dtype.bits:
            return False
        v = v.node.operands[0]
    return True


def _information(node: Node, placement: Placement, inlined: dict[int, _Inlined]) -> _Inlined:
    total, depth, product = cost.work(node), 0, False
    tensors: dict[int, int] = {}
    shape = node.results[0].shape
    rank, elements = len(squeeze(shape)), cost.typical_size(shape)
    for o in node.operands:
        root = placement.root(o)
        if root is not None:
            if len(squeeze(o.shape)) >= rank:  # rows and columns broadcast over the result are small
                tensors[id(root)] = root.dtype.itemsize if cost.typical_size(o.shape) >= elements else 0
            product |= root.node.op == "matmul" and o.size == node.results[0].size
            continue
        below = inlined[id(o)]
        total += below.work
        small = cost.typical_size(o.shape) < elements
        for key, size in below.tensors.items():
            tensors[key] = max(tensors.get(key, 0), 0 if small else size)
        depth = max(depth, below.depth)
        product |= below.product and o.size == node.results[0].size
    return _Inlined(total, tensors, depth + 1, product)


def _count_uses(graph: Graph, nodes: list[Node], machine: Machine, parts: bool) -> dict[int, _Uses]:
    uses: dict[int, _Uses] = {}
    for v in (*graph.outputs.values(), *graph.updates.values()):
        use = uses.setdefault(id(v), _Uses())
        use.count += 1
        if v.node.op in ALIASES:
            use.memory = True
    for node in reversed(nodes):
        if node.op in LEAVES:
            continue
        for position, operand in enumerate(node.operands):
            _add_use(uses.setdefault(id(operand), _Uses()), node, position, operand, uses, machine, parts)
    return uses


def _add_use(
    use: _Uses, node: Node, position: int, operand: Value, uses: dict[int, _Uses], machine: Machine, parts: bool
) -> None:
    rule = get(node.op).lower
    result = node.results[0]
    if isinstance(rule, low.CheckRange):
        use.count += 1
        use.memory = True
    elif isinstance(rule, low.View):
        above = uses.get(id(result), _Uses())
        use.count += above.count
        use.larger |= above.larger or (node.op == "broadcast_to" and operand.shape != result.shape)
        use.operand |= above.operand
        if node.op in ALIASES:
            use.memory |= above.memory
            use.parts = add(use.parts, above.parts)
        elif parts and above.memory and _start_of_window(node) is not None:
            use.parts = add(use.parts, result.size)
        use.memory |= node.op == "reshape" and not _reshape_is_simple(operand, result, machine.parts_rows)
    elif _is_widening(node):
        above = uses.get(id(result), _Uses())
        use.count += above.count
        use.larger |= above.larger
        use.operand |= above.operand
    elif isinstance(rule, low.Dot):
        use.count += 1
        if can_inline(node):
            use.larger = True
        else:
            use.operand = True
    elif isinstance(rule, (low.Portable, low.Composite)):
        use.count += 1
        use.memory = True
    elif not can_inline(node) and isinstance(rule, (low.IndexAdd, low.ScatterAdd)):
        use.count += 1
    else:
        use.count += 1
        use.larger |= _reads_repeatedly(rule, position, operand, result)


def _reads_repeatedly(rule: low.Lowering, position: int, operand: Value, result: Value) -> bool:
    if isinstance(rule, low.Pointwise):
        return operand.shape != result.shape
    if isinstance(rule, (low.Take, low.TakeAlongAxis)):
        return position == 0 or operand.shape != result.shape
    if isinstance(rule, (low.IndexAdd, low.ScatterAdd)):
        return position != 0
    return isinstance(rule, low.Random)


def _reshape_is_simple(operand: Value, result: Value, in_parts: bool) -> bool:
    """Whether the operand's index for a result index divides nothing in the innermost dimension.

    Merging dimensions needs products only. Splitting needs divisions, which are affordable along outer dimensions;
    ``in_parts``: along the innermost one too where its parts are as long as the heads that products read in place.
    """
    if any(d == 0 for d in result.shape):
        return True
    if in_parts and _merges_heads(operand, result):
        return True
    inner = True
    for source, target in reversed(blocks(operand.shape, result.shape)):
        wide = [i for i in source if operand.shape[i] != 1]
        narrow = [i for i in target if result.shape[i] != 1]
        if not wide and not narrow:
            continue
        if len(wide) > 1 and (inner or len(narrow) > 1):
            return False
        inner = False
    return True


def _merges_heads(operand: Value, result: Value) -> bool:
    """Whether neighbouring dimensions are merged whose parts copies of blocks of a product do not reach over."""
    innermost = True
    for source, target in reversed(blocks(operand.shape, result.shape)):
        wide = [operand.shape[i] for i in source if operand.shape[i] != 1]
        if not wide:
            continue
        if len([i for i in target if result.shape[i] != 1]) != 1:
            return False
        if len(wide) > 1 and not (wide[-1] == HEAD if innermost else is_multiple(wide[-1], ROWS)):
            return False
        inner = [product(wide[i:]) for i in range(1, len(wide) - 1)]
        if innermost and not all(is_multiple(d, ROWS) for d in inner):
            return False
        innermost = False
    return True
