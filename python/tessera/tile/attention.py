"""Kernels of attention that a target keeps whole: operands and results are contiguous tensors of three
dimensions, a mask is one of four.
"""

from __future__ import annotations

from tessera.errors import InternalError
from tessera.ir.dims import Dim, product
from tessera.ir.value import Value
from tessera.schedule.fusion import Group
from tessera.schedule.placement import Placement
from tessera.tile.emission import Argument
from tessera.tile.ir import AttentionKernel
from tessera.transform.flash_attention import FORWARD, GRADIENT, mask_of


def build(group: Group, placement: Placement) -> tuple[AttentionKernel, list[Argument]]:
    """The kernel of a group around attention, and its arguments."""
    node = group.anchor.node
    if node.op not in (FORWARD, GRADIENT):
        raise InternalError(f"{node.op} is a composite that no target keeps")
    backward = node.op == GRADIENT
    q, mask = node.operands[0], mask_of(node)
    operands = node.operands if mask is None else node.operands[:-1]
    arguments = [_argument(v, placement, _shape(v, v.ndim == q.ndim)) for v in operands]
    for v in node.results:
        arguments.append(Argument(v, _shape(v, v.ndim == q.ndim), written=True))
    if mask is not None:
        arguments.append(_argument(mask, placement, _mask_shape(mask.shape)))
    buffers = tuple(a.buffer(f"b{i}") for i, a in enumerate(arguments))
    kernel = AttentionKernel(
        node.op, (), buffers, node.attrs["causal"], node.attrs["scale"], backward, node.loc, mask is not None
    )
    return kernel, arguments


def _argument(v: Value, placement: Placement, shape: tuple[Dim, ...]) -> Argument:
    root = placement.root(v)
    assert root is not None
    return Argument(root, shape, read=True)


def _mask_shape(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """A mask's batch as one dimension, then heads, queries and keys."""
    full = (1,) * (4 - len(shape)) + shape
    return (product(full[:-3]), *full[-3:])


def _shape(v: Value, whole: bool) -> tuple[Dim, ...]:
    """Heads, with the batch, as one dimension; then positions; then, of a ``whole`` tensor, the size of a head."""
    kept = 2 if whole else 1
    return (product(v.shape[: v.ndim - kept]), *v.shape[v.ndim - kept :])
