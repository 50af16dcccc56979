"""The pointwise functions of Tile IR (``COMPUTES``) as Triton text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tessera.errors import CompileError
from tessera.ir.dtype import DType, bool_, f32, f64
from tessera.target.triton.convert import cast, constant, is_narrow, register_type, rounded
from tessera.target.triton.text import Writer

_EXACT_IN_NARROW = frozenset({
    "neg", "abs", "sign", "floor", "ceil", "round", "trunc", "maximum", "minimum", "where",
})  # of values already rounded to a narrow float these need no second rounding
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"logical_and": "&", "logical_or": "|", "logical_xor": "^"}
_DEVICE = frozenset({
    "floor", "ceil", "trunc", "exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "tanh", "erf", "pow", "atan2",
})
"""Functions of libdevice (NVIDIA) and ocml (AMD), which the compiler links into the module."""
_PROPAGATE = "propagate_nan=tl.PropagateNan.ALL"


def evaluate(writer: Writer, function: str, args: Sequence[str], source: DType, dtype: DType) -> str:
    """The text of a function of variables; ``source`` is the dtype of the last operand, ``dtype`` the result's."""
    if function == "cast":
        return cast(writer, args[0], source, dtype)
    if function == "where":
        return f"tl.where({', '.join(args)})"
    if function in _COMPARE:
        return f"{args[0]} {_COMPARE[function]} {args[1]}"
    if function == "logical_not":
        return f"{args[0]} == 0"
    if function in _LOGIC:
        left, right = (a if source == bool_ else f"({a} != 0)" for a in args)
        return f"{left} {_LOGIC[function]} {right}"
    if not source.is_float:
        return _integer(writer, function, args, source)
    text = _float(writer, function, args, source)
    return rounded(writer, dtype, text) if is_narrow(dtype) and function not in _EXACT_IN_NARROW else text


def _float(writer: Writer, function: str, args: Sequence[str], source: DType) -> str:
    if function in _SYMBOLS:
        return f"{args[0]} {_SYMBOLS[function]} {args[1]}"
    if function == "erf" and source != f64:
        return writer.call("erf_of", *args)
    if function in _DEVICE:
        return f"libdevice.{function}({', '.join(args)})"
    if function in ("maximum", "minimum"):
        return f"tl.{function}({', '.join(args)}, {_PROPAGATE})"
    write = _FLOAT.get(function)
    if write is None:
        raise CompileError(f"the function {function} is not defined for {source}")
    return write(writer, source, *args)


def _quotient(w: Writer, d: DType, a: str, b: str) -> str:
    """Correctly rounded in f32 and f64; narrower types are rounded from an f32 quotient that need not be."""
    return f"tl.div_rn({a}, {b})" if d == f32 else f"{a} / {b}"


def _root(w: Writer, d: DType, x: str) -> str:
    return f"libdevice.sqrt({x})" if d == f64 else f"tl.sqrt_rn({x})"


_FLOAT: dict[str, Callable[..., str]] = {
    "neg": lambda w, d, x: f"-{x}",
    "abs": lambda w, d, x: f"tl.abs({x})",
    "sign": lambda w, d, x: w.call("sign_of", x),
    "round": lambda w, d, x: w.call("round_even", x),
    "sqrt": _root,
    "rsqrt": lambda w, d, x: _quotient(w, d, "1.0", _root(w, d, x)) if d == f64 else f"libdevice.rsqrt({x})",
    "reciprocal": lambda w, d, x: _quotient(w, d, f"tl.full((), 1.0, {register_type(d)})", x),
    "sigmoid": lambda w, d, x: w.call("sigmoid_of", x),
    "exp_of_difference": lambda w, d, x: w.call("exp_of_difference", x),
    "erf_beside_one": lambda w, d, x: w.call("erf_beside_one", x),
    "isnan": lambda w, d, x: f"{x} != {x}",
    "isinf": lambda w, d, x: f'tl.abs({x}) == float("inf")',
    "isfinite": lambda w, d, x: f'tl.abs({x}) < float("inf")',
    "div": _quotient,
    "floordiv": lambda w, d, a, b: w.call("floor_divide64" if d == f64 else "floor_divide", a, b),
    "mod": lambda w, d, a, b: w.call("floor_modulo", a, b),
}


def _integer(writer: Writer, function: str, args: Sequence[str], source: DType) -> str:
    if source == bool_ and function in ("add", "maximum"):
        return f"{args[0]} | {args[1]}"
    if source == bool_ and function in ("mul", "minimum"):
        return f"{args[0]} & {args[1]}"
    if function in _SYMBOLS:
        text = f"{args[0]} {_SYMBOLS[function]} {args[1]}"
        return text if source.bits >= 32 or source == bool_ else f"({text}).to({register_type(source)})"
    write = _INTEGER.get(function)
    if write is None:
        raise CompileError(f"the function {function} is not defined for {source}")
    return write(writer, source, *args)


def _same(w: Writer, d: DType, x: str) -> str:
    return x


def _shift(w: Writer, d: DType, a: str, b: str, symbol: str) -> str:
    kind = register_type(d)
    inside = f"(({b} >= 0) & ({b} < {d.bits}))" if d.kind == "int" else f"({b} < {d.bits})"
    outside = f"tl.full((), 0, {kind})"
    amount = f"tl.where({inside}, {b}, {outside})"
    if symbol == ">>" and d.kind == "int":
        outside = f"({a} >> {d.bits - 1})"
    return f"tl.where({inside}, {a} {symbol} {amount}, {outside}).to({kind})"


def _power(w: Writer, d: DType, a: str, b: str) -> str:
    kind = register_type(d)
    return w.call("power_integer" if d.kind == "int" else "power_unsigned", a, b, str(d.bits)) + f".to({kind})"


_INTEGER: dict[str, Callable[..., str]] = {
    "neg": lambda w, d, x: f"(0 - {x}).to({register_type(d)})",
    "abs": lambda w, d, x: f"tl.where({x} < 0, 0 - {x}, {x}).to({register_type(d)})" if d.kind == "int" else x,
    "sign": lambda w, d, x: (
        f"(({x} > 0).to({register_type(d)}) - ({x} < 0).to({register_type(d)}))" if d.kind == "int"
        else f"({x} != 0).to({register_type(d)})"
    ),
    "floor": _same, "ceil": _same, "round": _same, "trunc": _same,
    "isnan": lambda w, d, x: f"{x} != {x}",
    "isinf": lambda w, d, x: f"{x} != {x}",
    "isfinite": lambda w, d, x: f"{x} == {x}",
    "bitwise_not": lambda w, d, x: (
        f"{x} == 0" if d == bool_ else f"{x} ^ {constant(-1 if d.kind == 'int' else 2**d.bits - 1, d)}"
    ),
    "floordiv": lambda w, d, a, b: (
        w.call("floor_divide_integer", a, b) if d.kind == "int" else w.call("divide_unsigned", a, b)
    ),
    "mod": lambda w, d, a, b: (
        w.call("floor_modulo_integer", a, b) if d.kind == "int" else w.call("modulo_unsigned", a, b)
    ),
    "pow": _power,
    "maximum": lambda w, d, a, b: f"tl.maximum({a}, {b})",
    "minimum": lambda w, d, a, b: f"tl.minimum({a}, {b})",
    "shift_left": lambda w, d, a, b: _shift(w, d, a, b, "<<"),
    "shift_right": lambda w, d, a, b: _shift(w, d, a, b, ">>"),
}
