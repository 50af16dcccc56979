"""What a generator says about a GPU function, and what the compiler makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Union

from tessera.ir.dims import Dim
from tessera.ir.dtype import DType


@dataclass(frozen=True, slots=True)
class BufferArgument:
    """The pointer to operand ``index`` of the kernel, aligned to 16 bytes."""

    index: int
    dtype: DType

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {"buffer": self.index}


@dataclass(frozen=True, slots=True)
class SizeArgument:
    """The value of size argument ``index``. ``multiple_of``: what it is certainly divisible by."""

    index: int
    type: str
    multiple_of: int = 1

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {"size": self.index, "type": self.type}


@dataclass(frozen=True, slots=True)
class StatusArgument:
    """A pointer to an i64 word of the run: ``flag`` (not 0: a check has failed) or ``check`` (a check's own word)."""

    word: str

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {"status": self.word}


@dataclass(frozen=True, slots=True)
class TensorMapArgument:
    """A tensor map over operand ``index``: ``fields`` as in the plan (shape, strides, box, swizzle)."""

    index: int
    dtype: DType
    fields: tuple[tuple[str, Any], ...]

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {"tensor_map": {"buffer": self.index, "dtype": self.dtype.name, **dict(self.fields)}}


@dataclass(frozen=True, slots=True)
class AppendedArgument:
    """An argument that Triton's compiler appends: ``global_scratch`` or ``profile_scratch`` (null)."""

    name: str

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {self.name: True}


Argument = Union[BufferArgument, SizeArgument, StatusArgument, TensorMapArgument, AppendedArgument]


@dataclass(frozen=True, slots=True)
class Program:
    """One Triton function, one launch.

    name       of the function in ``source``, the text of a module
    arguments  one per parameter of the function, in order
    grid       programs in x, y and z over the kernel's sizes; a launch with an empty grid is skipped
    contract   whether a multiplication and an addition may become one rounding
    """

    name: str
    source: str
    arguments: tuple[Argument, ...]
    grid: tuple[Dim, Dim, Dim]
    warps: int = 4
    stages: int = 2
    clusters: int = 1
    registers: int | None = None
    contract: bool = False


@dataclass(frozen=True, slots=True)
class Generated:
    """The launches that one Tile IR kernel becomes, in order, and bytes of memory that they share in between.

    In the arguments of the launches that memory is the buffer after the kernel's own.
    """

    programs: tuple[Program, ...]
    workspace: Dim = 0


@dataclass(frozen=True, slots=True)
class Binary:
    """A compiled module: machine code, and for NVIDIA its PTX."""

    symbol: str
    code: bytes
    format: str
    threads: int
    shared: int
    scratch: int
    registers: int | None
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A launch of an image: see docs/decisions/0004-devices.md, "GPU targets"; ``grid`` is over the kernel's sizes."""

    name: str
    module: int
    symbol: str
    threads: int
    shared: int
    cluster: tuple[int, int, int]
    scratch: int
    arguments: tuple[Argument, ...]
    grid: tuple[Dim, Dim, Dim]
    registers: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of an image. ``alternative``: of the one before it, for drivers that do not accept that one."""

    offset: int
    bytes: int
    format: str
    alternative: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """Machine code of one architecture. ``launches``: for each kernel given, its launches as numbers of ``kernels``."""

    target: str
    level: str
    code: bytes
    modules: list[Module]
    kernels: list[CompiledKernel]
    launches: list[tuple[int, ...]]
    workspaces: list[Dim] = field(default_factory=list)
