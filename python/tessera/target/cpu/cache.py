"""Compiled kernels by content: in memory, and in the folder ``TESSERA_CACHE_DIR`` when it is set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tessera.errors import TesseraError
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import Dim, Symbol
from tessera.target import disk_cache
from tessera.target.cpu.levels import Level
from tessera.tile.ir import Axis, DotKernel, Kernel, LoopKernel

_DIMS = ("grid", "grain", "scratch")


@dataclass(frozen=True, slots=True)
class Compiled:
    """The code of one kernel, the offset of its entry, and grid, grain and scratch over the kernel's sizes."""

    code: bytes
    entry: int
    grid: Dim
    grain: Dim
    scratch: Dim


def key_of(kernel: Kernel, level: Level, tiles: tuple[int, int, int] | None) -> str:
    """What the code of a kernel depends on: its content (not its name and location), the level, tiles of products."""
    symbols = [*kernel.sizes, *(a.symbol for a in _axes(kernel))]
    ranges = [(s.name, s.min, s.max, s.multiple_of) for s in symbols]
    text = repr((ranges, replace(kernel, name="", loc=None), None if isinstance(kernel, LoopKernel) else tiles))
    return f"{level.name}-{'ordered-' if level.ordered else ''}{disk_cache.digest_of(text)}"


def _axes(kernel: Kernel) -> list[Axis]:
    if isinstance(kernel, LoopKernel):
        return [*kernel.grid, *(a for s in kernel.stages for a in s.axes)]
    return [*kernel.batch, kernel.m, kernel.n, kernel.k] if isinstance(kernel, DotKernel) else []


class KernelCache:
    """Compiled kernels by key. Entries on disk are checked before they are used; failures of the disk are ignored."""

    def __init__(self) -> None:
        self._known: dict[str, Compiled] = {}

    def find(self, key: str, sizes: tuple[Symbol, ...]) -> Compiled | None:
        """The kernel of that key, whose size arguments are ``sizes``, or None."""
        found = self._known.get(key)
        if found is None:
            found = _read(key, sizes)
            if found is not None:
                self._known[key] = found
        return found

    def add(self, key: str, value: Compiled) -> None:
        """Keep a kernel."""
        self._known[key] = value
        _write(key, value)

    def clear(self) -> None:
        """Forget what is in memory."""
        self._known.clear()


def _name(key: str) -> str:
    return f"cpu-{_generator()}-{key}"


@lru_cache(maxsize=1)
def _generator() -> str:
    """A digest of the code generator itself: another version must not find this one's entries."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(key: str, sizes: tuple[Symbol, ...]) -> Compiled | None:
    entry = disk_cache.read(_name(key))
    if entry is None:
        return None
    fields, code = entry
    names = {s.name: s for s in sizes}
    try:
        return Compiled(code, fields["entry"], *(parse_dim(fields[n], names) for n in _DIMS))
    except (ValueError, KeyError, TesseraError):
        return None


def _write(key: str, value: Compiled) -> None:
    disk_cache.write(_name(key), {"entry": value.entry, **{n: str(getattr(value, n)) for n in _DIMS}}, value.code)
