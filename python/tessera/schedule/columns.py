"""Sums over rows beside the row kernels of GPUs: a layer norm's gradient gives those of its weight and bias, too.

``prepare`` cuts a sum over many rows into two steps. Where a kernel goes through the same rows anyway and has each
of them whole in registers, it forms the sum itself: one piece in the place of both steps. So does a product whose
16-bit results are summed, as in the gradient of a bias before an activation. All other sums keep their steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessera.ir.dims import product
from tessera.ir.dtype import bf16, f16, f32
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule import cost
from tessera.schedule.fusion import Fusion, Group, fuse, seen_in
from tessera.schedule.index import Axes, Index, rename
from tessera.schedule.machine import Machine
from tessera.schedule.options import Schedule
from tessera.schedule.pieces import COLUMN_SUM, DOT, MAP, REDUCE, Piece, reduction
from tessera.schedule.placement import Placement
from tessera.schedule.split import derived, undivided

NARROWEST, WIDEST = 32, 4096
"""Elements of rows beside which sums are formed: eight for each thread of at most 512."""
MOST_SUMS = 4
"""Sums of one kernel: each takes as many registers as a row."""
MARGIN = 2
"""How many bytes of rows must not be read again for each byte of partial sums that is written and read."""


@dataclass(frozen=True, slots=True)
class ColumnSum:
    """A sum over rows: as one piece, and in two steps."""

    whole: Piece
    steps: tuple[Piece, Piece]


def fuse_with_sums(
    pieces: list[Piece], axes: Axes, options: Schedule, machine: Machine, placement: Placement, graph: Graph
) -> list[Group]:
    """The groups of a graph's pieces, as ``fuse`` finds them, with the sums that row kernels form."""
    outputs = {id(placement.root(v)) for v in (*graph.outputs.values(), *graph.updates.values())}
    sums = find(pieces, placement, axes, outputs) if options.fusion and machine.partials else []
    if not sums:
        return fuse(pieces, axes, options, machine)
    fusion = Fusion(without_steps(pieces, sums), axes, machine)
    fusion.run(lambda f: join(f, sums, outputs))
    return list(fusion.groups)


def find(pieces: Sequence[Piece], placement: Placement, axes: Axes, outputs: set[int]) -> list[ColumnSum]:
    """The sums over rows of a width and number that a row reduction or product has, too. ``outputs``: of the graph."""
    rows = {(product(p.space), p.space[-1]) for p in pieces if _is_along_rows(p)}
    rows = {(size, width) for size, width in rows if isinstance(width, int) and NARROWEST <= width <= WIDEST}
    if not rows:
        return []
    readers: dict[int, int] = {}
    for piece in pieces:
        for root in {id(read.root) for read in piece.reads}:
            readers[root] = readers.get(root, 0) + 1
    makers = {id(p.value): p for p in pieces if p.kind == REDUCE}
    found: list[ColumnSum] = []
    for total in pieces:
        first = makers.get(id(total.node.operands[0])) if total.kind == REDUCE else None
        if first is None or id(first.value) in outputs or readers[id(first.value)] != 1:
            continue
        source = undivided(total.node)
        if source is not None and total.value.dtype == f32 and (source.size, source.shape[-1]) in rows:
            found.append(ColumnSum(_whole(total, source, placement, axes), (first, total)))
    return found


def _is_along_rows(piece: Piece) -> bool:
    if len(piece.space) < 2:
        return False
    return piece.kind == DOT or (piece.kind == REDUCE and piece.reduced == (len(piece.space) - 1,))


def _whole(total: Piece, source: Value, placement: Placement, axes: Axes) -> Piece:
    """The sum as one piece."""
    attrs = {"axes": list(range(source.ndim - 1)), "keepdims": False}
    node = derived("sum", (source,), attrs, total.value.dtype, total.value.shape, total.node).node
    return reduction(node, total.value, placement, axes, total.position, COLUMN_SUM)


def without_steps(pieces: Sequence[Piece], sums: Sequence[ColumnSum]) -> list[Piece]:
    """The pieces with one for each of these sums, where its second step was."""
    first = {s.steps[0] for s in sums}
    whole = {s.steps[1]: s.whole for s in sums}
    return [whole.get(p, p) for p in pieces if p not in first]


def join(fusion: Fusion, sums: Sequence[ColumnSum], outputs: set[int]) -> list[Group]:
    """Let kernels form the sums that they should; groups of the two steps of the others."""
    left: list[tuple[Group, Sequence[Piece]]] = []
    for one in sums:
        group, = fusion.owners(one.whole.value)
        found = sorted(((_saved(fusion, g, one.whole), g) for g in _candidates(fusion, group, outputs)), key=_best)
        least = MARGIN * 2 * fusion.machine.partials * cost.typical_size(one.whole.space[-1:]) * f32.itemsize
        if not any(saved >= least and fusion.merge(g, group) is not None for saved, g in found):
            left.append((group, one.steps))
    return fusion.taken_apart(left)


def _best(candidate: tuple[int, Group]) -> tuple[bool, int, int]:
    return candidate[1].kind == DOT, -candidate[0], candidate[1].position


def _candidates(fusion: Fusion, group: Group, outputs: set[int]) -> list[Group]:
    """The row kernels that compute or read what a sum reads, and products that compute it."""
    found = dict.fromkeys(group.predecessors)
    for root in group.reads:
        found.update(dict.fromkeys(fusion.readers(root)))
    return [g for g in found if _has_rows(g) or _has_results(fusion, g, group, outputs)]


def _has_results(fusion: Fusion, group: Group, total: Group, outputs: set[int]) -> bool:
    """Whether a product computes and stores the 16-bit floats that a sum reads, for others or for the result."""
    if group.kind != DOT or any(p.kind == COLUMN_SUM for p in group.members) or len(total.reads) != 1:
        return False
    root, = total.reads
    piece, width = group.roots.get(root), group.space[-1]
    if piece is None or piece.part is not None or piece.value.dtype not in (bf16, f16):
        return False
    if not isinstance(width, int) or not NARROWEST <= width <= WIDEST or not _is_plain(total.members[0], root):
        return False
    return root in outputs or any(g not in (total, group) for g in fusion.readers(root))


def _is_plain(total: Piece, root: int) -> bool:
    """Whether a sum adds up what is stored, widened to f32 at once."""
    x = total.node.operands[0]
    dtypes = [x.dtype]
    while id(x) != root and x.node.op in ("cast", "reshape"):
        x = x.node.operands[0]
        dtypes.append(x.dtype)
    return id(x) == root and set(dtypes) <= {x.dtype, f32} and dtypes == sorted(dtypes, key=lambda d: d != f32)


def _has_rows(group: Group) -> bool:
    """Whether a group goes through rows that are whole in registers, and has room for one more sum."""
    if group.kind != REDUCE or group.reduced != (len(group.space) - 1,) or len(group.space) < 2:
        return False
    width = group.space[-1]
    if not isinstance(width, int) or not NARROWEST <= width <= WIDEST:
        return False
    kinds = [p.kind for p in group.members]
    return all(k in (MAP, REDUCE, COLUMN_SUM) for k in kinds) and kinds.count(COLUMN_SUM) < MOST_SUMS


def _saved(fusion: Fusion, group: Group, piece: Piece) -> int:
    """The bytes that need not be read again when a row kernel forms a sum."""
    mapping = fusion.place(piece, group)
    if mapping is None:
        return 0
    here = {i for p in group.members for i in _reads(fusion, p, group.mappings[p])}
    here |= {(root, group.canonical(p)) for root, p in group.roots.items() if p.part is None}
    roots = {id(r.root): r.root for r in piece.reads}
    shared = {root for root, index in _reads(fusion, piece, mapping) if (root, index) in here}
    return sum(cost.typical_size(roots[r].shape) * roots[r].dtype.itemsize for r in shared)


def _reads(fusion: Fusion, piece: Piece, mapping: Mapping) -> list[tuple[int, Index]]:
    """The elements that a piece reads."""
    return [
        (id(r.root), seen_in(fusion.axes, r.root, r.shape, rename(r.index, mapping))) for r in piece.reads
    ]
