"""Python's operators and the common methods on symbolic tensors.

``x == y`` compares elementwise; tensors stay hashable by identity. A symbolic tensor has no truth value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dtype import DType
from tessera.ir.value import Value, attach
from tessera.op import pointwise_binary, pointwise_unary, reduce, shape, subscript
from tessera.op.arguments import shape_text
from tessera.op.promotion import is_scalar


def _usable(other: Any) -> bool:
    """Whether ``other`` can be an operand; else Python is to try the other operand's method."""
    if isinstance(other, (Value, list, tuple)) or is_scalar(other):
        return True
    return any(hasattr(other, a) for a in ("__array__", "__dlpack__")) or hasattr(other, "terms")


def _operator(function: Callable[[Any, Any], Value]) -> Callable[[Value, Any], Any]:
    return lambda self, other: function(self, other) if _usable(other) else NotImplemented


def _reflected(function: Callable[[Any, Any], Value]) -> Callable[[Value, Any], Any]:
    return lambda self, other: function(other, self) if _usable(other) else NotImplemented


def _matmul(x: Any, y: Any) -> Value:
    from tessera.op.matmul import matmul

    return matmul(x, y)


def _truth(self: Value) -> bool:
    raise ArgumentError(
        f"a symbolic tensor ({self.type}) has no truth value while a graph is built, so it cannot stand in if, while, "
        "and, "
        "or, not, in; use op.where, op.logical_and, op.logical_or, op.logical_not"
    )


def _number(self: Value) -> Any:
    raise ArgumentError(f"a symbolic tensor ({self.type}) has no number while a graph is built; evaluate it first")


def _length(self: Value) -> int:
    if self.ndim == 0:
        raise ShapeError("a tensor with shape () has no length")
    if not isinstance(self.shape[0], int):
        raise ShapeError(
            f"the length of a tensor with shape {shape_text(self.shape)} is known only when the graph runs"
        )
    return self.shape[0]


def _rows(self: Value) -> Iterator[Value]:
    return (self[i] for i in range(_length(self)))


def _matrix_transpose(self: Value) -> Value:
    if self.ndim < 2:
        raise ShapeError(f"[mT] operand 0 has shape {shape_text(self.shape)}; a matrix needs 2 dimensions")
    return shape.swapaxes(self, -1, -2)


def _cast(self: Value, dtype: DType | str | type) -> Value:
    """The tensor in another dtype (``op.cast``)."""
    return pointwise_unary.cast(self, dtype)


_BINARY: dict[str, Callable[[Any, Any], Value]] = {
    "add": pointwise_binary.add, "sub": pointwise_binary.sub, "mul": pointwise_binary.mul,
    "truediv": pointwise_binary.div,
    "floordiv": pointwise_binary.floordiv, "mod": pointwise_binary.mod, "pow": pointwise_binary.pow, "matmul": _matmul,
    "and": pointwise_binary.bitwise_and, "or": pointwise_binary.bitwise_or, "xor": pointwise_binary.bitwise_xor,
    "lshift": pointwise_binary.shift_left, "rshift": pointwise_binary.shift_right,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Value]] = {
    "eq": pointwise_binary.eq, "ne": pointwise_binary.ne, "lt": pointwise_binary.lt, "le": pointwise_binary.le,
    "gt": pointwise_binary.gt, "ge": pointwise_binary.ge,
}
def _itself(self: Value) -> Value:
    return self


def _rounded(self: Value) -> Value:
    return pointwise_unary.round(self)


_METHODS: dict[str, Callable[..., Any]] = {
    "__neg__": pointwise_unary.neg, "__abs__": pointwise_unary.abs, "__invert__": pointwise_unary.bitwise_not,
    "__pos__": _itself, "__round__": _rounded,
    "__getitem__": subscript.subscript, "__bool__": _truth, "__int__": _number, "__float__": _number,
    "__index__": _number, "__len__": _length, "__iter__": _rows, "astype": _cast, "cast": _cast,
    "reshape": shape.reshape, "transpose": shape.transpose, "permute": shape.permute, "swapaxes": shape.swapaxes,
    "flatten": shape.flatten, "squeeze": shape.squeeze, "sum": reduce.sum, "prod": reduce.prod, "mean": reduce.mean,
    "max": reduce.max, "min": reduce.min, "var": reduce.var, "std": reduce.std, "any": reduce.any, "all": reduce.all,
    "argmax": reduce.argmax, "argmin": reduce.argmin, "cumsum": reduce.cumsum, "clip": pointwise_binary.clip,
}


def _attach_all() -> None:
    for name, function in _BINARY.items():
        attach(f"__{name}__", _operator(function))
        attach(f"__r{name}__", _reflected(function))
    for name, function in _COMPARISONS.items():
        attach(f"__{name}__", _operator(function))
    for name, function in _METHODS.items():
        attach(name, function)
    attach("T", property(lambda self: shape.transpose(self), doc="The dimensions in reversed order."))
    attach("mT", property(_matrix_transpose, doc="The last two dimensions exchanged."))
    # NumPy leaves `array + tensor` to the tensor's reflected operator.
    attach("__array_ufunc__", None)
    attach("__array_priority__", 1000)


_attach_all()
