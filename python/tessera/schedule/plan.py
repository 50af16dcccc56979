"""The plan: the flat list of instructions that the runtime executes, with its buffers and sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tessera.ir.dims import Dim, Symbol, ceildiv, dmax, substitute
from tessera.ir.dtype import DType
from tessera.ir.provenance import Location

HISTORY: dict[int, str] = {
    1: "Instructions run one after the other.",
    2: "Collectives may have a start, and a wait of that number follows: they run beside what stands between.",
    3: "Tensor maps may have a start: the element of their buffer with which they begin.",
}
"""What each version of a plan brought; a plan states the first version that has all that is in it."""


@dataclass(slots=True)
class PlanBuffer:
    """Memory: a caller's tensor, state, a constant, or a part of the arena. ``live``: first and last instruction.

    ``within``: the number of the buffer of the arena of which it is a part.
    """

    kind: str
    bytes: Dim
    label: str
    offset: Dim | None = None
    live: tuple[int, int] | None = None
    within: int | None = None


@dataclass(frozen=True, slots=True)
class PlanTensor:
    """A named input, output, state or constant."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    buffer: int
    trainable: bool = False
    mutated: bool = False


@dataclass(slots=True)
class KernelCall:
    """Run kernel number ``kernel``; ``sizes`` are the values of its size arguments."""

    kernel: int
    buffers: tuple[int, ...]
    sizes: tuple[Dim, ...]
    loc: Location | None


@dataclass(slots=True)
class RangeCheck:
    """Fail when an element of ``buffer`` that is not ``ignore`` lies outside [low, high]."""

    buffer: int
    dtype: DType
    count: Dim
    low: Dim
    high: Dim
    ignore: int | None
    what: str
    loc: Location | None


@dataclass(slots=True)
class Copy:
    """Copy ``bytes`` bytes."""

    source: int
    target: int
    bytes: Dim
    loc: Location | None = None


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor in a buffer."""

    buffer: int
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(slots=True)
class PortableCall:
    """Run the portable kernel of an operator; ``attrs`` is the attribute text of Graph IR."""

    op: str
    attrs: str
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]
    loc: Location | None


@dataclass(slots=True)
class CollectiveCall:
    """Exchange with the other devices over mesh axes; ``bytes``: what the device that runs receives."""

    op: str
    axes: tuple[str, ...]
    attrs: str
    operand: Operand
    result: Operand
    bytes: Dim
    loc: Location | None
    start: int | None = None
    """The number of the wait that ends it; None: the next instruction sees its result."""


@dataclass(slots=True)
class Wait:
    """Go on when the exchange that was started as number ``start`` is over."""

    start: int
    loc: Location | None = None


@dataclass(slots=True)
class CustomCall(PortableCall):
    """Run the kernel of a custom operator; ``scratch`` is the bytes of memory that it needs."""

    scratch: Dim = 0


Instruction = KernelCall | RangeCheck | Copy | PortableCall | CollectiveCall | Wait


@dataclass(frozen=True, slots=True)
class SizeCheck:
    """A condition on sizes, ``expr >= min``, tested before anything runs."""

    expr: Dim
    min: int
    message: str
    loc: Location | None


class CompiledKernel(Protocol):
    """What a target says about a kernel; expressions are over the kernel's own sizes."""

    @property
    def entry(self) -> int:
        """Offset in the image."""
        ...
    @property
    def grid(self) -> Dim:
        """Independent units."""
        ...
    @property
    def grain(self) -> Dim:
        """Units worth a thread."""
        ...
    @property
    def scratch(self) -> Dim:
        """Bytes per thread."""
        ...


@dataclass(slots=True)
class Plan:
    """Everything the runtime needs but the code. ``kernels`` are Tile IR, each different."""

    dims: tuple[Symbol, ...]
    inputs: list[PlanTensor]
    outputs: list[PlanTensor]
    state: list[PlanTensor]
    constants: list[PlanTensor]
    buffers: list[PlanBuffer]
    arena: Dim
    kernels: list[Any]
    instructions: list[Instruction]
    checks: list[SizeCheck] = field(default_factory=list)
    kernel_keys: list[str] = field(default_factory=list)
    """Per kernel, text that is equal for kernels that do the same."""
    threads: int = 0
    """The most threads that a kernel is spread over; 0: no limit."""
    float32: str = "ieee"
    """How GPUs multiply matrices of f32: ``ieee`` or ``tf32``."""
    tiles: tuple[int, int, int] | None = None
    """Sizes (m, n, k) of the blocks of products; None: the target chooses."""
    libraries: tuple[str, ...] = ()
    """Vendor libraries that kernels may be calls of."""

    def _version(self, kernels: Sequence[Mapping[str, Any]]) -> int:
        if any("start" in a.get("tensor_map", ()) for k in kernels for a in k.get("arguments", ())):
            return 3
        return 2 if any(isinstance(i, Wait) for i in self.instructions) else 1

    def outlives(self, buffer: int) -> bool:
        """Whether what is written to a buffer is seen after the run."""
        return self.buffers[buffer].kind in ("state", "output")

    def kernel_sizes(self, call: KernelCall) -> dict[Symbol, Dim]:
        """The values of a call's size symbols."""
        return dict(zip(self.kernels[call.kernel].sizes, call.sizes, strict=True))

    def to_json(self, compiled: Sequence[CompiledKernel], target: str, level: str) -> str:
        """The JSON text of docs/decisions/0001-contracts.md, for kernels compiled in the order of ``kernels``."""
        kernels = [
            {"name": k.name, "entry": c.entry, "scratch": dim(c.scratch),
             "writes": [i for i, b in enumerate(k.buffers) if b.role != "in"]}
            for k, c in zip(self.kernels, compiled, strict=True)
        ]
        instructions = [self._instruction(i, compiled) for i in self.instructions]
        return self.text(target, level, kernels, instructions)

    def text(
        self, target: str, level: str, kernels: list[dict[str, Any]], instructions: list[dict[str, Any]],
        extra: Sequence[PlanBuffer] = (), **more: Any,
    ) -> str:
        """The JSON text of the plan with a target's own kernels and instructions.

        ``extra``: buffers after the plan's own; ``more``: further entries, and others in place of the plan's.
        """
        data = {
            "version": self._version(kernels), "target": target, "level": level,
            "dims": [{"name": d.name, "min": d.min, "max": d.max, "multiple_of": d.multiple_of} for d in self.dims],
            "inputs": [_tensor(t) for t in self.inputs],
            "outputs": [_tensor(t) for t in self.outputs],
            "state": [{**_tensor(t), "trainable": t.trainable, "mutated": t.mutated} for t in self.state],
            "constants": [_tensor(t) for t in self.constants],
            "buffers": [_buffer(b) for b in (*self.buffers, *extra)],
            "arena": dim(self.arena),
            "kernels": kernels,
            "instructions": instructions,
            "peak": dim(self.arena),
            "checks": [
                {"expr": dim(c.expr), "min": c.min, "message": c.message, "loc": place(c.loc)} for c in self.checks
            ],
        }
        return json.dumps({**data, **more}, separators=(",", ":"))

    def _instruction(self, i: Instruction, compiled: Sequence[CompiledKernel]) -> dict[str, Any]:
        if isinstance(i, KernelCall):
            values = self.kernel_sizes(i)
            code = compiled[i.kernel]
            grid, grain = substitute(code.grid, values), substitute(code.grain, values)
            if self.threads:
                grain = dmax(grain, ceildiv(grid, self.threads))
            return {
                "kernel": i.kernel, "buffers": list(i.buffers), "sizes": [dim(d) for d in i.sizes],
                "grid": dim(grid), "grain": dim(grain), "scratch": dim(substitute(code.scratch, values)),
                "loc": place(i.loc),
            }
        return plain_instruction(i)

    def hash(self) -> str:
        """A digest of buffers, instructions and kernels, without code: equal for equal plans."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.dims, self.buffers, self.instructions, self.outputs, self.checks):
            digest.update(repr(part).encode())
        for key in self.kernel_keys:
            digest.update(key.encode())
        return digest.hexdigest()


def plain_instruction(i: Instruction) -> dict[str, Any]:
    """The JSON form of an instruction that no target's code is part of."""
    if isinstance(i, RangeCheck):
        return {
            "check_range": i.buffer, "dtype": i.dtype.name, "count": dim(i.count), "low": dim(i.low),
            "high": dim(i.high), "ignore": i.ignore, "what": i.what, "loc": place(i.loc),
        }
    if isinstance(i, Copy):
        return {"copy": [i.source, i.target], "bytes": dim(i.bytes), "loc": place(i.loc)}
    if isinstance(i, Wait):
        return {"wait": i.start, "loc": place(i.loc)}
    if isinstance(i, CollectiveCall):
        found = {
            "collective": i.op, "axes": list(i.axes), "attrs": i.attrs, "operands": [_operand(i.operand)],
            "results": [_operand(i.result)], "bytes": dim(i.bytes), "loc": place(i.loc),
        }
        return found if i.start is None else {**found, "start": i.start}
    assert isinstance(i, PortableCall)
    if isinstance(i, CustomCall):
        return {
            "custom": i.op, "attrs": i.attrs, "operands": [_operand(o) for o in i.operands],
            "results": [_operand(o) for o in i.results], "scratch": dim(i.scratch), "loc": place(i.loc),
        }
    return {
        "portable": i.op, "attrs": i.attrs, "operands": [_operand(o) for o in i.operands],
        "results": [_operand(o) for o in i.results], "loc": place(i.loc),
    }


def dim(d: Dim) -> int | str:
    """The JSON form of a dimension."""
    return d if isinstance(d, int) else str(d)


def place(loc: Location | None) -> str | None:
    """The JSON form of a location."""
    return None if loc is None else str(loc)


def _tensor(t: PlanTensor) -> dict[str, Any]:
    return {"name": t.name, "dtype": t.dtype.name, "shape": [dim(d) for d in t.shape], "buffer": t.buffer}


def _operand(o: Operand) -> dict[str, Any]:
    return {"buffer": o.buffer, "dtype": o.dtype.name, "shape": [dim(d) for d in o.shape]}


def _buffer(b: PlanBuffer) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": b.kind, "bytes": dim(b.bytes), "label": b.label}
    data |= {"offset": dim(b.offset)} if b.offset is not None else {}
    return data if b.within is None else {**data, "within": b.within}
