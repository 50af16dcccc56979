"""Functions in Triton that generated kernels call; their text is put into the modules that need them.

Each works on tensors of any shape, on every architecture, and under Triton's interpreter.
"""
# ruff: noqa: ANN001, ANN201, D103

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def larger(a, b):
    """The larger of two numbers, NaN if one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):
    """The smaller of two numbers, NaN if one is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def total(a, b):
    return a + b


@triton.jit
def times(a, b):
    return a * b


@triton.jit
def larger_at(a, i, b, j):
    """The larger value and its place; the first of equals; a NaN is larger than anything."""
    better = ((a > b) | (a != a)) & (b == b)
    same = (a == b) | ((a != a) & (b != b))
    left = better | (same & (i < j))
    return tl.where(left, a, b), tl.where(left, i, j)


@triton.jit
def smaller_at(a, i, b, j):
    """The smaller value and its place; the first of equals; a NaN is smaller than anything."""
    better = ((a < b) | (a != a)) & (b == b)
    same = (a == b) | ((a != a) & (b != b))
    left = better | (same & (i < j))
    return tl.where(left, a, b), tl.where(left, i, j)


@triton.jit
def floor_divide_integer(a, b):
    """floor(a / b) of integers; 0 when b is 0."""
    zero = b == 0
    divisor = tl.where(zero, tl.full((), 1, b.dtype), b)
    quotient = a // divisor
    rest = a - quotient * divisor
    quotient = tl.where((rest != 0) & ((rest < 0) != (divisor < 0)), quotient - 1, quotient)
    return tl.where(zero, tl.full((), 0, a.dtype), quotient)


@triton.jit
def floor_modulo_integer(a, b):
    """a - b * floor(a / b) of integers; 0 when b is 0."""
    zero = b == 0
    divisor = tl.where(zero, tl.full((), 1, b.dtype), b)
    rest = a - (a // divisor) * divisor
    rest = tl.where((rest != 0) & ((rest < 0) != (divisor < 0)), rest + divisor, rest)
    return tl.where(zero, tl.full((), 0, a.dtype), rest)


@triton.jit
def divide_unsigned(a, b):
    """a // b of unsigned integers; 0 when b is 0."""
    zero = b == 0
    one = tl.full((), 1, b.dtype)
    return tl.where(zero, tl.full((), 0, a.dtype), a // tl.where(zero, one, b))


@triton.jit
def modulo_unsigned(a, b):
    """a % b of unsigned integers; 0 when b is 0."""
    zero = b == 0
    one = tl.full((), 1, b.dtype)
    return tl.where(zero, tl.full((), 0, a.dtype), a % tl.where(zero, one, b))


@triton.jit
def floor_modulo(a, b):
    """a - b * floor(a / b) of floats, with the sign of b; NaN when b is 0 or a is infinite."""
    rest = libdevice.fmod(a, b)
    rest = tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
    return tl.where(rest == 0, libdevice.copysign(rest, b), rest)


@triton.jit
def floor_divide(a, b):
    """floor(a / b) of floats as Python and NumPy define it: from the remainder, so that both fit together."""
    rest = libdevice.fmod(a, b)
    quotient = tl.div_rn(a - rest, b)
    quotient = tl.where((rest != 0) & ((rest < 0) != (b < 0)), quotient - 1.0, quotient)
    nearest = libdevice.floor(quotient)
    nearest = tl.where(quotient - nearest > 0.5, nearest + 1.0, nearest)
    ratio = tl.div_rn(a, b)
    nearest = tl.where(quotient == 0, libdevice.copysign(tl.full((), 0.0, a.dtype), ratio), nearest)
    return tl.where(b == 0, ratio, nearest)


@triton.jit
def floor_divide64(a, b):
    """As floor_divide, in f64."""
    rest = libdevice.fmod(a, b)
    quotient = (a - rest) / b
    quotient = tl.where((rest != 0) & ((rest < 0) != (b < 0)), quotient - 1.0, quotient)
    nearest = libdevice.floor(quotient)
    nearest = tl.where(quotient - nearest > 0.5, nearest + 1.0, nearest)
    nearest = tl.where(quotient == 0, libdevice.copysign(tl.full((), 0.0, a.dtype), a / b), nearest)
    return tl.where(b == 0, a / b, nearest)


@triton.jit
def power_integer(a, b, bits: tl.constexpr):
    """a ** b of integers, wrapping; for negative b 1 when a is 1, ±1 when a is -1, else 0."""
    one = tl.full((), 1, a.dtype)
    result = a * 0 + one
    square = a
    rest = b
    for _ in tl.static_range(bits):
        result = tl.where((rest & 1) != 0, result * square, result)
        square = square * square
        rest = rest >> 1
    odd = (b & 1) != 0
    minus = tl.where(odd, -one, one)
    inverse = tl.where(a == 1, one, tl.where(a == -1, minus, tl.full((), 0, a.dtype)))
    return tl.where(b < 0, inverse, result)


@triton.jit
def power_unsigned(a, b, bits: tl.constexpr):
    """a ** b of unsigned integers, wrapping."""
    result = a * 0 + 1
    square = a
    rest = b
    for _ in tl.static_range(bits):
        result = tl.where((rest & 1) != 0, result * square, result).to(a.dtype)
        square = (square * square).to(a.dtype)
        rest = rest >> 1
    return result


@triton.jit
def sign_of(x):
    """-1, 0 or 1 with x's dtype; NaN of NaN."""
    zero = tl.full((), 0, x.dtype)
    one = tl.full((), 1, x.dtype)
    return tl.where(x > 0, one, tl.where(x < 0, -one, tl.where(x == 0, zero, x)))


@triton.jit
def sigmoid_of(x):
    """1 / (1 + exp(-x)) without overflow."""
    small = libdevice.exp(-tl.abs(x))
    return tl.where(x < 0, small, tl.where(x == x, 1.0, x)) / (1.0 + small)


@triton.jit
def packed_pairs(x):
    """16-bit elements of a block, two neighbours of a row as one number of 32 bits."""
    low, high = x.reshape((x.shape[0], x.shape[1] // 2, 2)).split()
    low, high = low.to(tl.int16, bitcast=True), high.to(tl.int16, bitcast=True)
    return (low.to(tl.int32) & 0xFFFF) | (high.to(tl.int32) << 16)


@triton.jit
def unpacked_pairs(x, dtype: tl.constexpr):
    """The elements of a dtype that ``packed_pairs`` made one of."""
    low, high = x.to(tl.int16).to(dtype, bitcast=True), (x >> 16).to(tl.int16).to(dtype, bitcast=True)
    return tl.join(low, high).reshape((x.shape[0], x.shape[1] * 2))


@triton.jit
def power_of_two(x):
    """2^x of an f32 by the machine: error up to 2 ulp; below 2^-126: 0."""
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def exp_of_difference(x):
    """exp of an f32 that is at most 0, by the machine's power of 2: error up to |x| · 2^-23; below 2^-126: 0."""
    return power_of_two(x * 1.4426950408889634)


@triton.jit
def ask_for(pointer, size: tl.constexpr, inside):
    """Have memory brought into the second cache, by one thread of the program, if ``inside``. From sm_90 on.

    ``size``: bytes, a multiple of 16; they begin with the multiple of 16 before ``pointer``.
    """
    text: tl.constexpr = """{
        .reg .pred asks;
        .reg .b64 start;
        mov.u32 $0, %tid.x;
        setp.lt.u32 asks, $0, $2;
        and.b64 start, $1, -16;
        @asks cp.async.bulk.prefetch.L2.global [start], $3;
    }"""
    tl.inline_asm_elementwise(
        text, "=&r,l,r,r", [pointer.to(tl.int64, bitcast=True), inside.to(tl.int32), size], dtype=tl.int32,
        is_pure=False, pack=1,
    )


@triton.jit
def erf_of(x):
    """The error function in f32, without branches: x + x·p(x²) up to 1, beyond it 1 - 2^q(|x|). Errors up to 2 ulp."""
    size = tl.abs(x)
    square = x * x
    p = tl.fma(square, -0.0005631464100284006, 0.004917563061779109)
    p = tl.fma(p, square, -0.026711323094129658)
    p = tl.fma(p, square, 0.11280180635788858)
    p = tl.fma(p, square, -0.3761232628221747)
    p = tl.fma(p, square, 0.1283791225431513)
    small = tl.fma(p, x, x)
    size = tl.minimum(size, 4.0)
    q = tl.fma(size, -0.0016695280674595922, 0.021397912791382936)
    q = tl.fma(q, size, -0.12811116302233427)
    q = tl.fma(q, size, -0.943868535251566)
    q = tl.fma(q, size, -1.612386908689937)
    q = tl.fma(q, size, -0.003778599459334231)
    large = libdevice.copysign(1.0 - tl.exp2(q), x)
    return tl.where(tl.abs(x) >= 1.0, large, small)


@triton.jit
def erf_beside_one(x):
    """The error function in f32 as 1 - 2^q(|x|), with the sign of x: errors up to 3 · 10^-7, whatever x is."""
    size = smaller(tl.abs(x), 4.0)
    q = tl.fma(size, -3.931562969228253e-05, 0.0004115400661248714)
    q = tl.fma(q, size, -0.001418295782059431)
    q = tl.fma(q, size, -0.0008438951917923987)
    q = tl.fma(q, size, 0.028286298736929893)
    q = tl.fma(q, size, -0.1484888643026352)
    q = tl.fma(q, size, -0.9184156060218811)
    q = tl.fma(q, size, -1.6279085874557495)
    return libdevice.copysign(1.0 - power_of_two(q * size), x)


@triton.jit
def round_even(x):
    """The nearest integer, halves to even; the sign of zero is kept."""
    base = libdevice.floor(x)
    part = x - base
    odd = base - 2.0 * libdevice.floor(base * 0.5)
    up = (part > 0.5) | ((part == 0.5) & (odd == 1.0))
    result = tl.where(up, base + 1.0, base)
    return tl.where(x == x, libdevice.copysign(result, x), x)


@triton.jit
def saturate(
    x, low: tl.constexpr, limit: tl.constexpr, dtype: tl.constexpr, lowest: tl.constexpr, highest: tl.constexpr
):
    """A float cut to an integer of [lowest, highest]; 0 of NaN. ``low`` and ``limit`` = highest + 1, as floats."""
    inside = (x > low) & (x < limit)
    whole = tl.where(inside, x, x * 0.0)
    whole = tl.where(inside, whole, tl.full((), 0.0, x.dtype)).to(dtype)
    whole = tl.where(x >= limit, tl.full((), highest, dtype), whole)
    return tl.where(x <= low, tl.full((), lowest, dtype), whole)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """The first two words of Philox4x32-10 (Salmon et al. 2011); all arguments are uint32."""
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, tl.full((), 0xD2511F53, tl.uint32))
        low0 = c0 * tl.full((), 0xD2511F53, tl.uint32)
        high1 = tl.umulhi(c2, tl.full((), 0xCD9E8D57, tl.uint32))
        low1 = c2 * tl.full((), 0xCD9E8D57, tl.uint32)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + tl.full((), 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1


@triton.jit
def philox_words(element, operation, seed, counter):
    """The words of an element: the counter is (element, element >> 32, operation, counter), the key the seed."""
    c0 = (element & 0xFFFFFFFF).to(tl.uint32)
    c1 = ((element >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c2 = c0 * 0 + (operation & 0xFFFFFFFF).to(tl.uint32)
    c3 = c0 * 0 + (counter & 0xFFFFFFFF).to(tl.uint32)
    k0 = c0 * 0 + (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = c0 * 0 + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return philox(c0, c1, c2, c3, k0, k1)


@triton.jit
def uniform(element, operation, seed, counter):
    """f32 in [0, 1) with 24 random bits."""
    first, _ = philox_words(element, operation, seed, counter)
    return (first >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def uniform64(element, operation, seed, counter):
    """f64 in [0, 1) with 53 random bits."""
    first, second = philox_words(element, operation, seed, counter)
    bits = (first.to(tl.int64) << 21) | (second.to(tl.int64) >> 11)
    return bits.to(tl.float64) * tl.full((), 1.1102230246251565e-16, tl.float64)


@triton.jit
def from_small_float(raw, mantissa: tl.constexpr, bias: tl.constexpr, infinite: tl.constexpr):
    """f32 of the bits (uint8) of an 8-bit float; ``infinite``: whether the type has infinities."""
    bits = raw.to(tl.int32)
    sign = (bits & 0x80) << 24
    size = bits & 0x7F
    exponent = size >> mantissa
    fraction = size & ((1 << mantissa) - 1)
    normal = ((exponent + (127 - bias)) << 23) | (fraction << (23 - mantissa))
    # A subnormal is fraction · 2^(1 - bias - mantissa), which is exact in f32.
    scale = ((128 - bias - mantissa) << 23) + exponent * 0
    subnormal = (fraction.to(tl.float32) * scale.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True)
    value = tl.where(exponent == 0, subnormal, normal)
    if infinite:
        special = exponent == (1 << (7 - mantissa)) - 1
        value = tl.where(special, 0x7F800000 | (fraction << (23 - mantissa)), value)
    else:
        value = tl.where(size == 0x7F, 0x7FC00000, value)
    return (value | sign).to(tl.float32, bitcast=True)


@triton.jit
def to_small_float(x, mantissa: tl.constexpr, bias: tl.constexpr, infinite: tl.constexpr):
    """The bits (uint8) of f32 rounded to an 8-bit float, halves to even; too large: infinity, or NaN without one."""
    bits = x.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 0x80
    size = bits & 0x7FFFFFFF
    shift: tl.constexpr = 23 - mantissa
    rounded = size + ((1 << (shift - 1)) - 1) + ((size >> shift) & 1)
    normal = (rounded >> shift) - ((127 - bias) << mantissa)
    # Below the least normal, adding a power of two leaves the rounded multiple of the least subnormal in the last bits.
    magic: tl.constexpr = (127 + 1 - bias - mantissa + 23) << 23
    big = (size * 0 + magic).to(tl.float32, bitcast=True)
    subnormal = (size.to(tl.float32, bitcast=True) + big).to(tl.int32, bitcast=True) - magic
    value = tl.where(size < ((128 - bias) << 23), subnormal, normal)
    if infinite:
        largest: tl.constexpr = ((1 << (7 - mantissa)) - 1) << mantissa
        value = tl.where(value > largest, largest, value)
        value = tl.where(size > 0x7F800000, 0x7F, value)
    else:
        value = tl.where((value >= 0x7F) | (size >= 0x7F800000), 0x7F, value)
    return (value | sign).to(tl.uint8)
