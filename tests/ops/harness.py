"""Graphs and arrays for every operator's samples, and comparison within the tolerance of a dtype."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tessera import op
from tessera.ir.dtype import DTYPES, DType
from tessera.ir.graph import Graph
from tessera.ir.value import INPUT, Node, TensorType, Value
from tessera.op.collective import FULL_TO_SHARD, SHARD_TO_FULL
from tessera.op.custom_ops import CUSTOM
from tessera.op.opdef import REGISTRY, Input, OpDef, Sample, apply
from tessera.op.reference import evaluate

RELATIVE = {"f64": 2e-13, "f32": 4e-6, "f16": 2e-3, "bf16": 1.6e-2, "f8e4m3": 0.13, "f8e5m2": 0.26}
"""About 2 units in the last place for the narrow types, more for f32 and f64, where kernels sum in another order."""


def random_for(text: str) -> np.random.Generator:
    """A generator that is the same in every run."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def draw(spec: Input, dtype: DType, random: np.random.Generator) -> np.ndarray:
    """The operand of a sample."""
    kind = {"float": dtype, "any": dtype, "bool": DTYPES["bool"], "index": DTYPES["i64"]}.get(spec.kind)
    kind = DTYPES[spec.kind] if kind is None else kind
    if kind.is_float:
        return random.uniform(spec.low, spec.high, spec.shape).astype(kind.numpy)
    if kind.kind == "bool":
        return random.integers(0, 2, spec.shape).astype(bool)
    low, high = int(np.ceil(spec.low)), max(int(np.ceil(spec.high)), int(np.ceil(spec.low)) + 1)
    if spec.kind != "index":
        info = np.iinfo(kind.numpy)
        low, high = max(low, int(info.min)), min(max(high, low + 1, 1), int(info.max))
    return random.integers(low, high, spec.shape).astype(kind.numpy)


@dataclass(frozen=True)
class Case:
    """One sample of one operator in one dtype: its operands as leaves and arrays, and its results."""

    definition: OpDef
    dtype: DType
    number: int
    sample: Sample
    arrays: tuple[np.ndarray, ...]
    leaves: tuple[Value, ...]
    results: tuple[Value, ...]

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """Arrays by input name."""
        return {v.node.attrs["name"]: a for v, a in zip(self.leaves, self.arrays)}

    @property
    def graph(self) -> Graph:
        """The operator alone."""
        return Graph(self.outputs(), inputs=self.leaves)

    def outputs(self) -> dict[str, Value]:
        """Results by output name."""
        return {f"s{self.number}_{i}": v for i, v in enumerate(self.results)}


def leaf(name: str, array: np.ndarray) -> Value:
    """An input of an array's type."""
    return op.tensor(array.shape, array.dtype, name=name)


def make_case(definition: OpDef, dtype: DType, number: int, sample: Sample) -> Case:
    """The case of a sample, with the same arrays in every run."""
    random = random_for(f"{definition.name} {dtype} {number}")
    arrays = tuple(draw(i, dtype, random) for i in sample.inputs)
    leaves = tuple(leaf(f"s{number}_in{i}", a) for i, a in enumerate(arrays))
    return Case(definition, dtype, number, sample, arrays, leaves, apply(definition.name, leaves, sample.attrs))


def cases(definition: OpDef, dtype: str, gradient: bool = False) -> list[Case]:
    """All samples of an operator in a dtype; with ``gradient`` those whose gradient is checked."""
    made = [
        make_case(definition, DTYPES[dtype], i, s)
        for i, s in enumerate(definition.samples())
        if not gradient or s.grad
    ]
    # Operators without operands say their dtype in the attributes: each such sample belongs to one dtype.
    return [c for c in made if c.leaves or "dtype" not in c.sample.attrs or c.sample.attrs["dtype"] == c.dtype]


def joined(group: Iterable[Case]) -> tuple[Graph, dict[str, np.ndarray]]:
    """One graph with all cases, and its feeds."""
    group = list(group)
    outputs = {name: v for c in group for name, v in c.outputs().items()}
    feeds = {name: a for c in group for name, a in c.feeds.items()}
    return Graph(outputs, inputs=[v for c in group for v in c.leaves]), feeds


def assert_close(actual: np.ndarray, expected: np.ndarray, factor: float = 1.0, what: str = "") -> None:
    """Equal shape and dtype; integers and bool equal; floats within the tolerance of their dtype, NaN where NaN is."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    name = next(n for n, d in DTYPES.items() if d.numpy == expected.dtype)
    if not DTYPES[name].is_float:
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 1.0
    tolerance = RELATIVE[name] * factor
    absolute = tolerance * min(max(scale, 0.01), 1.0)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=absolute, equal_nan=True, err_msg=what)


def special_values(dtype: DType) -> np.ndarray:
    """Zeros, infinities, NaN, extremes, subnormals and usual numbers; the extremes of an integer dtype."""
    if dtype.is_float:
        import ml_dtypes

        info = ml_dtypes.finfo(dtype.numpy)
        values = [
            0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 3.0, -3.0, 10.25, -10.25, 100.0, -100.0, 1e-3, -1e-3,
            np.inf,
            -np.inf, np.nan, float(info.max), float(info.min), float(info.tiny), -float(info.tiny),
            float(info.smallest_subnormal),
        ]
        return np.array(values).astype(dtype.numpy)
    if dtype.kind == "bool":
        return np.array([False, True])
    limits = np.iinfo(dtype.numpy)
    values = {limits.min, limits.min + 1, limits.max, limits.max - 1, 0, 1, 2, 3, 7, 8, 31, 100}
    values |= {-1, -2, -3, -7, -100} if limits.min < 0 else set()
    return np.array(sorted(values), dtype.numpy)


def operators(**wanted: bool) -> list[str]:
    """Names of operators: all, or composites only or not (``composite=``). Not the custom ones of other tests.

    Nor those around the body of ``dist.shard_map``, which mean nothing alone; tests/dist cover them.
    """
    names = sorted(set(REGISTRY) - set(CUSTOM) - {FULL_TO_SHARD, SHARD_TO_FULL})
    if "composite" in wanted:
        names = [n for n in names if REGISTRY[n].is_composite == wanted["composite"]]
    return names


def each(names: Sequence[str], dtypes: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """(operator, dtype) pairs of what operators define."""
    return [(n, d) for n in names for d in REGISTRY[n].dtypes if dtypes is None or d in dtypes]


def reference_of(case: Case) -> list[np.ndarray]:
    """The results by the operator's reference."""
    return list(evaluate(case.graph, case.feeds).values())


def placeholder(name: str, t: TensorType) -> Value:
    """An input of a type that may be symbolic."""
    return Node(INPUT, (), {"name": name}, (t,)).results[0]


def run_compiled(graph: Graph, feeds: dict[str, np.ndarray], target: str) -> dict[str, np.ndarray]:
    """The outputs of a graph by a compiled program."""
    from tessera import graph as front

    found: Any = front.compile(graph, target=target)(**feeds)
    return {name: to_numpy(value) for name, value in found.items()}


def to_numpy(array: Any) -> np.ndarray:
    """A NumPy array of a runtime array of any dtype."""
    return np.asarray(array)
