"""Reverse mode on graphs: against PyTorch to the second order, and the rules of what is built and refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tessera import op
from tessera.errors import ArgumentError, DTypeError, GradientError, InternalError, ShapeError
from tessera.ir.graph import Graph, topological
from tessera.ir.provenance import Location, location
from tessera.ir.value import TensorType, Value
from tessera.ir.verify import verify
from tessera.op import opdef
from tessera.op.lowering import Composite, Pointwise, Portable
from tessera.op.opdef import OpDef, build, no_vjp
from tessera.op.reference import evaluate
from tessera.transform.autodiff import gradients
from tessera.transform.decompose import decompose
from tessera.transform.simplify import simplify

X, Y = (3, 4), (4, 5)

EXPRESSIONS: dict[str, tuple[Callable[..., Value], Callable[..., torch.Tensor]]] = {
    "polynomial": (lambda x, y: x * x * x - 2.0 * x, lambda x, y: x * x * x - 2.0 * x),
    "product": (lambda x, y: op.tanh(x @ y), lambda x, y: torch.tanh(x @ y)),
    "shared": (lambda x, y: (x @ y) * (x @ y) + op.sum(x), lambda x, y: (x @ y) * (x @ y) + x.sum()),
    "broadcast": (
        lambda x, y: x[:, :1] * y[0] + op.exp(y[:, :1].T) @ y,
        lambda x, y: x[:, :1] * y[0] + torch.exp(y[:, :1].T) @ y,
    ),
    "softmax": (lambda x, y: op.softmax(x, axis=-1) @ y, lambda x, y: torch.softmax(x, -1) @ y),
    "log_softmax": (lambda x, y: op.log_softmax(x @ y, axis=0), lambda x, y: torch.log_softmax(x @ y, 0)),
    "gelu": (lambda x, y: op.gelu(x) @ y, lambda x, y: torch.nn.functional.gelu(x) @ y),
    "silu": (lambda x, y: op.silu(x @ y), lambda x, y: torch.nn.functional.silu(x @ y)),
    "slices": (
        lambda x, y: op.concat([x[::2, 1:], y[1:3, :3]], axis=0) * x[1, 2],
        lambda x, y: torch.cat([x[::2, 1:], y[1:3, :3]], 0) * x[1, 2],
    ),
    "reductions": (
        lambda x, y: op.mean(x * x, axis=0) / (1.0 + op.sum(op.exp(y), axis=1)) + op.max(x, axis=0),
        lambda x, y: (x * x).mean(0) / (1.0 + torch.exp(y).sum(1)) + x.max(0).values,
    ),
    "where": (
        lambda x, y: op.where(x > 0.0, op.sqrt(op.abs(x) + 1.0), x * x * 3.0) @ y,
        lambda x, y: torch.where(x > 0.0, torch.sqrt(torch.abs(x) + 1.0), x * x * 3.0) @ y,
    ),
    "transposes": (
        lambda x, y: op.reshape(op.transpose(x @ y, (1, 0)), (3, 5)) * 2.0 / (1.0 + x[:, :1] ** 2.0),
        lambda x, y: (x @ y).T.reshape(3, 5) * 2.0 / (1.0 + x[:, :1] ** 2.0),
    ),
    "casts": (
        lambda x, y: op.cast(op.cast(x, "f32") * 2.0, "f64") @ y,
        lambda x, y: (x.to(torch.float32) * 2.0).to(torch.float64) @ y,
    ),
    "layer_norm": (
        lambda x, y: op.layer_norm(x, y[:, 0], y[:, 1]) @ y,
        lambda x, y: torch.nn.functional.layer_norm(x, (4,), y[:, 0], y[:, 1]) @ y,
    ),
    "gather": (
        lambda x, y: op.take(y, op.constant(np.array([3, 0, 3])), axis=0) * x[:, :1],
        lambda x, y: y[[3, 0, 3]] * x[:, :1],
    ),
}


def _evaluated(values: dict[str, Value], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    graph = Graph(values)
    verify(graph)
    feeds = {"x": x, "y": y}
    found = evaluate(graph, {v.node.attrs["name"]: feeds[v.node.attrs["name"]] for v in graph.inputs})
    compiled = simplify(decompose(graph))
    verify(compiled)
    again = evaluate(compiled, {v.node.attrs["name"]: feeds[v.node.attrs["name"]] for v in compiled.inputs})
    for name in found:
        np.testing.assert_allclose(again[name], found[name], rtol=1e-9, atol=1e-12)
    return found


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_first_and_second_order_match_pytorch(name: str) -> None:
    ours, theirs = EXPRESSIONS[name]
    rng = np.random.default_rng(7)
    x, y = rng.uniform(-1.5, 1.5, X), rng.uniform(-1.5, 1.5, Y)

    tx, ty = op.tensor(X, dtype="f64", name="x"), op.tensor(Y, dtype="f64", name="y")
    z = ours(tx, ty)
    first = gradients([op.sum(z * z)], [tx, ty])
    second = gradients([op.sum(first[0] * first[0]) + op.sum(first[1] * op.sin(first[1]))], [tx, ty])
    found = _evaluated({"dx": first[0], "dy": first[1], "ddx": second[0], "ddy": second[1]}, x, y)

    px, py = torch.tensor(x, requires_grad=True), torch.tensor(y, requires_grad=True)
    pz = theirs(px, py)
    pfirst = torch.autograd.grad((pz * pz).sum() + 0.0 * py.sum() + 0.0 * px.sum(), [px, py], create_graph=True)
    loss = (pfirst[0] * pfirst[0]).sum() + (pfirst[1] * torch.sin(pfirst[1])).sum() + 0.0 * px.sum() + 0.0 * py.sum()
    psecond = torch.autograd.grad(loss, [px, py])
    tolerance = 1e-4 if name == "casts" else 1e-9
    for key, expected in zip(("dx", "dy", "ddx", "ddy"), (*pfirst, *psecond)):
        np.testing.assert_allclose(
            found[key], expected.detach().numpy(), rtol=tolerance, atol=tolerance * 10, err_msg=f"{name} {key}"
        )


def test_third_order() -> None:
    x = op.tensor((), dtype="f64", name="x")
    d = op.sin(x)
    for _ in range(3):
        (d,) = gradients([d], [x])
    value = evaluate(Graph({"d": d}), {"x": np.float64(0.7)})["d"]
    np.testing.assert_allclose(value, -np.cos(0.7), rtol=1e-12)


def test_intermediate_values_and_repeated_targets() -> None:
    x = op.tensor((3,), dtype="f64", name="x")
    h = x * 2.0
    loss = op.sum(h * h + x)
    dx, dh, again = gradients([loss], [x, h, x])
    assert again is dx
    feeds = {"x": np.array([1.0, 2.0, 3.0])}
    found = evaluate(Graph({"dx": dx, "dh": dh}), feeds)
    np.testing.assert_allclose(found["dh"], 4 * feeds["x"])
    np.testing.assert_allclose(found["dx"], 8 * feeds["x"] + 1)
    assert gradients([loss], [loss])[0].shape == ()


def test_no_path_gives_zeros() -> None:
    x, w = op.tensor((3, 2), dtype="bf16", name="x"), op.tensor((5,), dtype="f32", name="w")
    (dw,) = gradients([op.sum(x)], [w])
    assert dw.node.op == "full" and dw.node.attrs["value"] == 0.0 and dw.type == w.type


def test_symbolic_sizes_keep_their_dimensions() -> None:
    rows = op.dim("rows", min=1)
    x, w = op.tensor((rows, 3), dtype="f32", name="x"), op.tensor((3, 2), dtype="f32", name="w")
    dx, dw = gradients([op.mean(op.relu(x @ w))], [x, w])
    assert (dx.type, dw.type) == (x.type, w.type)
    verify(Graph({"dx": dx, "dw": dw}))


def test_integers_stop_the_gradient() -> None:
    x = op.tensor((4,), dtype="f32", name="x")
    (dx,) = gradients([op.sum(op.cast(op.cast(x, "i64"), "f32"))], [x])
    assert dx.node.op == "full"
    (dx,) = gradients([op.sum(x * op.cast(op.argmax(x), "f32"))], [x])
    assert "argmax" in {n.op for n in topological([dx.node])}


def test_stop_gradient() -> None:
    x = op.tensor((4,), dtype="f64", name="x")
    (dx,) = gradients([op.sum(x * op.stop_gradient(x))], [x])
    value = evaluate(Graph({"d": dx}), {"x": np.arange(4.0)})["d"]
    np.testing.assert_array_equal(value, np.arange(4.0))


def test_seeds_and_several_outputs() -> None:
    x, s = op.tensor((3,), dtype="f64", name="x"), op.tensor((3,), dtype="f64", name="s")
    (dx,) = gradients([x * x, op.exp(x), x], [x], [s, s * 2.0, None])
    feeds = {"x": np.array([0.1, 0.2, 0.3]), "s": np.array([1.0, -1.0, 2.0])}
    found = evaluate(Graph({"d": dx}), feeds)["d"]
    np.testing.assert_allclose(found, feeds["s"] * (2 * feeds["x"] + 2 * np.exp(feeds["x"])))
    (dx,) = gradients([op.sum(x), op.sum(x * x)], [x])
    np.testing.assert_allclose(evaluate(Graph({"d": dx}), {"x": feeds["x"]})["d"], 1 + 2 * feeds["x"])


def test_deep_graphs_need_no_recursion() -> None:
    x = op.tensor((), dtype="f64", name="x")
    y = x
    for _ in range(20_000):
        y = build("neg", y)
    (dx,) = gradients([y], [x])
    assert simplify(Graph({"d": dx})).outputs["d"].node.op == "full"


def test_only_the_path_is_visited() -> None:
    x, w = op.tensor((3,), dtype="f32", name="x"), op.tensor((3,), dtype="f32", name="w")
    expensive = op.cumsum(op.exp(op.sin(x)), axis=0)
    (dw,) = gradients([op.sum(expensive * w)], [w])
    assert not {"cos", "flip"} & {n.op for n in topological([dw.node])}


def test_gradient_nodes_have_the_forward_location() -> None:
    x = op.tensor((3,), dtype="f32", name="x")
    with location(Location("model.py", 10)):
        h = op.softmax(op.exp(x))
    with location(Location("model.py", 11)):
        loss = op.sum(h * h)
    (dx,) = gradients([loss], [x])
    forward = set(topological([loss.node]))
    lines = {n.loc.line for n in topological([dx.node]) if n not in forward and n.loc is not None}
    assert lines == {10, 11}


def test_location_none_is_kept() -> None:
    with location(None):
        x = op.tensor((3,), dtype="f32", name="x")
        y = op.sum(x * x)
    (dx,) = gradients([y], [x])
    assert all(n.loc is None for n in topological([dx.node]))


# Operators of the tests alone


@pytest.fixture
def define() -> Iterator[Callable[..., None]]:
    """Registers operators for one test."""
    before = dict(opdef.REGISTRY)

    def register(name: str, **fields: Any) -> None:
        rules: dict[str, Any] = {
            "infer": lambda types, attrs: types[0],
            "vjp": None,
            "shard": "*->*",
            "lower": Pointwise("neg"),
            "reference": None,
            "samples": list,
            "dtypes": ("f32",),
            **fields,
        }
        opdef.register(OpDef(name, **rules))

    yield register
    opdef.REGISTRY.clear()
    opdef.REGISTRY.update(before)


def test_composite_without_a_vjp_follows_from_its_body(define: Callable[..., None]) -> None:
    define("test_ratio", infer=None, lower=Composite(lambda a, b, power: (a**power) / b))
    a = op.tensor((3,), dtype="f64", name="x")
    b = a * 3.0  # depends on a: the two operands must be taken as independent inside the body
    y = build("test_ratio", a, b, power=3.0)
    da, db = gradients([op.sum(y)], [a, b])
    feeds = {"x": np.array([1.0, 2.0, -3.0])}
    found = evaluate(Graph({"da": da, "db": db}), feeds)
    np.testing.assert_allclose(found["da"], 2 * feeds["x"] / 3)
    np.testing.assert_allclose(found["db"], -(feeds["x"] ** 3) / (3 * feeds["x"]) ** 2)


def test_composite_with_one_operand_twice(define: Callable[..., None]) -> None:
    define("test_product", infer=None, lower=Composite(lambda a, b: a * b))
    x = op.tensor((3,), dtype="f64", name="x")
    (dx,) = gradients([op.sum(build("test_product", x, x))], [x])
    np.testing.assert_allclose(evaluate(Graph({"d": dx}), {"x": np.arange(3.0)})["d"], 2 * np.arange(3.0))


def test_composite_of_composites_with_several_results(define: Callable[..., None]) -> None:
    define("test_inner", infer=None, lower=Composite(lambda a: (op.exp(a), a * a, a)))
    define("test_outer", infer=None, lower=Composite(lambda a: opdef.apply("test_inner", (a * 2.0,))[:2]))
    x = op.tensor((), dtype="f64", name="x")
    first, second = opdef.apply("test_outer", (x,))
    (dx,) = gradients([first * second], [x])
    np.testing.assert_allclose(
        evaluate(Graph({"d": dx}), {"x": np.float64(0.3)})["d"], 2 * np.exp(0.6) * 0.36 + np.exp(0.6) * 8 * 0.3
    )
    (only,) = gradients([second], [x])
    np.testing.assert_allclose(evaluate(Graph({"d": only}), {"x": np.float64(0.3)})["d"], 8 * 0.3)


def test_no_gradient_is_a_stated_reason(define: Callable[..., None]) -> None:
    define("test_black_box", vjp=no_vjp("it is a black box"), lower=Portable("test"))
    x = op.tensor((3,), dtype="f32", name="x")
    with location(Location("model.py", 42)):
        y = build("test_black_box", x)
    with pytest.raises(GradientError, match="test_black_box has no gradient: it is a black box\n  at model.py:42"):
        gradients([op.sum(y)], [x])
    w = op.tensor((3,), dtype="f32", name="w")
    assert gradients([op.sum(y * w)], [w])[0].type == w.type  # not on the path to w
    assert gradients([op.sum(op.stop_gradient(y) * x)], [x])[0].type == x.type  # no cotangent flows to it


def test_wrong_vjps_are_internal_errors(define: Callable[..., None]) -> None:
    x = op.tensor((3,), dtype="f32", name="x")
    define("test_wrong_shape", vjp=lambda node, g: [op.sum(g[0])])
    with pytest.raises(
        InternalError, match=r"test_wrong_shape: vjp gave a gradient of type f32\[\] for operand 0 of type f32\[3\]"
    ):
        gradients([op.sum(build("test_wrong_shape", x))], [x])
    define("test_wrong_count", vjp=lambda node, g: [g[0], g[0]])
    with pytest.raises(InternalError, match="test_wrong_count: vjp gave 2 gradients for 1 operands"):
        gradients([op.sum(build("test_wrong_count", x))], [x])
    define("test_none")
    with pytest.raises(InternalError, match="test_none: the operator is not a composite and states no vjp"):
        gradients([op.sum(build("test_none", x))], [x])
    define("test_wrong_body", lower=Composite(lambda a: op.sum(a)))
    with pytest.raises(
        InternalError, match=r"test_wrong_body: the body gives f32\[\], the operator's type rule f32\[3\]"
    ):
        gradients([op.sum(build("test_wrong_body", x))], [x])


def test_arguments_are_checked() -> None:
    x = op.tensor((3,), dtype="f32", name="x")
    i = op.tensor((3,), dtype="i64", name="i")
    seed = op.tensor((2,), dtype="f32", name="s")
    half = op.tensor((3,), dtype="f16", name="h")

    def fails(error: type[Exception], message: str, *args: Any) -> None:
        with pytest.raises(error, match=message):
            gradients(*args)

    fails(GradientError, r"the loss must be a scalar, but it has shape \[3\](.|\n)*pass seeds", [x * 2.0], [x])
    fails(GradientError, r"the loss must be a floating-point scalar, but it is i64\[\]", [op.sum(i)], [x])
    fails(GradientError, "has dtype i64; gradients exist for floating-point tensors only", [op.sum(x)], [i])
    fails(ArgumentError, "1 outputs need as many seeds, but 0 are given", [x], [x], [])
    fails(ShapeError, r"seed 0 has shape \[2\] but output 0 has shape \[3\]", [x], [x], [seed])
    fails(DTypeError, "seed 0 has dtype f16 but output 0 has dtype f32; cast the seed", [x], [x], [half])
    fails(GradientError, r"output 0 is i64\[3\]; only floating-point", [i], [x], [i])


def test_result_types_are_those_of_the_targets() -> None:
    for dtype in ("f64", "f32", "bf16", "f16"):
        x = op.tensor((2, 3), dtype=dtype, name="x")
        (dx,) = gradients([op.sum(op.exp(x) * 2.0)], [x])
        assert dx.type == TensorType(x.dtype, (2, 3))
