"""What was chosen for kernels that there is more than one way to compute, as artefacts hold it and reports show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WHY = {"model": "estimated", "table": "by the table of measurements", "measured": "measured"}


def choices_text(choices: Sequence[dict[str, Any]], level: str) -> list[str]:
    """The lines of a report on choices for a level of code; none where nothing was chosen."""
    if not choices:
        return []
    lines = [f"choices for {level}:"]
    for c in choices:
        times: dict[str, float] = c.get("microseconds", {})
        device = f" on {c['device']}" if c.get("device") else ""
        sizes = c.get("product") or c.get("attention")
        product = f" {sizes}" if sizes else ""
        line = f"  {c['kernel']}{product}: {c['choice']}, {_WHY.get(c['why'], c['why'])}{device}"
        mine = times.get(c["choice"])
        if mine is not None:
            line += f": {mine:.1f} us"
            others = sorted((t, name) for name, t in times.items() if name != c["choice"])
            line += "".join(f"; {name} {t:.1f}" for t, name in others[:3])
        lines.append(line)
    return lines
