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
class MapSize:
    """A number in a tensor map: size argument ``index`` times ``factor``, or ``factor`` where there is no index."""

    factor: int
    index: int | None = None

    def plan(self) -> int | dict[str, int]:
        """As the plan lists it."""
        if self.index is None:
            return self.factor
        return {"size": self.index} if self.factor == 1 else {"size": self.index, "times": self.factor}


@dataclass(frozen=True, slots=True)
class TensorMapArgument:
    """A tensor map over operand ``index``, outermost dimension first: what the copy engine needs to find a block.

    ``block``: the size of the blocks that the program reads; the engine fetches them in boxes whose rows are not
    longer than the ``swizzle`` (bytes). ``start``: the operand's element with which the tensor begins.
    """

    index: int
    dtype: DType
    shape: tuple[MapSize, ...]
    strides: tuple[MapSize, ...]
    block: tuple[int, ...]
    swizzle: int
    start: MapSize = MapSize(0)

    def box(self) -> tuple[int, ...]:
        """What one request fetches."""
        return (*self.block[:-1], min(self.block[-1], self.swizzle * 8 // self.dtype.bits))

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {"tensor_map": {
            "buffer": self.index, "dtype": self.dtype.name, "shape": [n.plan() for n in self.shape],
            "strides": [n.plan() for n in self.strides], "box": list(self.box()), "swizzle": self.swizzle,
            **({"start": self.start.plan()} if self.start != MapSize(0) else {}),
        }}


@dataclass(frozen=True, slots=True)
class ConstantArgument:
    """A scalar that is the same in every launch. ``type``: ``i32`` or ``i64``."""

    value: int
    type: str

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {"constant": self.value, "type": self.type}


@dataclass(frozen=True, slots=True)
class AppendedArgument:
    """An argument that Triton's compiler appends: ``global_scratch`` or ``profile_scratch`` (null)."""

    name: str

    def plan(self) -> dict[str, Any]:
        """As the plan lists it."""
        return {self.name: True}


Argument = Union[BufferArgument, SizeArgument, StatusArgument, TensorMapArgument, ConstantArgument, AppendedArgument]


@dataclass(frozen=True, slots=True)
class Program:
    """One Triton function, one launch.

    name       of the function in ``source``, the text of a module
    arguments  one per parameter of the function, in order
    grid       programs in x, y and z over the kernel's sizes; a launch with an empty grid is skipped
    contract   whether a multiplication and an addition may become one rounding
    gluon      whether the text is in Gluon, Triton's language for one architecture, in which layouts, copies and the
               parts of a block's warps are written out
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
    gluon: bool = False


@dataclass(frozen=True, slots=True)
class Generated:
    """The launches that one Tile IR kernel becomes, in order, and bytes of memory that they share in between.

    In the arguments of the launches that memory is the buffer after the kernel's own.
    """

    programs: tuple[Program, ...]
    workspace: Dim = 0


@dataclass(frozen=True, slots=True)
class Binary:
    """A compiled module: machine code, and for NVIDIA its PTX.

    ``early``: it may be started before the kernel before it has ended (see ``early.py``).
    """

    symbol: str
    code: bytes
    format: str
    threads: int
    shared: int
    scratch: int
    registers: int | None
    text: bytes = b""
    early: bool = False


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
    early: bool = False


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
