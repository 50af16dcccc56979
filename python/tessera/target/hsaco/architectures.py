"""AMD architectures that code is compiled for."""

from __future__ import annotations

from tessera.errors import ArgumentError
from tessera.target.triton.compile import Architecture, present

ARCHITECTURES: dict[str, Architecture] = {
    name: Architecture("hsaco", name, "hip", name, 64) for name in ("gfx90a", "gfx942", "gfx950")
}
"""By name; code runs on that architecture only."""
TARGET = "hsaco"
DEFAULT = ("gfx90a", "gfx942")
"""What is compiled for where no GPU is present."""


def architecture_named(name: str) -> Architecture:
    """The architecture of that name. Raises ArgumentError for an unknown one."""
    if name not in ARCHITECTURES:
        raise ArgumentError(f'compile: arch {name!r} is unknown for target "hsaco"; use {", ".join(ARCHITECTURES)}')
    return ARCHITECTURES[name]


def default_architectures() -> tuple[str, ...]:
    """That of the GPUs that are present, or ``DEFAULT`` where there is none."""
    return tuple(n for n in present(TARGET) if n in ARCHITECTURES) or DEFAULT
