"""NVIDIA architectures that code is compiled for."""

from __future__ import annotations

from tessera.errors import ArgumentError
from tessera.target.triton.compile import Architecture, present

ARCHITECTURES: dict[str, Architecture] = {
    name: Architecture("ptx", name, "cuda", number, 32, portable=number < 90)
    for name, number in {"sm_80": 80, "sm_86": 86, "sm_89": 89, "sm_90a": 90, "sm_100a": 100, "sm_120a": 120}.items()
}
"""By name. Code for a name with an ``a`` runs on that compute capability only, other code on all later ones too."""
TARGET = "ptx"
DEFAULT = ("sm_80", "sm_90a")
"""What is compiled for where no GPU is present."""


def architecture_named(name: str) -> Architecture:
    """The architecture of that name (``sm_90`` is ``sm_90a``). Raises ArgumentError for an unknown one."""
    found = ARCHITECTURES.get(name) or ARCHITECTURES.get(f"{name}a")
    if found is None:
        raise ArgumentError(f'compile: arch {name!r} is unknown for target "ptx"; use {", ".join(ARCHITECTURES)}')
    return found


def default_architectures() -> tuple[str, ...]:
    """That of the GPUs that are present, or ``DEFAULT`` where there is none that code is compiled for by name."""
    return tuple(n for n in present(TARGET) if n in ARCHITECTURES) or DEFAULT
