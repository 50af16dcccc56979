"""What users may pass as a tensor, and the common dtype of several operands.

Python and NumPy scalars are weak: they take the dtype of the tensor they meet, unless their kind is higher (a float
with an integer tensor gives f32). Arrays are strong: NumPy, PyTorch and JAX arrays keep their dtype.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import reduce
from typing import Any, cast

import numpy as np

from tessera.errors import ArgumentError, DTypeError
from tessera.ir.dims import Expr
from tessera.ir.dtype import DTYPES, DType, as_dtype, f32, promote, promote_scalar
from tessera.ir.provenance import user_location
from tessera.ir.value import CONSTANT, Node, TensorType, Value
from tessera.op.opdef import build
from tessera.op.parameter import Parameter

TensorLike = Any
"""A symbolic tensor, a Python or NumPy scalar, a symbolic dimension, or an array (NumPy, PyTorch, JAX, lists)."""


def is_scalar(x: object) -> bool:
    """Whether ``x`` is a weak scalar."""
    return isinstance(x, (bool, int, float, np.generic))


def as_tensor(x: TensorLike, like: Value | DType | None = None) -> Value:
    """The symbolic tensor for ``x``.

    Tensors stay as they are; a ``Parameter`` is its leaf; scalars become a ``full`` of shape () with the dtype of
    ``like`` unless their kind is higher (without ``like``: bool, i64, f32); a symbolic dimension becomes an i64 scalar;
    arrays become constants.
    """
    if isinstance(x, Value):
        return x
    if isinstance(x, Parameter):
        return x.leaf()
    if isinstance(x, Expr):
        return build("full", shape=[], value=x, dtype=DTYPES["i64"])
    if is_scalar(x):
        value = python_scalar(x)
        context = like.dtype if isinstance(like, Value) else like
        dtype = promote_scalar(context, value) if context is not None else as_dtype(type(value))
        return scalar(value, dtype)
    return constant(x)


def python_scalar(x: Any) -> bool | int | float:
    """The Python bool, int or float of a scalar."""
    value = cast("Any", x).item() if isinstance(x, np.generic) else x
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(x, np.generic) and cast("Any", x).dtype.kind == "V":  # bf16 and 8-bit floats of ml_dtypes
        return float(cast("Any", x))
    raise DTypeError(f"a scalar of type {type(cast('object', x)).__name__} is not supported; use a bool, int or float")


def scalar(value: bool | int | float, dtype: DType) -> Value:
    """A rank-0 tensor."""
    return build("full", shape=[], value=scalar_of(value, dtype), dtype=dtype)


def scalar_of(value: bool | int | float, dtype: DType) -> bool | int | float:
    """``value`` as the Python type that belongs to ``dtype``; ArgumentError when it does not fit."""
    if dtype.kind == "bool":
        return bool(value)
    if dtype.is_float:
        return float(value)
    if isinstance(value, float) and not value.is_integer():
        raise ArgumentError(f"the value {value} is not a {dtype}; use a floating-point dtype")
    info = np.iinfo(dtype.numpy)
    if not info.min <= value <= info.max:
        raise ArgumentError(f"the value {value} does not fit {dtype} ({info.min} to {info.max}); use a wider dtype")
    return int(value)


def promote_operands(op: str, *operands: TensorLike) -> list[Value]:
    """All operands as tensors of their common dtype (``tessera.ir.dtype.promote``)."""
    tensors = [x if is_scalar(x) else as_tensor(x) for x in operands]
    strong = [t.dtype for t in tensors if isinstance(t, Value)]
    weak = [python_scalar(t) for t in tensors if not isinstance(t, Value)]
    if not strong:
        strong = [as_dtype(type(w)) for w in weak]
    common = reduce(promote_scalar, weak, reduce(promote, strong))
    if common.name in ("f8e4m3", "f8e5m2"):
        raise DTypeError(
            f"[{op}] operands have dtype {common}, which only stores numbers; cast them to bf16 or f32 first"
        )
    return [cast_to(t, common) if isinstance(t, Value) else scalar(python_scalar(t), common) for t in tensors]


def cast_to(x: Value, dtype: DType) -> Value:
    """``x`` in another dtype; the same value when it has it already."""
    return x if x.dtype == dtype else build("cast", x, dtype=dtype)


def as_floating(x: TensorLike, like: Value | DType | None = None) -> Value:
    """``x`` as a tensor of a floating-point dtype: integers and bool become f32."""
    tensor = as_tensor(x, like)
    return tensor if tensor.dtype.is_float else cast_to(tensor, f32)


def as_index(op: str, what: str, x: TensorLike) -> Value:
    """``x`` as a tensor of i32 or i64, from any integer dtype; DTypeError, which calls it ``what``, for others."""
    tensor = as_tensor(x)
    if not tensor.dtype.is_integer:
        raise DTypeError(f"[{op}] {what} have dtype {tensor.dtype}; expected an integer dtype")
    return tensor if tensor.dtype.name in ("i32", "i64") else cast_to(tensor, DTYPES["i64"])


def host_array(x: Any) -> np.ndarray:
    """A NumPy array with the elements of any array: NumPy, PyTorch, JAX, DLPack, nested lists.

    Nested lists of floats are f32, as Python floats are. DTypeError for an element type without counterpart.
    """
    array: np.ndarray
    if isinstance(x, np.ndarray):
        array = cast("np.ndarray", x)
    elif type(x).__module__.split(".")[0] == "torch":
        array = _torch_array(x)
    elif hasattr(x, "__array__"):
        array = np.asarray(x)
    elif hasattr(x, "__dlpack__"):
        array = np.from_dlpack(x)
    elif isinstance(x, (list, tuple)):
        array = _list_array(cast("Sequence[Any]", x))
    else:
        raise DTypeError(f"{type(x).__name__} is not a tensor; give a tensor, an array or a number")
    as_dtype(array.dtype)
    return array


def _torch_array(x: Any) -> np.ndarray:
    torch = sys.modules["torch"]
    host = x.detach().cpu().contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(DTYPES["bf16"].numpy)
    return host.numpy()


def _list_array(x: Sequence[Any]) -> np.ndarray:
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"the nested lists do not form an array: {error}") from None
    return array.astype(np.float32) if array.dtype == np.float64 else array


def constant(array: TensorLike, dtype: DType | str | None = None) -> Value:
    """A tensor with fixed elements, stored in the graph (read-only, copied).

    ``array``: a scalar or anything ``host_array`` takes; ``dtype``: convert to it. Constants of equal content have
    equal names.
    """
    if isinstance(array, Value):
        raise ArgumentError("[constant] the argument is a symbolic tensor, which has no elements yet")
    if is_scalar(array):
        value = python_scalar(array)
        data = np.asarray(value, as_dtype(type(value)).numpy)
    else:
        data = host_array(array)
    target = as_dtype(dtype) if dtype is not None else as_dtype(data.dtype)
    data = np.array(data, dtype=target.numpy, order="C", copy=True)
    data.flags.writeable = False
    digest = hashlib.blake2b(f"{target}{data.shape}".encode() + data.tobytes(), digest_size=6).hexdigest()
    node = Node(CONSTANT, (), {"name": f"constant_{digest}"}, (TensorType(target, data.shape),), user_location(), data)
    return node.results[0]
