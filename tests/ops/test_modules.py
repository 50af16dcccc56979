"""Modules: mlp, linear, embedding, layer_norm and rms_norm with named parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tessera import op
from tessera.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from tessera.ir.graph import Graph
from tessera.transform.autodiff import gradients

from tests.ops.against_torch import check, draw, run


def names(module: object) -> list[str]:
    """The names of a module's parameters."""
    return [p.name for p in module.parameters()]  # type: ignore[attr-defined]


def test_guide_sample() -> None:
    x = op.tensor(("B", 16), dtype="bf16")
    y = op.mlp(in_dim=16, hidden=[32], out_dim=16)(x)
    assert str(y.type) == "bf16[B, 16]"
    assert all(p.dtype.name == "bf16" for p in Graph({"y": y}).params())


def test_mlp_parameters() -> None:
    model = op.mlp(4, [8, 6], 3, dtype="f32", name="net")
    assert names(model) == ["net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias", "net.2.weight", "net.2.bias"]
    assert [p.shape for p in model.parameters()] == [(4, 8), (8,), (8, 6), (6,), (6, 3), (3,)]
    assert names(op.mlp(4, [], 3, bias=False, dtype="f32", name="flat")) == ["flat.0.weight"]


def test_default_names_are_unique() -> None:
    first, second = op.mlp(2, [2], 2), op.mlp(2, [2], 2)
    assert first.name != second.name and all(m.name.startswith("mlp") for m in (first, second))


def test_parameters_are_shared_between_calls() -> None:
    model = op.mlp(4, [5], 2)
    y, z = model(op.tensor((3, 4))), model(op.tensor((7, 4)))
    assert set(Graph({"y": y}).params()) == set(Graph({"z": z}).params()) == {p.leaf() for p in model.parameters()}


def test_initial_values() -> None:
    model = op.mlp(300, [400], 10, dtype="f64", name="init.test")
    hidden, bias, last, _ = (p.value for p in model.parameters())
    assert abs(hidden.std() - (2 / 300) ** 0.5) < 2e-3 and not bias.any()
    assert np.abs(last).max() <= 400**-0.5


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "sigmoid"])
def test_mlp_equals_pytorch(activation: str) -> None:
    model = op.mlp(4, [5, 6], 3, activation=activation, dtype="f64")
    w = [torch.from_numpy(p.value) for p in model.parameters()]
    function = getattr(F, activation, None) or getattr(torch, activation)
    check(model, lambda x: function(function(x @ w[0] + w[1]) @ w[2] + w[3]) @ w[4] + w[5], [draw(2, 7, 4)])


def test_activation_as_a_function() -> None:
    model = op.mlp(4, [5], 3, activation=lambda x: x * 2, dtype="f64")
    w = [torch.from_numpy(p.value) for p in model.parameters()]
    check(model, lambda x: ((x @ w[0] + w[1]) * 2) @ w[2] + w[3], [draw(2, 4)])


def test_dropout_only_in_training() -> None:
    model = op.mlp(4, [5, 5], 3, dropout=0.5, dtype="f32")
    x = op.tensor((2, 4))

    def drops(y: object) -> int:
        return sum(n.op == "dropout" for n in Graph({"y": y}).nodes())  # type: ignore[dict-item]

    assert drops(model(x)) == 2 and drops(model(x, training=False)) == 0


def test_linear_in_both_forms() -> None:
    module = op.linear(in_dim=4, out_dim=3, dtype="f64", name="layer")
    assert names(module) == ["layer.weight", "layer.bias"] and repr(module) == "Linear('layer')"
    assert all(np.abs(p.value).max() <= 0.5 for p in module.parameters())
    w, b = (torch.from_numpy(p.value) for p in module.parameters())
    check(module, lambda x: x @ w + b, [draw(2, 4)])
    check(op.linear, lambda x, w, b: x @ w + b, [draw(2, 4), draw(4, 3), draw(3)])
    assert names(op.linear(4, 3, bias=False, dtype="f32", name="p")) == ["p.weight"]  # type: ignore[call-overload]
    assert (op.linear(in_dim=2, out_dim=2, init="ones", dtype="f32").parameters()[0].value == 1).all()


def test_embedding_in_both_forms() -> None:
    module = op.embedding(num=7, dim=3, dtype="f64")
    table = torch.from_numpy(module.parameters()[0].value)
    ids = np.array([[0, 6], [3, 3]])
    check(module, lambda i: F.embedding(i, table), [ids], gradient=False)
    check(op.embedding, lambda i, t: F.embedding(i, t), [ids, draw(7, 3)], second=True)
    assert op.embedding(7, 3).num == 7  # type: ignore[call-overload]
    assert str(op.embedding(op.tensor((2,), "u8"), op.tensor((4, 3))).type) == "f32[2, 3]"


@pytest.mark.parametrize("bad", [-1, 7])
def test_embedding_out_of_range(bad: int) -> None:
    y = op.embedding(op.tensor((2,), "i64", name="x0"), op.ones((7, 3)))
    with pytest.raises(IndexRangeError, match="embedding index"):
        run([y], {"x0": np.array([0, bad])})


def test_embedding_gradient_adds_up_repeated_ids() -> None:
    ids, table = op.tensor((3,), "i64", name="x0"), op.tensor((4, 2), "f64", name="x1")
    g = gradients([op.sum(op.embedding(ids, table))], [table])[0]
    found = run([g], {"x0": np.array([1, 1, 3]), "x1": np.zeros((4, 2))})[0]
    np.testing.assert_array_equal(found, [[0, 0], [2, 2], [0, 0], [1, 1]])


def test_norm_modules() -> None:
    layer, rms = op.layer_norm(dim=6, dtype="f64"), op.rms_norm(dim=(3, 6), dtype="f64")
    assert [p.shape for p in layer.parameters()] == [(6,), (6,)] and [p.shape for p in rms.parameters()] == [(3, 6)]
    check(layer, lambda x: F.layer_norm(x, (6,)), [draw(2, 6)], tolerance=1e-8)
    check(rms, lambda x: F.rms_norm(x, (3, 6), eps=1e-6), [draw(2, 3, 6)], tolerance=1e-8)
    assert names(op.layer_norm(dim=6, bias=False, dtype="f32", name="n")) == ["n.weight"]


def test_shape_and_dtype_errors() -> None:
    model = op.mlp(4, [5], 3, name="model")
    with pytest.raises(
        ShapeError, match=r"\[mlp\] 'model': x has shape \(2, 5\); its last dimension must be in_dim = 4"
    ):
        op.mlp(4, [5], 3, name="model")(op.tensor((2, 5)))
    with pytest.raises(
        DTypeError, match=r"\[mlp\] 'model' would have parameters of dtype i64; expected a float: cast the input"
    ):
        model(op.tensor((2, 4), "i64"))
    with pytest.raises(ArgumentError, match="'model' has no parameters yet"):
        model.parameters()
    with pytest.raises(ShapeError, match=r"\[mlp\] in_dim is D; parameters have fixed sizes: give an int"):
        op.mlp(op.dim("D"), [5], 3)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"\[mlp\] hidden\[0\] is 0; it must be at least 1"):
        op.mlp(4, [0], 3)
    with pytest.raises(ShapeError, match=r"\[layer_norm\] .* its last dimensions must be \(6,\)"):
        op.layer_norm(dim=6)(op.tensor((2, 5)))
    with pytest.raises(ShapeError, match=r"\[embedding\] the table has shape \(3,\); expected \(rows, size\)"):
        op.embedding(op.tensor((2,), "i64"), op.tensor((3,)))
    with pytest.raises(DTypeError, match=r"\[embedding\] ids have dtype f32; expected an integer dtype"):
        op.embedding(op.tensor((2,)), op.tensor((3, 2)))


def test_argument_errors() -> None:
    with pytest.raises(ArgumentError, match=r"\[mlp\] hidden is 8; it is a list of sizes: hidden=\[8\]"):
        op.mlp(4, 8, 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"\[mlp\] unknown activation 'rellu'; use a function or one of relu"):
        op.mlp(4, [8], 3, activation="rellu")
    with pytest.raises(ArgumentError, match=r"\[mlp\] dropout is 2; it must be in \[0, 1\]"):
        op.mlp(4, [8], 3, dropout=2)
    with pytest.raises(ArgumentError, match=r"\[linear\] a module needs both in_dim and out_dim"):
        op.linear(in_dim=4)  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match=r"\[linear\] call linear\(x, w, b\) on tensors"):
        op.linear(op.tensor((2, 4)))  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match=r"\[embedding\] a module needs both num and dim"):
        op.embedding(num=4)  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match=r"\[embedding\] call embedding\(ids, table\)"):
        op.embedding(op.tensor((2,), "i64"))  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match=r"\[layer_norm\] call layer_norm\(x, weight, bias\)"):
        op.layer_norm()


def test_a_parameter_is_an_operand() -> None:
    p = op.Parameter("operand", (4, 3), "f32")
    for y in (op.matmul(op.tensor((2, 4)), p), op.tensor((2, 4)) @ p, op.exp(p), 1.0 * op.transpose(p)):
        assert Graph({"y": y}).params() == [p.leaf()]


def test_a_size_alone_makes_a_module() -> None:
    x = op.tensor((2, 6))
    for module in (op.layer_norm(6), op.rms_norm(6), op.layer_norm(np.int64(6))):
        assert module(x).shape == (2, 6)
