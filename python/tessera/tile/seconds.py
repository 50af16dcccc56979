"""How long kernels and exchanges take, roughly: to decide what runs beside what."""

from __future__ import annotations

from tessera.dist.cost import MACHINES, typical, typical_elements
from tessera.op import lowering as low
from tessera.op.collective import group_size, received_bytes
from tessera.op.opdef import get
from tessera.schedule.fusion import Group
from tessera.schedule.machine import Machine
from tessera.schedule.pieces import WINDOW
from tessera.tile.draft import Draft
from tessera.tile.report import kernel_bytes, kernel_flops

_LAUNCH = 3e-6  # the least that a kernel takes


def group_seconds(group: Group, draft: Draft | None, machine: Machine) -> float:
    """Seconds of a group at typical sizes; ``draft``: its kernel, if it has one."""
    if group.kind == WINDOW:
        return 0.0
    costs = MACHINES["cuda" if machine.name == "gpu" else "cpu"]
    if draft is not None:
        moved = sum(map(typical, kernel_bytes(draft.kernel)))
        return max(_LAUNCH, costs.compute(typical(kernel_flops(draft.kernel)), moved))
    node = group.anchor.node
    if isinstance(get(node.op).lower, low.Collective):
        return costs.exchange(typical(received_bytes(node)), (group_size(node.attrs) - 1).bit_length())
    values = (*node.operands, *node.results)
    return max(_LAUNCH, costs.compute(0, sum(typical_elements(v.shape) * v.dtype.itemsize for v in values)))
