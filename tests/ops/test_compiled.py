"""Every operator, dtype and gradient: native CPU code and the portable kernels against the references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tessera import op
from tessera.errors import IndexRangeError
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.opdef import REGISTRY, NoVjp
from tessera.op.reference import evaluate
from tessera.transform.autodiff import gradients

from tests.ops.harness import assert_close, cases, each, joined, operators, random_for, run_compiled, special_values

TARGETS = ("cpu", "portable")
DIFFERENTIABLE = [n for n in operators() if "f32" in REGISTRY[n].dtypes and not isinstance(REGISTRY[n].vjp, NoVjp)]


def check(graph: Graph, feeds: dict[str, np.ndarray], target: str, factors: dict[str, float], what: str) -> None:
    """The compiled graph gives what the references give."""
    found = run_compiled(graph, feeds, target)
    for name, expected in evaluate(graph, feeds).items():
        assert_close(found[name], expected, factors.get(name, 1.0), f"{what} {name} on {target}")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "dtype"), each(operators()))
def test_values(name: str, dtype: str, target: str) -> None:
    group = cases(REGISTRY[name], dtype)
    graph, feeds = joined(group)
    factors = {n: 2 * c.sample.tolerance for c in group for n in c.outputs()}
    check(graph, feeds, target, factors, f"{name} {dtype}")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "dtype"), each(DIFFERENTIABLE, ("f32", "bf16")))
def test_gradients(name: str, dtype: str, target: str) -> None:
    outputs: dict[str, Value] = {}
    leaves: list[Value] = []
    feeds: dict[str, np.ndarray] = {}
    factors: dict[str, float] = {}
    for case in cases(REGISTRY[name], dtype, gradient=True):
        wrt = [v for v in case.leaves if v.dtype.is_float]
        results = [v for v in case.results if v.dtype.is_float]
        if not wrt or not results:
            continue
        random = random_for(f"compiled gradient {name} {dtype} {case.number}")
        seeds = [op.constant(random.uniform(0.5, 1, v.shape).astype(v.dtype.numpy)) for v in results]
        for i, g in enumerate(gradients(results, wrt, seeds)):
            key = f"s{case.number}_grad{i}"
            outputs[key] = g
            factors[key] = 4 * case.sample.tolerance
        leaves += case.leaves
        feeds.update(case.feeds)
    if outputs:
        check(Graph(outputs, inputs=leaves), feeds, target, factors, f"gradient of {name} {dtype}")


def pointwise(operand_count: int, dtype: str) -> list[str]:
    """Primitives that COMPUTES names, for a dtype."""
    from tessera.op.lowering import Pointwise

    found = []
    for name in operators(composite=False):
        definition = REGISTRY[name]
        if isinstance(definition.lower, Pointwise) and name != "cast" and dtype in definition.dtypes:
            sample = definition.samples()[0]
            if len(sample.inputs) == operand_count:
                found.append(name)
    return found


def special(names: Sequence[str], arrays: Sequence[np.ndarray], target: str, dtype: str) -> None:
    """All operators of ``names`` in one graph on special values."""
    leaves = [op.tensor(a.shape, a.dtype, name=f"x{i}") for i, a in enumerate(arrays)]
    graph = Graph({n: op.build(n, *leaves) for n in names}, inputs=leaves)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    check(graph, feeds, target, dict.fromkeys(names, 4.0), f"special values {dtype}")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool"])
def test_special_values_of_unary_functions(dtype: str, target: str) -> None:
    special(pointwise(1, dtype), [special_values(DTYPES[dtype])], target, dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool"])
def test_special_values_of_binary_functions(dtype: str, target: str) -> None:
    values = special_values(DTYPES[dtype])
    x, y = (a.reshape(-1).copy() for a in np.meshgrid(values, values))
    special(pointwise(2, dtype), [x, y], target, dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool"])
def test_special_values_of_casts(dtype: str, target: str) -> None:
    x = op.tensor((len(special_values(DTYPES[dtype])),), dtype, name="x")
    wanted = ("f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool")
    graph = Graph({n: op.cast(x, n) for n in wanted}, inputs=[x])
    check(graph, {"x": special_values(DTYPES[dtype])}, target, {}, f"cast of {dtype}")


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_infinities_in_reductions(target: str) -> None:
    rows = np.array(
        [[1, np.nan, 3, 2], [np.inf, 5, -np.inf, 1], [2, 2, 1, 2], [-np.inf] * 4, [-0.0, 0.0, -0.0, 0]], np.float32
    )
    x = op.tensor(rows.shape, name="x")
    names = ("sum", "prod", "max", "min", "mean", "argmax", "argmin", "logsumexp")
    outputs = {f"{n}_{axis}": getattr(op, n)(x, axis) for n in names for axis in (0, 1)}
    check(Graph(outputs, inputs=[x]), {"x": rows}, target, {}, "reductions")


LARGE = {
    "chain": lambda x, y: op.tanh(x * y + 1) - op.exp(-x * x),
    "sum": lambda x, y: op.sum(x * y),
    "rows": lambda x, y: op.mean(op.abs(x), 1),
    "columns": lambda x, y: op.max(y, 0),
    "variance": lambda x, y: op.var(x, 0),
    "both": lambda x, y: x - op.mean(x, 1, keepdims=True) + op.mean(y, 0),
    "transpose": lambda x, y: x.T * 2 + y.T,
    "reversed": lambda x, y: x[::-1, ::3] + 1,
    "cumsum": lambda x, y: op.cumsum(op.sign(x), 1),
    "argmax": lambda x, y: op.argmax(x, 1),
    "concat": lambda x, y: op.concat([x, y * 2], 1),
    "pad": lambda x, y: op.pad(x, ((3, 5), (7, 1))) * 3,
    "where": lambda x, y: op.where(x > y, x, op.minimum(y, 0.25)),
    "take": lambda x, y: op.take(x, op.argmax(y, 0)),
    "index_add": lambda x, y: op.index_add(x, op.argmax(y[:, :131], 1), op.sign(y)),
    "softmax": lambda x, y: op.softmax(x * 4),
    "matmul": lambda x, y: x @ y.T,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
def test_large_tensors(dtype: str, target: str) -> None:
    """Sizes with vector tails, many rows for several threads."""
    random = random_for(f"large {dtype}")
    arrays = [random.uniform(-1, 1, (131, 257)).astype(DTYPES[dtype].numpy) for _ in range(2)]
    x, y = (op.tensor(a.shape, dtype, name=n) for a, n in zip(arrays, "xy"))
    graph = Graph({name: build(x, y) for name, build in LARGE.items()}, inputs=[x, y])
    factors = {"sum": 20.0, "matmul": 20.0, "variance": 8.0}
    check(graph, dict(zip("xy", arrays)), target, {name: factors.get(name, 4.0) for name in LARGE}, "large")


@pytest.mark.parametrize("target", TARGETS)
def test_index_out_of_range_is_reported(target: str) -> None:
    from tessera import graph as front

    x, index = op.tensor((3, 2), name="x"), op.tensor((2,), "i64", name="index")
    program = front.compile({"y": op.take(x, index)}, target=target)
    message = r"take: index into dimension 0 of size 3 at position \[1\] is 3; expected 0 to 2\n  at .*test_compiled"
    with pytest.raises(IndexRangeError, match=message):
        program(x=np.zeros((3, 2), np.float32), index=np.array([0, 3]))
    found = program(x=np.arange(6, dtype=np.float32).reshape(3, 2), index=np.array([-1, 0]))
    np.testing.assert_array_equal(np.asarray(found["y"]), [[4, 5], [0, 1]])


SYMBOLIC = {
    "pointwise": lambda x: op.exp(x) * 2 + 1,
    "reduce rows": lambda x: op.sum(x, 1),
    "reduce columns": lambda x: op.mean(x, 0),
    "softmax": lambda x: op.softmax(x),
    "matmul": lambda x: x @ x.T,
    "slice": lambda x: x[1::2, ::-1],
    "last": lambda x: x[-1],
    "clipped slice": lambda x: x[:3],
    "reshape": lambda x: op.tanh(x.reshape(-1)),
    "split": lambda x: op.concat(op.split(x, 2, 1)[::-1], 1),
    "concat": lambda x: op.concat([x, op.zeros((2, 6)), x * 2]),
    "pad": lambda x: op.pad(x, ((1, 2), (0, 3)), value=7),
    "cumsum": lambda x: op.cumsum(x, 0),
    "argmax": lambda x: op.argmax(x, 0),
    "take": lambda x: op.take(x, op.argmax(x, 0)),
    "index_add": lambda x: op.index_add(x, op.argmax(x, 0), 1.0),
    "take_along_axis": lambda x: op.take_along_axis(x, op.argmax(x, 0, keepdims=True), 0),
    "tril": lambda x: op.tril(x),
    "size": lambda x: x * x.shape[0],
    "var": lambda x: op.var(x, 0, ddof=1),
    "any": lambda x: op.any(x > 1.9, 0),
    "transpose": lambda x: x.T + 1,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_sizes(name: str, target: str) -> None:
    from tessera import graph as front

    x = op.tensor((op.dim("B", min=2), 6), name="x")
    whole = Graph({"y": SYMBOLIC[name](x)}, inputs=[x])
    program = front.compile(whole, target=target)
    for size in (2, 3, 8, 33):
        feed = random_for(f"symbolic {name} {size}").uniform(-2, 2, (size, 6)).astype(np.float32)
        expected = evaluate(whole, {"x": feed})["y"]
        assert_close(np.asarray(program(x=feed)["y"]), expected, 8, f"{name} with B = {size} on {target}")
