"""One sample of one custom operator, as the checks of ``tessera op-check`` see it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tessera import _core
from tessera.errors import ArgumentError, DTypeError
from tessera.graph.compile import compile_values
from tessera.graph.compiled import Compiled
from tessera.graph.pipeline import Options
from tessera.interop.array import as_array
from tessera.ir.attribute import attributes_text
from tessera.ir.dtype import DTYPES, as_dtype
from tessera.ir.graph import Graph
from tessera.ir.value import TensorType, Value
from tessera.op import tensor
from tessera.op.arguments import FLOATS
from tessera.op.custom_ops import CUSTOM, Custom, accepted_dtypes
from tessera.op.opdef import Input, Sample, apply, get, infer_types
from tessera.op.parameter import aligned_empty

TOLERANCE = {"f64": 1e-11, "f32": 1e-5, "f16": 4e-3, "bf16": 3e-2}
"""Relative differences between dtypes that rounding explains."""


class Skipped(Exception):
    """A check does not apply; the message says why."""


def draw(spec: Input, dtype: str, random: np.random.Generator) -> np.ndarray:
    """The operand that a sample describes."""
    name = {"float": dtype, "any": dtype, "index": "i64"}.get(spec.kind, spec.kind)
    if name not in DTYPES:
        raise ArgumentError(f"a sample has an operand of kind {spec.kind!r}; use float, any, index or a dtype")
    kind = DTYPES[name]
    if kind.is_float:
        return random.uniform(spec.low, spec.high, spec.shape).astype(kind.numpy)
    if kind.kind == "bool":
        return random.integers(0, 2, spec.shape).astype(bool)
    low = int(np.ceil(spec.low))
    return random.integers(low, max(int(np.ceil(spec.high)), low + 1), spec.shape).astype(kind.numpy)


@dataclass(frozen=True)
class Subject:
    """A sample with its operands drawn in one dtype; the same ones in every run."""

    custom: Custom
    sample: Sample
    number: int
    dtype: str
    arrays: tuple[np.ndarray, ...]

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Types of the operands."""
        return tuple(TensorType(as_dtype(a.dtype), a.shape) for a in self.arrays)

    def random(self, purpose: str) -> np.random.Generator:
        """A generator that is the same in every run."""
        return _random(f"{self.custom.name} {self.number} {purpose}")

    def infer(self, types: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
        """What the shape function says."""
        return infer_types(self.custom.name, types, self.sample.attrs)

    def widest(self) -> str:
        """The widest float dtype that the operator accepts."""
        for name in FLOATS:
            try:
                self.infer(self.in_dtype(name).types)
            except DTypeError:
                continue
            return name
        return self.dtype

    def in_dtype(self, name: str) -> Subject:
        """The same sample in another dtype."""
        return replace(self, dtype=name, arrays=_drawn(self.custom.name, self.sample, self.number, name))

    def widened(self, name: str) -> Subject:
        """The same numbers in a wider dtype."""
        kinds = [i.kind == "float" for i in self.sample.inputs]
        wide = [a.astype(DTYPES[name].numpy) if k else a for a, k in zip(self.arrays, kinds, strict=True)]
        return replace(self, dtype=name, arrays=tuple(wide))

    def run(self, threads: int = 1) -> list[np.ndarray]:
        """The results, operator by operator."""
        if self.custom.composite:
            return self.compiled()
        text = attributes_text(self.custom.schema.complete(self.custom.name, self.sample.attrs))
        operands = [as_array(a) for a in self.arrays]
        found = _core.run_primitive(self.custom.name, text, operands, threads, len(self.custom.schema.results))
        return [np.array(r.numpy()) for r in found]

    def leaves(self) -> list[Value]:
        """Inputs of the operands' types."""
        return [tensor(a.shape, as_dtype(a.dtype), name=f"operand_{i}") for i, a in enumerate(self.arrays)]

    def program(self) -> Compiled:
        """The operator alone, compiled for this machine."""
        leaves = self.leaves()
        results = apply(self.custom.name, leaves, self.sample.attrs)
        return compile_values(Graph({f"result_{i}": r for i, r in enumerate(results)}, inputs=leaves), Options())

    def compiled(self, fill: int = 0, arrays: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """The results by a compiled program, in memory that held the byte ``fill`` before."""
        program = self.program()
        outputs = [np.empty(t.shape, t.dtype.numpy) for t in self.infer(self.types)]
        for out in outputs:
            out.reshape(-1).view(np.uint8)[...] = fill
        program.run([as_array(a) for a in (self.arrays if arrays is None else arrays)], outputs)
        return outputs


def _random(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _drawn(name: str, sample: Sample, number: int, dtype: str) -> tuple[np.ndarray, ...]:
    random = _random(f"{name} {number}")
    return tuple(_aligned(draw(i, dtype, random)) for i in sample.inputs)


def _aligned(array: np.ndarray) -> np.ndarray:
    """The array where the runtime would put it: at a multiple of 64 bytes."""
    out = aligned_empty(array.shape, as_dtype(array.dtype))
    out[...] = array
    return out


def subjects(name: str) -> list[Subject]:
    """All samples of an operator, in the first dtype that it accepts (f32 if it does)."""
    custom = CUSTOM[name]
    accepted = accepted_dtypes(custom.schema)
    out: list[Subject] = []
    for number, sample in enumerate(get(name).samples()):
        dtype = "f32" if "f32" in accepted else accepted[0]
        out.append(Subject(custom, sample, number, dtype, _drawn(name, sample, number, dtype)))
    return out


def close(a: float, b: float, allowed: float) -> bool:
    """Whether two numbers differ by no more than allowed; NaN is close to nothing."""
    return abs(a - b) <= allowed


def difference(found: np.ndarray, expected: np.ndarray, dtype: str, factor: float = 1.0) -> str | None:
    """How two arrays differ by more than the rounding of a dtype; None when they do not."""
    if found.shape != expected.shape:
        return f"shape {found.shape}, expected {expected.shape}"
    if expected.dtype.kind not in "fV":
        return None if np.array_equal(found, expected) else "elements differ"
    a, b = found.astype(np.float64), expected.astype(np.float64)
    finite = np.abs(b[np.isfinite(b)])
    allowed = TOLERANCE[dtype] * factor * max(float(finite.max()) if finite.size else 0.0, 1e-2)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(a - b) <= allowed) | (a == b) | (np.isnan(a) & np.isnan(b)))
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"element {list(at)} is {a[at]:.6g}, expected {b[at]:.6g}"
