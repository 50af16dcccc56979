"""dtypes of results, weak scalars, and what may be passed as a tensor."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tessera import op
from tessera.errors import ArgumentError, DTypeError
from tessera.ir.dtype import DTYPES, promote
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.reference import evaluate

NAMES = ("f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool")
TORCH = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool,
}


def value_of(x: Value) -> np.ndarray:
    return evaluate(Graph({"x": x}), {})["x"]


@pytest.mark.parametrize("a", NAMES)
@pytest.mark.parametrize("b", NAMES)
def test_promotion_of_tensors_as_in_pytorch(a: str, b: str) -> None:
    assert TORCH[promote(DTYPES[a], DTYPES[b]).name] == torch.promote_types(TORCH[a], TORCH[b])
    total = op.maximum(op.tensor((2,), a), op.tensor((2,), b))
    assert total.dtype == promote(DTYPES[a], DTYPES[b])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scalar", [True, 3, 2.5, np.float64(2.5), np.int8(3), DTYPES["bf16"].numpy.type(2.5)])
def test_scalars_are_weak_as_in_pytorch(name: str, scalar: object) -> None:
    number = scalar if isinstance(scalar, (bool, int, float)) else scalar.item()  # type: ignore[attr-defined]
    number = number if isinstance(number, (bool, int)) else float(number)
    expected = (torch.ones(2, dtype=TORCH[name]) * number).dtype
    assert TORCH[(op.tensor((2,), name) * scalar).dtype.name] == expected
    assert TORCH[(scalar * op.tensor((2,), name)).dtype.name] == expected


def test_scalars_alone() -> None:
    assert (op.add(1, 2)).dtype.name == "i64"
    assert (op.add(1, 2.0)).dtype.name == "f32"
    assert (op.logical_and(True, False)).dtype.name == "bool"


def test_integer_division_is_f32() -> None:
    assert (op.tensor((2,), "i64") / 2).dtype.name == "f32"
    assert (op.tensor((2,), "u8") / op.tensor((2,), "u8")).dtype.name == "f32"
    assert (op.tensor((2,), "f16") / op.tensor((2,), "i64")).dtype.name == "f16"


def test_mathematical_functions_of_integers_are_f32() -> None:
    assert op.exp(op.tensor((2,), "i8")).dtype.name == "f32"
    assert op.mean(op.tensor((2,), "bool")).dtype.name == "f32"
    assert op.isnan(op.tensor((2,), "i64")).dtype.name == "bool"


def test_sums_of_narrow_integers_are_i64() -> None:
    for name in ("bool", "i8", "i16", "u8", "i32", "i64"):
        assert op.sum(op.tensor((2,), name)).dtype.name == "i64"
        assert op.prod(op.tensor((2,), name)).dtype.name == "i64"
        assert op.cumsum(op.tensor((2,), name), 0).dtype.name == "i64"


def test_arithmetic_of_bools_is_logic() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    x, y = op.constant(a), op.constant(b)
    np.testing.assert_array_equal(value_of(x + y), a + b)
    np.testing.assert_array_equal(value_of(x * y), a * b)
    np.testing.assert_array_equal(value_of(op.maximum(x, y)), np.maximum(a, b))
    np.testing.assert_array_equal(value_of(op.minimum(x, y)), np.minimum(a, b))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::-1], np.array([True, False]), torch.arange(4.0)[::2],
        torch.ones(2, 2, dtype=torch.bfloat16) * 1.5, torch.tensor([1, 2]), jnp.arange(3.0),
        jnp.ones((2,), jnp.bfloat16),
        [[1, 2], [3, 4]], np.array(5), np.empty((0, 3), np.float32),
    ],
    ids=str,
)
def test_arrays_become_constants(array: object) -> None:
    constant = op.as_tensor(array)
    expected = array.float().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    assert constant.node.op == "constant"
    np.testing.assert_array_equal(value_of(constant).astype(np.float64), expected.astype(np.float64))


def test_lists_of_floats_are_f32() -> None:
    assert op.constant([1.0, 2.0]).dtype.name == "f32"
    assert op.constant(np.array([1.0])).dtype.name == "f64"
    assert op.constant([1.0], "bf16").dtype.name == "bf16"


def test_constants_are_copies_with_names_by_content() -> None:
    array = np.ones(3, np.float32)
    a, b = op.constant(array), op.constant(np.ones(3, np.float32))
    assert a.node.attrs["name"] == b.node.attrs["name"] != op.constant(np.ones((3, 1), np.float32)).node.attrs["name"]
    array[0] = 7
    np.testing.assert_array_equal(value_of(a), np.ones(3))
    with pytest.raises(ValueError, match="read-only"):
        a.node.payload[0] = 1


def test_arrays_on_the_left() -> None:
    x = op.tensor((3,), name="x")
    for y in (np.arange(3, dtype=np.float32) - x, np.float32(2) * x, torch.arange(3.0) - x):
        assert isinstance(y, Value) and y.shape == (3,) and y.dtype.name == "f32"
    comparison = np.arange(3, dtype=np.float32) < x
    assert isinstance(comparison, Value) and comparison.dtype.name == "bool"


def test_a_parameter_is_its_tensor() -> None:
    weight = op.parameter((2, 2), name="promotion.weight")
    assert op.as_tensor(op.parameter_of(weight)) is weight
    product = op.tensor((3, 2)) @ op.parameter_of(weight)
    assert product.node.operands[1] is weight


def test_runtime_arrays_become_constants() -> None:
    import tessera

    for name in ("f32", "bf16", "i8", "bool"):
        array = tessera.array([[1, 0], [1, 1]], name)
        found = op.as_tensor(array)
        assert found.dtype.name == name
        np.testing.assert_array_equal(value_of(found).astype(np.float64), [[1, 0], [1, 1]])


def test_symbolic_dimension_as_a_number() -> None:
    size = op.dim("B")
    x = op.tensor((size, 2), name="x")
    out = evaluate(Graph({"y": op.sum(x) / size, "z": x * (size + 1)}), {"x": np.ones((5, 2), np.float32)})
    np.testing.assert_array_equal(out["y"], np.float32(2))
    np.testing.assert_array_equal(out["z"], np.full((5, 2), 6, np.float32))


ERRORS = [
    (lambda: op.tensor((2,), "u8") + 300, ArgumentError, r"the value 300 does not fit u8 \(0 to 255\)"),
    (lambda: op.tensor((2,), "u8") - 1 + (-1), ArgumentError, "the value -1 does not fit u8"),
    (lambda: op.full((2,), 1.5, "i32"), ArgumentError, "the value 1.5 is not a i32"),
    (lambda: op.tensor((2,)) + "a", TypeError, "unsupported operand"),
    (lambda: op.add(op.tensor((2,)), object()), DTypeError,
     "object is not a tensor; give a tensor, an array or a number"),
    (lambda: op.add(op.tensor((2,)), np.complex64(1)), DTypeError, "a scalar of type complex64 is not supported"),
    (lambda: op.take(op.tensor((2,)), [True]), DTypeError,
     "the index has dtype bool; expected an integer dtype: use where"),
    (lambda: op.constant(np.array([1j])), DTypeError, "unknown dtype"),
    (lambda: op.constant(np.array(["a"])), DTypeError, "unknown dtype"),
    (lambda: op.constant([[1], [2, 3]]), ArgumentError, "the nested lists do not form an array"),
    (lambda: op.constant(op.tensor((2,))), ArgumentError, "symbolic tensor, which has no elements yet"),
    (lambda: op.tensor((2,), "bool") - op.tensor((2,), "bool"), DTypeError,
     r"\[sub\] both operands have dtype bool; use logical_xor"),
    (lambda: op.tensor((2,), "bool") % op.tensor((2,), "bool"), DTypeError, r"\[mod\] both operands have dtype bool"),
    (lambda: -op.tensor((2,), "bool"), DTypeError, r"\[neg\] operand 0 has dtype bool; use logical_not"),
    (lambda: op.tensor((2,)) & op.tensor((2,)), DTypeError,
     r"\[bitwise_and\] operand 0 has dtype f32; expected i64, .* or bool"),
    (lambda: op.tensor((2,), "f8e4m3") + op.tensor((2,), "f8e4m3"), DTypeError,
     r"\[add\] operands have dtype f8e4m3, which only stores"),
    (lambda: op.exp(op.tensor((2,), "f8e4m3")), DTypeError,
     r"\[exp\] operand 0 has dtype f8e4m3; expected f64, f32, bf16 or f16"),
    (lambda: op.cast(op.tensor((2,)), "f31"), DTypeError, "unknown dtype 'f31'; use one of f64, f32"),
    (lambda: op.clip(op.tensor((2,), "bool"), True), DTypeError, r"\[clip\] operand 0 has dtype bool"),
    (lambda: op.build("add", op.tensor((2,)), op.tensor((2,), "f64")), DTypeError,
     "operand 1 has dtype f64 but operand 0 has f32"),
    (lambda: op.build("where", op.tensor((2,)), op.tensor((2,)), op.tensor((2,))), DTypeError,
     "the condition.* has dtype f32; expected bool"),
    (lambda: op.build("where", op.tensor((2,), "bool"), op.tensor((2,)), op.tensor((2,), "i8")), DTypeError,
     "operand 1 has dtype f32 but"),
    (lambda: op.build("add", op.tensor((2,))), ArgumentError, r"\[add\] takes 2 operands, got 1"),
]


@pytest.mark.parametrize(("action", "error", "message"), ERRORS, ids=[m[:40] for _, _, m in ERRORS])
def test_errors(action: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        action()  # type: ignore[operator]
