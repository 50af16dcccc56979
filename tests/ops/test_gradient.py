"""Gradients of every operator against finite differences, once and twice; against PyTorch at special points."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from tessera import op
from tessera.errors import GradientError
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.opdef import REGISTRY, NoVjp
from tessera.op.reference import evaluate
from tessera.transform.autodiff import gradients

from tests.ops.harness import Case, cases, operators, random_for

STEP = 1e-6
DIFFERENTIABLE = [n for n in operators() if "f64" in REGISTRY[n].dtypes and not isinstance(REGISTRY[n].vjp, NoVjp)]


def gradient_graph(outputs: Sequence[Value], wrt: Sequence[Value], weights: Sequence[np.ndarray]) -> list[Value]:
    """Gradients of the weighted sum of outputs."""
    seeds = [op.constant(w) for w in weights]
    return gradients(list(outputs), list(wrt), seeds)


def run(outputs: Sequence[Value], leaves: Sequence[Value], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Values of outputs for arrays of leaves."""
    graph = Graph({str(i): v for i, v in enumerate(outputs)}, inputs=leaves)
    return list(evaluate(graph, {v.node.attrs["name"]: a for v, a in zip(leaves, arrays)}).values())


def check_directional(
    outputs: Sequence[Value], found: Sequence[Value], wrt: Sequence[int], case: Case, weights: Sequence[np.ndarray],
    random: np.random.Generator, tolerance: float,
) -> None:
    """<gradient, direction> equals the central difference of the weighted outputs, per operand."""
    values = run(found, case.leaves, case.arrays)
    for position, gradient in zip(wrt, values):
        assert gradient.shape == case.arrays[position].shape
        direction = random.uniform(-1, 1, gradient.shape)
        sides = []
        for sign in (1, -1):
            moved = list(case.arrays)
            moved[position] = moved[position] + sign * STEP * direction
            sides.append(sum(float(np.sum(w * y)) for w, y in zip(weights, run(outputs, case.leaves, moved))))
        numeric = (sides[0] - sides[1]) / (2 * STEP)
        analytic = float(np.sum(gradient * direction))
        scale = max(1.0, abs(numeric), float(np.max(np.abs(gradient), initial=0.0)))
        assert abs(numeric - analytic) <= tolerance * scale, (
            f"{case.definition.name} sample {case.number} operand {position}: {analytic} by vjp, {numeric} numerically"
        )


def _prepared(name: str) -> list[tuple[Case, list[int], list[Value], list[np.ndarray], np.random.Generator]]:
    out = []
    for case in cases(REGISTRY[name], "f64", gradient=True):
        wrt = [i for i, v in enumerate(case.leaves) if v.dtype == DTYPES["f64"]]
        outputs = [v for v in case.results if v.dtype.is_float]
        if not wrt or not outputs or any(v.dtype != DTYPES["f64"] for v in outputs):
            continue
        if not all(np.isfinite(a).all() for a in run(outputs, case.leaves, case.arrays)):
            continue  # the mean of nothing is NaN
        random = random_for(f"gradient {name} {case.number}")
        out.append((case, wrt, outputs, [random.uniform(-1, 1, v.shape) for v in outputs], random))
    return out


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_against_finite_differences(name: str) -> None:
    for case, wrt, outputs, weights, random in _prepared(name):
        found = gradient_graph(outputs, [case.leaves[i] for i in wrt], weights)
        check_directional(outputs, found, wrt, case, weights, random, 1e-6 * case.sample.tolerance)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_gradient_against_finite_differences(name: str) -> None:
    for case, wrt, outputs, weights, random in _prepared(name)[:2]:
        leaves = [case.leaves[i] for i in wrt]
        first = gradient_graph(outputs, leaves, weights)
        second_weights = [random.uniform(-1, 1, v.shape) for v in first]
        second = gradient_graph(first, leaves, second_weights)
        check_directional(first, second, wrt, case, second_weights, random, 4e-6 * case.sample.tolerance)


@pytest.mark.parametrize("name", [n for n in operators() if isinstance(REGISTRY[n].vjp, NoVjp)])
def test_no_gradient_is_a_stated_reason(name: str) -> None:
    definition = REGISTRY[name]
    assert isinstance(definition.vjp, NoVjp)
    for case in cases(definition, definition.dtypes[0])[:1]:
        floats = [v for v in case.leaves if v.dtype.is_float]
        if not floats or not case.results[0].dtype.is_float:
            continue
        with pytest.raises(GradientError, match=definition.vjp.reason):
            gradients(case.results, floats, [op.ones_like(v) for v in case.results])


# Points at which a finite difference says nothing: PyTorch's answers.

SPECIAL: list[tuple[str, Callable[[Value], Value], Callable[[torch.Tensor], torch.Tensor], list[float]]] = [
    ("abs at 0", op.abs, torch.abs, [0.0, -1.0, 2.0]),
    ("max with ties", op.max, torch.amax, [2.0, 1.0, 2.0]),
    ("min with ties", op.min, torch.amin, [1.0, 1.0, 1.0, 3.0]),
    ("maximum at a tie", lambda x: op.maximum(x, 1.0), lambda x: torch.maximum(x, torch.ones_like(x)), [1.0, 0.0, 2.0]),
    ("minimum at a tie", lambda x: op.minimum(x, 1.0), lambda x: torch.minimum(x, torch.ones_like(x)), [1.0, 0.0, 2.0]),
    ("clip at the bounds", lambda x: op.clip(x, 0.0, 1.0), lambda x: torch.clamp(x, 0.0, 1.0),
     [0.0, 1.0, -1.0, 0.5, 2.0]),
    ("prod with one zero", op.prod, torch.prod, [2.0, 0.0, 3.0]),
    ("prod with two zeros", op.prod, torch.prod, [2.0, 0.0, 0.0]),
    ("pow at base 0", lambda x: op.pow(x, op.constant(np.array(4.0))), lambda x: x**4.0, [0.0, 1.0, -2.0]),
    ("pow with exponent 0", lambda x: op.pow(x, op.constant(np.array(0.0))), lambda x: x**0.0, [0.0, 1.0, -2.0]),
    ("exponent at base 0", lambda x: op.pow(0.0 * x, x), lambda x: torch.pow(0.0 * x, x), [1.0, 2.0]),
    ("mod", lambda x: op.mod(x, 2.0), lambda x: torch.remainder(x, 2.0), [3.0, -1.5, 0.5]),
    ("where with inf aside", lambda x: op.where(x > 0, op.log(op.where(x > 0, x, 1.0)), 0.0),
     lambda x: torch.where(x > 0, torch.log(torch.where(x > 0, x, 1.0)), 0.0), [0.0, 2.0]),
    ("logsumexp of -inf", lambda x: op.logsumexp(x - op.constant(np.array([0.0, np.inf]))),
     lambda x: torch.logsumexp(x - torch.tensor([0.0, torch.inf], dtype=torch.float64), 0), [1.0, 2.0]),
    ("norm", op.norm, lambda x: torch.linalg.vector_norm(x), [3.0, -4.0]),
    ("sigmoid far out", op.sigmoid, torch.sigmoid, [-800.0, 800.0, 0.0]),
    ("asinh far out", op.asinh, torch.asinh, [-1e12, 1e5, 0.0, 1e-9]),
    ("acosh far out", op.acosh, torch.acosh, [1e12, 1e5, 1.5]),
    ("stop_gradient", lambda x: x * op.stop_gradient(x), lambda x: x * x.detach(), [3.0, -4.0]),
]


@pytest.mark.parametrize(("name", "ours", "theirs", "points"), SPECIAL, ids=[s[0] for s in SPECIAL])
def test_gradient_at_special_points(
    name: str, ours: Callable[[Value], Value], theirs: Callable[[torch.Tensor], torch.Tensor], points: list[float]
) -> None:
    x = op.tensor((len(points),), "f64", name="x")
    y = ours(x)
    value, slope = run([y, gradients([op.sum(y)], [x])[0]], [x], [np.array(points)])
    t = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    z = theirs(t)
    z.sum().backward()
    np.testing.assert_allclose(value, z.detach().numpy(), rtol=1e-12)
    assert t.grad is not None
    np.testing.assert_allclose(slope, t.grad.numpy(), rtol=1e-12)


def test_second_derivative_of_prod_at_zero() -> None:
    x = op.tensor((3,), "f64", name="x")
    first = gradients([op.prod(x)], [x])[0]
    weights = np.array([1.0, 2.0, 3.0])
    (second,) = run([gradients([first], [x], [op.constant(weights)])[0]], [x], [np.array([0.0, 2.0, 5.0])])
    hessian = np.array([[0, 5, 2], [5, 0, 0], [2, 0, 0.0]])
    np.testing.assert_allclose(second, hessian @ weights)


def test_max_of_nan_has_a_nan_gradient() -> None:
    x = op.tensor((2,), "f64", name="x")
    (slope,) = run([gradients([op.max(x)], [x])[0]], [x], [np.array([np.nan, 1.0])])
    assert np.isnan(slope).all()
