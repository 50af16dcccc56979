"""CPU code levels: the x86-64 micro-architecture levels that code is compiled for.

Levels follow the x86-64 psABI: ``x86-64-v2`` (SSE4.2), ``x86-64-v3`` (AVX2, FMA, F16C) and
``x86-64-v4`` (AVX-512 F, BW, CD, DQ, VL).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache

from tessera.config import CPU_LEVEL
from tessera.errors import ArgumentError, DeviceError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Level:
    """A code level: its name, vector bytes, vector registers, and whether FMA and masked vectors exist.

    ``ordered``: an element of a result is the same bits whatever the sizes around it and whatever it is fused with.
    Sums and products are formed in the order of their elements, and only what is written as one is contracted to FMA.
    """

    name: str
    rank: int
    vector_bytes: int
    registers: int
    has_fma: bool
    has_f16c: bool
    ordered: bool = False

    def lanes(self, bits: int) -> int:
        """Elements of ``bits`` bits in one vector register."""
        return self.vector_bytes * 8 // bits


_V2 = {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

LEVELS: dict[str, Level] = {
    "x86-64-v2": Level("x86-64-v2", 2, 16, 16, False, False),
    "x86-64-v3": Level("x86-64-v3", 3, 32, 16, True, True),
    "x86-64-v4": Level("x86-64-v4", 4, 64, 32, True, True),
}
"""The levels by name, lowest first."""

_FLAGS = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}


def level_of_flags(flags: set[str]) -> str | None:
    """The highest level whose features (names of ``/proc/cpuinfo``) are all present, or None."""
    best = None
    for name, needed in _FLAGS.items():
        if needed <= flags:
            best = name
    return best


@lru_cache(maxsize=1)
def host_level() -> str:
    """The highest code level that the running CPU has.

    Raises UnsupportedError on a machine that is not x86-64 or lacks SSE4.2.
    """
    machine = platform.machine().lower()
    if machine not in ("x86_64", "amd64"):
        raise UnsupportedError(
            f"target 'cpu' generates code for x86-64 only, and this machine is {machine or 'unknown'}; "
            'use target="portable"'
        )
    name = level_of_flags(_host_flags())
    if name is None:
        raise UnsupportedError("target 'cpu' needs at least x86-64-v2 (SSE4.2) on this CPU; use target=\"portable\"")
    return name


def _host_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return _llvm_flags()


def _llvm_flags() -> set[str]:
    """The host features as LLVM names them, translated to the names of ``/proc/cpuinfo``."""
    import llvmlite.binding as llvm

    names = {"cx16": "cx16", "sahf": "lahf_lm", "sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "bmi": "bmi1"}
    return {names.get(str(k), str(k)) for k, on in llvm.get_host_cpu_features().items() if on}


def level_named(name: str | None = None) -> Level:
    """The level of that name; None: the setting ``TESSERA_CPU_LEVEL``, or else the running CPU's level.

    Raises ArgumentError for an unknown name.
    """
    name = name or CPU_LEVEL.text() or host_level()
    if name not in LEVELS:
        raise ArgumentError(f"cpu level {name!r} is unknown; use one of {', '.join(LEVELS)}")
    return LEVELS[name]


def check_runs_here(level: Level) -> None:
    """Raise DeviceError unless the running CPU has ``level``."""
    have = LEVELS[host_level()]
    if have.rank < level.rank:
        raise DeviceError(f"code for {level.name} cannot run on this CPU, which has {have.name}")
