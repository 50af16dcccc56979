"""What devices are made of and how they are joined, for predictions about machines that are not here.

Numbers in bytes, seconds, and operations or bytes per second, per device and direction. Those of the devices that are
named here are the makers' data sheets'; ``reached`` and ``bandwidth`` are what well-made kernels and collectives reach
of them, as far as we have measured it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tessera.errors import ArgumentError
from tessera.ir.sharding import MeshShape


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device: operations per second by dtype, memory bandwidth, bytes of memory, seconds to start a kernel.

    ``reached``: the parts of arithmetic and of memory bandwidth that kernels reach. ``is_gpu``: whether programs are
    scheduled as for a GPU, or as for a CPU.
    """

    name: str
    arithmetic: Mapping[str, float]
    bandwidth: float
    memory: float
    launch: float
    reached: tuple[float, float] = (0.7, 0.85)
    is_gpu: bool = True

    def seconds(self, operations: float, touched: float, dtype: str) -> float:
        """How long a kernel takes that computes and moves so much."""
        busy = max(self._computing(operations, dtype), touched / (self.bandwidth * self.reached[1]))
        return max(self.launch, busy)

    def beside(self, operations: float) -> float:
        """How much longer a kernel takes for simple operations in f32 on top of products by matrix units."""
        return self._computing(operations, "f32")

    def _computing(self, operations: float, dtype: str) -> float:
        return operations / (self.arithmetic.get(dtype, min(self.arithmetic.values())) * self.reached[0])


@dataclass(frozen=True, slots=True)
class Tier:
    """A class of link. Units of ``devices`` neighbours are joined by it; None: all that there are.

    ``bandwidth``: bytes per second that each device receives over it, ``latency``: seconds per message.
    """

    name: str
    devices: int | None
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Topology:
    """Devices, numbered row-major over the mesh, in units within units: ``tiers`` from the innermost outwards.

    Raises ArgumentError when a unit does not consist of whole units of the tier before, or when the last tier does not
    join all devices.
    """

    name: str
    device: DeviceSpec
    tiers: Sequence[Tier] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.tiers or self.tiers[-1].devices is not None:
            raise ArgumentError(f"Topology {self.name!r}: the last tier must join all devices: devices=None")
        for inner, outer in zip(self.tiers, self.tiers[1:]):
            if inner.devices is None or (outer.devices is not None and outer.devices % inner.devices):
                raise ArgumentError(
                    f"Topology {self.name!r}: units of {outer.devices} devices ({outer.name}) do not consist of units of "
                    f"{inner.devices} ({inner.name})"
                )
        for tier in self.tiers:
            if tier.bandwidth <= 0 or tier.latency < 0:
                raise ArgumentError(f"Topology {self.name!r}: {tier.name} needs a bandwidth above 0 and a latency of 0 or more")

    def spread(self, mesh: MeshShape, axes: Sequence[str]) -> tuple[float, ...]:
        """How the group of device 0 along ``axes`` lies: per tier, how many units of the tier before it joins.

        The product is the number of members. Where units hold unequal numbers of members, those of device 0's count.
        """
        ranks = np.zeros(1, np.int64)
        for axis in axes:
            ranks = (ranks[:, None] + np.arange(mesh.size(axis)) * _stride(mesh, axis)).ravel()
        inside, found = 1.0, []
        for tier in self.tiers:
            now = float(len(ranks) if tier.devices is None else np.count_nonzero(ranks // tier.devices == 0))
            found.append(now / inside)
            inside = now
        return tuple(found)


def _stride(mesh: MeshShape, axis: str) -> int:
    names = mesh.names
    return mesh.count(names[names.index(axis) + 1:])


H100 = DeviceSpec(
    "H100 SXM", {"f8e4m3": 1979e12, "f8e5m2": 1979e12, "bf16": 989e12, "f16": 989e12, "f32": 67e12, "f64": 34e12},
    3.35e12, 80e9, 3e-6, (0.71, 0.89),
)
"""Reached: 708 TFLOP/s of 989 in a product of 8192³ in bf16, 2.98 TB/s of 3.35 in a copy."""
GB200 = DeviceSpec(
    "GB200", {"f8e4m3": 5e15, "f8e5m2": 5e15, "bf16": 2.5e15, "f16": 2.5e15, "f32": 80e12, "f64": 40e12},
    8e12, 186e9, 3e-6,
)
CORE = DeviceSpec("CPU core", {"f64": 25e9, "f32": 50e9}, 1e10, 8e9, 1e-6, is_gpu=False)


def _nvlink(domain: int, bandwidth: float) -> Tier:
    return Tier("NVLink", domain, bandwidth, 3e-6)


def fat_tree(oversubscription: float = 1.0, domain: int = 8) -> Topology:
    """H100s in NVLink domains, joined by a fat tree of InfiniBand NDR, 400 Gbit/s a device.

    ``oversubscription``: how many times more leaves could send than the spine takes.
    """
    spine = 45e9 / oversubscription
    return Topology("fat tree", H100, (_nvlink(domain, 335e9), Tier("spine", None, spine, 8e-6)))


def rails(domain: int = 8, group: int = 256, oversubscription: float = 2.0) -> Topology:
    """H100s in NVLink domains whose devices of equal place share a leaf switch (a rail) with ``group // domain`` domains.

    Groups of ``group`` devices are joined by a spine with ``oversubscription``.
    """
    return Topology("rails", H100, (
        _nvlink(domain, 335e9), Tier("rail", group, 45e9, 5e-6), Tier("spine", None, 45e9 / oversubscription, 8e-6),
    ))


def nvl72() -> Topology:
    """GB200s in NVLink domains of 72, joined by a fat tree of 400 Gbit/s a device."""
    return Topology("NVL72", GB200, (_nvlink(72, 700e9), Tier("spine", None, 45e9, 8e-6)))


def one_machine() -> Topology:
    """Virtual devices on the cores of one machine."""
    return Topology("one machine", CORE, (Tier("shared memory", None, 1e10, 2e-5),))


TOPOLOGIES = {"rails": rails, "fat tree": fat_tree, "NVL72": nvl72, "one machine": one_machine}
"""Topologies by name, with their default sizes."""


def exchange_seconds(kind: str, received: float, spread: Sequence[float], tiers: Sequence[Tier]) -> float:
    """Seconds of a collective in which each device receives ``received`` bytes in all.

    Hierarchical: first within units, then between them with what is left, so that a tier carries
    ``received_by_tier``. All-reduce takes trees where they need fewer messages than rings (double binary trees: Sanders,
    Speck and Träff, 2009; rings: Patarasuk and Yuan, 2009).
    """
    total = 0.0
    for tier, members, much in zip(tiers, spread, received_by_tier(kind, received, spread)):
        if members <= 1:
            continue
        steps = members - 1
        if kind == "collective_permute":
            steps = 1
        if kind == "all_reduce":
            steps = 2 * min(steps, float(np.ceil(np.log2(members))))
        total += steps * tier.latency + much / tier.bandwidth
    return total


def received_by_tier(kind: str, received: float, spread: Sequence[float]) -> list[float]:
    """How many of the received bytes come over each tier; they add up to ``received``."""
    if kind == "collective_permute":  # between neighbours: the slowest link is what the others wait for
        last = max((i for i, members in enumerate(spread) if members > 1), default=-1)
        return [received if i == last else 0.0 for i in range(len(spread))]
    parts, inside = [], 1.0
    for members in spread:
        # Gathering: a unit needs what it has not, once for all its members. All-to-all: from each device its own part.
        parts.append(inside * (members - 1) if kind == "all_to_all" else (1 - 1 / members) / inside)
        inside *= members
    whole = sum(parts)
    return [received * p / whole if whole else 0.0 for p in parts]
