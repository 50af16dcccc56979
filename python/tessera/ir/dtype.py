"""Element types and the promotion rule between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera.errors import DTypeError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    ``name`` is the short name of the text form, ``bits`` its storage width, ``kind`` one of
    ``"float"``, ``"int"`` (signed), ``"uint"``, ``"bool"``, ``code`` its number in the C ABI.
    """

    name: str
    bits: int
    kind: str
    code: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        """Whether this is a floating-point type."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Whether this is a signed or unsigned integer type (bool is not)."""
        return self.kind in {"int", "uint"}

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype (bf16 and the 8-bit floats come from ml_dtypes)."""
        import numpy as np

        if self.name in _ML_DTYPES:
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, _ML_DTYPES[self.name]))
        return np.dtype(_NUMPY_NAMES[self.name])

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


f64 = DType("f64", 64, "float", 0)
f32 = DType("f32", 32, "float", 1)
bf16 = DType("bf16", 16, "float", 2)
f16 = DType("f16", 16, "float", 3)
f8e4m3 = DType("f8e4m3", 8, "float", 4)
f8e5m2 = DType("f8e5m2", 8, "float", 5)
i64 = DType("i64", 64, "int", 6)
i32 = DType("i32", 32, "int", 7)
i16 = DType("i16", 16, "int", 8)
i8 = DType("i8", 8, "int", 9)
u8 = DType("u8", 8, "uint", 10)
bool_ = DType("bool", 8, "bool", 11)

DTYPES: dict[str, DType] = {
    d.name: d for d in (f64, f32, bf16, f16, f8e4m3, f8e5m2, i64, i32, i16, i8, u8, bool_)
}
_ML_DTYPES = {"bf16": "bfloat16", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2"}
_NUMPY_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
}
_ALIASES = {
    **{long: short for short, long in _NUMPY_NAMES.items()},
    **{long: short for short, long in _ML_DTYPES.items()},
    "float": "f32", "half": "f16", "double": "f64", "int": "i64", "long": "i64", "bool_": "bool",
}


def as_dtype(value: object) -> DType:
    """The DType for a DType, a short or NumPy name, a NumPy, PyTorch or JAX dtype, or a Python type.

    ``float`` is f32, ``int`` is i64 and ``bool`` is bool.
    """
    if isinstance(value, DType):
        return value
    if isinstance(value, type) and value in (bool, int, float):
        return {bool: bool_, int: i64, float: f32}[value]
    text = str(getattr(value, "name", None) or getattr(value, "__name__", None) or value)
    text = text.rsplit(".", 1)[-1]
    text = _ALIASES.get(text, text)
    if text not in DTYPES:
        raise DTypeError(f"unknown dtype {value!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[text]


_INT_ORDER = ("bool", "u8", "i8", "i16", "i32", "i64")
_FLOAT_ORDER = ("f8e4m3", "f8e5m2", "bf16", "f16", "f32", "f64")


def promote(a: DType, b: DType) -> DType:
    """The common dtype of two tensors.

    Within floats the wider one, but bf16 with f16 gives f32 and two different 8-bit floats give
    bf16. Within integers the wider one, but u8 with i8 gives i16. A float with an integer or bool
    keeps the float. bool gives way to everything. Python scalars are weak: they do not take part
    except by kind (see ``promote_scalar``).
    """
    if a == b:
        return a
    names = {a.name, b.name}
    if names == {"bf16", "f16"}:
        return f32
    if names == {"f8e4m3", "f8e5m2"}:
        return bf16
    if names == {"u8", "i8"}:
        return i16
    if a.is_float != b.is_float:
        return a if a.is_float else b
    order = _FLOAT_ORDER if a.is_float else _INT_ORDER
    return a if order.index(a.name) > order.index(b.name) else b


def promote_scalar(tensor: DType, scalar: bool | int | float) -> DType:
    """The dtype of a tensor combined with a Python scalar: the tensor's, unless the scalar's kind is higher.

    An int with a bool tensor gives i64, a float with an integer or bool tensor gives f32.
    """
    if isinstance(scalar, bool):
        return tensor
    if isinstance(scalar, int):
        return i64 if tensor.kind == "bool" else tensor
    return tensor if tensor.is_float else f32
