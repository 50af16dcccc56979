"""tessera.Array: exchange without copying, repr, indexing, errors."""

import gc

import ml_dtypes
import numpy as np
import pytest
import tessera
import torch
from tessera.errors import ArgumentError, DTypeError, ShapeError, TesseraError

NUMPY = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3), (1,)])
def test_numpy_shares_memory_both_ways(name, shape):
    source = np.ones(shape, name)
    array = tessera.array(source)
    assert array.shape == tuple(shape) and array.ndim == len(shape) and array.size == source.size
    back = array.numpy()
    assert back.dtype == source.dtype and np.array_equal(back, source)
    if source.size:
        assert np.shares_memory(back, source)
        source[...] = 0
        assert not np.asarray(array).any()


def test_bf16():
    source = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    array = tessera.array(source)
    assert array.dtype == "bf16" and array.numpy().dtype == ml_dtypes.bfloat16
    assert np.shares_memory(array.numpy().view(np.uint16), source.view(np.uint16))
    tensor = torch.from_dlpack(array)
    assert tensor.dtype == torch.bfloat16 and tensor.tolist() == [1.5, -2.0]
    again = tessera.array(torch.tensor([3.0, 4.0], dtype=torch.bfloat16))
    assert again.dtype == "bf16" and again.numpy().astype(np.float32).tolist() == [3, 4]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
)
def test_torch_shares_memory_both_ways(dtype):
    source = torch.zeros(4, dtype=dtype)
    array = tessera.from_dlpack(source)
    source[1] = 1
    assert np.asarray(array).astype(np.float64).tolist() == [0, 1, 0, 0]
    back = torch.from_dlpack(array)
    assert back.data_ptr() == source.data_ptr() and back.dtype == dtype


def test_torch_with_gradients_and_strides():
    weight = torch.ones(2, 3, requires_grad=True)
    assert tessera.array(weight).tolist() == [[1, 1, 1], [1, 1, 1]]
    turned = torch.arange(6.0).reshape(2, 3).T
    assert tessera.array(turned).numpy().tolist() == turned.tolist()


def test_jax():
    jnp = pytest.importorskip("jax.numpy")
    source = jnp.arange(4, dtype=jnp.float32)
    array = tessera.array(source)
    assert array.tolist() == [0, 1, 2, 3]
    assert jnp.from_dlpack(tessera.array(np.ones(3, np.float32))).tolist() == [1, 1, 1]


def test_memory_outlives_its_maker():
    array = tessera.array(np.arange(1000.0))
    view = array.numpy()
    gc.collect()
    del array
    gc.collect()
    assert view.sum() == 499500
    tensor = torch.from_dlpack(tessera.array(np.arange(1000.0)))
    gc.collect()
    assert tensor.sum() == 499500


def test_views():
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (base.T, base[::2, ::3], base[::-1], np.broadcast_to(base[:1], (3, 6))):
        array = tessera.array(view)
        assert array.shape == view.shape and np.array_equal(array.numpy(), view)
    assert not tessera.array(base.T).is_contiguous()


def test_read_only_memory():
    fixed = np.zeros(3, np.float32)
    fixed.flags.writeable = False
    array = tessera.array(fixed)
    assert array.readonly and not array.numpy().flags.writeable
    with pytest.raises(ArgumentError, match="read-only"):
        array[0] = 1.0
    copy = tessera.array(fixed, copy=True)
    copy[0] = 1.0
    assert copy.tolist() == [1, 0, 0] and fixed[0] == 0


def test_python_data():
    assert tessera.array([1.0, 2.0]).dtype == "f32"
    assert tessera.array([1, 2]).dtype == "i64"
    assert tessera.array(True).dtype == "bool"
    assert tessera.array(3.5).item() == 3.5
    assert tessera.array([[1, 2], [3, 4]], "f16").tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ShapeError):
        tessera.array([[1], [2, 3]])


def test_indexing_and_scalars():
    array = tessera.array(np.arange(6.0).reshape(2, 3))
    assert array[1].tolist() == [3, 4, 5] and array[0, 1].item() == 1
    assert [row.tolist() for row in array] == [[0, 1, 2], [3, 4, 5]]
    array[0] = 9
    assert array[:, 0].tolist() == [9, 3]
    assert len(array) == 2 and float(array[1, 2]) == 5.0 and int(array[1, 2]) == 5
    assert bool(tessera.array(1)) and range(5)[tessera.array(2)] == 2
    with pytest.raises(ShapeError, match="6 elements"):
        array.item()
    with pytest.raises(ShapeError, match="no length"):
        len(tessera.array(1))
    with pytest.raises(DTypeError, match="no integer"):
        range(5)[tessera.array(2.0)]


def test_repr():
    text = repr(tessera.array(np.array([[1.5, 2.0]], np.float32)))
    assert text == "tessera.Array([[1.5, 2. ]], shape=(1, 2), dtype=f32, device=cpu)"
    assert "..." in repr(tessera.array(np.zeros(5000)))
    assert "bf16" in repr(tessera.array([1.0], "bf16"))


def test_array_protocol():
    array = tessera.array(np.ones(2, np.float32))
    assert np.asarray(array, np.float64).dtype == np.float64
    assert (np.add(array, 1)).tolist() == [2, 2]
    copy = array.__array__(copy=True)
    copy[0] = 5
    assert array[0].item() == 1
    with pytest.raises(ArgumentError, match="without a copy"):
        array.__array__(np.float64, copy=False)


def test_unsupported_elements():
    for bad in (
        np.zeros(2, np.complex64),
        np.zeros(2, np.uint32),
        np.array(["a"]),
        np.array([None]),
        np.zeros(2, "M8[s]"),
    ):
        with pytest.raises(DTypeError, match="has no Tessera dtype"):
            tessera.array(bad)
    with pytest.raises(TesseraError):
        tessera.array(torch.zeros(2, dtype=torch.complex64))


def test_byte_order_is_converted():
    assert tessera.array(np.array([1, 2], ">i4")).tolist() == [1, 2]
