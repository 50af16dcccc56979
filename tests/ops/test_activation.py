"""Activations against PyTorch, with the points where their definition changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tessera import graph, op
from tessera.errors import ArgumentError, DTypeError
from tessera.ir.value import Value

from tests.ops.against_torch import check, draw, inputs, run

PAIRS: dict[str, tuple[Callable[..., Value], Callable[..., Any]]] = {
    "relu": (op.relu, F.relu),
    "relu6": (op.relu6, F.relu6),
    "gelu": (op.gelu, F.gelu),
    "gelu_tanh": (lambda x: op.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (op.silu, F.silu),
    "leaky_relu": (lambda x: op.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "elu": (lambda x: op.elu(x, 0.7), lambda x: F.elu(x, 0.7)),
    "softplus": (op.softplus, F.softplus),
    "hard_sigmoid": (op.hard_sigmoid, F.hardsigmoid),
    "hard_swish": (op.hard_swish, F.hardswish),
    "mish": (op.mish, F.mish),
    "sigmoid": (op.sigmoid, torch.sigmoid),
    "tanh": (op.tanh, torch.tanh),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients(name: str) -> None:
    second = name not in {"hard_sigmoid", "hard_swish", "relu6"}
    for shape in ((5, 7), (), (0, 3)):
        tolerance = 1e-7 if name == "hard_sigmoid" else 1e-9  # PyTorch multiplies that gradient by 1/6 in f32
        check(*PAIRS[name], [draw(*shape, low=-6.0, high=6.0)], second=second, tolerance=tolerance)


@pytest.mark.parametrize("name", [n for n in PAIRS if n != "softplus"])
def test_extreme_values(name: str) -> None:
    x = np.array([-1e4, -50.0, -0.0, 0.0, 50.0, 1e4, np.nan])
    ours, theirs = PAIRS[name]
    (leaf,), feeds = inputs([x])
    np.testing.assert_allclose(run([ours(leaf)], feeds)[0], theirs(torch.from_numpy(x)).numpy(), rtol=1e-12, atol=1e-12)


def test_softplus_does_not_overflow() -> None:
    check(
        lambda x: op.softplus(x, 2.0),
        lambda x: F.softplus(x, 2.0, threshold=1e9),
        [np.array([-800.0, -3.0, 0.0, 3.0, 300.0])],
    )
    (leaf,), feeds = inputs([np.array([-np.inf, 1e6, np.inf])])
    np.testing.assert_array_equal(run([op.softplus(leaf)], feeds)[0], [0.0, 1e6, np.inf])


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "elu"])
def test_gradient_at_the_kink(name: str) -> None:
    check(*PAIRS[name], [np.array([0.0, -0.0, 6.0])])


def test_relu_of_integers() -> None:
    (x,), feeds = inputs([np.array([-2, 0, 3], np.int8)])
    found = run([op.relu(x)], feeds)[0]
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, [0, 0, 3])


def test_integers_become_f32() -> None:
    assert str(op.gelu(op.tensor((2,), "i32")).dtype) == "f32"


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_rounded_once(dtype: str) -> None:
    x = op.tensor((101,), dtype, name="x0")
    a = np.linspace(-4, 4, 101).astype(x.dtype.numpy)
    expected = F.silu(torch.from_numpy(a.astype(np.float64))).numpy()
    found = run([op.silu(x)], {"x0": a})[0]
    assert found.dtype == a.dtype
    np.testing.assert_allclose(
        found.astype(np.float64), expected, rtol=1.01 * 2.0 ** (-8 if dtype == "bf16" else -11), atol=1e-8
    )


def test_errors() -> None:
    x = op.tensor((2,))
    with pytest.raises(
        ArgumentError, match=r'\[gelu\] approximate is \'erf\'; use "none" \(exact, with erf\) or "tanh"'
    ):
        op.gelu(x, approximate="erf")
    with pytest.raises(ArgumentError, match=r"\[softplus\] beta is 0"):
        op.softplus(x, 0.0)
    with pytest.raises(DTypeError, match=r"\[relu\] x has dtype bool; expected a number"):
        op.relu(op.tensor((2,), "bool"))
    with pytest.raises(DTypeError, match=r"\[silu\] operand 0 has dtype i64"):
        op.build("silu", op.tensor((2,), "i64"))


@pytest.mark.parametrize("function", [op.softmax, op.log_softmax, op.safe_softmax])
@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_softmax_along_a_symbolic_size_that_may_be_zero(function: Callable[..., Value], target: str) -> None:
    x = op.tensor((op.dim("N", min=0), 3), name="x")
    program = graph.compile(function(x, axis=0), target=target)
    assert np.asarray(program(np.ones((0, 3), np.float32))).shape == (0, 3)
    array = draw(4, 3).astype(np.float32)
    expected = np.asarray(function(op.tensor((4, 3), name="x"), axis=0)(array))
    np.testing.assert_allclose(np.asarray(program(array)), expected, rtol=1e-6, atol=1e-6)
