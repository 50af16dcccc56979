"""How a call is timed: on the wall's clock, warm, in rounds of calls that follow each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WARM_SECONDS, ROUND_SECONDS, ROUNDS = 0.4, 0.06, 15


@dataclass(frozen=True)
class Work:
    """A prepared call, and what waits for all calls so far. ``wait`` may be given what the last call returned."""

    call: Callable[[], Any]
    wait: Callable[[Any], Any]


def measure(work: Work, *, alone: bool = False) -> dict[str, float]:
    """Seconds of a call, least and median of the rounds. ``alone``: each call is waited for, not the last alone."""
    for _ in range(3):
        work.wait(work.call())
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < WARM_SECONDS:
        work.wait(work.call())
        calls += 1
    count = max(3, int(ROUND_SECONDS * calls / (time.perf_counter() - start)))
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        last = None
        for _ in range(count):
            last = work.call()
            if alone:
                work.wait(last)
        work.wait(last)
        times.append((time.perf_counter() - start) / count)
    return {"min": min(times), "median": statistics.median(times), "calls": float(count)}
