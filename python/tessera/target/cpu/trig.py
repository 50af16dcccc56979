"""Trigonometric functions and their inverses as LLVM IR.

Both precisions reduce the argument in f64: three-part Cody and Waite up to 2^20, beyond that (and for arguments
very near a multiple of pi/2) exact Payne and Hanek 1983 reduction with 192 bits of 2/pi. Results are good to
about 2 ulp for every argument.
"""

from __future__ import annotations

import math

from tessera.target.cpu.emit import Builder, Val
from tessera.target.cpu.math import polynomial, round_to_integer, two_product, two_sum

_SIN = {
    "float": (-0.16666666666666666, 0.008333333333330889, -0.00019841269836667823, 2.7557316055595787e-06),
    "double": (
        -0.16666666666666666, 0.008333333333333331, -0.00019841269841264943, 2.7557319219245676e-06,
        -2.5052106200052995e-08, 1.6058526497145093e-10, -7.586395947916594e-13,
    ),
}  # (sin(x)/x - 1) / x^2 in x^2 on [0, pi/4]
_COS = {
    "float": (0.04166666666427402, -0.0013888887653713488, 2.4800590513626197e-05, -2.729968339861441e-07),
    "double": (
        0.041666666666666664, -0.001388888888888736, 2.4801587298708914e-05, -2.7557317242354516e-07,
        2.087614016136105e-09, -1.1382193531296185e-11,
    ),
}  # (cos(x) - 1 + x^2/2) / x^4 in x^2
_ASIN = {
    "float": (
        0.1666666567325592, 0.07500094920396805, 0.044599320739507675, 0.031101727858185768, 0.017143717035651207,
        0.03370072692632675,
    ),
    "double": (
        0.16666666666666666, 0.07500000000000119, 0.04464285714255019, 0.030381944475693704, 0.022372157435623815,
        0.017352816768546477, 0.013963775787848059, 0.01156651182189177, 0.00962140274733868, 0.00932210150111452,
        0.003035007172615201, 0.019579201619999292, -0.019277545928924788, 0.029635026263750575,
    ),
}  # (asin(x)/x - 1) / x^2 in x^2, |x| <= 1/2
_ATAN = {
    "float": (
        -0.3333333432674408, 0.19999976456165314, -0.1428409367799759, 0.11070311814546585, -0.08616863936185837,
        0.05028080567717552,
    ),
    "double": (
        -0.3333333333333333, 0.1999999999999999, -0.14285714285711226, 0.11111111110721053, -0.09090909065008844,
        0.07692306666088453, -0.0666664047661281, 0.058819028860808684, -0.0525782587643661, 0.047180245459002075,
        -0.04098925212042779, 0.030508638210626195, -0.013790276896106804,
    ),
}  # (atan(x)/x - 1) / x^2 in x^2, |x| <= tan(pi/8)

_PIO2 = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)  # 33 + 33 + 53 bits
_PI_HALF = {
    "float": (1.5707963705062866, -4.371139000186241e-08),
    "double": (1.5707963267948966, 6.123233995736766e-17),
}


def _two_over_pi_words() -> tuple[int, ...]:
    """2/pi as 64-bit words of its binary fraction, 1280 bits after 64 zero bits (Machin's formula for pi)."""
    bits = 1500

    def arctan_inverse(n: int) -> int:
        total, term, k, sign = 0, (1 << bits) // n, 1, 1
        while term:
            total += sign * (term // k)
            term //= n * n
            k, sign = k + 2, -sign
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    fraction = (2 << (bits + 1280)) // pi
    return (0,) + tuple((fraction >> (1280 - 64 * (i + 1))) & (2**64 - 1) for i in range(20))


def _write_reduce_huge(name: str, b: Builder) -> str:
    """``void name(double x, ptr out)``: out = r high, r low, quadrant of a finite |x| >= 0.5."""
    high_pi, low_pi = _PI_HALF["double"]
    table = b.module.table("two_over_pi", "i64", _two_over_pi_words())
    x, out = b.args["x"], b.args["out"]
    bits = x.bitcast("i64")
    exponent = (bits.lshr(52) & 0x7FF) - 1075
    mantissa = (bits & ((1 << 52) - 1)) | (1 << 52)
    start = exponent + (64 - 2)  # first bit that does not give a multiple of 2 pi, counted from the 64 zero bits
    word, shift = start.lshr(6), start & 63
    wide = []
    for i in range(4):
        p = b.pointer(Val(b, "ptr", 1, table, 0), word + i, "i64")
        wide.append(b.invariant_load(p, "i64", 8))
    window = [b.intrinsic("fshl", wide[i], wide[i + 1], shift) for i in range(3)]
    m128 = b.convert("zext", mantissa, "i128")
    low, middle = (b.convert("zext", window[i], "i128") * m128 for i in (2, 1))
    total = middle + low.lshr(64)
    top = b.convert("trunc", total.lshr(64), "i64") + window[0] * mantissa
    joined = (b.convert("zext", top, "i128") << 64) | b.convert("zext", b.convert("trunc", total, "i64"), "i128")
    quadrant = b.convert("trunc", (joined + (1 << 125)).lshr(126), "i64")
    rest = joined << 2
    rest_negative = rest.lt(0)
    size = b.select(rest_negative, -rest, rest)
    zeros = b.leading_zeros(size)
    size = size << zeros
    top = b.convert("trunc", size.lshr(64), "i64")
    d = b.convert("uitofp", top & ~0x7FF, "double")
    d_low = b.convert("uitofp", top & 0x7FF, "double") + b.convert(
        "uitofp", b.convert("trunc", size, "i64"), "double"
    ) * 2.0**-64
    scale = ((-b.convert("trunc", zeros, "i64") + (1023 - 64)) << 52).bitcast("double")
    p, p_low = two_product(b, d, b.const(high_pi, "double"))
    p_low = p_low + (d * low_pi + d_low * high_pi)
    high = b.exact("fadd", p, p_low)
    low_part = b.exact("fadd", b.exact("fsub", p, high), p_low)
    negative = bits.lt(0) ^ rest_negative
    scale = b.select(negative, -scale, scale)
    quadrant = b.select(bits.lt(0), -quadrant, quadrant) & 3
    b.store(out, high * scale, 8)
    b.store(b.pointer(out, 1, "double"), low_part * scale, 8)
    b.store(b.pointer(out, 2, "double"), b.convert("sitofp", quadrant, "double"), 8)
    return b.finish()


def _reduce_huge(b: Builder) -> str:
    return b.module.helper(
        "tsr_reduce_huge",
        lambda name: _write_reduce_huge(
            name, Builder(b.module, name, "void", [("double", "x"), ("ptr", "out")], b.has_fma)
        ),
    )


def _reduce(b: Builder, x: Val) -> tuple[Val, Val, Val]:
    """(r, low, q): x = q·pi/2 + r + low with |r| <= pi/4; q is an i64. NaN for NaN and infinities."""
    n, q = round_to_integer(b, x, 2 / math.pi)
    r1 = b.exact("fsub", x, b.exact("fmul", n, _PIO2[0]))
    r2, e2 = two_sum(b, r1, -b.exact("fmul", n, _PIO2[1]))
    low = b.exact("fsub", e2, b.exact("fmul", n, _PIO2[2]))
    r = b.exact("fadd", r2, low)
    r_low = b.exact("fadd", b.exact("fsub", r2, r), low)
    a = x.abs()
    hard = (a.gt(1048576.0) & a.lt(math.inf)) | (a.gt(0.7) & r.abs().lt(2.0**-26))
    function = _reduce_huge(b)
    n_lanes = x.n

    def slow() -> list[Val]:
        xs, flags = b.alloca("double", n_lanes), b.alloca("i8", n_lanes)
        rs, ls, qs = (b.alloca("double", n_lanes) for _ in range(3))
        out = b.alloca("double", 3)
        for p, v in ((xs, x), (flags, b.convert("zext", hard, "i8")), (rs, r), (ls, r_low),
                     (qs, b.exact("fsub", (q + 0x4338000000000000).bitcast("double"), 6755399441055744.0))):
            b.store(p, v, 1)
        with b.loop(0, n_lanes) as lane:
            flag = b.load(b.pointer(flags, lane.i, "i8"), "i8", 1, 1)

            def one() -> list[Val]:
                value = b.load(b.pointer(xs, lane.i, "double"), "double", 1, 8)
                b.line(f"call void {function}({value}, {out})")
                for k, p in enumerate((rs, ls, qs)):
                    part = b.load(b.pointer(out, k, "double"), "double", 1, 8)
                    b.store(b.pointer(p, lane.i, "double"), part, 8)
                return []

            b.branch(flag.ne(0), one)
        r_new, l_new, q_new = (b.load(p, "double", n_lanes, 64) for p in (rs, ls, qs))
        return [r_new, l_new, b.exact("fadd", q_new, 6755399441055744.0).bitcast("i64") - 0x4338000000000000]

    r, r_low, q = b.branch(b.any(hard), slow, lambda: [r, r_low, q])
    bad = a.eq(math.inf)
    return b.select(bad, math.nan, r), r_low, q


def _sin_cos(b: Builder, r: Val, low: Val, precision: str) -> tuple[Val, Val]:
    """Sine and cosine of r + low, |r| <= pi/4."""
    z = r * r
    sine_tail = polynomial(b, z, _SIN[precision]) * z
    sine = b.fma(sine_tail, r, b.fma(z * -0.5, low, low))
    sine = b.exact("fadd", r, sine)
    half = z * 0.5
    w = b.exact("fsub", b.const(1.0, "double", r.n), half)
    correction = b.exact("fsub", b.exact("fsub", b.const(1.0, "double", r.n), w), half)
    tail = polynomial(b, z, _COS[precision]) * (z * z) - r * low
    cosine = b.exact("fadd", w, b.exact("fadd", correction, tail))
    return sine, cosine


def _by_quadrant(b: Builder, x: Val, shift: int) -> Val:
    wide = b.convert("fpext", x, "double")
    r, low, q = _reduce(b, wide)
    sine, cosine = _sin_cos(b, r, low, x.t)
    q = q + shift
    y = b.select((q & 1).ne(0), cosine, sine)
    y = b.select((q & 2).ne(0), -y, y)
    if shift == 0:
        y = b.select(wide.eq(0.0), wide, y)
    return b.convert("fptrunc", y, x.t)


def sin(b: Builder, x: Val) -> Val:
    """Sine."""
    return _by_quadrant(b, x, 0)


def cos(b: Builder, x: Val) -> Val:
    """Cosine."""
    return _by_quadrant(b, x, 1)


def tan(b: Builder, x: Val) -> Val:
    """Tangent."""
    wide = b.convert("fpext", x, "double")
    r, low, q = _reduce(b, wide)
    sine, cosine = _sin_cos(b, r, low, x.t)
    odd = (q & 1).ne(0)
    y = b.select(odd, -cosine, sine) / b.select(odd, sine, cosine)
    return b.convert("fptrunc", b.select(wide.eq(0.0), wide, y), x.t)


def _asin_small(b: Builder, x: Val, z: Val) -> Val:
    return b.fma(polynomial(b, z, _ASIN[x.t]) * z, x, x)


def asin(b: Builder, x: Val) -> Val:
    """Inverse sine."""
    high_pi, low_pi = _PI_HALF[x.t]
    a = x.abs()
    big = a.gt(0.5)
    z = b.select(big, b.fma(a, -0.5, 0.5), a * a)
    y = _asin_small(b, b.select(big, b.call("sqrt", z), a), z)
    y = b.select(big, b.exact("fadd", b.fma(y, -2.0, low_pi), high_pi), y)
    return b.call("copysign", y, x)


def acos(b: Builder, x: Val) -> Val:
    """Inverse cosine."""
    high_pi, low_pi = _PI_HALF[x.t]
    a = x.abs()
    big = a.gt(0.5)
    z = b.select(big, b.fma(a, -0.5, 0.5), a * a)
    y = _asin_small(b, b.select(big, b.call("sqrt", z), x), z)
    twice = y * 2.0
    outer = b.select(x.lt(0.0), b.exact("fsub", b.const(2 * high_pi, x.t, x.n), twice), twice)
    inner = b.exact("fsub", b.const(high_pi, x.t, x.n), b.exact("fsub", y, low_pi))
    return b.select(big, outer, inner)


def _atan_ratio(b: Builder, top: Val, bottom: Val) -> Val:
    """atan(top / bottom) in [0, pi/2] for top, bottom >= 0, not both 0 or infinite."""
    high_pi, low_pi = _PI_HALF[top.t]
    t = top.t
    swap = top.gt(bottom)
    small, large = b.select(swap, bottom, top), b.select(swap, top, bottom)
    middle = small.gt(large * (math.sqrt(2) - 1))
    factor = b.select(large.gt(1e30 if t == "float" else 1e300), b.const(0.25, t, large.n), 1.0)
    small, large = small * factor, large * factor  # their sum may overflow
    u = b.select(middle, b.exact("fsub", small, large), small)
    v = b.select(middle, b.exact("fadd", small, large), large)
    q = u / v
    z = q * q
    y = b.fma(polynomial(b, z, _ATAN[t]) * z, q, q)
    y = b.select(middle, b.exact("fadd", y + low_pi / 2, high_pi / 2), y)
    return b.select(swap, b.exact("fsub", b.const(high_pi, t, y.n), b.exact("fsub", y, low_pi)), y)


def atan(b: Builder, x: Val) -> Val:
    """Inverse tangent."""
    high_pi, _ = _PI_HALF[x.t]
    a = x.abs()
    y = _atan_ratio(b, a, b.const(1.0, x.t, x.n))
    y = b.select(a.eq(math.inf), b.const(high_pi, x.t, x.n), y)
    return b.call("copysign", y, x)


def atan2(b: Builder, y: Val, x: Val) -> Val:
    """The angle of (x, y), with the signs of zeros and infinities as IEEE 754 says."""
    high_pi, low_pi = _PI_HALF[x.t]
    ay, ax = y.abs(), x.abs()
    both_zero = ay.eq(0.0) & ax.eq(0.0)
    both_infinite = ay.eq(math.inf) & ax.eq(math.inf)
    one = b.const(1.0, x.t, x.n)
    top = b.select(both_infinite, one, b.select(both_zero, b.const(0.0, x.t, x.n), ay))
    bottom = b.select(both_infinite | both_zero, one, ax)
    r = _atan_ratio(b, top, bottom)
    negative = b.call("copysign", one, x).lt(0.0)
    r = b.select(negative, b.exact("fsub", b.const(2 * high_pi, x.t, x.n), b.exact("fsub", r, 2 * low_pi)), r)
    r = b.select(x.isnan() | y.isnan(), math.nan, r)
    return b.call("copysign", r, y)
