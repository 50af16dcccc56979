"""softmax, log_softmax, layer_norm, rms_norm and group_norm against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tessera import op
from tessera.errors import ArgumentError, DTypeError, ShapeError

from tests.ops.against_torch import check, draw, inputs, run


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5), 1), ((3, 5), 0), ((2, 3, 4), 1), ((7,), 0), ((3, 1), -1), ((0, 3), 1), ((3, 0), 1)]
)
def test_softmax(shape: tuple[int, ...], axis: int) -> None:
    x = [draw(*shape, low=-20.0, high=20.0)]
    check(lambda x: op.softmax(x, axis), lambda x: F.softmax(x, axis), x, second=True)
    check(lambda x: op.safe_softmax(x, axis), lambda x: F.softmax(x, axis), x, second=True)
    check(lambda x: op.log_softmax(x, axis), lambda x: F.log_softmax(x, axis), x, second=True)


def test_softmax_of_large_and_infinite_values() -> None:
    x = np.array([[1e300, 1e300, 0.0], [-np.inf, 0.0, 1.0], [-np.inf] * 3, [np.inf, 0.0, 0.0], [np.nan, 0.0, 1.0]])
    (leaf,), feeds = inputs([x])
    for ours, theirs in ((op.softmax, F.softmax), (op.log_softmax, F.log_softmax)):
        np.testing.assert_allclose(run([ours(leaf)], feeds)[0], theirs(torch.from_numpy(x), -1).numpy(), rtol=1e-12)
    safe = run([op.safe_softmax(leaf)], feeds)[0]
    np.testing.assert_array_equal(safe[2], [0.0, 0.0, 0.0])
    np.testing.assert_allclose(safe[1], F.softmax(torch.from_numpy(x[1]), -1).numpy())


def test_softmax_over_a_symbolic_axis() -> None:
    x = op.tensor(("B", "N"), "f64", name="x0")
    a = draw(2, 5)
    np.testing.assert_allclose(run([op.softmax(x)], {"x0": a})[0], F.softmax(torch.from_numpy(a), -1).numpy())


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_computed_in_f32(dtype: str) -> None:
    x = op.tensor((2, 3000), dtype, name="x0")
    a = draw(2, 3000).astype(x.dtype.numpy)
    wide = torch.from_numpy(a.astype(np.float64))
    for ours, expected in ((op.softmax(x), F.softmax(wide, -1)), (op.layer_norm(x), F.layer_norm(wide, (3000,)))):
        found = run([ours], {"x0": a})[0]
        assert found.dtype == a.dtype
        np.testing.assert_allclose(found.astype(np.float64), expected.numpy(), rtol=8e-3, atol=1e-3)


def test_layer_norm() -> None:
    arrays = [draw(4, 6), draw(6), draw(6)]
    check(
        lambda x, w, b: op.layer_norm(x, w, b),
        lambda x, w, b: F.layer_norm(x, (6,), w, b),
        arrays,
        second=True,
        tolerance=1e-8,
    )
    check(lambda x, w: op.layer_norm(x, w), lambda x, w: F.layer_norm(x, (6,), w), arrays[:2], tolerance=1e-8)
    check(lambda x: op.layer_norm(x, eps=0.1), lambda x: F.layer_norm(x, (6,), eps=0.1), arrays[:1], tolerance=1e-8)
    check(
        lambda x, b: op.layer_norm(x, bias=b), lambda x, b: F.layer_norm(x, (6,), bias=b), arrays[::2], tolerance=1e-8
    )


def test_layer_norm_over_several_axes() -> None:
    arrays = [draw(2, 3, 4), draw(3, 4), draw(3, 4)]
    check(
        lambda x, w, b: op.layer_norm(x, w, b, axes=(1, 2)), lambda x, w, b: F.layer_norm(x, (3, 4), w, b), arrays,
        second=True, tolerance=1e-8,
    )


def test_layer_norm_over_an_inner_axis() -> None:
    arrays = [draw(2, 3, 4), draw(3), draw(3)]

    def theirs(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.transpose(1, 2), (3,), w, b).transpose(1, 2)

    check(lambda x, w, b: op.layer_norm(x, w, b, axes=1), theirs, arrays, tolerance=1e-8)


def test_layer_norm_of_far_values_keeps_its_precision() -> None:
    x = (np.random.default_rng(0).standard_normal((2, 512)) + 1e4).astype(np.float32)
    (leaf,), feeds = inputs([x])
    expected = F.layer_norm(torch.from_numpy(x.astype(np.float64)), (512,)).numpy()
    np.testing.assert_allclose(run([op.layer_norm(leaf)], feeds)[0], expected, atol=2e-3)


def test_rms_norm() -> None:
    arrays = [draw(4, 6), draw(6)]
    check(
        lambda x, w: op.rms_norm(x, w, eps=1e-3),
        lambda x, w: F.rms_norm(x, (6,), w, eps=1e-3),
        arrays,
        second=True,
        tolerance=1e-8,
    )
    check(
        lambda x: op.rms_norm(x, eps=1e-3),
        lambda x: F.rms_norm(x, (6,), eps=1e-3),
        arrays[:1],
        second=True,
        tolerance=1e-8,
    )


def test_group_norm() -> None:
    arrays = [draw(2, 6, 3), draw(6), draw(6)]
    check(
        lambda x, w, b: op.group_norm(x, 3, w, b),
        lambda x, w, b: F.group_norm(x, 3, w, b),
        arrays,
        second=True,
        tolerance=1e-8,
    )
    check(lambda x: op.group_norm(x, 2), lambda x: F.group_norm(x, 2), arrays[:1], tolerance=1e-8)


def test_errors() -> None:
    x = op.tensor((2, 6))
    with pytest.raises(ArgumentError, match=r"\[softmax\] axis 2 is out of range"):
        op.softmax(x, 2)
    with pytest.raises(ArgumentError, match=r"\[log_softmax\] axis 0 is out of range for a tensor with 0 dimensions"):
        op.log_softmax(1.0, 0)
    with pytest.raises(ShapeError, match=r"\[layer_norm\] weight has shape \(5,\); expected \(6,\)"):
        op.layer_norm(x, op.tensor((5,)))
    with pytest.raises(ShapeError, match=r"\[layer_norm\] bias has shape \(5,\); expected \(6,\)"):
        op.layer_norm(x, bias=op.tensor((5,)))
    with pytest.raises(ArgumentError, match=r"\[layer_norm\] axes is empty"):
        op.layer_norm(x, axes=())
    with pytest.raises(ArgumentError, match=r"\[rms_norm\] call rms_norm\(x, weight\)"):
        op.rms_norm()
    with pytest.raises(ArgumentError, match=r"\[rms_norm\] takes 1 to 2 operands, got 3"):
        op.build("rms_norm", x, x, x, axes=[1], eps=0.0)
    with pytest.raises(ShapeError, match=r"\[group_norm\] x has shape \(6,\)"):
        op.group_norm(op.tensor((6,)), 2)
    with pytest.raises(ShapeError, match=r"\[group_norm\] the 6 channels of x \(2, 6\) do not split into 4 groups"):
        op.group_norm(x, 4)
    with pytest.raises(ShapeError, match=r"\[group_norm\] weight has shape \(2,\); expected \(6,\)"):
        op.group_norm(x, 3, op.tensor((2,)))
    with pytest.raises(DTypeError, match=r"\[softmax\] operand 0 has dtype i32"):
        op.build("softmax", op.tensor((2, 3), "i32"), axis=1)
