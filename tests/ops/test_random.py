"""Random numbers: their definition, their distributions, keys and operation ids, dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tessera import op
from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.value import Value
from tessera.op import random
from tessera.op.philox import philox4x32
from tessera.transform.autodiff import gradients

from tests.ops.against_torch import run

KEY = random.key(42, 7)
COUNT = 20_000


def drawn(value: Value) -> np.ndarray:
    """The numbers of a draw."""
    return run([value], {})[0]


def unit(key: Value = KEY, shape: tuple[int, ...] = (5,), dtype: str = "f32", id: int = 0) -> np.ndarray:
    """The primitive's numbers."""
    return drawn(op.build("random_uniform", key, shape=list(shape), dtype=op.zeros((), dtype).dtype, id=id))


@pytest.mark.parametrize("seed", [0, 42, (5 << 32) | 6, 2**63 - 1])
def test_definition(seed: int) -> None:
    found32 = unit(random.key(seed, 9), (2, 3), "f32", 11)
    found64 = unit(random.key(seed, 9), (2, 3), "f64", 11)
    for i in range(6):
        w0, w1, _, _ = (int(w) for w in philox4x32((i, 0, 11, 9), (seed & 0xFFFFFFFF, seed >> 32)))
        assert found32.reshape(-1)[i] == np.float32((w0 >> 8) * 2.0**-24)
        assert found64.reshape(-1)[i] == ((w0 << 32 | w1) >> 11) * 2.0**-53


def test_every_part_of_the_key_matters() -> None:
    draws = [unit(), unit(random.key(43, 7)), unit(random.key(42, 8)), unit(id=1), unit(random.key(42 | 1 << 32, 7))]
    assert len({d.tobytes() for d in draws}) == len(draws)
    np.testing.assert_array_equal(unit(), unit())
    np.testing.assert_array_equal(unit(shape=(5,)), unit(shape=(5, 1))[:, 0])


def test_uniform() -> None:
    x = drawn(op.uniform((COUNT,), -1.0, 3.0, key=KEY))
    assert x.dtype == np.float32 and x.min() >= -1 and x.max() <= 3
    counts, _ = np.histogram(x, 20, (-1, 3))
    assert (
        (counts - COUNT / 20) ** 2 / (COUNT / 20)
    ).sum() < 45  # chi², 19 degrees of freedom: 1 in 1000 is above 43.8


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
def test_normal(dtype: str) -> None:
    x = drawn(op.normal((COUNT,), 1.0, 2.0, dtype, key=KEY)).astype(np.float64)
    assert abs(x.mean() - 1) < 0.06 and abs(x.std() - 2) < 0.05
    for bound, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert abs((np.abs(x - 1) < 2 * bound).mean() - share) < 0.012


def test_normal_is_finite_for_every_draw() -> None:
    assert math.sqrt(-2 * math.log(1 - (1 - 2.0**-24))) < 5.8


def test_randint() -> None:
    x = drawn(op.randint(-3, 4, (COUNT,), "i16", key=KEY))
    assert x.dtype == np.int16 and set(x.tolist()) == set(range(-3, 4))
    counts = np.bincount(x + 3)
    assert ((counts - COUNT / 7) ** 2 / (COUNT / 7)).sum() < 25
    wide = drawn(op.randint(-(2**62), -(2**62) + 2**53, (100,), key=KEY))
    assert wide.min() >= -(2**62) and wide.max() < -(2**62) + 2**53
    assert drawn(op.randint(5, 6, (3,), key=KEY)).tolist() == [5, 5, 5]
    assert drawn(op.randint(0, 256, (9,), "u8", key=KEY)).dtype == np.uint8


def test_bernoulli() -> None:
    x = drawn(op.bernoulli(0.3, (COUNT,), key=KEY))
    assert x.dtype == bool and abs(x.mean() - 0.3) < 0.015
    by_element = drawn(op.bernoulli(op.constant(np.array([0.0, 1.0, 0.5])), (1000, 3), key=KEY))
    assert not by_element[:, 0].any() and by_element[:, 1].all() and 400 < by_element[:, 2].sum() < 600
    assert drawn(op.bernoulli(op.zeros((2, 2)), key=KEY)).shape == (2, 2)


def test_symbolic_shape() -> None:
    x = op.tensor(("B", 3), name="x0")
    y = op.dropout(x, 0.5, key=KEY)
    a = np.ones((7, 3), np.float32)
    found = run([y], {"x0": a})[0]
    np.testing.assert_array_equal(found[:4], run([y], {"x0": a[:4]})[0])


# Keys and ids.


def test_operations_differ_and_tracing_twice_does_not() -> None:
    def trace() -> list[int]:
        with random.operation_ids():
            x = op.normal((2,))
            with random.operation_ids():  # a step inside a step
                y = op.uniform((2,))
            return [x.node.attrs["id"], y.node.attrs["id"], op.dropout(x, 0.5).node.attrs["id"]]

    first = trace()
    assert first == trace() and len(set(first)) == 3
    assert first[1] - first[0] == 2  # a normal number is made of two draws
    outside = [op.uniform((2,)).node.attrs["id"] for _ in range(2)]
    assert len({*first, *outside}) == 5


def test_default_state() -> None:
    state = random.state()
    assert state.name == "tessera.rng" and not state.trainable
    assert random.default_key() is random.default_key()
    assert op.uniform((2,)).node.operands[0] is random.default_key()
    random.manual_seed(5)
    assert state.value.tolist() == [5, 0]
    assert drawn(random.advanced(random.default_key())).tolist() == [5, 1]
    x = op.uniform((4,))
    before = drawn(x)
    random.manual_seed(6)
    assert not np.array_equal(before, drawn(x))
    random.manual_seed(0)


def test_seed_as_key() -> None:
    with random.operation_ids():
        x = op.uniform((3,), key=9)
    with random.operation_ids():
        y = op.uniform((3,), key=np.array([9, 0]))
    np.testing.assert_array_equal(drawn(x), drawn(y))


# Dropout.


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
def test_dropout(dtype: str) -> None:
    x = op.full((COUNT,), 3.0, dtype)
    y = drawn(op.dropout(x, 0.25, key=KEY)).astype(np.float64)
    assert set(np.unique(y)) == {0.0, 4.0} and abs((y == 0).mean() - 0.25) < 0.015


def test_dropout_gradient_uses_the_same_choice() -> None:
    x = op.tensor((1000,), "f64", name="x0")
    y = op.dropout(x, 0.4, key=KEY)
    slope = gradients([op.sum(y * 2)], [x])[0]
    a = np.full(1000, 5.0)
    value, found = run([y, slope], {"x0": a})
    np.testing.assert_array_equal(found, np.where(value == 0, 0, 2 / 0.6))
    again = gradients([op.sum(slope * x)], [x])[0]
    np.testing.assert_array_equal(run([again], {"x0": a})[0], found)


def test_dropout_is_off() -> None:
    x = op.tensor((3,), name="x0")
    assert op.dropout(x, 0.0) is x and op.dropout(x, 0.5, training=False) is x
    value, slope = run(
        [op.dropout(x, 1.0), gradients([op.sum(op.dropout(x, 1.0))], [x])[0]], {"x0": np.full(3, np.nan, np.float32)}
    )
    assert value.tolist() == slope.tolist() == [0, 0, 0]


def test_dropout_drops_nan_and_infinity() -> None:
    x = op.tensor((100,), name="x0")
    found = run([op.dropout(x, 0.5, key=KEY)], {"x0": np.full(100, np.inf, np.float32)})[0]
    assert set(found.tolist()) == {0.0, math.inf}


# Errors.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: op.uniform((2,), 1.0, 0.0), ArgumentError, r"\[uniform\] low = 1.0 and high = 0.0"),
        (lambda: op.uniform((2,), 0.0, math.inf), ArgumentError, "both must be finite"),
        (
            lambda: op.uniform((2,), dtype="i32"),
            DTypeError,
            r"\[uniform\] dtype is i32; expected one of f64, f32, bf16, f16",
        ),
        (lambda: op.uniform((-1,)), ShapeError, r"\[uniform\] dimension 0 of shape \(-1,\)"),
        (
            lambda: op.uniform((2,), key=op.tensor((3,), "i64")),
            ShapeError,
            r"\[uniform\] the key is i64\[3\]; expected i64\[2\]",
        ),
        (lambda: op.normal((2,), std=-1.0), ArgumentError, r"\[normal\] std is -1.0"),
        (lambda: op.randint(3, 3, (2,)), ArgumentError, r"\[randint\] low = 3 and high = 3"),
        (lambda: op.randint(0, 2**54, (2,)), ArgumentError, r"by at most 2\*\*53"),
        (lambda: op.randint(0, 300, (2,), "u8"), ArgumentError, r"\[randint\] \[0, 300\) does not fit u8"),
        (lambda: op.randint(0, 3, (2,), "f32"), DTypeError, r"\[randint\] dtype is f32"),
        (lambda: op.bernoulli(1.5, (2,)), ArgumentError, r"\[bernoulli\] p is 1.5"),
        (lambda: op.dropout(op.tensor((2,)), 1.5), ArgumentError, r"\[dropout\] p is 1.5; it must be in \[0, 1\]"),
        (lambda: op.dropout(op.tensor((2,)), -0.1), ArgumentError, r"\[dropout\] p is -0.1"),
        (lambda: random.manual_seed(-1), ArgumentError, r"the seed is -1; it must be an integer in \[0, 2\*\*63\)"),
        (lambda: random.manual_seed(1.5), ArgumentError, "the seed is 1.5"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
