"""Element types in memory and in registers, and conversions between them.

In registers f64 is ``double``; f32 and every narrower float are ``float`` (already rounded to their type);
integers keep their width; bool is ``i1``. No conversion calls a library.
"""

from __future__ import annotations

from tessera.errors import UnsupportedError
from tessera.ir.dtype import DType, bf16, bool_, f8e4m3, f8e5m2, f16, f32, f64
from tessera.target.cpu.emit import Builder, Val
from tessera.target.cpu.levels import Level

_REGISTER = {"f64": "double", "f32": "float", "bf16": "float", "f16": "float", "f8e4m3": "float", "f8e5m2": "float",
             "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8", "u8": "i8", "bool": "i1"}
_MEMORY = {"f64": "double", "f32": "float", "bf16": "i16", "f16": "i16", "f8e4m3": "i8", "f8e5m2": "i8",
           "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8", "u8": "i8", "bool": "i8"}
# exponent bits, mantissa bits, bias, has infinities
_SMALL = {f16: (5, 10, 15, True), f8e5m2: (5, 2, 15, True), f8e4m3: (4, 3, 7, False)}


def register_type(dtype: DType) -> str:
    """The LLVM type of one element in a register."""
    return _REGISTER[dtype.name]


def memory_type(dtype: DType) -> str:
    """The LLVM type of one element in memory."""
    return _MEMORY[dtype.name]


def is_narrow(dtype: DType) -> bool:
    """Whether values of this dtype are held as f32."""
    return dtype.is_float and dtype.bits < 32


def from_memory(b: Builder, level: Level, dtype: DType, raw: Val) -> Val:
    """The register form of a loaded element."""
    if dtype == bool_:
        return raw.ne(0)
    if is_narrow(dtype):
        value = _widen(b, level, dtype, raw)
        b.raw_forms[value.s, dtype.name] = raw
        return value
    return raw


def _widen(b: Builder, level: Level, dtype: DType, raw: Val) -> Val:
    if dtype == bf16:
        return (b.convert("zext", raw, "i32") << 16).bitcast("float")
    if dtype == f16 and level.has_f16c:
        return b.convert("fpext", raw.bitcast("half"), "float")
    return _expand_small(b, dtype, raw)


def to_memory(b: Builder, level: Level, dtype: DType, x: Val) -> Val:
    """The memory form of a register value of ``dtype``: rounds an f32 to a narrow float, to nearest even."""
    if dtype == bool_:
        return b.convert("zext", x, "i8")
    known = b.raw_forms.get((x.s, dtype.name))
    if known is not None and known.n == x.n and known.d <= len(b.scopes) - 1:
        return known
    if dtype == bf16:
        bits = x.bitcast("i32")
        rounded = (bits + 0x7FFF + (bits.lshr(16) & 1)).lshr(16)
        return b.convert("trunc", b.select(x.isnan(), bits.lshr(16) | 0x40, rounded), "i16")
    if dtype == f16 and level.has_f16c:
        return b.convert("fptrunc", x, "half").bitcast("i16")
    if dtype in _SMALL:
        return _round_small(b, dtype, x)
    return x


def round_narrow(b: Builder, level: Level, dtype: DType, x: Val) -> Val:
    """An f32 rounded to a narrow dtype, still as f32."""
    return from_memory(b, level, dtype, to_memory(b, level, dtype, x))


def _expand_small(b: Builder, dtype: DType, raw: Val) -> Val:
    """A 16- or 8-bit float as f32, by integer arithmetic."""
    exponent_bits, mantissa_bits, bias, has_inf = _SMALL[dtype]
    wide = b.convert("zext", raw, "i32")
    magnitude = wide & ((1 << (dtype.bits - 1)) - 1)
    sign = (wide & (1 << (dtype.bits - 1))) << (32 - dtype.bits)
    # placed as an f32 with a wrong bias, then multiplied by the exact power of two: denormals come out right
    value = (magnitude << (23 - mantissa_bits)).bitcast("float") * 2.0 ** (127 - bias)
    bits = value.bitcast("i32")
    if has_inf:
        special = magnitude.ge(((1 << exponent_bits) - 1) << mantissa_bits)
        bits = b.select(special, (magnitude << (23 - mantissa_bits)) | 0x7F800000, bits)
    else:
        bits = b.select(magnitude.eq((1 << (dtype.bits - 1)) - 1), 0x7FC00000, bits)
    return (bits | sign).bitcast("float")


def _round_small(b: Builder, dtype: DType, x: Val) -> Val:
    """An f32 rounded to nearest even to a 16- or 8-bit float, by integer arithmetic."""
    exponent_bits, mantissa_bits, bias, has_inf = _SMALL[dtype]
    drop = 23 - mantissa_bits
    bits = x.bitcast("i32")
    magnitude = bits & 0x7FFFFFFF
    sign = (bits.lshr(32 - dtype.bits)) & (1 << (dtype.bits - 1))
    rebias = (127 - bias) << 23
    normal = (magnitude - rebias + ((1 << (drop - 1)) - 1) + (magnitude.lshr(drop) & 1)).lshr(drop)
    # adding this power of two aligns the denormal's last bit with the last bit of an f32, which rounds it
    aligner_exponent = 127 - bias + drop + 1
    aligner = b.const(2.0 ** (aligner_exponent - 127), "float", x.n)
    denormal = b.exact("fadd", magnitude.bitcast("float"), aligner).bitcast("i32") - (aligner_exponent << 23)
    result = b.select(magnitude.lt((127 - bias + 1) << 23), denormal, normal)
    if has_inf:
        infinity = ((1 << exponent_bits) - 1) << mantissa_bits
        result = b.select(magnitude.ge((127 + bias + 1) << 23), infinity, result)
        result = b.select(result.gt(infinity), infinity, result)
        quiet = 1 << (mantissa_bits - 1)
        result = b.select(magnitude.gt(0x7F800000), infinity | quiet, result)
    else:
        largest = (1 << (dtype.bits - 1)) - 1  # the NaN pattern: what does not fit becomes NaN
        too_big = magnitude.ge((127 + bias + 2) << 23) | result.gt(largest)
        result = b.select(too_big, largest, result)
    return b.convert("trunc", result | sign, f"i{dtype.bits}")


def _round_to_odd_f32(b: Builder, x: Val) -> Val:
    """f64 to f32 rounded to odd, so that a second rounding to a narrower type is right."""
    nearest = b.convert("fptrunc", x, "float")
    back = b.convert("fpext", nearest, "double")
    bits = nearest.bitcast("i32")
    inexact = back.ne(x) & ~x.isnan()
    toward_zero = b.select(back.abs().gt(x.abs()), bits - 1, bits)
    return b.select(inexact, toward_zero | 1, bits).bitcast("float")


def cast(b: Builder, level: Level, x: Val, source: DType, target: DType) -> Val:
    """A register value of ``source`` as one of ``target`` (see COMPUTES for the rules)."""
    if source == target:
        return x
    t = register_type(target)
    if target == bool_:
        return x.ne(0)
    if source.is_float:
        if target.is_float:
            return _cast_float(b, level, x, source, target)
        return b.saturate(x, t, signed=target.kind == "int")
    if target.is_float:
        unsigned = source.kind != "int"
        y = b.convert("uitofp" if unsigned else "sitofp", x, t)
        return round_narrow(b, level, target, y) if is_narrow(target) else y
    if source.kind == "int":
        return b.convert("trunc" if target.bits < source.bits else "sext", x, t) if target.bits != source.bits else x
    if source == bool_ or target.bits > source.bits:
        return b.convert("zext", x, t)
    return b.convert("trunc", x, t) if target.bits < source.bits else x


def _cast_float(b: Builder, level: Level, x: Val, source: DType, target: DType) -> Val:
    if target == f64:
        return b.convert("fpext", x, "double")
    if source == f64:
        x = b.convert("fptrunc", x, "float") if target == f32 else _round_to_odd_f32(b, x)
    return x if target == f32 else round_narrow(b, level, target, x)


def check_supported(dtype: DType) -> None:
    """Raise UnsupportedError for a dtype that the CPU target cannot hold."""
    if dtype.name not in _REGISTER:
        raise UnsupportedError(f"target 'cpu' has no representation of dtype {dtype}")
