"""Losses between tensors of one shape against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from tessera import op
from tessera.errors import ArgumentError, ShapeError
from tessera.ir.value import Value

from tests.ops.against_torch import check, draw, inputs, run

LOSSES: dict[str, tuple[Callable[..., Value], Callable[..., Any]]] = {
    "mse": (op.mse, F.mse_loss), "l1": (op.l1, F.l1_loss), "huber": (op.huber, F.huber_loss),
    "huber_2": (lambda x, t, **k: op.huber(x, t, 0.4, **k), lambda x, t, **k: F.huber_loss(x, t, delta=0.4, **k)),
    "binary_cross_entropy_with_logits": (op.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name: str, reduction: str) -> None:
    ours, theirs = LOSSES[name]
    for shape in ((4, 3), (), (0, 2)):
        arrays = [draw(*shape, low=-3, high=3), draw(*shape, seed=1, low=0, high=1)]
        check(
            lambda x, t: ours(x, t, reduction=reduction), lambda x, t: theirs(x, t, reduction=reduction), arrays,
            second=name != "l1" and shape != (0, 2),
        )


def test_extreme_logits() -> None:
    arrays = [np.array([-1e4, 1e4, 0.0, np.nan]), np.array([0.0, 1.0, 0.5, 1.0])]
    check(*LOSSES["binary_cross_entropy_with_logits"], arrays)


def test_difference_of_zero() -> None:
    for name in ("l1", "huber", "mse"):
        check(*LOSSES[name], [np.zeros(3), np.zeros(3)])


def test_mean_over_a_symbolic_batch() -> None:
    x, t = op.tensor(("B", 3), "f64", name="x0"), op.tensor(("B", 3), "f64", name="x1")
    a, b = draw(5, 3), draw(5, 3, seed=1)
    np.testing.assert_allclose(run([op.mse(x, t)], {"x0": a, "x1": b})[0], ((a - b) ** 2).mean())


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_accumulates_in_f32(dtype: str) -> None:
    x = op.full((5000,), 1.0, dtype)
    assert float(run([op.mse(x, op.zeros((5000,), dtype))], {})[0]) == 1.0


def test_integers_are_promoted() -> None:
    (x, t), feeds = inputs([np.array([1, 2]), np.array([3, 5])])
    found = run([op.mse(x, t)], feeds)[0]
    assert found.dtype == np.float32 and float(found) == 6.5


def test_errors() -> None:
    x = op.tensor((2, 3))
    with pytest.raises(
        ShapeError, match=r"\[mse\] the prediction has shape \(2, 3\) and the target \(3,\); they must be equal"
    ):
        op.mse(x, op.tensor((3,)))
    with pytest.raises(ArgumentError, match=r"\[l1\] reduction is 'median'; use"):
        op.l1(x, x, reduction="median")
    with pytest.raises(ArgumentError, match=r"\[huber\] delta is 0; it must be positive"):
        op.huber(x, x, delta=0)
