"""What a simulation found: totals, a table, and a timeline."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from tessera.dist.topology import Topology
from tessera.ir.provenance import Location
from tessera.ir.sharding import MeshShape
from tessera.tile.report import table


@dataclass(frozen=True, slots=True)
class Event:
    """One kernel or exchange: when it starts and how long it takes in seconds, what it computes and moves.

    ``lane``: "compute" or "exchange"; ``bytes``: read and written, or received; ``tiers``: received, by class of link.
    """

    lane: str
    name: str
    start: float
    seconds: float
    line: Location | None
    operations: float = 0.0
    bytes: float = 0.0
    tiers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Simulation:
    """The prediction for device 0; printing it gives a table.

    ``time``: seconds of a run; ``compute`` and ``exchange``: seconds of each; ``exposed``: seconds in which the device
    does nothing but exchange; ``memory``: bytes by kind (state, constant, input, output, working); ``traffic``: bytes
    received, by class of link; ``events``: what happens when.
    """

    mesh: MeshShape
    topology: Topology
    sizes: Mapping[str, int]
    events: tuple[Event, ...]
    memory: Mapping[str, float]

    @property
    def time(self) -> float:
        """Seconds from start to end."""
        return max((e.start + e.seconds for e in self.events), default=0.0)

    @property
    def compute(self) -> float:
        """Seconds of kernels."""
        return sum(e.seconds for e in self.events if e.lane == "compute")

    @property
    def exchange(self) -> float:
        """Seconds of exchanges."""
        return sum(e.seconds for e in self.events if e.lane == "exchange")

    @property
    def exposed(self) -> float:
        """Seconds in which no kernel runs."""
        return self.time - self.compute

    @property
    def operations(self) -> float:
        """Arithmetic operations of the device."""
        return sum(e.operations for e in self.events)

    @property
    def traffic(self) -> dict[str, float]:
        """Bytes received, by class of link."""
        found = {tier.name: 0.0 for tier in self.topology.tiers}
        for event in self.events:
            for tier, received in zip(self.topology.tiers, event.tiers):
                found[tier.name] += received
        return found

    @property
    def fits(self) -> bool:
        """Whether the memory of a device suffices."""
        return sum(self.memory.values()) <= self.topology.device.memory

    def __str__(self) -> str:
        devices = self.mesh.count(self.mesh.names)
        at = "".join(f", {n} = {s}" for n, s in self.sizes.items())
        lines = [
            f"mesh {self.mesh}: {devices} {self.topology.device.name}, {self.topology.name}{at}",
            f"time      {_seconds(self.time)}: {_seconds(self.compute)} of kernels, {_seconds(self.exchange)} of "
            f"exchanges, {_seconds(self.exposed)} of them not beside kernels",
            f"rate      {self.operations / max(self.time, 1e-12) / 1e12:.1f} TFLOP/s a device",
            "memory    " + ", ".join(f"{_bytes(b)} {k}" for k, b in self.memory.items() if b)
            + ("" if self.fits else f": more than the {_bytes(self.topology.device.memory)} that a device has"),
            "received  " + (", ".join(f"{_bytes(b)} over {k}" for k, b in self.traffic.items() if b) or "nothing"),
            "",
            *table([("", "count", "time", "bytes", "longest at"), *_rows(self.events)], (1, 2, 3)),
        ]
        return "\n".join(lines)

    def timeline(self, width: int = 1200) -> str:
        """The run as SVG: kernels above, exchanges below, to scale; names and times appear under the pointer."""
        height, total = 40, max(self.time, 1e-12)
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{2 * height + 44}" '
            'font-family="sans-serif" font-size="12">',
            f'<text x="4" y="14">{escape(f"mesh {self.mesh}, {self.topology.name}: {_seconds(self.time)}")}</text>',
        ]
        for lane, top, colour in (("compute", 20, "#4878a8"), ("exchange", 24 + height, "#c8742c")):
            for e in self.events:
                if e.lane != lane:
                    continue
                x, w = e.start / total * width, max(e.seconds / total * width, 0.2)
                where = "" if e.line is None else f" at {e.line}"
                out.append(
                    f'<rect x="{x:.2f}" y="{top}" width="{w:.2f}" height="{height}" fill="{colour}" stroke="#fff" '
                    f'stroke-width="0.2"><title>{escape(f"{e.name}{where}: {_seconds(e.seconds)}, {_bytes(e.bytes)}")}'
                    "</title></rect>"
                )
        out.append(f'<text x="4" y="{2 * height + 40}">kernels above, exchanges below</text></svg>')
        return "\n".join(out)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline as an SVG file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.timeline())


def _rows(events: Iterable[Event], most: int = 16) -> list[tuple[str, ...]]:
    """What takes longest in all, by name."""
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        groups.setdefault((event.lane, event.name), []).append(event)
    ranked = sorted(groups.values(), key=lambda g: -sum(e.seconds for e in g))
    rows = []
    for group in ranked[:most]:
        longest = max(group, key=lambda e: e.seconds)
        rows.append((
            longest.name, str(len(group)), _seconds(sum(e.seconds for e in group)), _bytes(sum(e.bytes for e in group)),
            "" if longest.line is None else str(longest.line),
        ))
    if len(ranked) > most:
        rest = [e for group in ranked[most:] for e in group]
        rows.append((f"{len(ranked) - most} others", str(len(rest)), _seconds(sum(e.seconds for e in rest)),
                     _bytes(sum(e.bytes for e in rest)), ""))
    return rows


def _seconds(t: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if t >= scale:
            return f"{t / scale:.2f} {unit}"
    return f"{t * 1e6:.1f} µs"


def _bytes(n: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.2f} {unit}"
    return f"{n:.0f} B"
