"""Kernels of attention that a target keeps whole: operands and results are contiguous tensors of three dimensions."""

from __future__ import annotations

from tessera.errors import InternalError
from tessera.ir.dims import Dim, product
from tessera.ir.value import Value
from tessera.schedule.fusion import Group
from tessera.schedule.placement import Placement
from tessera.tile.emission import Argument
from tessera.tile.ir import AttentionKernel
from tessera.transform.flash_attention import FORWARD, GRADIENT


def build(group: Group, placement: Placement) -> tuple[AttentionKernel, list[Argument]]:
    """The kernel of a group around attention, and its arguments."""
    node = group.anchor.node
    if node.op not in (FORWARD, GRADIENT):
        raise InternalError(f"{node.op} is a composite that no target keeps")
    backward = node.op == GRADIENT
    arguments = [_argument(v, placement, v.ndim == node.operands[0].ndim) for v in node.operands]
    for v in node.results:
        arguments.append(Argument(v, _shape(v, v.ndim == node.operands[0].ndim), written=True))
    for argument in arguments[: len(node.operands)]:
        argument.read = True
    buffers = tuple(a.buffer(f"b{i}") for i, a in enumerate(arguments))
    kernel = AttentionKernel(node.op, (), buffers, node.attrs["causal"], node.attrs["scale"], backward, node.loc)
    return kernel, arguments


def _argument(v: Value, placement: Placement, whole: bool) -> Argument:
    root = placement.root(v)
    assert root is not None
    return Argument(root, _shape(v, whole))


def _shape(v: Value, whole: bool) -> tuple[Dim, ...]:
    """Heads, with the batch, as one dimension; then positions; then, of a ``whole`` tensor, the size of a head."""
    kept = 2 if whole else 1
    return (product(v.shape[: v.ndim - kept]), *v.shape[v.ndim - kept :])
