"""Scheduling options, as the user gives them."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.errors import ArgumentError, UnsupportedError

LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
"""CPU code levels, lowest first."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a graph is cut into kernels and laid out in memory. Every setting has a good default.

    fusion          False: one kernel per operator (views are still free). For debugging and measurement.
    tiles           Tile sizes (m, n, k) of matrix products. Only None is supported: the CPU target chooses them.
    memory_budget   Bytes of working memory (the arena). Cheap values are recomputed instead of kept until the peak
                    fits; UnsupportedError when it cannot. Counts at the largest legal sizes, for
                    unbounded ones at 1024. None: no limit.
    recompute       ``"auto"``: recompute what costs less than a trip through memory, and more under a budget;
                    ``"none"``: never compute a value twice across kernels; ``"all"``: recompute all pointwise chains.
    threads         The most threads that a kernel is spread over; 0: as many as the runtime has.
    deterministic   Results do not depend on the number of threads. Only True is supported.
    level           CPU code level; None: that of the running CPU.

    Raises ArgumentError for a value out of range, UnsupportedError for one that is not supported.
    """

    fusion: bool = True
    tiles: tuple[int, int, int] | None = None
    memory_budget: int | None = None
    recompute: str = "auto"
    threads: int = 0
    deterministic: bool = True
    level: str | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if self.tiles is not None:
            raise UnsupportedError(
                f"[Schedule] tiles = {self.tiles!r} is not supported: the CPU target chooses tiles itself; give None"
            )
        if self.memory_budget is not None and (not isinstance(self.memory_budget, int) or self.memory_budget < 0):
            raise ArgumentError(f"[Schedule] memory_budget = {self.memory_budget!r}: give a number of bytes, or None")
        if self.recompute not in ("auto", "none", "all"):
            raise ArgumentError(f"[Schedule] recompute = {self.recompute!r}: use 'auto', 'none' or 'all'")
        if not isinstance(self.threads, int) or self.threads < 0:
            raise ArgumentError(f"[Schedule] threads = {self.threads!r}: give a number of threads, or 0")
        if not self.deterministic:
            raise UnsupportedError("[Schedule] deterministic = False is not supported: every kernel is deterministic")
        if self.level is not None and self.level not in LEVELS:
            raise ArgumentError(f"[Schedule] level = {self.level!r}: use one of {', '.join(LEVELS)}, or None")
