"""grouped_matmul against PyTorch, one product per group: sizes of every kind, gradients, errors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from tessera import graph, op
from tessera.errors import DTypeError, IndexRangeError, ShapeError
from tessera.ir.dtype import as_dtype

from tests.ops.against_torch import draw

TORCH = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOLERANCE = {"f64": 1e-12, "f32": 2e-5, "bf16": 2e-2, "f16": 3e-3}


def right(x: np.ndarray, w: np.ndarray, sizes: list[int], c: np.ndarray) -> dict[str, np.ndarray]:
    """The result and the gradients of sum(result * c), in f64, group by group."""
    a, b = (torch.tensor(v.astype(np.float64), requires_grad=True) for v in (x, w))
    parts = [p @ m for p, m in zip(torch.split(a[: sum(sizes)], sizes), b)]
    y = torch.cat([*parts, torch.zeros(len(x) - sum(sizes), w.shape[2], dtype=torch.float64)])
    (y * torch.tensor(c.astype(np.float64))).sum().backward()
    zero = np.zeros_like
    return {"y": y.detach().numpy(), "dx": zero(x, np.float64) if a.grad is None else a.grad.numpy(),
            "dw": zero(w, np.float64) if b.grad is None else b.grad.numpy()}


def with_gradients(x: Any, w: Any, sizes: Any) -> dict[str, Any]:
    y = op.grouped_matmul(x, w, sizes)
    c = op.tensor(y.shape, y.dtype, name="c")
    dx, dw = graph.backward(op.sum(y * c), [x, w])
    return {"y": y, "dx": dx, "dw": dw}


def agree(found: dict[str, Any], expected: dict[str, np.ndarray], dtype: str) -> None:
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        got = np.asarray(found[name]).astype(np.float64)
        np.testing.assert_allclose(got, value, atol=TOLERANCE[dtype] * scale, rtol=0, err_msg=name)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("rows", "sizes", "k", "n"), [
    (12, [5, 0, 7], 4, 6), (12, [0, 0, 12], 4, 6), (12, [12, 0, 0], 3, 1), (10, [1, 2, 3], 5, 2), (6, [0, 0, 0], 2, 2),
    (9, [9], 4, 3), (3, [0, 1, 0, 1, 0, 1, 0], 2, 5), (700, [333, 1, 0, 301], 33, 18),
])
def test_values_and_gradients(dtype: str, rows: int, sizes: list[int], k: int, n: int) -> None:
    kind = as_dtype(dtype)
    x, w = op.tensor((rows, k), kind, name="x"), op.tensor((len(sizes), k, n), kind, name="w")
    given = op.tensor((len(sizes),), "i32", name="sizes")
    a, b, c = (draw(*s, seed=i).astype(kind.numpy) for i, s in enumerate((x.shape, w.shape, (rows, n))))
    program = graph.compile(with_gradients(x, w, given), target="cpu")
    agree(program(x=a, w=b, sizes=np.array(sizes, np.int32), c=c), right(a, b, sizes, c), dtype)


def test_any_number_of_rows() -> None:
    """One program, from no row at all."""
    rows = op.dim("N", min=0, max=5000)
    x, w, sizes = op.tensor((rows, 8), name="x"), op.tensor((3, 8, 4), name="w"), op.tensor((3,), "i64", name="sizes")
    outputs = with_gradients(x, w, sizes)
    b = draw(3, 8, 4).astype(np.float32)
    for target in ("cpu", "portable"):
        program = graph.compile(outputs, target=target)
        for split in ([0, 0, 0], [1, 0, 0], [0, 3, 2], [400, 5, 1200]):
            n = sum(split)
            a, c = draw(n, 8, seed=1).astype(np.float32), draw(n, 4, seed=2).astype(np.float32)
            found = program(x=a, w=b, sizes=np.array(split), c=c)
            agree(found, right(a, b, split, c), "f32")


def test_values_of_other_groups_do_not_leak() -> None:
    """NaN and infinity stay in their group, in the result and in the gradients."""
    x, w, sizes = op.tensor((6, 2), name="x"), op.tensor((3, 2, 2), name="w"), op.tensor((3,), "i64", name="sizes")
    program = graph.compile(with_gradients(x, w, sizes), target="cpu")
    a, b = np.ones((6, 2), np.float32), np.ones((3, 2, 2), np.float32)
    a[2:4], b[1], a[5] = np.nan, np.inf, np.nan
    given = program(x=a, w=b, sizes=np.array([2, 2, 1]), c=np.ones((6, 2), np.float32))
    found = {name: np.asarray(value) for name, value in given.items()}
    assert np.isfinite(found["y"][[0, 1, 4, 5]]).all() and np.isnan(found["y"][2:4]).all()
    assert (found["y"][5] == 0).all() and (found["dx"][5] == 0).all()
    assert np.isfinite(found["dw"][[0, 2]]).all() and np.isnan(found["dw"][1]).all()


def test_dtypes_are_promoted() -> None:
    y = op.grouped_matmul(op.tensor((4, 2), "i32"), op.tensor((2, 2, 3), "bf16"), op.tensor((2,), "u8"))
    assert y.dtype.name == "bf16" and y.shape == (4, 3)


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize(("sizes", "message"), [
    ([3, -1], "rows of a group at position [1] is -1; expected 0 to 5"),
    ([2, 4], "rows of this group and those before at position [1] is 6; expected 0 to 5"),
    ([2**62, 2**62], "rows of a group at position [0] is 4611686018427387904; expected 0 to 5"),
])
def test_sizes_that_do_not_fit_fail_the_run(target: str, sizes: list[int], message: str) -> None:
    given = op.tensor((2,), "i64", name="sizes")
    program = graph.compile(op.grouped_matmul(op.ones((5, 2)), op.ones((2, 2, 3)), given), target=target)
    with pytest.raises(IndexRangeError, match=r"grouped_matmul: " + re.escape(message)):
        program(sizes=np.array(sizes))


@pytest.mark.parametrize(("x", "w", "sizes", "message"), [
    ((4,), (2, 4, 3), (2,), r"x has shape \(4,\) and w has shape \(2, 4, 3\); expected x \(rows, in\) and w \(groups"),
    ((5, 4), (4, 3), (2,), r"expected x \(rows, in\) and w \(groups, in, out\)"),
    ((5, 4), (2, 3, 3), (2,), r"the last dimension of x \(4\) must equal the second of w \(3\)"),
    ((5, 4), (2, 4, 3), (3,), r"group_sizes has shape \(3,\); expected \(2,\), one per group of w"),
    ((5, 4), (0, 4, 3), (0,), r"w has shape \(0, 4, 3\); expected at least one group"),
])
def test_shapes_that_do_not_fit(x: tuple[int, ...], w: tuple[int, ...], sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=r"\[grouped_matmul\] .*" + message):
        op.grouped_matmul(op.tensor(x), op.tensor(w), op.tensor(sizes, "i64"))


def test_sizes_are_integers() -> None:
    with pytest.raises(DTypeError, match=r"\[grouped_matmul\] group_sizes have dtype f32; expected an integer dtype"):
        op.grouped_matmul(op.tensor((5, 4)), op.tensor((2, 4, 3)), op.tensor((2,)))
