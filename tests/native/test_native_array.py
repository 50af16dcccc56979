"""The native Array: memory shared with NumPy, PyTorch and JAX, and let go of exactly once."""

import gc
import sys
import threading
import weakref

import ml_dtypes
import numpy as np
import pytest
from tessera import _core
from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.dtype import DTYPES

Array = _core.Array


def view(array):
    """The elements as NumPy, through DLPack."""
    return np.from_dlpack(array)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 4), (2, 0, 5)])
def test_from_numpy_shares_memory(name, shape):
    source = np.zeros(shape, DTYPES[name].numpy)
    array = Array.from_numpy(source)
    assert (array.dtype, array.shape, array.nbytes) == (name, shape, source.nbytes)
    assert array.is_contiguous() and not array.readonly
    assert array.data_ptr == source.ctypes.data or source.size == 0


@pytest.mark.parametrize("name", DTYPES)
def test_empty(name):
    array = Array.empty([3, 5], name)
    assert array.shape == (3, 5) and array.strides == (5, 1) and array.nbytes == 15 * DTYPES[name].itemsize
    assert array.data_ptr % 64 == 0


def test_strided_views():
    source = np.arange(24, dtype=np.int32).reshape(4, 6)
    for strided in (source.T, source[::2, 1::2], source[::-1], np.broadcast_to(source[0], (3, 6))):
        array = Array.from_numpy(strided)
        assert not array.is_contiguous() and array.data_ptr == strided.ctypes.data
        assert (view(array.contiguous()) == strided).all()
    row = Array.from_numpy(source[:1])
    assert row.is_contiguous() and row.contiguous().data_ptr == row.data_ptr


def test_unusual_numpy_memory_is_copied():
    swapped = np.arange(3, dtype=">f4")
    unaligned = np.frombuffer(b"\0" + np.arange(3, dtype=np.float32).tobytes(), np.float32, offset=1)
    field = np.zeros(3, [("a", "<f4"), ("b", "<i2")])["a"]
    field[:] = [0, 1, 2]
    for source in (swapped, unaligned, field):
        assert (view(Array.from_numpy(source)) == [0, 1, 2]).all()


def test_readonly_memory_stays_so():
    source = np.arange(4.0)
    source.flags.writeable = False
    array = Array.from_numpy(source)
    assert array.readonly and not view(array).flags.writeable
    with pytest.raises(ArgumentError, match="read-only"):
        array.__dlpack__()


def test_memory_is_released_once():
    class Owner(np.ndarray):
        pass

    source = np.zeros(4, np.float32).view(Owner)
    gone = weakref.ref(source)
    array = Array.from_numpy(source)
    capsule = array.__dlpack__()
    del source, array
    gc.collect()
    assert gone() is not None
    del capsule
    gc.collect()
    assert gone() is None
    block = np.zeros(4, np.float32)
    before = sys.getrefcount(block)

    def share():
        for _ in range(500):
            Array.from_numpy(block).contiguous()

    threads = [threading.Thread(target=share) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.getrefcount(block) == before


def test_from_buffer():
    source = np.arange(6, dtype=ml_dtypes.bfloat16)
    array = Array.from_buffer(source.ctypes.data, [2, 3], [1, 2], "bf16", source, readonly=True)
    assert array.dtype == "bf16" and array.strides == (1, 2) and array.readonly
    with pytest.raises(ArgumentError, match="different lengths"):
        Array.from_buffer(source.ctypes.data, [2, 3], [1], "bf16", source)
    with pytest.raises(ArgumentError, match="null"):
        Array.from_buffer(0, [2], None, "f32", None)
    with pytest.raises(ArgumentError, match="aligned"):
        Array.from_buffer(source.ctypes.data + 1, [1], None, "f32", source)


def test_torch_both_ways():
    torch = pytest.importorskip("torch")
    names = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16", "int64": "i64", "int32": "i32",
             "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool"}
    for name, short in names.items():
        source = torch.ones(2, 3, dtype=getattr(torch, name))
        array = Array.from_dlpack(source)
        assert array.dtype == short and array.data_ptr == source.data_ptr()
        back = torch.from_dlpack(array)
        assert back.dtype == source.dtype and back.data_ptr() == source.data_ptr()
    assert not Array.from_dlpack(torch.ones(2, 3).T).is_contiguous()


def test_jax_both_ways():
    jax = pytest.importorskip("jax")
    for dtype in ("float32", "bfloat16", "int32", "bool"):
        source = jax.numpy.ones((2, 3), dtype)
        array = Array.from_dlpack(source)
        assert array.shape == (2, 3)
        back = jax.dlpack.from_dlpack(array.contiguous())
        assert back.dtype == source.dtype and (back == source).all()


def test_a_capsule_is_used_once():
    capsule = Array.empty([2], "f32").__dlpack__(max_version=(1, 0))
    Array.from_dlpack(capsule)
    with pytest.raises(ArgumentError, match="used before"):
        Array.from_dlpack(capsule)


def test_errors():
    with pytest.raises(DTypeError, match="unknown dtype 'f33'"):
        Array.empty([2], "f33")
    with pytest.raises(ShapeError, match="-1"):
        Array.empty([-1], "f32")
    with pytest.raises(ShapeError, match="64 bits"):
        Array.empty([2**62, 4], "f32")
    with pytest.raises(ShapeError, match="rank 65"):
        Array.empty([1] * 65, "f32")
    with pytest.raises(DTypeError, match="complex64 has no Tessera dtype"):
        Array.from_numpy(np.zeros(2, np.complex64))
    with pytest.raises(DTypeError, match="uint16"):
        Array.from_numpy(np.zeros(2, np.uint16))
    with pytest.raises(ArgumentError, match="no NumPy array"):
        Array.from_numpy([1, 2])
    with pytest.raises(ArgumentError, match="__dlpack__"):
        Array.from_dlpack([1, 2])
    with pytest.raises(ArgumentError, match="no stream"):
        Array.empty([1], "f32").__dlpack__(stream=3)


def test_hash64():
    assert _core.hash64(b"") == 0xEF46DB3751D8E999
    assert _core.hash64(b"abc") == 0x44BC2CF5AD770999
    data = np.arange(1000, dtype=np.uint8)
    assert _core.hash64(data) == _core.hash64(data.tobytes()) == _core.hash64(memoryview(data))


def test_machine():
    assert _core.cpu_level() in {"x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"}
    report = _core.doctor()
    assert report["cpu"]["cores"] >= 1
    assert all(entry["found"] or entry["why"] for entry in report["libraries"])
