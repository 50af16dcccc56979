"""scaled_dot_product_attention against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tessera import op
from tessera.errors import ArgumentError, DTypeError, ShapeError

from tests.ops.against_torch import check, draw, run

Q, K, V = (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7)


def arrays(q: tuple[int, ...] = Q, k: tuple[int, ...] = K, v: tuple[int, ...] = V) -> list[np.ndarray]:
    """Queries, keys and values."""
    return [draw(*q, seed=1), draw(*k, seed=2), draw(*v, seed=3)]


def theirs(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """PyTorch's, by its plain implementation, which can be differentiated twice."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, **options)


ours = op.scaled_dot_product_attention


def test_plain() -> None:
    check(ours, theirs, arrays(), second=True)
    check(ours, theirs, arrays((4, 5), (6, 5), (6, 7)))
    check(lambda q, k, v: ours(q, k, v, scale=0.3), lambda q, k, v: theirs(q, k, v, scale=0.3), arrays())


@pytest.mark.parametrize("length", [4, 6, 9, 1])
def test_causal(length: int) -> None:
    q = (2, 3, length, 5)
    check(
        lambda q, k, v: ours(q, k, v, causal=True),
        lambda q, k, v: theirs(q, k, v, is_causal=True),
        arrays(q),
        second=True,
    )


@pytest.mark.parametrize("shape", [(4, 6), (6,), (2, 1, 4, 6), (3, 1, 6), (2, 3, 4, 6)])
def test_bool_mask(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.6
    full = torch.from_numpy(np.broadcast_to(mask, (2, 3, 4, 6)).copy())
    check(lambda q, k, v: ours(q, k, v, mask), lambda q, k, v: theirs(q, k, v, attn_mask=full), arrays(), second=True)


def test_added_mask_has_a_gradient() -> None:
    check(ours, lambda q, k, v, m: theirs(q, k, v, attn_mask=m), [*arrays(), draw(4, 6)], second=True)


def test_row_that_attends_to_nothing_gives_zeros() -> None:
    mask = np.ones((4, 6), bool)
    mask[2] = False
    check(
        lambda q, k, v: ours(q, k, v, mask), lambda q, k, v: theirs(q, k, v, attn_mask=torch.from_numpy(mask)), arrays()
    )


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_heads(shared: int, masked: bool) -> None:
    mask = np.random.default_rng(0).random((2, 4, 4, 6)) < 0.7
    options = {"attn_mask": torch.from_numpy(mask)} if masked else {"is_causal": True}
    check(
        lambda q, k, v: ours(q, k, v, mask if masked else None, causal=not masked),
        lambda q, k, v: theirs(q, k, v, enable_gqa=True, **options),
        arrays((2, 4, 4, 5), (2, shared, 6, 5), (2, shared, 6, 7)), second=True,
    )


def test_mask_without_heads_with_grouped_heads() -> None:
    mask = np.random.default_rng(0).random((2, 1, 4, 6)) < 0.7
    check(
        lambda q, k, v: ours(q, k, v, mask),
        lambda q, k, v: theirs(q, k, v, enable_gqa=True, attn_mask=torch.from_numpy(mask).expand(2, 4, 4, 6)),
        arrays((2, 4, 4, 5), (2, 2, 6, 5), (2, 2, 6, 7)),
    )


def test_no_keys() -> None:
    q, k = op.tensor((2, 3, 5), "f64", name="x0"), op.tensor((2, 0, 5), "f64", name="x1")
    found = run([ours(q, k, k)], {"x0": draw(2, 3, 5), "x1": draw(2, 0, 5)})[0]
    np.testing.assert_array_equal(found, np.zeros((2, 3, 5)))


def test_symbolic_lengths() -> None:
    leaves = [op.tensor(("B", 2, length, 5), "f64", name=f"x{i}") for i, length in enumerate("TSS")]
    values = arrays((2, 2, 4, 5), (2, 2, 6, 5), (2, 2, 6, 5))
    found = run([ours(*leaves, causal=True)], {f"x{i}": a for i, a in enumerate(values)})[0]
    expected = theirs(*(torch.from_numpy(a) for a in values), is_causal=True)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_computed_in_f32(dtype: str) -> None:
    leaves = [op.tensor(s, dtype, name=f"x{i}") for i, s in enumerate((Q, K, V))]
    values = [a.astype(leaves[0].dtype.numpy) for a in arrays()]
    expected = theirs(*(torch.from_numpy(a.astype(np.float64)) for a in values)).numpy()
    found = run([ours(*leaves)], {f"x{i}": a for i, a in enumerate(values)})[0]
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=4e-3, atol=1e-4)


@pytest.mark.parametrize(("shapes", "message"), [
    (((3, 4), (5, 6), (5, 6)), r"the last dimension of q \(4\) must equal that of k \(6\)"),
    (((3, 4), (5, 4), (6, 4)), "k has 5 positions and v has 6; they must be equal"),
    (((4,), (5, 4), (5, 4)), r"q has shape \(4,\); expected \(…, heads, length, size\)"),
    (((4, 3, 2), (3, 3, 2), (3, 3, 2)), "q has 4 heads and k 3; they must be equal, or the heads of q a multiple"),
    (((4, 3, 2), (2, 3, 2), (4, 3, 2)), "k and v must have equally many heads"),
    (((2, 1, 3, 2), (3, 1, 3, 2), (3, 1, 3, 2)), "do not broadcast"),
])
def test_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ShapeError, match=r"\[scaled_dot_product_attention\] (.|\n)*" + message):
        ours(*(op.tensor(s) for s in shapes))


def test_errors_of_mask_and_scale() -> None:
    x = op.tensor((3, 4))
    with pytest.raises(ShapeError, match=r"mask has shape \(2, 3, 3\); it must broadcast to the scores \(3, 3\)"):
        ours(x, x, x, op.tensor((2, 3, 3), "bool"))
    with pytest.raises(DTypeError, match="mask has dtype i64; expected bool"):
        ours(x, x, x, op.tensor((3, 3), "i64"))
    with pytest.raises(DTypeError, match=r"mask has dtype f64; expected bool \(true: attend\) or f32"):
        op.build("scaled_dot_product_attention", x, x, x, op.tensor((3, 3), "f64"), causal=False, scale=1.0)
    y = op.tensor((3, "E"))
    with pytest.raises(ArgumentError, match=r"the size of a head is symbolic \(E\); give scale"):
        ours(y, y, y)
