"""Random programs: native code and portable kernels against the operators' references, gradients against differences.

To look further, raise the numbers of examples below: seeds are drawn in a fixed order.
"""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tessera import graph
from tessera.ir.graph import Graph
from tessera.op.reference import evaluate

from tests.e2e.random_programs import Program, gradient_graph, outputs, random_program

TOLERANCE = {"f64": 1e-9, "f32": 1e-3, "f16": 4e-2, "bf16": 2e-1}
"""Of the least accurate dtype in a program: rounding differences grow through a chain of operators."""

SEEDS = st.integers(0, 2**31)


def bounded(examples: int):  # noqa: ANN201 - a decorator of hypothesis
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, what
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.abs(b[np.isfinite(b)])
    scale = max(1.0, float(finite.max()) if finite.size else 1.0)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=what)


def compare(g: Graph, p: Program, exact: set[str]) -> None:
    """Both targets against the reference."""
    feeds = {v.node.attrs["name"]: p.feeds[v.node.attrs["name"]] for v in g.inputs}
    expected = evaluate(g, feeds)
    used = {v.dtype.name for node in g.nodes() for v in node.results}
    tolerance = max([TOLERANCE[name] for name in used & TOLERANCE.keys()], default=0.0)
    for target in ("cpu", "portable"):
        found = graph.compile(g, target=target)(feeds)
        for name, array in expected.items():
            close(np.asarray(found[name]), np.asarray(array), 0.0 if name in exact else tolerance, f"{target} {name}")


def check_values(p: Program) -> None:
    named = outputs(p)
    compare(Graph({name: e.value for name, e in named.items()}), p, {name for name, e in named.items() if e.exact})


@bounded(160)
@given(SEEDS)
def test_values_of_all_dtypes(seed: int) -> None:
    check_values(random_program(seed))


@bounded(60)
@given(SEEDS)
def test_values_and_gradients(seed: int) -> None:
    p = random_program(seed, length=14, dtypes=("f32", "f64", "i64", "bool"))
    check_values(p)
    g = gradient_graph(p)
    if g is not None:
        compare(g, p, set())


@bounded(70)
@given(SEEDS)
def test_symbolic_batch(seed: int) -> None:
    p = random_program(seed, symbolic=True, dtypes=("f32", "f64", "i32"))
    check_values(p)
    g = gradient_graph(p)
    if g is not None:
        compare(g, p, set())


@bounded(60)
@given(SEEDS)
def test_gradients_are_derivatives(seed: int) -> None:
    p = random_program(seed, smooth=True)
    g = gradient_graph(p)
    if g is None:
        return
    feeds = {v.node.attrs["name"]: p.feeds[v.node.attrs["name"]] for v in g.inputs}
    compiled = graph.compile(g)
    found = compiled(feeds)
    names = [name[1:] for name in found if name != "loss"]
    direction = {name: p.random.normal(size=feeds[name].shape) for name in names}
    slope = sum(float((np.asarray(found[f"d{name}"]) * direction[name]).sum()) for name in names)
    step = 1e-6
    ahead, behind = (
        compiled({**feeds, **{name: feeds[name] + s * step * direction[name] for name in names}})["loss"].item()
        for s in (1, -1)
    )
    if not np.isfinite(ahead - behind):  # the mean of nothing
        return
    scale = max(1.0, abs(ahead), sum(float(np.abs(np.asarray(found[f"d{n}"])).sum()) for n in names))
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=2e-5, atol=2e-5 * scale)
