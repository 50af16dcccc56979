"""``tessera.Array``: a concrete tensor, on the CPU or a GPU, shared with other libraries without copying.

The class itself is native (``tessera._core.Array``: memory, shape, strides, DLPack); this module gives it what a
Python user expects: a repr, NumPy conversion, indexing, scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tessera._core import Array
from tessera.errors import ArgumentError, DTypeError, ShapeError, TesseraError
from tessera.ir.dtype import DTYPES, DType, as_dtype

_STORAGE = {"bf16": np.dtype(np.uint16), "f8e4m3": np.dtype(np.uint8), "f8e5m2": np.dtype(np.uint8)}


class _Memory:
    """What NumPy's array interface needs to see the memory of an Array; keeps the Array alive."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, array: Array, storage: np.dtype) -> None:
        strides = None if array.is_contiguous() else tuple(s * storage.itemsize for s in array.strides)
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(array.shape),
            "typestr": storage.str,
            "data": (array.data_ptr, array.readonly),
            "strides": strides,
        }
        self.owner = array


def to_numpy(array: Array) -> np.ndarray:
    """The array as NumPy, sharing memory; bf16 and the 8-bit floats have the dtypes of ml_dtypes.

    An array on a GPU is copied, after the work that writes it.
    """
    array = array.to("cpu") if array.device != "cpu" else array
    name = array.dtype
    dtype = DTYPES[name].numpy
    storage = _STORAGE.get(name, dtype)
    if not array.nbytes:
        return np.empty(tuple(array.shape), dtype)
    view = np.asarray(_Memory(array, storage))
    return view if storage is dtype else view.view(dtype)


def _from_object(obj: Any) -> np.ndarray:
    """Lists and Python numbers: floats become f32, integers i64, as everywhere in Tessera."""
    try:
        found = np.asarray(obj)
    except ValueError as error:
        raise ShapeError(f"array: {error}") from None
    if found.dtype == np.float64 and not isinstance(obj, (np.ndarray, np.generic)):
        found = found.astype(np.float32)
    return found


def converted(obj: Any, dtype: DType, what: str) -> np.ndarray:
    """Python numbers and lists in the dtype that ``what`` declares.

    Raises ShapeError for ragged lists, DTypeError for values that the dtype cannot hold: numbers with a fraction or out
    of range for an integer, anything but True and False for bool.
    """
    try:
        found = np.asarray(obj)
    except ValueError as error:
        raise ShapeError(f"{what}: {error}") from None
    kind = as_dtype_or_raise(found.dtype)
    if found.size and not dtype.is_float:
        if kind.is_float or (dtype.name == "bool" and kind.name != "bool"):
            raise DTypeError(f"{what} is {dtype}: the values given are {kind}; convert them first")
        if dtype.name != "bool":
            limits, low, high = np.iinfo(dtype.numpy), int(found.min()), int(found.max())
            if low < limits.min or high > limits.max:
                wrong = low if low < limits.min else high
                raise DTypeError(f"{what} is {dtype}, which holds {limits.min} to {limits.max}, not {wrong}")
    return found.astype(dtype.numpy)


def as_array(obj: Any) -> Array:
    """The object as an Array, without copying where its memory can be shared.

    Accepts an Array, a NumPy array, anything with ``__dlpack__`` (PyTorch, JAX, CuPy on the CPU), a Parameter,
    nested lists and numbers. Raises DTypeError for an element type that Tessera does not have.
    """
    if type(obj) is Array:
        return obj
    if isinstance(obj, np.ndarray):
        return _from_numpy(obj)
    if hasattr(obj, "__dlpack__"):
        return from_dlpack(obj)
    if hasattr(obj, "__array__"):
        return _from_numpy(np.asarray(obj))
    return _from_numpy(_from_object(obj))


def _from_numpy(obj: np.ndarray) -> Array:
    as_dtype_or_raise(obj.dtype)
    if not obj.dtype.isnative:
        obj = obj.astype(obj.dtype.newbyteorder("="))
    return Array.from_numpy(obj)


_known: dict[np.dtype, DType] = {}


def as_dtype_or_raise(dtype: np.dtype) -> DType:
    """The Tessera dtype of a NumPy dtype; DTypeError names the ones there are."""
    found = _known.get(dtype)
    if found is not None:
        return found
    try:
        return _known.setdefault(dtype, as_dtype(dtype))
    except DTypeError:
        raise DTypeError(
            f"array: NumPy dtype {dtype} has no Tessera dtype; convert to one of {', '.join(DTYPES)}"
        ) from None


def from_dlpack(obj: Any) -> Array:
    """An Array that shares memory with any object that has ``__dlpack__`` (PyTorch, JAX, NumPy, …), on CPU or GPU.

    On a GPU, runs that read it come after the work that its library had put on the current stream.
    """
    if getattr(obj, "requires_grad", False):
        obj = obj.detach()
    try:
        return Array.from_dlpack(obj)
    except TesseraError:
        raise
    except Exception as error:  # each library has its own ways to refuse
        raise ArgumentError(f"array: {type(obj).__name__} gives no memory to share: {error}") from error


def array(obj: Any, dtype: object = None, *, copy: bool = False, device: str | None = None) -> Array:
    """An Array from anything that holds numbers.

    Memory is shared where possible; ``copy=True`` or a different ``dtype`` makes a new, 64-byte aligned, writable
    array. ``device``: ``"cpu"``, ``"cuda:0"``, ``"rocm:0"``; where the object lies when not given. Raises DTypeError,
    ShapeError or DeviceError.
    """
    found = as_array(obj)
    wanted = DTYPES[found.dtype] if dtype is None else as_dtype(dtype)
    place = found.device if device is None else device
    if wanted.name == found.dtype and not copy:
        return found.to(place) if place != found.device else found
    out = Array.empty(list(found.shape), wanted.name)
    if out.nbytes:
        to_numpy(out)[...] = to_numpy(found).astype(wanted.numpy, copy=False)
    return out.to(place)


def _repr(self: Array) -> str:
    values = to_numpy(self)
    shown = values.astype(np.float32) if self.dtype in _STORAGE else values
    text = np.array2string(shown, separator=", ", prefix="tessera.Array(", threshold=1000, edgeitems=3)
    return f"tessera.Array({text}, shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"


def _array_protocol(self: Array, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    out = to_numpy(self)
    if dtype is not None and out.dtype != dtype:
        if copy is False:
            raise ArgumentError(f"array: {self.dtype} cannot become {np.dtype(dtype)} without a copy")
        return out.astype(dtype)
    return out.copy() if copy else out


def _item(self: Array) -> bool | int | float:
    """The only element as a Python number; ShapeError when there is not exactly one."""
    values = to_numpy(self)
    if values.size != 1:
        raise ShapeError(f"item: an array of shape {tuple(self.shape)} has {values.size} elements, expected one")
    value = values.reshape(())[()]
    return bool(value) if self.dtype == "bool" else int(value) if self.dtype[0] in "iu" else float(value)


def _getitem(self: Array, index: Any) -> Array:
    """A view (basic indexing) or a copy (index arrays), as NumPy does it; of an array on a GPU always a copy there."""
    return Array.from_numpy(np.asarray(to_numpy(self)[index])).to(self.device)


def _setitem(self: Array, index: Any, value: Any) -> None:
    if self.readonly:
        raise ArgumentError("array: this array is read-only; take tessera.array(x, copy=True)")
    values = to_numpy(self)
    values[index] = to_numpy(value) if type(value) is Array else value
    if self.device != "cpu":
        self.copy_from(_from_numpy(values))


def _restored(values: np.ndarray) -> Array:
    return array(values, copy=True)


def _reduce(self: Array) -> tuple[Any, ...]:
    """Copies and pickles hold the elements, not the memory."""
    return _restored, (np.ascontiguousarray(to_numpy(self)).reshape(tuple(self.shape)),)


def _comparison(name: str) -> Callable[[Array, Any], Any]:
    """Comparison by element, as NumPy does it."""

    def compare(self: Array, other: Any) -> Any:
        right = to_numpy(other) if type(other) is Array else other
        found = getattr(to_numpy(self), name)(right)
        return found if found is NotImplemented else _from_numpy(np.asarray(found))

    return compare


def _format(self: Array, spec: str) -> str:
    return format(_item(self), spec) if spec else repr(self)


def _len(self: Array) -> int:
    if not self.shape:
        raise ShapeError("len: an array without dimensions has no length")
    return self.shape[0]


def _iterate(self: Array) -> Iterator[Array]:
    return (self[i] for i in range(_len(self)))


def _bool(self: Array) -> bool:
    return bool(_item(self))


def _index(self: Array) -> int:
    if self.dtype == "bool" or self.dtype[0] not in "iu":
        raise DTypeError(f"index: an array of {self.dtype} is no integer")
    return int(_item(self))


def _float(self: Array) -> float:
    return float(_item(self))


def _int(self: Array) -> int:
    return int(_item(self))


def _astype(self: Array, dtype: object) -> Array:
    """The array in another dtype; itself when it has it already. DTypeError for an unknown one."""
    return array(self, dtype)


def _transposed(self: Array) -> Array:
    """The dimensions in reversed order, sharing memory; of an array on a GPU a copy there."""
    return _from_numpy(to_numpy(self).T).to(self.device)


def _tolist(self: Array) -> Any:
    """Nested lists of Python numbers; a number for an array without dimensions."""
    return to_numpy(self).tolist()


def _ndim(self: Array) -> int:
    """Number of dimensions."""
    return len(self.shape)


def _size(self: Array) -> int:
    """Number of elements."""
    return int(np.prod(self.shape))


_METHODS: dict[str, Any] = {
    "__repr__": _repr,
    "__array__": _array_protocol,
    "__getitem__": _getitem,
    "__setitem__": _setitem,
    "__len__": _len,
    "__reduce__": _reduce,
    "__iter__": _iterate,
    "__bool__": _bool,
    "__index__": _index,
    "__float__": _float,
    "__int__": _int,
    "__format__": _format,
    **{name: _comparison(name) for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")},
    "numpy": to_numpy,
    "astype": _astype,
    "T": property(_transposed),
    "item": _item,
    "tolist": _tolist,
    "ndim": property(_ndim),
    "size": property(_size),
}
for _name, _method in _METHODS.items():
    setattr(Array, _name, _method)

__all__ = ["Array", "array", "as_array", "converted", "from_dlpack", "to_numpy"]
