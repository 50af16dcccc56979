"""Parameters and initialisers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tessera import op
from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.op import initializer, random
from tessera.op.initializer import name_hash
from tessera.op.parameter import ALIGNMENT, Parameter, parameter_of
from tessera.op.philox import philox4x32


def test_leaf_is_shared_and_names_the_parameter() -> None:
    p = Parameter("w", (2, 3), "bf16")
    leaf = p.leaf()
    assert leaf is p.leaf() and leaf.node.payload is p and parameter_of(leaf) is p
    assert leaf.node.attrs == {"name": "w", "trainable": True} and str(leaf.type) == "bf16[2, 3]"
    assert repr(p) == "Parameter('w', bf16[2, 3])"


def test_storage_is_made_at_first_use() -> None:
    p = Parameter("w", (3, 5), init="he_normal")
    assert not p.is_initialized and p.array is None
    data = p.storage()
    assert p.is_initialized and data is p.storage()
    assert data.ctypes.data % ALIGNMENT == 0 and data.flags.c_contiguous and data.flags.writeable
    data[...] = 7
    assert (p.value == 7).all() and np.asarray(p) is data


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4)])
def test_every_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    p = Parameter("w", shape, dtype, trainable=False, init="ones")
    assert p.value.shape == shape and p.value.dtype == p.dtype.numpy and (p.value == 1).all()


def test_value_can_be_set() -> None:
    p = Parameter("w", (2, 2))
    memory = p.storage()
    p.value = np.arange(4, dtype=np.float32).reshape(2, 2).T
    assert memory.tolist() == [[0, 2], [1, 3]]
    p.value = [[1, 2], [3, 4]]
    assert memory.tolist() == [[1, 2], [3, 4]]
    p.value = torch.full((2, 2), 5.0)
    assert (memory == 5).all()
    value = p.value
    value[...] = 0
    assert (memory == 5).all()
    p.reset()
    assert (memory == 0).all()


def test_values_that_do_not_fit() -> None:
    p = Parameter("w", (2, 2))
    with pytest.raises(ShapeError, match=r"value of 'w' has shape \(2,\); the parameter has shape \(2, 2\)"):
        p.value = np.zeros(2, np.float32)
    with pytest.raises(DTypeError, match=r"value of 'w' is f64; the parameter is f32: convert it with .astype"):
        p.value = np.zeros((2, 2))


def test_from_array_shares_aligned_memory() -> None:
    data = Parameter("a", (4,)).storage()
    assert Parameter.from_array("b", data).storage() is data
    data.flags.writeable = False
    copy = Parameter.from_array("c", data)
    assert copy.storage() is not data and (copy.value == data).all()


# Initialisers.


def test_values_depend_on_seed_name_and_element_alone() -> None:
    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return Parameter(name, shape, "f64", init="normal").value

    np.testing.assert_array_equal(values("w", (6,)), values("w", (2, 3)).reshape(-1))
    np.testing.assert_array_equal(values("w", (6,)), values("w", (70001,))[:6])
    assert not np.array_equal(values("w", (6,)), values("v", (6,)))
    random.manual_seed(3)
    changed = values("w", (6,))
    random.manual_seed(0)
    assert not np.array_equal(values("w", (6,)), changed)


def test_definition_of_uniform() -> None:
    stream = name_hash("w")
    found = Parameter("w", (6,), "f64", init=initializer.uniform(0.0, 1.0)).value
    for i in range(6):
        words = philox4x32((i // 4, 0, stream & 0xFFFFFFFF, stream >> 32), (0, 0))
        assert found[i] == (int(words[i % 4]) >> 8) * 2.0**-24


@pytest.mark.parametrize(
    ("init", "mean", "std"),
    [
        ("zeros", 0, 0),
        ("ones", 1, 0),
        (2.5, 2.5, 0),
        ("uniform", 0, 3**-0.5),
        ("normal", 0, 1),
        (initializer.normal(2.0, 0.5), 2, 0.5),
        ("xavier_uniform", 0, (2 / 500) ** 0.5),
        ("glorot_normal", 0, (2 / 500) ** 0.5),
        ("he_uniform", 0, (2 / 200) ** 0.5),
        ("kaiming_normal", 0, (2 / 200) ** 0.5),
        (initializer.he_normal, 0, (2 / 200) ** 0.5),
        (initializer.fan_in_uniform(200), 0, (3 * 200) ** -0.5),
    ],
)
def test_moments(init: object, mean: float, std: float) -> None:
    value = Parameter("weight", (200, 300), "f64", init=init).value  # type: ignore[arg-type]
    assert abs(value.mean() - mean) <= 0.02 * max(std, 1e-12) and abs(value.std() - std) <= 0.02 * std


def test_array_and_function_as_init() -> None:
    data = np.arange(3, dtype=np.float32)
    assert Parameter("w", (3,), init=data).value.tolist() == [0, 1, 2]
    assert Parameter("w", (3,), init=lambda shape: np.full(shape, 4, np.float32)).value.tolist() == [4, 4, 4]


def test_fans_of_a_convolution() -> None:
    assert initializer.fans((3, 3, 16, 32)) == (144, 288)


# op.parameter and errors.


def test_names_are_unique() -> None:
    first, second = op.parameter((2,)), op.parameter((2,))
    assert first.node.attrs["name"] != second.node.attrs["name"]
    assert op.parameter((2,), name="mine").node.attrs["name"] == "mine"


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"'w': size B of shape \(B, 2\) is not an integer; state has fixed sizes"):
        op.parameter((op.dim("B"), 2), name="w")
    with pytest.raises(ShapeError, match="size -1 of shape"):
        op.parameter((-1,))
    with pytest.raises(DTypeError, match="'w' is trainable and i64: only floats have gradients; pass trainable=False"):
        op.parameter((2,), "i64", "w")
    with pytest.raises(ArgumentError, match="name is ''"):
        Parameter("", (2,))
    with pytest.raises(ArgumentError, match="unknown initializer 'heh'; use one of zeros, ones"):
        op.parameter((2,), init="heh")
    with pytest.raises(ArgumentError, match="init is list"):
        op.parameter((2,), init=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"a weight of shape \(2,\) has no fan"):
        op.parameter((2,), init="he_normal")
    with pytest.raises(ShapeError, match=r"init of .* has shape \(3,\); the parameter has shape \(2,\)"):
        op.parameter((2,), init=np.zeros(3, np.float32))
    with pytest.raises(ArgumentError, match=r"\[parameter_of\] .* is not a parameter"):
        parameter_of(op.tensor((2,)))
