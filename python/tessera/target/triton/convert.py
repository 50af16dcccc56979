"""Element types in Triton, and conversions between them.

In a kernel's variables f64 is ``float64``; f32 and every narrower float are ``float32`` (already rounded to their
type); integers keep their width; bool is ``int1``, in memory a byte.
"""

from __future__ import annotations

from tessera.ir.dtype import DType, bf16, bool_, f8e4m3, f8e5m2, f16
from tessera.target.triton.text import Writer

_MEMORY = {"f64": "fp64", "f32": "fp32", "bf16": "bf16", "f16": "fp16", "f8e4m3": "u8", "f8e5m2": "u8",
           "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8", "u8": "u8", "bool": "u8"}
_REGISTER = {"f64": "float64", "f32": "float32", "bf16": "float32", "f16": "float32", "f8e4m3": "float32",
             "f8e5m2": "float32", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8",
             "bool": "int1"}
_NARROW = {bf16: "bfloat16", f16: "float16"}
# bits of the mantissa, bias of the exponent, whether there are infinities
_SMALL = {f8e4m3: (3, 7, False), f8e5m2: (2, 15, True)}


def pointer_type(dtype: DType) -> str:
    """The type of a pointer to elements, as in a Triton signature."""
    return f"*{_MEMORY[dtype.name]}"


def register_type(dtype: DType) -> str:
    """The type of a variable, as ``tl.…``."""
    return f"tl.{_REGISTER[dtype.name]}"


def is_narrow(dtype: DType) -> bool:
    """Whether values of this dtype are held as f32."""
    return dtype.is_float and dtype.bits < 32


def _small(dtype: DType) -> str:
    mantissa, bias, infinite = _SMALL[dtype]
    return f"{mantissa}, {bias}, {infinite}"


def from_memory(writer: Writer, dtype: DType, raw: str) -> str:
    """The text of the variable form of a loaded element."""
    if dtype == bool_:
        return f"{raw} != 0"
    if dtype in _SMALL:
        return writer.call("from_small_float", raw, _small(dtype))
    return f"{raw}.to(tl.float32)" if dtype in _NARROW else raw


def to_memory(writer: Writer, dtype: DType, value: str) -> str:
    """The text of the memory form of a variable; f32 is rounded to a narrow float, to nearest even."""
    if dtype == bool_:
        return f"{value}.to(tl.uint8)"
    if dtype in _SMALL:
        return writer.call("to_small_float", value, _small(dtype))
    return f"{value}.to(tl.{_NARROW[dtype]})" if dtype in _NARROW else value


def rounded(writer: Writer, dtype: DType, value: str) -> str:
    """The text of an f32 rounded to what ``dtype`` can hold."""
    if dtype in _SMALL:
        return writer.call("from_small_float", writer.call("to_small_float", value, _small(dtype)), _small(dtype))
    return f"({value}).to(tl.{_NARROW[dtype]}).to(tl.float32)" if dtype in _NARROW else value


def constant(value: bool | int | float, dtype: DType) -> str:
    """The text of a scalar of a dtype."""
    if dtype == bool_:
        return f"tl.full((), {bool(value)}, tl.int1)"
    text = repr(float(value)) if dtype.is_float else str(int(value))
    if text in ("inf", "-inf", "nan"):
        text = f'float("{text}")'
    return f"tl.full((), {text}, {register_type(dtype)})"


def cast(writer: Writer, value: str, source: DType, dtype: DType) -> str:
    """The text of a conversion: floats to integers truncate and saturate, NaN to 0; to bool, nonzero is true."""
    if source == dtype:
        return value
    if dtype == bool_:
        return f"{value} != 0"
    if source.is_float and dtype.is_integer:
        return _saturated(writer, value, dtype)
    if not dtype.is_float:
        return f"{value}.to({register_type(dtype)})"
    if source == bool_:
        value = f"{value}.to(tl.int32)"
    wide = value if register_type(source) == register_type(dtype) else f"{value}.to({register_type(dtype)})"
    return rounded(writer, dtype, wide)


def _saturated(writer: Writer, value: str, dtype: DType) -> str:
    lowest = 0 if dtype.kind == "uint" else -(2 ** (dtype.bits - 1))
    highest = 2**dtype.bits - 1 if dtype.kind == "uint" else -lowest - 1
    low, limit = f"{float(lowest - (dtype.bits < 32))!r}", f"{float(highest + 1)!r}"
    through = "tl.int64" if dtype.bits == 64 else "tl.int32"
    cut = writer.call("saturate", value, low, limit, through, str(lowest), str(highest))
    return cut if dtype.bits >= 32 else f"{cut}.to({register_type(dtype)})"


