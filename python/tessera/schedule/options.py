"""Scheduling options, as the user gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tessera.errors import ArgumentError

LIBRARIES = ("cublaslt", "cudnn")
"""Vendor libraries that plans of GPUs may call."""
LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
"""CPU code levels, lowest first."""
MOST_TILE_ELEMENTS = 1 << 22
"""Elements of the largest tile: a thread holds tiles of the product and of its second operand."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a graph is cut into kernels and laid out in memory. Every setting has a good default.

    fusion          False: one kernel per operator (views are still free). For debugging and measurement.
    tiles           Tile sizes (m, n, k) of matrix products, at least 1, m·n and n·k at most 2²²: one unit of work
                    computes m rows × n columns of the product, k terms at a time. m and n are rounded down to whole
                    register tiles of the level (at least one), k up to a multiple of 16. Products with few rows take
                    all of m and k at once. None: chosen for each product.
    memory_budget   Bytes of working memory (the arena). Cheap values are recomputed instead of kept until the peak
                    fits; UnsupportedError when it cannot. Counts at the largest legal sizes, for
                    unbounded ones at 1024. None: no limit.
    recompute       ``"auto"``: recompute what costs less than a trip through memory, and more under a budget;
                    ``"none"``: never compute a value twice across kernels; ``"all"``: recompute all pointwise chains.
    threads         The most threads that a kernel is spread over; 0: as many as the runtime has.
    deterministic   True: results do not depend on the number of threads, and are the same bits in every run. False
                    permits that they do; the CPU target makes no use of it, GPUs may take a gradient of attention from
                    cuDNN that adds up in any order. ``"mesh"``: they are the same bits on every
                    mesh, too. Sums of floating-point numbers are formed in eight blocks and a fixed tree, and in order
                    within a block; that takes more time, memory and traffic. For the targets cpu and portable.
    level           CPU code level; None: that of the running CPU.
    float32         How GPUs multiply matrices of f32. ``"ieee"``: each product and sum is one of f32, as on the CPU.
                    ``"tf32"``: factors are rounded to 10 bits behind the point, and the matrix units multiply them
                    (errors near 3e-4 of the result, many times faster). gfx90a has no such units and stays with
                    ``"ieee"``.
    libraries       Vendor libraries that a program for NVIDIA GPUs may call where they are faster: a list of
                    ``"cublaslt"`` (matrix products) and ``"cudnn"`` (attention). They are loaded where the program
                    runs; on a machine without them it runs generated kernels in their place. ``[]``: generated kernels
                    alone. None: all of them.
    overlap         Whether exchanges between devices run beside kernels: started as soon as their operands are there,
                    and waited for when their results are needed. They may take an eighth of the working memory more, or
                    twice the largest tensors that are exchanged; a number is True with that many bytes. None: on GPUs.
                    The CPU targets exchange where an exchange is started.
    autotune        True: measure the kernels that a product or attention can have on the GPU that is present, and keep
                    the best; what was measured is kept in ``TESSERA_CACHE_DIR``, and used on machines without a GPU
                    too. False: choose by a model of the hardware and a table of measurements. A number is True with
                    that many seconds for each of them at most (True: 2).

    Raises ArgumentError for a value that is not legal.
    """

    fusion: bool = True
    tiles: tuple[int, int, int] | None = None
    memory_budget: int | None = None
    recompute: str = "auto"
    threads: int = 0
    deterministic: bool | str = True
    level: str | None = None
    float32: str = "ieee"
    libraries: Sequence[str] | None = None
    autotune: bool | float = False
    overlap: bool | int | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if self.libraries is not None:
            if isinstance(self.libraries, str) or not all(name in LIBRARIES for name in self.libraries):
                raise ArgumentError(
                    f"[Schedule] libraries = {self.libraries!r}: give a list of {', '.join(map(repr, LIBRARIES))}, or "
                    "[] for generated kernels alone"
                )
            object.__setattr__(self, "libraries", tuple(dict.fromkeys(self.libraries)))  # hashable
        if not isinstance(self.autotune, bool) and not _is_duration(self.autotune):
            raise ArgumentError(
                f"[Schedule] autotune = {self.autotune!r}: use True, False or the seconds that a product may take"
            )
        if self.overlap is not None and (not isinstance(self.overlap, int) or self.overlap < 0):
            raise ArgumentError(
                f"[Schedule] overlap = {self.overlap!r}: use True, False, the bytes of memory that it may cost, or None"
            )
        if self.tiles is not None and not _are_tiles(self.tiles):
            raise ArgumentError(
                f"[Schedule] tiles = {self.tiles!r}: give a tuple of three integers (m, n, k), each at least 1, "
                f"m*n and n*k at most {MOST_TILE_ELEMENTS}; or None"
            )
        if self.memory_budget is not None and (not isinstance(self.memory_budget, int) or self.memory_budget < 0):
            raise ArgumentError(f"[Schedule] memory_budget = {self.memory_budget!r}: give a number of bytes, or None")
        if self.recompute not in ("auto", "none", "all"):
            raise ArgumentError(f"[Schedule] recompute = {self.recompute!r}: use 'auto', 'none' or 'all'")
        if not isinstance(self.threads, int) or self.threads < 0:
            raise ArgumentError(f"[Schedule] threads = {self.threads!r}: give a number of threads, or 0")
        if not isinstance(self.deterministic, bool) and self.deterministic != "mesh":
            raise ArgumentError(f"[Schedule] deterministic = {self.deterministic!r}: use True, False or 'mesh'")
        if self.level is not None and self.level not in LEVELS:
            raise ArgumentError(f"[Schedule] level = {self.level!r}: use one of {', '.join(LEVELS)}, or None")
        if self.float32 not in ("ieee", "tf32"):
            raise ArgumentError(f"[Schedule] float32 = {self.float32!r}: use 'ieee' or 'tf32'")

    @property
    def allowed_libraries(self) -> tuple[str, ...]:
        """The vendor libraries that programs may call."""
        return LIBRARIES if self.libraries is None else tuple(self.libraries)

    @property
    def overlap_bytes(self) -> int | None:
        """The bytes that exchanges beside kernels may cost; None: as the working memory is."""
        return None if self.overlap is None or isinstance(self.overlap, bool) else self.overlap

    @property
    def tuning_seconds(self) -> float:
        """The seconds that the measurements of a product may take; 0: nothing is measured."""
        return 2.0 if self.autotune is True else float(self.autotune)

    @property
    def same_on_meshes(self) -> bool:
        """Whether results are to be the same bits on every mesh."""
        return self.deterministic == "mesh"


def _is_duration(value: object) -> bool:
    """Whether the value is a positive number of seconds."""
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _are_tiles(tiles: object) -> bool:
    """Whether the value is three sizes; a list would make the options impossible to hash."""
    if not isinstance(tiles, tuple) or len(tiles) != 3 or not all(type(t) is int and t >= 1 for t in tiles):
        return False
    m, n, k = tiles
    return max(m * n, n * k) <= MOST_TILE_ELEMENTS
