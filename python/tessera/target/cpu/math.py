"""Exponentials, logarithms, hyperbolic functions, the error function and powers as LLVM IR.

Each function takes the builder and a value (scalar or vector of f32 or f64) and returns the result, correct for
NaN, infinities, signed zeros and denormals, to about 2 ulp. Argument reductions are the classical ones (Cody and
Waite 1980; Tang 1989 for exp; the s = f/(2+f) form of fdlibm for the f64 logarithm; Kahan's correction for
log1p). Polynomials are Chebyshev interpolants, the rational one a Lawson fit, computed in 80-digit arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tessera.target.cpu.emit import Builder, Val
from tessera.target.cpu.erf_table import ERF_SEGMENTS

INF = math.inf

_EXP = {
    "float": (0.5, 0.16666573286056519, 0.04166654869914055, 0.008363776840269566, 0.0013927104882895947),
    "double": (
        0.5000000000000001, 0.16666666666666669, 0.04166666666662064, 0.008333333333329793, 0.0013888888918939168,
        0.00019841269864380513, 2.4801518641395993e-05, 2.75572664186123e-06, 2.7621338669142925e-07,
        2.510134692835034e-08,
    ),
}  # (e^r - 1 - r) / r^2 on |r| <= 0.35
_LOG_F32 = (
    0.3333333134651184, -0.2499999701976776, 0.20000730454921722, -0.1666785031557083, 0.14248551428318024,
    -0.12424037605524063, 0.11689071357250214, -0.11494546383619308, 0.0698070228099823,
)  # (log(1+f) - f + f^2/2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1]
_LOG_F64 = (
    0.6666666666666666, 0.4000000000000094, 0.2857142857076445, 0.2222222240054776, 0.18181794700897794,
    0.15386290534659228, 0.13267418596469616, 0.13100721383550756,
)  # (2 atanh(s) / s - 2) / s^2 in s^2
_LOG_DOUBLE = (
    0.2, 0.14285714285714712, 0.11111111110810379, 0.09090909171658093, 0.07692297060060771, 0.06667425141379878,
    0.058525107813840245, 0.05867909449160274,
)  # (atanh(s) / s - 1 - s^2/3) / s^4 in s^2
_ERF_P = (
    1.128379225730896, 0.18514303863048553, 0.05424986034631729, 0.0038395537994802, 0.00037697734660468996,
    4.615020770870615e-06, -1.28310668756626e-08,
)
_ERF_Q = (
    1.0, 0.49741214513778687, 0.11388126015663147, 0.01543269120156765, 0.0013020045589655638, 6.245342956390232e-05,
)  # erf(x) / x = P(x^2) / Q(x^2) on |x| <= 3.925
_ERF_SMALL = (
    1.1283791670955126, -0.3761263890318375, 0.11283791670954879, -0.026866170645076792, 0.0052239776248180145,
    -0.000854832698083379, 0.0001205533111164271, -1.4925595266831182e-05, 1.6461000484121361e-06,
    -1.6350312701054618e-07, 1.4659775274046955e-08, -1.1372848856789924e-09, 5.957176147746114e-11,
)  # erf(x) / x in x^2, |x| <= 1
_ERFCX = (
    1.2530080582697296, -0.1356211061245812, -0.04756229435345119, 0.12964515870276272, -0.1192736634152743,
    0.06830802734391365, -0.023770514919650456, 0.0025293918171831993, 0.0018886903737642168, -0.0007798322883600244,
    -0.00010515993214820575, 0.00012509954848679376, 4.950484045720938e-06, -2.0101972423279377e-05,
    -7.383987199391068e-07, 3.475366978268959e-06, 3.889334437077043e-07, -5.954260896003732e-07,
    -2.008279148342736e-07,
)  # erfc(x) exp(x^2) (2x + 1) in (x - 3)/(x + 3), 1 <= x <= 6

_LOG2E = 1.4426950408889634
_LN2 = {"float": (0.693359375, -2.12194440e-4), "double": (6.93147180369123816490e-01, 1.90821492927058770002e-10)}
_MAGIC = {"float": 12582912.0, "double": 6755399441055744.0}  # 1.5 * 2^mantissa: adding it rounds to an integer
_MAGIC_BITS = {"float": 0x4B400000, "double": 0x4338000000000000}
_INT = {"float": "i32", "double": "i64"}
_MANTISSA = {"float": 23, "double": 52}
_BIAS = {"float": 127, "double": 1023}


def polynomial(b: Builder, x: Val, coefficients: Sequence[float]) -> Val:
    """Horner's rule; lowest coefficient first."""
    total = b.const(coefficients[-1], x.t, x.n)
    for c in reversed(coefficients[:-1]):
        total = b.fma(total, x, c)
    return total


def at_most(b: Builder, x: Val, limit: float) -> Val:
    """min(x, limit), NaN kept."""
    return b.select(x.gt(limit), limit, x)


def at_least(b: Builder, x: Val, limit: float) -> Val:
    """max(x, limit), NaN kept."""
    return b.select(x.lt(limit), limit, x)


def round_to_integer(b: Builder, x: Val, factor: float) -> tuple[Val, Val]:
    """n = rint(x·factor) for |n| < 2^21 (f32) or 2^51 (f64), as a float and as an integer."""
    t = b.fma(x, factor, _MAGIC[x.t])
    n = b.exact("fsub", t, _MAGIC[x.t])
    return n, t.bitcast(_INT[x.t]) - _MAGIC_BITS[x.t]


def power_of_two(b: Builder, k: Val, t: str) -> Val:
    """2^k of an integer within the exponent range of normal numbers."""
    return ((k + _BIAS[t]) << _MANTISSA[t]).bitcast(t)


def _scale(b: Builder, y: Val, k: Val) -> Val:
    """y·2^k, right for results that overflow or are denormal: in two steps."""
    half = ((k + 4096).lshr(1)) - 2048
    return (y * power_of_two(b, half, y.t)) * power_of_two(b, k - half, y.t)


def _expm1_reduced(b: Builder, r: Val) -> Val:
    return b.fma(polynomial(b, r, _EXP[r.t]), r * r, r)


def _reduce(b: Builder, x: Val) -> tuple[Val, Val]:
    """expm1(r) and n with x = n ln2 + r."""
    hi, lo = _LN2[x.t]
    n, k = round_to_integer(b, x, _LOG2E)
    r = b.fma(n, -lo, b.fma(n, -hi, x))
    return _expm1_reduced(b, r), k


def exp(b: Builder, x: Val) -> Val:
    """e^x."""
    low, high = (-104.0, 89.0) if x.t == "float" else (-746.0, 710.0)
    p, k = _reduce(b, at_least(b, at_most(b, x, high), low))
    return _scale(b, p + 1.0, k)


def exp_nonpositive(b: Builder, x: Val) -> Val:
    """exp(x) for x <= 0 or NaN; results below the normal range are flushed to 0."""
    p, k = _reduce(b, at_least(b, x, -87.0 if x.t == "float" else -708.0))
    return (p + 1.0) * power_of_two(b, k, x.t)


def exp2(b: Builder, x: Val) -> Val:
    """2^x."""
    low, high = (-151.0, 129.0) if x.t == "float" else (-1076.0, 1025.0)
    x = at_least(b, at_most(b, x, high), low)
    n, k = round_to_integer(b, x, 1.0)
    return _scale(b, _expm1_reduced(b, b.exact("fsub", x, n) * math.log(2)) + 1.0, k)


def _expm1_bounded(b: Builder, x: Val) -> Val:
    """expm1 where the result neither overflows nor is closer to -1 than the precision."""
    p, k = _reduce(b, x)
    half = power_of_two(b, k - 1, x.t)
    return b.fma(half, p, b.exact("fsub", half, 0.5)) * 2.0


def expm1(b: Builder, x: Val) -> Val:
    """e^x - 1."""
    low, high = (-20.0, 89.0) if x.t == "float" else (-40.0, 710.0)
    y = _expm1_bounded(b, at_least(b, at_most(b, x, high), low))
    return b.select(x.eq(0.0), x, y)


def split_exponent(b: Builder, x: Val) -> tuple[Val, Val]:
    """(e, m): a positive normal x = 2^e·m with m in [sqrt(1/2), sqrt(2)); e as a float."""
    integer, shift = _INT[x.t], _MANTISSA[x.t]
    middle = 0x3F3504F3 if x.t == "float" else 0x3FE6A09E667F3BCD
    bits = x.bitcast(integer)
    e = bits - middle
    if x.t == "float":
        e = e.ashr(shift)
        ef = b.convert("sitofp", e, "float")
    else:
        # a logical shift of a positive number: AVX2 has no arithmetic 64-bit shift
        e = (e + (1024 << 52)).lshr(52) - 1024
        ef = b.exact("fsub", (e + _MAGIC_BITS["double"]).bitcast("double"), _MAGIC["double"])
    return ef, (bits - (e << shift)).bitcast(x.t)


def normalise(b: Builder, x: Val) -> tuple[Val, Val]:
    """``split_exponent`` for denormal x too."""
    smallest, factor, steps = (2.0**-126, 2.0**23, 23.0) if x.t == "float" else (2.0**-1022, 2.0**52, 52.0)
    tiny = x.lt(smallest)
    e, m = split_exponent(b, b.select(tiny, x * factor, x))
    return b.select(tiny, e - steps, e), m


def _log1p_mantissa(b: Builder, f: Val) -> tuple[Val, Val]:
    """(f, c) with log(1 + f) = f + c, for 1 + f in [sqrt(1/2), sqrt(2))."""
    half = f * f * 0.5
    if f.t == "float":
        return f, b.fma(polynomial(b, f, _LOG_F32) * f, f * f, -half)
    s = f / (f + 2.0)
    z = s * s
    rest = polynomial(b, z, _LOG_F64) * z
    return f, b.exact("fsub", s * b.exact("fadd", half, rest), half)


def _log_domain(b: Builder, x: Val, y: Val) -> Val:
    """The logarithm's value outside 0 < x < inf."""
    special = b.select(x.eq(0.0), -INF, b.select(x.eq(INF), b.const(INF, x.t, x.n), b.const(math.nan, x.t, x.n)))
    return b.select(x.gt(0.0) & x.lt(INF), y, special)


def log(b: Builder, x: Val) -> Val:
    """The natural logarithm."""
    e, m = normalise(b, x)
    f, c = _log1p_mantissa(b, b.exact("fsub", m, 1.0))
    hi, lo = _LN2[x.t]
    return _log_domain(b, x, b.fma(e, hi, b.exact("fadd", f, b.fma(e, lo, c))))


def log2(b: Builder, x: Val) -> Val:
    """The logarithm to base 2."""
    e, m = normalise(b, x)
    f, c = _log1p_mantissa(b, b.exact("fsub", m, 1.0))
    return _log_domain(b, x, b.fma(b.exact("fadd", f, c), _LOG2E, e))


def log1p(b: Builder, x: Val) -> Val:
    """log(1 + x)."""
    u = b.exact("fadd", x, 1.0)
    y = log(b, u) * (x / b.exact("fsub", u, 1.0))
    return b.select(u.eq(1.0), x, b.select(u.eq(INF), u, y))


def _halves(b: Builder, a: Val) -> Val:
    """e^a / 2 where e^a may overflow."""
    h = exp(b, a * 0.5)
    return (h * 0.5) * h


def sinh(b: Builder, x: Val) -> Val:
    """Hyperbolic sine."""
    a = x.abs()
    limit = 88.0 if x.t == "float" else 709.0
    t = _expm1_bounded(b, at_most(b, a, limit))
    y = b.select(a.gt(limit), _halves(b, a), (t + t / (t + 1.0)) * 0.5)
    return b.call("copysign", y, x)


def cosh(b: Builder, x: Val) -> Val:
    """Hyperbolic cosine."""
    a = x.abs()
    limit = 88.0 if x.t == "float" else 709.0
    e = exp(b, at_most(b, a, limit))
    return b.select(a.gt(limit), _halves(b, a), b.fma(e, 0.5, 0.5 / e))


def tanh(b: Builder, x: Val) -> Val:
    """Hyperbolic tangent."""
    a = at_most(b, x.abs(), 10.0 if x.t == "float" else 20.0)
    t = _expm1_bounded(b, a + a)
    return b.call("copysign", t / (t + 2.0), x)


def sigmoid(b: Builder, x: Val) -> Val:
    """1 / (1 + e^-x), also where e^-x overflows."""
    e = exp(b, -x.abs())
    return b.select(x.lt(0.0), e, b.const(1.0, x.t, x.n)) / (e + 1.0)


def erf(b: Builder, x: Val) -> Val:
    """The error function."""
    if x.t == "double":
        return _erf_f64(b, x)
    if b.has_fma and x.n in ERF_SEGMENTS and not b.module.ordered:  # other bits than those of a scalar
        return _erf_by_segment(b, x)
    z = at_most(b, x * x, 3.925 * 3.925)  # from here on the quotient is constant and x passes 1
    y = x * polynomial(b, z, _ERF_P) / polynomial(b, z, _ERF_Q)
    return at_least(b, at_most(b, y, 1.0), -1.0)


def _erf_by_segment(b: Builder, x: Val) -> Val:
    """A polynomial per segment of |x|, its coefficients picked by a lane permutation: no division."""
    scale, table = ERF_SEGMENTS[x.n]
    a = at_most(b, x.abs(), 3.925)  # from here on the polynomial is constant and x passes 1
    n, segment = round_to_integer(b, a, scale)
    u = b.fma(a, scale, -n)
    c = [b.permute(b.float_vector(row), segment) for row in table]
    # pairs first (Estrin): the chain of dependent operations is what limits this function
    pairs = [b.fma(c[i + 1], u, c[i]) if i + 1 < len(c) else c[i] for i in range(0, len(c), 2)]
    square = u * u
    total = pairs[-1]
    for pair in reversed(pairs[:-1]):
        total = b.fma(total, square, pair)
    return at_least(b, at_most(b, x * total, 1.0), -1.0)


def _erf_f64(b: Builder, x: Val) -> Val:
    a = at_most(b, x.abs(), 6.0)
    t = (a - 3.0) / (a + 3.0)
    tail = exp_nonpositive(b, -(a * a)) * (polynomial(b, t, _ERFCX) / b.fma(a, 2.0, 1.0))
    small = x * polynomial(b, x * x, _ERF_SMALL)
    return b.select(a.lt(1.0), small, b.call("copysign", 1.0 - tail, x))


def two_sum(b: Builder, x: Val, y: Val) -> tuple[Val, Val]:
    """(s, e): x + y = s + e exactly (Knuth)."""
    s = b.exact("fadd", x, y)
    v = b.exact("fsub", s, x)
    return s, b.exact("fadd", b.exact("fsub", x, b.exact("fsub", s, v)), b.exact("fsub", y, v))


def two_product(b: Builder, x: Val, y: Val) -> tuple[Val, Val]:
    """(p, e): x·y = p + e exactly (FMA, or Dekker's splitting without it); f64."""
    p = b.exact("fmul", x, y)
    if b.has_fma:
        return p, b.intrinsic("fma", x, y, -p)
    xh, xl = _split(b, x)
    yh, yl = _split(b, y)
    e = b.exact("fsub", b.exact("fmul", xh, yh), p)
    e = b.exact("fadd", b.exact("fadd", e, b.exact("fmul", xh, yl)), b.exact("fmul", xl, yh))
    return p, b.exact("fadd", e, b.exact("fmul", xl, yl))


def _split(b: Builder, x: Val) -> tuple[Val, Val]:
    c = b.exact("fmul", x, 134217729.0)
    high = b.exact("fsub", c, b.exact("fsub", c, x))
    return high, b.exact("fsub", x, high)


def _log_double(b: Builder, x: Val) -> tuple[Val, Val]:
    """log(x) as an unevaluated sum of two f64, to about 65 bits; x positive and finite."""
    e, m = normalise(b, x)
    f = b.exact("fsub", m, 1.0)
    d = b.exact("fadd", m, 1.0)
    d_low = b.exact("fsub", m, b.exact("fsub", d, 1.0))
    s = f / d
    p, p_low = two_product(b, s, d)
    s_low = b.exact("fsub", b.exact("fsub", b.exact("fsub", f, p), p_low), b.exact("fmul", s, d_low)) / d
    z, z_low = two_product(b, s, s)
    z_low = b.exact("fadd", z_low, b.exact("fmul", s, s_low) * 2.0)
    w = polynomial(b, z, _LOG_DOUBLE) * z
    third = b.const(1 / 3, "double", x.n)
    u, u_low = two_sum(b, third, w)
    u_low = u_low + 1.850371707708594e-17  # 1/3 - float64(1/3)
    v, v_low = two_product(b, z, u)
    v_low = v_low + (z * u_low + z_low * u)
    t, t_low = two_product(b, s, v)
    t_low = t_low + (s * v_low + s_low * v)
    high, low = two_sum(b, s, t)
    low = low + (s_low + t_low)
    hi, lo = _LN2["double"]
    total, rest = two_sum(b, e * hi, high * 2.0)
    return two_sum(b, total, rest + b.fma(e, lo, low * 2.0))


def pow_(b: Builder, x: Val, y: Val) -> Val:
    """x^y as IEEE 754 says; that of f32 in f64."""
    if x.t == "float":
        wide = _pow_f64(b, b.convert("fpext", x, "double"), b.convert("fpext", y, "double"), precise=False)
        return b.convert("fptrunc", wide, "float")
    return _pow_f64(b, x, y, precise=True)


def _pow_f64(b: Builder, x: Val, y: Val, precise: bool) -> Val:
    """``precise``: with the logarithm in double-double; without, good enough for a result in f32."""
    a = x.abs()
    ordinary = a.gt(0.0) & a.lt(INF)
    base = b.select(ordinary, a, 1.0)
    bounded = at_least(b, at_most(b, y, 2.0**70), -(2.0**70))
    if precise:
        high, low = _log_double(b, base)
        p, p_low = two_product(b, high, bounded)
        p_low = p_low + low * bounded
    else:
        p, p_low = log(b, base) * bounded, b.const(0.0, "double", x.n)
    limited = at_least(b, at_most(b, p, 720.0), -750.0)
    q, k = _reduce(b, limited)
    inside = p.eq(limited)
    q = q + 1.0
    r = _scale(b, b.fma(q, b.select(inside, p_low, 0.0), q), k)
    r = b.select(a.eq(0.0), b.select(y.lt(0.0), b.const(INF, "double", r.n), 0.0), r)
    r = b.select(a.eq(INF), b.select(y.lt(0.0), b.const(0.0, "double", r.n), INF), r)
    whole = b.call("trunc", y).eq(y)
    odd = whole & b.call("trunc", y * 0.5).ne(y * 0.5) & y.abs().lt(2.0**53)
    negative = b.call("copysign", b.const(1.0, "double", x.n), x).lt(0.0)
    r = b.select(negative & odd, -r, r)
    r = b.select(x.lt(0.0) & a.lt(INF) & ~whole & y.abs().lt(INF), math.nan, r)
    r = b.select(x.isnan() | y.isnan(), math.nan, r)
    return b.select(y.eq(0.0) | x.eq(1.0), 1.0, r)
