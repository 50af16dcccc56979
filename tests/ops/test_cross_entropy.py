"""cross_entropy and nll_loss against PyTorch, and what their graphs consist of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tessera import op
from tessera.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from tessera.ir.graph import Graph
from tessera.transform.autodiff import gradients
from tessera.transform.decompose import decompose
from tessera.transform.simplify import simplify

from tests.ops.against_torch import check, draw, inputs, run

REDUCTIONS = ["mean", "sum", "none"]


def labels(shape: tuple[int, ...], classes: int, ignore: int | None = None) -> np.ndarray:
    """Labels, some of them ignored."""
    random = np.random.default_rng(3)
    found = random.integers(0, classes, shape)
    return found if ignore is None else np.where(random.random(shape) < 0.4, ignore, found)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignore", [-100, 2])
def test_index_labels(reduction: str, smoothing: float, ignore: int) -> None:
    y = labels((6,), 5, ignore)
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignore}

    def ours(x: Any, w: Any = None) -> Any:
        return op.cross_entropy(x, y, w, **how)

    check(ours, lambda x: F.cross_entropy(x, torch.from_numpy(y), **how), [draw(6, 5, low=-6, high=6)], second=True)
    weight = draw(5, low=0.2, high=2.0)
    check(
        lambda x: ours(x, weight), lambda x: F.cross_entropy(x, torch.from_numpy(y), torch.from_numpy(weight), **how),
        [draw(6, 5)], second=True,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_soft_labels(reduction: str, smoothing: float) -> None:
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    arrays = [draw(6, 5), np.random.default_rng(0).dirichlet(np.ones(5), 6)]
    check(lambda x, t: op.cross_entropy(x, t, **how), lambda x, t: F.cross_entropy(x, t, **how), arrays, second=True)
    weight = draw(5, low=0.2, high=2.0)
    check(
        lambda x, t: op.cross_entropy(x, t, weight, **how),
        lambda x, t: F.cross_entropy(x, t, torch.from_numpy(weight), **how), arrays, second=True,
    )


def weighted(x: Any, y: np.ndarray, w: Any, smoothing: float) -> Any:
    """PyTorch's definition of the weighted mean, written out: its own has no gradient of the weight."""
    log_p, index = F.log_softmax(x, -1), torch.from_numpy(np.where(y < 0, 0, y))
    valid = torch.from_numpy(y >= 0)
    rows = (
        -log_p.gather(1, index[:, None])[:, 0] * w[index] * (1 - smoothing)
        - (log_p * w).sum(1) * smoothing / x.shape[1]
    )
    return (rows * valid).sum() / (w[index] * valid).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_of_the_class_weight(smoothing: float) -> None:
    y = labels((6,), 5, -100)
    arrays = [draw(6, 5), draw(5, low=0.2, high=2.0)]
    check(
        lambda x, w: op.cross_entropy(x, y, w, label_smoothing=smoothing),
        lambda x, w: weighted(x, y, w, smoothing),
        arrays,
        second=True,
    )


def test_class_axis() -> None:
    y = labels((2, 4, 3), 5, -100)
    torch_y = torch.from_numpy(y)
    check(lambda x: op.cross_entropy(x, y, axis=1), lambda x: F.cross_entropy(x, torch_y), [draw(2, 5, 4, 3)])
    check(lambda x: op.cross_entropy(x, y), lambda x: F.cross_entropy(x.movedim(-1, 1), torch_y), [draw(2, 4, 3, 5)])
    soft = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3)).transpose(0, 2, 1).copy()
    check(lambda x, t: op.cross_entropy(x, t, axis=1), F.cross_entropy, [draw(2, 5, 3), soft])


def test_one_row_without_a_batch() -> None:
    check(lambda x: op.cross_entropy(x, 2), lambda x: F.cross_entropy(x, torch.tensor(2)), [draw(5)])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_everything_ignored(reduction: str) -> None:
    y = np.full(3, -100)
    check(
        lambda x: op.cross_entropy(x, y, reduction=reduction),
        lambda x: F.cross_entropy(x, torch.from_numpy(y), reduction=reduction),
        [draw(3, 4)],
        gradient=reduction != "mean",
    )


def test_empty_batch() -> None:
    y = np.zeros(0, np.int64)
    check(lambda x: op.cross_entropy(x, y), lambda x: F.cross_entropy(x, torch.from_numpy(y)), [draw(0, 3)])


def test_extreme_logits() -> None:
    x = np.array([[1e4, -1e4, 0.0], [-np.inf, 0.0, 1.0], [0.0, np.nan, 1.0], [np.inf, 0.0, 0.0], [0.0, -np.inf, 0.0]])
    y = np.array([1, 1, 0, 1, 1])
    check(
        lambda x: op.cross_entropy(x, y, reduction="none"),
        lambda x: F.cross_entropy(x, torch.from_numpy(y), reduction="none"),
        [x],
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_label_dtypes(dtype: str) -> None:
    y = labels((4,), 3).astype(dtype)
    check(
        lambda x: op.cross_entropy(x, y),
        lambda x: F.cross_entropy(x, torch.from_numpy(y.astype(np.int64))),
        [draw(4, 3)],
    )


@pytest.mark.parametrize("bad", [-1, 3, 2**40])
def test_label_out_of_range(bad: int) -> None:
    x, y = op.tensor((4, 3), name="x0"), op.tensor((4,), "i64", name="x1")
    with pytest.raises(IndexRangeError, match="label"):
        run([op.cross_entropy(x, y)], {"x0": np.zeros((4, 3), np.float32), "x1": np.array([0, 1, bad, -100])})


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_computed_in_f32(dtype: str) -> None:
    x = op.tensor((8, 2000), dtype, name="x0")
    y = labels((8,), 2000)
    loss = op.cross_entropy(x, y)
    a = draw(8, 2000).astype(x.dtype.numpy)
    t = torch.from_numpy(a.astype(np.float64)).requires_grad_()
    expected = F.cross_entropy(t, torch.from_numpy(y))
    expected.backward()
    found, slope = run([loss, *gradients([loss], [x])], {"x0": a})
    assert found.dtype == slope.dtype == a.dtype and t.grad is not None
    np.testing.assert_allclose(float(found), float(expected.detach()), rtol=4e-3)
    np.testing.assert_allclose(slope.astype(np.float64), t.grad.numpy(), rtol=4e-3, atol=1e-7)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [False, True])
def test_nll_loss(reduction: str, weights: bool) -> None:
    y, w = labels((6,), 5, -100), draw(5, low=0.2, high=2.0) if weights else None
    check(
        lambda x: op.nll_loss(x, y, w, reduction=reduction),
        lambda x: F.nll_loss(x, torch.from_numpy(y), None if w is None else torch.from_numpy(w), reduction=reduction),
        [draw(6, 5)],
    )
    check(
        lambda x: op.nll_loss(x, y[:2, None].repeat(3, 1), axis=1),
        lambda x: F.nll_loss(x, torch.from_numpy(y[:2, None].repeat(3, 1))),
        [draw(2, 5, 3)],
    )


def test_nll_loss_gradient_of_the_weight() -> None:
    y = labels((6,), 5, -100)
    index, valid = torch.from_numpy(np.where(y < 0, 0, y)), torch.from_numpy(y >= 0)

    def theirs(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rows = -x.gather(1, index[:, None])[:, 0] * w[index] * valid
        return rows.sum() / (w[index] * valid).sum()

    check(lambda x, w: op.nll_loss(x, y, w), theirs, [draw(6, 5), draw(5, low=0.2, high=2.0)], second=True)


X = op.tensor((4, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (X, op.tensor((3,), "i64")),
            {},
            ShapeError,
            r"\[cross_entropy\] the scores have shape \(4, 3\) and the labels \(3,\); expected labels \(4,\)",
        ),
        ((X, op.tensor((4, 3), "i64")), {}, ShapeError, "soft labels are floats: cast them"),
        (
            (X, op.tensor((4,), "f32")),
            {},
            ShapeError,
            "soft labels need the shape of the logits, index labels an integer dtype",
        ),
        ((X, op.tensor((4,), "bool")), {}, DTypeError, "labels have dtype bool; expected an integer dtype"),
        (
            (X, op.tensor((4,), "i64"), op.tensor((4,))),
            {},
            ShapeError,
            r"weight has shape \(4,\); expected \(3,\), one per class",
        ),
        (
            (X, op.tensor((4,), "i64")),
            {"reduction": "avg"},
            ArgumentError,
            'reduction is \'avg\'; use "mean", "sum" or "none"',
        ),
        (
            (X, op.tensor((4,), "i64")),
            {"label_smoothing": 1.5},
            ArgumentError,
            r"label_smoothing is 1.5; it must be in \[0, 1\]",
        ),
        ((X, op.tensor((4,), "i64")), {"axis": 2}, ArgumentError, r"\[cross_entropy\] axis 2 is out of range"),
        ((op.tensor(()), op.tensor((), "i64")), {}, ShapeError, "the scores are a scalar"),
        ((op.tensor((4, 0)), op.tensor((4,), "i64")), {}, ShapeError, "there are no classes along axis 1"),
        ((op.tensor((4, 0)), op.tensor((4, 0))), {}, ShapeError, "there are no classes along axis 1"),
    ],
)
def test_errors(arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        op.cross_entropy(*arguments, **options)


def test_nll_loss_of_float_labels() -> None:
    with pytest.raises(DTypeError, match=r"\[nll_loss\] labels have dtype f32"):
        op.nll_loss(X, op.tensor((4,)))


@pytest.mark.parametrize("batch", [256, "B"])
def test_step_consists_of_pointwise_work_and_row_sums(batch: int | str) -> None:
    """A step of an MLP: no one-hot product, gather or scatter; forward and gradient of the loss share their rows."""
    x, y = op.tensor((batch, 784)), op.tensor((batch,), "i64")
    model = op.mlp(784, [512, 512], 10, dtype="f32")
    loss = op.cross_entropy(model(x), y)
    found = gradients([loss], [p.leaf() for p in model.parameters()])
    graph = simplify(decompose(Graph({"loss": loss, **{str(i): g for i, g in enumerate(found)}})))
    counts = Counter(n.op for n in graph.nodes())
    assert counts["matmul"] == 8 and counts["exp"] == counts["log"] == counts["max"] == counts["check_range"] == 1
    assert counts["sum"] == 7  # 3 biases; exponentials and label of a row; rows of the batch; labels that count
    assert not {"take", "take_along_axis", "index_add", "scatter_add", "broadcast_to", "stop_gradient"} & set(counts)
    classes = [n for n in graph.nodes() if n.types[0].shape == (x.shape[0], 10)]
    assert len(classes) <= 11, [n.op for n in classes]


def test_step_equals_pytorch() -> None:
    y = labels((16,), 4, -100)
    model = op.mlp(6, [8, 8], 4, dtype="f64")
    values = [p.value for p in model.parameters()]

    def theirs(x: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        for i in (0, 2):
            x = torch.relu(x @ w[i] + w[i + 1])
        return F.cross_entropy(x @ w[4] + w[5], torch.from_numpy(y))

    arrays = [draw(16, 6), *values]
    leaves, feeds = inputs(arrays[:1])
    loss = op.cross_entropy(model(leaves[0]), y)
    tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    expected = theirs(*tensors)
    expected.backward()
    found = run([loss, *gradients([loss], [leaves[0], *(p.leaf() for p in model.parameters())])], feeds)
    np.testing.assert_allclose(found[0], expected.detach().numpy(), rtol=1e-12)
    for a, t in zip(found[1:], tensors, strict=True):
        assert t.grad is not None
        np.testing.assert_allclose(a, t.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_weight_takes_the_dtype_of_the_logits() -> None:
    weight = np.ones(3)
    assert str(op.cross_entropy(X, op.tensor((4,), "i64"), weight).dtype) == "f32"
    assert str(op.cross_entropy(X, op.tensor((4, 3)), weight).dtype) == "f32"
