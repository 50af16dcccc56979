"""The pointwise functions of Tile IR (``COMPUTES``) on register values."""

from __future__ import annotations

import math as _math
from collections.abc import Callable, Sequence

from tessera.errors import CompileError
from tessera.ir.dtype import DType
from tessera.target.cpu import math, trig
from tessera.target.cpu.convert import cast, is_narrow, round_narrow
from tessera.target.cpu.emit import Builder, Val
from tessera.target.cpu.levels import Level

_EXACT_IN_NARROW = frozenset({
    "neg", "abs", "sign", "floor", "ceil", "round", "trunc", "maximum", "minimum", "where",
})  # of values already rounded to a narrow float these need no second rounding

_COMPARE = {"eq": Val.eq, "ne": Val.ne, "lt": Val.lt, "le": Val.le, "gt": Val.gt, "ge": Val.ge}
_UNSIGNED = {"lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge"}


def evaluate(b: Builder, level: Level, function: str, args: Sequence[Val], sources: Sequence[DType],
             dtype: DType) -> Val:
    """The result (register form of ``dtype``) of a pointwise function of operands with dtypes ``sources``."""
    source = sources[-1]
    n = max(a.n for a in args)
    if n > 1 and function != "cast":
        args = [b.broadcast(a, n) for a in args]
    if function == "cast":
        return cast(b, level, args[0], source, dtype)
    if function == "where":
        return b.select(args[0], args[1], args[2])
    if function in _COMPARE:
        if source.kind in ("uint", "bool") and function in _UNSIGNED:
            return b.compare(_UNSIGNED[function], "", args[0], args[1])
        return _COMPARE[function](args[0], args[1])
    if function in _CLASSIFY and not source.is_float:
        return b.const(function == "isfinite", "i1", n)
    table = _FLOAT if source.is_float else _INTEGER
    write = table.get(function)
    if write is None:
        raise CompileError(f"the function {function} is not defined for {source}")
    if source.is_float:
        result = _call(b, function, args) if function in _OUTLINED else write(b, *args)
        if is_narrow(dtype) and function not in _EXACT_IN_NARROW:
            return round_narrow(b, level, dtype, result)
        return result
    return write(b, source, *args)


def _call(b: Builder, function: str, args: Sequence[Val]) -> Val:
    """A call of the module's helper function for a long function, written once per type."""
    ty, t, n = args[0].ty, args[0].t, args[0].n
    names = [f"x{i}" for i in range(len(args))]

    def write(name: str) -> str:
        inner = Builder(b.module, name, ty, [(ty, a) for a in names], b.has_fma)
        return inner.finish(_FLOAT[function](inner, *(inner.args[a] for a in names)))

    symbol = b.module.helper(f"tsr_{function}_v{n}{t}", write)
    return b.pure(t, n, f"call {ty} {symbol}({', '.join(map(str, args))})", *args)


# floats


def _sign_f(b: Builder, x: Val) -> Val:
    one = b.call("copysign", b.const(1.0, x.t, x.n), x)
    return b.select(x.eq(0.0) | x.isnan(), x, one)


def maximum_f(b: Builder, x: Val, y: Val) -> Val:
    """The larger; NaN if either is."""
    return b.select(x.isnan(), x, b.select(x.gt(y), x, y))


def minimum_f(b: Builder, x: Val, y: Val) -> Val:
    """The smaller; NaN if either is."""
    return b.select(x.isnan(), x, b.select(x.lt(y), x, y))


def _fmod(b: Builder, x: Val, y: Val) -> Val:
    """C's fmod, exact. Quotients of moderate size in f64 (see below), all others bit by bit in integers."""
    wide_x, wide_y = b.convert("fpext", x, "double"), b.convert("fpext", y, "double")
    # the product q·y must be exact: by FMA, or because f32 operands leave room for a 28-bit quotient
    limit = 2.0**28 if x.t == "float" else 2.0**51
    ax, ay = wide_x.abs(), wide_y.abs()
    q = b.call("trunc", ax / ay)
    if x.t == "double" and b.has_fma:
        r = b.intrinsic("fma", -q, ay, ax)
    else:
        r = b.exact("fsub", ax, b.exact("fmul", q, ay))
    r = b.select(r.lt(0.0), b.exact("fadd", r, ay), r)
    r = b.select(r.ge(ay), b.exact("fsub", r, ay), r)
    proper = ax.lt(_math.inf) & ay.gt(0.0)
    easy = q.lt(limit) if (x.t == "float" or b.has_fma) else ax.lt(ay)
    r = b.select(ax.lt(ay), ax, r)
    hard = proper & ay.lt(_math.inf) & ~easy
    symbol = b.module.helper("tsr_fmod_f64", lambda name: _write_fmod(
        Builder(b.module, name, "double", [("double", "x"), ("double", "y")], b.has_fma)))
    n = wide_x.n

    def slow() -> list[Val]:
        xs, ys, rs = (b.alloca("double", n) for _ in range(3))
        flags = b.alloca("i8", n)
        for p, v in ((xs, ax), (ys, ay), (rs, r), (flags, b.convert("zext", hard, "i8"))):
            b.store(p, v, 1)
        with b.loop(0, n) as lane:
            def one() -> list[Val]:
                u, v = (b.load(b.pointer(p, lane.i, "double"), "double", 1, 8) for p in (xs, ys))
                b.store(b.pointer(rs, lane.i, "double"), b.here("double", 1, f"call double {symbol}({u}, {v})"), 8)
                return []

            b.branch(b.load(b.pointer(flags, lane.i, "i8"), "i8", 1, 1).ne(0), one)
        return [b.load(rs, "double", n, 8)]

    r = b.branch(b.any(hard), slow, lambda: [r])[0]
    r = b.select(proper, r, _math.nan)
    r = b.select(ay.isnan(), _math.nan, r)
    return b.convert("fptrunc", b.call("copysign", r, wide_x), x.t)


def _write_fmod(b: Builder) -> str:
    """fmod of positive finite f64, y > 0: long division of the integer mantissas, 11 bits a step."""
    parts = []
    for a in (b.args["x"], b.args["y"]):
        tiny = a.lt(2.0**-1022)
        bits = b.select(tiny, a * 2.0**54, a).bitcast("i64")
        exponent = bits.lshr(52) - b.select(tiny, b.const(54, "i64"), 0)
        parts.append((((bits & ((1 << 52) - 1)) | (1 << 52)), exponent))
    (mx, ex), (my, ey) = parts
    distance = ex - ey
    chunks, rest = b.binary("udiv", distance, 11), b.binary("urem", distance, 11)
    first = b.here("i64", 1, f"urem {mx}, {my.s}")
    with b.loop(0, chunks, carried=[first]) as loop:
        loop.next = [b.here("i64", 1, f"urem {loop.vars[0] << 11}, {my.s}")]
    r = b.here("i64", 1, f"urem {loop.results[0] << rest}, {my.s}")
    # r·2^(ey - 1075), in two exact steps
    value = b.convert("sitofp", r, "double")
    shift = ey - 1075
    low = b.select(shift.lt(-1022), b.const(-1022, "i64"), shift)
    low = b.select(low.gt(1023), b.const(1023, "i64"), low)
    other = shift - low
    value = value * ((low + 1023) << 52).bitcast("double") * ((other + 1023) << 52).bitcast("double")
    return b.finish(value)


def _mod_f(b: Builder, x: Val, y: Val) -> Val:
    r = _fmod(b, x, y)
    zero = b.const(0.0, x.t, x.n)
    moved = b.select((r.lt(0.0)) ^ (y.lt(0.0)), b.exact("fadd", r, y), r)
    return b.select(r.eq(0.0), b.call("copysign", zero, y), moved)


def _floordiv_f(b: Builder, x: Val, y: Val) -> Val:
    r = _fmod(b, x, y)
    q = b.exact("fsub", x, r) / y
    q = b.select(r.ne(0.0) & ((r.lt(0.0)) ^ (y.lt(0.0))), b.exact("fsub", q, 1.0), q)
    whole = b.call("floor", q)
    whole = b.select(b.exact("fsub", q, whole).gt(0.5), b.exact("fadd", whole, 1.0), whole)
    whole = b.select(q.eq(0.0), b.call("copysign", b.const(0.0, x.t, x.n), x / y), whole)
    return b.select(y.eq(0.0), x / y, whole)


_CLASSIFY = frozenset({"isnan", "isinf", "isfinite"})
_OUTLINED = frozenset({"sin", "cos", "tan", "pow", "floordiv", "mod"})

_FLOAT: dict[str, Callable[..., Val]] = {
    "neg": lambda b, x: -x,
    "abs": lambda b, x: x.abs(),
    "sign": _sign_f,
    "floor": lambda b, x: b.call("floor", x),
    "ceil": lambda b, x: b.call("ceil", x),
    "round": lambda b, x: b.call("roundeven", x),
    "trunc": lambda b, x: b.call("trunc", x),
    "sqrt": lambda b, x: b.call("sqrt", x),
    "rsqrt": lambda b, x: 1.0 / b.call("sqrt", x),
    "reciprocal": lambda b, x: 1.0 / x,
    "exp": math.exp, "exp2": math.exp2, "expm1": math.expm1,
    "log": math.log, "log2": math.log2, "log1p": math.log1p,
    "sin": trig.sin, "cos": trig.cos, "tan": trig.tan,
    "asin": trig.asin, "acos": trig.acos, "atan": trig.atan, "atan2": trig.atan2,
    "sinh": math.sinh, "cosh": math.cosh, "tanh": math.tanh, "erf": math.erf, "sigmoid": math.sigmoid,
    "isnan": lambda b, x: x.isnan(),
    "isinf": lambda b, x: x.abs().eq(_math.inf),
    "isfinite": lambda b, x: x.abs().lt(_math.inf),
    "logical_not": lambda b, x: x.eq(0.0),
    "add": lambda b, x, y: x + y,
    "sub": lambda b, x, y: x - y,
    "mul": lambda b, x, y: x * y,
    "div": lambda b, x, y: x / y,
    "floordiv": _floordiv_f,
    "mod": _mod_f,
    "pow": math.pow_,
    "maximum": maximum_f,
    "minimum": minimum_f,
    "logical_and": lambda b, x, y: x.ne(0.0) & y.ne(0.0),
    "logical_or": lambda b, x, y: x.ne(0.0) | y.ne(0.0),
    "logical_xor": lambda b, x, y: x.ne(0.0) ^ y.ne(0.0),
}

# integers and bool


def _signed(dtype: DType) -> bool:
    return dtype.kind == "int"


def _absolute(b: Builder, dtype: DType, x: Val) -> Val:
    return b.select(x.lt(0), -x, x) if _signed(dtype) else x


def _sign_i(b: Builder, dtype: DType, x: Val) -> Val:
    positive = b.convert("zext", x.gt(0) if _signed(dtype) else x.ne(0), x.t)
    return positive - b.convert("zext", x.lt(0), x.t) if _signed(dtype) else positive


def maximum_i(b: Builder, dtype: DType, x: Val, y: Val) -> Val:
    """The larger of two integers or bools."""
    if x.t == "i1":
        return x | y
    return b.intrinsic("smax" if _signed(dtype) else "umax", x, y)


def minimum_i(b: Builder, dtype: DType, x: Val, y: Val) -> Val:
    """The smaller of two integers or bools."""
    if x.t == "i1":
        return x & y
    return b.intrinsic("smin" if _signed(dtype) else "umin", x, y)


def _quotient(b: Builder, dtype: DType, x: Val, y: Val) -> Val:
    """Truncated quotient; y is neither 0 nor -1."""
    if dtype.bits <= 32 and x.n > 1:  # exact through f64, which has vector division
        up = "sitofp" if _signed(dtype) else "uitofp"
        q = b.convert(up, x, "double") / b.convert(up, y, "double")
        down = "fptosi" if _signed(dtype) or dtype.bits < 32 else "fptoui"
        wide = b.convert(down, q, "i32")
        return b.convert("trunc", wide, x.t) if dtype.bits < 32 else wide
    return b.binary("sdiv" if _signed(dtype) else "udiv", x, y)


def _floordiv_i(b: Builder, dtype: DType, x: Val, y: Val) -> Val:
    zero = y.eq(0)
    if not _signed(dtype):
        return b.select(zero, 0, _quotient(b, dtype, x, b.select(zero, 1, y)))
    minus_one = y.eq(-1)
    safe = b.select(zero | minus_one, 1, y)
    q = _quotient(b, dtype, x, safe)
    r = x - q * safe
    q = q - b.convert("zext", r.ne(0) & (r ^ safe).lt(0), x.t)
    return b.select(zero, 0, b.select(minus_one, -x, q))


def _mod_i(b: Builder, dtype: DType, x: Val, y: Val) -> Val:
    r = x - _floordiv_i(b, dtype, x, y) * y
    return b.select(y.eq(0), 0, r)


def _pow_i(b: Builder, dtype: DType, x: Val, y: Val) -> Val:
    """Square and multiply, modulo 2^bits; a negative exponent gives 1 for 1, ±1 for -1, otherwise 0."""
    one = b.const(1, x.t, x.n)
    negative = y.lt(0) if _signed(dtype) else b.const(0, "i1", x.n)
    exponent = b.select(negative, 0, y)
    with b.loop(0, dtype.bits, carried=[one, x, exponent]) as loop:
        result, base, rest = loop.vars
        result = b.select((rest & 1).ne(0), result * base, result)
        loop.next = [result, base * base, rest.lshr(1)]
    result = loop.results[0]
    unit = b.select(x.eq(1), one, b.select(x.eq(-1), b.select((y & 1).ne(0), b.const(-1, x.t, x.n), 1), 0))
    return b.select(negative, unit, result)


def _shift(b: Builder, dtype: DType, x: Val, y: Val, left: bool) -> Val:
    inside = y.ult(dtype.bits)
    amount = b.select(inside, y, 0)
    if left:
        return b.select(inside, x << amount, 0)
    if not _signed(dtype):
        return b.select(inside, x.lshr(amount), 0)
    return b.select(inside, x.ashr(amount), x.ashr(dtype.bits - 1))


_INTEGER: dict[str, Callable[..., Val]] = {
    "neg": lambda b, d, x: -x,
    "abs": _absolute,
    "sign": _sign_i,
    "floor": lambda b, d, x: x, "ceil": lambda b, d, x: x, "round": lambda b, d, x: x, "trunc": lambda b, d, x: x,
    "logical_not": lambda b, d, x: x.eq(0),
    "bitwise_not": lambda b, d, x: ~x,
    "add": lambda b, d, x, y: (x | y) if x.t == "i1" else x + y,
    "sub": lambda b, d, x, y: x - y,
    "mul": lambda b, d, x, y: (x & y) if x.t == "i1" else x * y,
    "floordiv": _floordiv_i,
    "mod": _mod_i,
    "pow": _pow_i,
    "maximum": maximum_i,
    "minimum": minimum_i,
    "logical_and": lambda b, d, x, y: x.ne(0) & y.ne(0),
    "logical_or": lambda b, d, x, y: x.ne(0) | y.ne(0),
    "logical_xor": lambda b, d, x, y: x.ne(0) ^ y.ne(0),
    "bitwise_and": lambda b, d, x, y: x & y,
    "bitwise_or": lambda b, d, x, y: x | y,
    "bitwise_xor": lambda b, d, x, y: x ^ y,
    "shift_left": lambda b, d, x, y: _shift(b, d, x, y, True),
    "shift_right": lambda b, d, x, y: _shift(b, d, x, y, False),
}
