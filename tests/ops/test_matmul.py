"""matmul, dot, outer, scaled_matmul and linear against NumPy and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tessera import graph, op
from tessera.errors import DTypeError, ShapeError
from tessera.ir.dtype import as_dtype

from tests.ops.against_torch import check, draw, inputs, run

SHAPES = [
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (4, 5)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((3, 4), (2, 4, 5)),
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
    ((2, 0, 3), (3, 2)),
    ((1, 1), (1, 1)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check(op.matmul, torch.matmul, [draw(*a), draw(*b, seed=1)], second=True)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8"])
def test_integers_wrap_as_in_numpy(dtype: str) -> None:
    a, b = (np.random.default_rng(s).integers(0, 100, (5, 5)).astype(dtype) for s in (0, 1))
    (x, y), feeds = inputs([a, b])
    np.testing.assert_array_equal(run([x @ y], feeds)[0], a @ b)


def test_half_precision_accumulates_in_f32() -> None:
    for dtype in ("bf16", "f16"):
        ones = op.full((1, 4096), 1.0, dtype) @ op.full((4096, 1), 1.0, dtype)
        assert float(run([ones], {})[0][0, 0]) == 4096.0


def test_operands_are_promoted() -> None:
    x, y = op.tensor((2, 3), "bf16"), op.tensor((3, 2), "f32")
    assert str((x @ y).dtype) == "f32" and str(op.matmul(x, np.ones((3, 2), np.int8)).dtype) == "bf16"


def test_nan_and_infinity_propagate() -> None:
    (x, y), feeds = inputs([np.array([[np.inf, 0.0]]), np.array([[0.0], [1.0]])])
    assert np.isnan(run([x @ y], feeds)[0]).all()


def test_symbolic_batch_and_rows() -> None:
    x, w = op.tensor(("B", "T", 4), "f64", name="x0"), op.tensor((4, 5), "f64", name="x1")
    a, b = draw(2, 3, 4), draw(4, 5)
    y = op.matmul(x, w)
    assert str(y.type) == "f64[B, T, 5]"
    np.testing.assert_allclose(run([y], {"x0": a, "x1": b})[0], a @ b)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            (2, 3),
            (4, 5),
            r"\[matmul\] a has shape \(2, 3\) and b has shape \(4, 5\): the last dimension of a \(3\) must equal "
            r"the second-last of b \(4\)",
        ),
        ((3,), (4,), r"\[matmul\] .* the last dimension of a \(3\) must equal the length of b \(4\)"),
        ((), (4,), r"\[matmul\] a is a scalar"),
        ((4,), (), r"\[matmul\] b is a scalar"),
        (
            (2, 3, 4),
            (3, 4, 5),
            r"\[matmul\] operand 0 with shape \(2,\) and operand 1 with shape \(3,\) do not broadcast",
        ),
    ],
)
def test_shapes_that_do_not_fit(a: tuple[int, ...], b: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.matmul(op.tensor(a), op.tensor(b))


def test_primitive_states_its_rank_and_dtypes() -> None:
    with pytest.raises(ShapeError, match="needs at least two dimensions each"):
        op.build("matmul", op.tensor((3,)), op.tensor((3, 2)))
    with pytest.raises(DTypeError, match=r"\[matmul\] operand 1 has dtype f64"):
        op.build("matmul", op.tensor((3, 3)), op.tensor((3, 2), "f64"))
    with pytest.raises(DTypeError, match=r"\[matmul\] both operands are bool"):
        op.matmul(op.tensor((2, 2), "bool"), op.tensor((2, 2), "bool"))


def test_primitive_gradient_of_a_shared_right_operand() -> None:
    check(lambda a, b: op.build("matmul", a, b), torch.matmul, [draw(2, 3, 4), draw(4, 5)])


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (2, 4, 5)), ((4,), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((4,), (4,)), ((), (3,)), ((2, 4), (4,))]
)
def test_dot(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = draw(*a), draw(*b, seed=1)
    leaves, feeds = inputs([x, y])
    np.testing.assert_allclose(run([op.dot(*leaves)], feeds)[0], np.dot(x, y), rtol=1e-12)


def test_dot_error() -> None:
    with pytest.raises(ShapeError, match=r"\[dot\] a has shape \(3, 4\) and b has shape \(2, 5, 6\)"):
        op.dot(op.tensor((3, 4)), op.tensor((2, 5, 6)))


def test_outer() -> None:
    check(lambda a, b: op.outer(a, b), lambda a, b: torch.outer(a.flatten(), b), [draw(2, 3), draw(4)])


@pytest.mark.parametrize(("kinds", "batch", "scales", "out"), [
    (("f8e4m3", "f8e4m3"), (), ((), ()), "bf16"), (("f8e4m3", "f8e5m2"), (2,), ((5, 1), (1, 3)), "f32"),
    (("f8e5m2", "f8e4m3"), (), ((5, 1), ()), "f16"),
])
def test_scaled_matmul(kinds: tuple[str, str], batch: tuple[int, ...], scales: tuple[Any, Any], out: str) -> None:
    kinds_of = {"f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2}
    shapes = ((*batch, 5, 40), (*batch, 40, 3))
    a, b = (torch.tensor(draw(*s, seed=len(k))).to(kinds_of[k]) for s, k in zip(shapes, kinds))
    s, t = (np.abs(draw(*shape, seed=7)).astype(np.float32) + 0.5 for shape in scales)
    right = (a.double() @ b.double()) * torch.tensor(s) * torch.tensor(t)
    given = [x.float().numpy().astype(as_dtype(k).numpy) for x, k in zip((a, b), kinds)]
    x, y = (op.tensor(g.shape, k, name=n) for g, k, n in zip(given, kinds, "xy"))
    p, q = (op.tensor(v.shape, "f32", name=n) for v, n in zip((s, t), "pq"))
    z = op.scaled_matmul(x, y, p, q, out_dtype=out)
    assert z.dtype.name == out
    for target in ("cpu", "portable"):
        found = np.asarray(graph.compile(z, target=target)(x=given[0], y=given[1], p=s, q=t)).astype(np.float64)
        np.testing.assert_allclose(found, right.numpy(), rtol={"f32": 1e-5, "f16": 1e-3, "bf16": 8e-3}[out], atol=1e-4)


def test_scaled_matmul_gradients_have_the_operands_dtypes() -> None:
    x, y, s = op.tensor((4, 8), "f8e4m3"), op.tensor((8, 2), "f8e5m2"), op.tensor((), "f32")
    z = op.sum(op.scaled_matmul(x, y, s, out_dtype="f32"))
    assert [g.dtype.name for g in graph.backward(z, [x, y, s])] == ["f8e4m3", "f8e5m2", "f32"]


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"a": "bf16"}, DTypeError, r"a is bf16; expected f8e4m3 or f8e5m2: divide it by a scale and cast it"),
    ({"b": "f32"}, DTypeError, r"b is f32; expected f8e4m3 or f8e5m2"),
    ({"out_dtype": "i32"}, DTypeError, r"out_dtype is i32; expected f64, f32, bf16 or f16"),
    ({"scale_a": ((4, 1), "bf16")}, DTypeError, r"scale_a is bf16; expected f32"),
    ({"scale_b": ((8, 1), "f32")}, ShapeError, r"scale_b has shape \(8, 1\).*\(4, 2\); expected .* per column of b"),
    ({"scale_a": ((3, 4, 1), "f32")}, ShapeError, r"scale_a has shape \(3, 4, 1\).* per row of a"),
])
def test_scaled_matmul_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    a, b = op.tensor((4, 8), arguments.pop("a", "f8e4m3")), op.tensor((8, 2), arguments.pop("b", "f8e4m3"))
    more = {k: v if isinstance(v, str) else op.tensor(*v) for k, v in arguments.items()}
    with pytest.raises(error, match=r"\[scaled_matmul\] " + message):
        op.scaled_matmul(a, b, **more)


@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 3, 4), (0, 4)])
def test_linear(shape: tuple[int, ...]) -> None:
    arrays = [draw(*shape), draw(4, 5), draw(5)]
    check(op.linear, lambda x, w, b: x @ w + b, arrays, second=True)
    check(op.linear, lambda x, w: x @ w, arrays[:2])


@pytest.mark.parametrize(("shapes", "message"), [
    (((2, 3), (4, 5)), r"the last dimension of x \(3\) must equal the first of w \(4\)"),
    (((2, 3), (3,)), r"expected x \(…, in\) and w \(in, out\)"),
    (((2, 3), (3, 5), (4,)), r"b has shape \(4,\); expected \(5,\)"),
])
def test_linear_errors(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.linear(*(op.tensor(s) for s in shapes))


def test_linear_of_integers() -> None:
    with pytest.raises(DTypeError, match=r"\[linear\] operand 0 has dtype i64"):
        op.linear(op.tensor((2, 3), "i64"), op.tensor((3, 3), "i64"))
