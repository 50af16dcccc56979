"""Values and gradients of an expression, from the primitives it decomposes to, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tessera import op
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.reference import evaluate
from tessera.transform.autodiff import gradients
from tessera.transform.decompose import decompose
from tessera.transform.simplify import simplify

torch.set_num_threads(1)


def run(values: Sequence[Value], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The values' arrays, computed by the references of the primitives alone."""
    graph = simplify(decompose(Graph({str(i): v for i, v in enumerate(values)})))
    used = {v.node.attrs["name"] for v in graph.inputs}
    return list(evaluate(graph, {k: a for k, a in feeds.items() if k in used}).values())


def inputs(arrays: Sequence[np.ndarray]) -> tuple[list[Value], dict[str, np.ndarray]]:
    """An input for each array, and the feeds."""
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    return [op.tensor(a.shape, a.dtype, name=name) for name, a in feeds.items()], feeds


def check(
    ours: Callable[..., Value], theirs: Callable[..., Any], arrays: Sequence[np.ndarray], *, tolerance: float = 1e-10,
    second: bool = False, gradient: bool = True,
) -> None:
    """Compare the value and the gradient by every float array; with ``second`` also the gradient of a gradient."""
    leaves, feeds = inputs(arrays)
    tensors = [torch.from_numpy(a.copy()).requires_grad_(a.dtype.kind == "f") for a in arrays]
    y, expected = ours(*leaves), theirs(*tensors)
    actual = run([y], feeds)[0]
    assert actual.shape == tuple(expected.shape)
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    if not gradient:
        return
    random = np.random.default_rng(len(arrays))
    floats = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"]
    seed = np.asarray(random.uniform(0.5, 1.5, actual.shape), actual.dtype)
    first = gradients([y], [leaves[i] for i in floats], [op.constant(seed)])
    wanted = torch.autograd.grad(
        expected, [tensors[i] for i in floats], torch.from_numpy(seed), create_graph=second, allow_unused=True
    )
    _compare(run(first, feeds), wanted, tolerance)
    if not second:
        return
    weights = [np.asarray(random.uniform(-1, 1, g.shape), actual.dtype) for g in run(first, feeds)]
    zero = op.full((), 0.0, actual.dtype)
    total = sum((op.sum(g * op.constant(w)) for g, w in zip(first, weights, strict=True)), start=zero)
    total_torch = sum((g * torch.from_numpy(w)).sum() for g, w in zip(wanted, weights, strict=True) if g is not None)
    assert isinstance(total, Value)
    again = gradients([total], [leaves[i] for i in floats])
    wanted = [None] * len(floats)
    if isinstance(total_torch, torch.Tensor) and total_torch.requires_grad:
        wanted = torch.autograd.grad(total_torch, [tensors[i] for i in floats], allow_unused=True)
    _compare(run(again, feeds), wanted, tolerance * 10)


def _compare(actual: Sequence[np.ndarray], expected: Sequence[Any], tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        wanted = np.zeros_like(a) if e is None else e.detach().numpy()
        assert a.shape == wanted.shape
        np.testing.assert_allclose(a, wanted, rtol=tolerance, atol=tolerance)


def draw(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """f64 numbers, the same in every run."""
    return np.asarray(np.random.default_rng([seed, *shape]).uniform(low, high, shape))
