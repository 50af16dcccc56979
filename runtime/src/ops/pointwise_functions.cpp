#include "ops/pointwise_functions.h"

#include <cmath>

namespace tessera::portable {
namespace {

template <class F>
struct Named {
    std::string_view name;
    F function;
};

// Turns a scalar function object into an array function.
template <class T, T (*F)(T)>
void each(const T *x, T *out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = F(x[i]);
}

template <class T, T (*F)(T, T)>
void each(const T *a, const T *b, T *out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = F(a[i], b[i]);
}

// ---- floats

template <class T> T neg(T x) { return -x; }
template <class T> T absolute(T x) { return std::fabs(x); }
template <class T> T sign(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x == 0 ? T(0) : x; }
template <class T> T floor_(T x) { return std::floor(x); }
template <class T> T ceil_(T x) { return std::ceil(x); }
template <class T> T round_(T x) { return std::nearbyint(x); }
template <class T> T trunc_(T x) { return std::trunc(x); }
template <class T> T sqrt_(T x) { return std::sqrt(x); }
template <class T> T rsqrt(T x) { return T(1) / std::sqrt(x); }
template <class T> T reciprocal(T x) { return T(1) / x; }
template <class T> T exp_(T x) { return std::exp(x); }
template <class T> T exp2_(T x) { return std::exp2(x); }
template <class T> T expm1_(T x) { return std::expm1(x); }
template <class T> T log_(T x) { return std::log(x); }
template <class T> T log2_(T x) { return std::log2(x); }
template <class T> T log1p_(T x) { return std::log1p(x); }
template <class T> T sin_(T x) { return std::sin(x); }
template <class T> T cos_(T x) { return std::cos(x); }
template <class T> T tan_(T x) { return std::tan(x); }
template <class T> T asin_(T x) { return std::asin(x); }
template <class T> T acos_(T x) { return std::acos(x); }
template <class T> T atan_(T x) { return std::atan(x); }
template <class T> T sinh_(T x) { return std::sinh(x); }
template <class T> T cosh_(T x) { return std::cosh(x); }
template <class T> T tanh_(T x) { return std::tanh(x); }
template <class T> T erf_(T x) { return std::erf(x); }

// Never raises e to a positive power, so that it does not overflow.
template <class T>
T sigmoid(T x) {
    const T e = std::exp(-std::fabs(x));
    return x >= 0 ? T(1) / (T(1) + e) : e / (T(1) + e);
}

template <class T> T is_nan(T x) { return x != x; }
template <class T> T is_inf(T x) { return std::isinf(x); }
template <class T> T is_finite(T x) { return std::isfinite(x); }

template <class T> T add(T a, T b) { return a + b; }
template <class T> T sub(T a, T b) { return a - b; }
template <class T> T mul(T a, T b) { return a * b; }
template <class T> T div(T a, T b) { return a / b; }

// Remainder with the sign of the divisor, as in Python.
template <class T>
T mod(T a, T b) {
    const T remainder = std::fmod(a, b);
    if (remainder == 0) return std::copysign(T(0), b);
    return (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

// Floor of the exact quotient: a - mod(a, b) is a multiple of b, so its rounded quotient is the integer meant.
template <class T>
T floordiv(T a, T b) {
    if (b == 0) return a / b;
    T remainder = std::fmod(a, b);
    T quotient = (a - remainder) / b;
    if (remainder != 0 && (remainder < 0) != (b < 0)) quotient -= 1;
    if (quotient == 0) return std::copysign(T(0), a / b);
    const T whole = std::floor(quotient);
    return quotient - whole > T(0.5) ? whole + 1 : whole;
}

template <class T> T pow_(T a, T b) { return std::pow(a, b); }
template <class T> T maximum(T a, T b) { return a > b || a != a ? a : b; }
template <class T> T minimum(T a, T b) { return a < b || a != a ? a : b; }
template <class T> T atan2_(T a, T b) { return std::atan2(a, b); }

// ---- comparisons

template <class T> T eq(T a, T b) { return a == b; }
template <class T> T ne(T a, T b) { return a != b; }
template <class T> T lt(T a, T b) { return a < b; }
template <class T> T le(T a, T b) { return a <= b; }
template <class T> T gt(T a, T b) { return a > b; }
template <class T> T ge(T a, T b) { return a >= b; }

// ---- integers: modulo 2^64, cut to the width of the dtype when stored

using I = int64_t;
using U = uint64_t;

I ineg(I x) { return static_cast<I>(U{0} - static_cast<U>(x)); }
I iabs(I x) { return x < 0 ? ineg(x) : x; }
I isign(I x) { return (x > 0) - (x < 0); }
I logical_not(I x) { return x == 0; }
I logical_and(I a, I b) { return a != 0 && b != 0; }
I logical_or(I a, I b) { return a != 0 || b != 0; }
I logical_xor(I a, I b) { return (a != 0) != (b != 0); }
I bitwise_not(I x) { return ~x; }
I iadd(I a, I b) { return static_cast<I>(static_cast<U>(a) + static_cast<U>(b)); }
I isub(I a, I b) { return static_cast<I>(static_cast<U>(a) - static_cast<U>(b)); }
I imul(I a, I b) { return static_cast<I>(static_cast<U>(a) * static_cast<U>(b)); }

I ifloordiv(I a, I b) {
    if (b == 0) return 0;
    if (b == -1) return ineg(a);
    return a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
}

I imod(I a, I b) {
    if (b == 0 || b == -1) return 0;
    const I remainder = a % b;
    return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

// A negative power is the truncated reciprocal: 0 unless the base is 1 or -1 (and 0 for the base 0).
I ipow(I base, I exponent) {
    if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 == 0 ? 1 : -1) : 0;
    U result = 1;
    for (U factor = static_cast<U>(base); exponent > 0; exponent >>= 1, factor *= factor) {
        if (exponent & 1) result *= factor;
    }
    return static_cast<I>(result);
}

I imaximum(I a, I b) { return a > b ? a : b; }
I iminimum(I a, I b) { return a < b ? a : b; }
I bitwise_and(I a, I b) { return a & b; }
I bitwise_or(I a, I b) { return a | b; }
I bitwise_xor(I a, I b) { return a ^ b; }
I shift_left(I a, I b) { return b < 0 || b > 63 ? 0 : static_cast<I>(static_cast<U>(a) << b); }
I shift_right(I a, I b) { return b < 0 || b > 63 ? (a < 0 ? -1 : 0) : a >> b; }

template <class T>
constexpr Named<UnaryFunction<T>> float_unary[] = {
    {"neg", each<T, neg<T>>},           {"abs", each<T, absolute<T>>},
    {"sign", each<T, sign<T>>},         {"floor", each<T, floor_<T>>},
    {"ceil", each<T, ceil_<T>>},        {"round", each<T, round_<T>>},
    {"trunc", each<T, trunc_<T>>},      {"sqrt", each<T, sqrt_<T>>},
    {"rsqrt", each<T, rsqrt<T>>},       {"reciprocal", each<T, reciprocal<T>>},
    {"exp", each<T, exp_<T>>},          {"exp2", each<T, exp2_<T>>},
    {"expm1", each<T, expm1_<T>>},      {"log", each<T, log_<T>>},
    {"log2", each<T, log2_<T>>},        {"log1p", each<T, log1p_<T>>},
    {"sin", each<T, sin_<T>>},          {"cos", each<T, cos_<T>>},
    {"tan", each<T, tan_<T>>},          {"asin", each<T, asin_<T>>},
    {"acos", each<T, acos_<T>>},        {"atan", each<T, atan_<T>>},
    {"sinh", each<T, sinh_<T>>},        {"cosh", each<T, cosh_<T>>},
    {"tanh", each<T, tanh_<T>>},        {"erf", each<T, erf_<T>>},
    {"sigmoid", each<T, sigmoid<T>>},
    {"isnan", each<T, is_nan<T>>},      {"isinf", each<T, is_inf<T>>},
    {"isfinite", each<T, is_finite<T>>},
};

constexpr Named<UnaryFunction<I>> integer_unary[] = {
    {"neg", each<I, ineg>},
    {"abs", each<I, iabs>},
    {"sign", each<I, isign>},
    {"logical_not", each<I, logical_not>},
    {"bitwise_not", each<I, bitwise_not>},
};

template <class T>
constexpr Named<BinaryFunction<T>> float_binary[] = {
    {"add", each<T, add<T>>},
    {"sub", each<T, sub<T>>},
    {"mul", each<T, mul<T>>},
    {"div", each<T, div<T>>},
    {"floordiv", each<T, floordiv<T>>},
    {"mod", each<T, mod<T>>},
    {"pow", each<T, pow_<T>>},
    {"maximum", each<T, maximum<T>>},
    {"minimum", each<T, minimum<T>>},
    {"atan2", each<T, atan2_<T>>},
    {"eq", each<T, eq<T>>},
    {"ne", each<T, ne<T>>},
    {"lt", each<T, lt<T>>},
    {"le", each<T, le<T>>},
    {"gt", each<T, gt<T>>},
    {"ge", each<T, ge<T>>},
};

constexpr Named<BinaryFunction<I>> integer_binary[] = {
    {"add", each<I, iadd>},
    {"sub", each<I, isub>},
    {"mul", each<I, imul>},
    {"floordiv", each<I, ifloordiv>},
    {"mod", each<I, imod>},
    {"pow", each<I, ipow>},
    {"maximum", each<I, imaximum>},
    {"minimum", each<I, iminimum>},
    {"eq", each<I, eq<I>>},
    {"ne", each<I, ne<I>>},
    {"lt", each<I, lt<I>>},
    {"le", each<I, le<I>>},
    {"gt", each<I, gt<I>>},
    {"ge", each<I, ge<I>>},
    {"logical_and", each<I, logical_and>},
    {"logical_or", each<I, logical_or>},
    {"logical_xor", each<I, logical_xor>},
    {"bitwise_and", each<I, bitwise_and>},
    {"bitwise_or", each<I, bitwise_or>},
    {"bitwise_xor", each<I, bitwise_xor>},
    {"shift_left", each<I, shift_left>},
    {"shift_right", each<I, shift_right>},
};

template <class Table>
auto lookup(const Table& table, std::string_view name) -> decltype(table[0].function) {
    for (const auto& entry : table) {
        if (entry.name == name) return entry.function;
    }
    return nullptr;
}

} // namespace

template <>
UnaryFunction<double> find_unary<double>(std::string_view name) { return lookup(float_unary<double>, name); }
template <>
UnaryFunction<float> find_unary<float>(std::string_view name) { return lookup(float_unary<float>, name); }
template <>
UnaryFunction<int64_t> find_unary<int64_t>(std::string_view name) { return lookup(integer_unary, name); }
template <>
BinaryFunction<double> find_binary<double>(std::string_view name) { return lookup(float_binary<double>, name); }
template <>
BinaryFunction<float> find_binary<float>(std::string_view name) { return lookup(float_binary<float>, name); }
template <>
BinaryFunction<int64_t> find_binary<int64_t>(std::string_view name) { return lookup(integer_binary, name); }

} // namespace tessera::portable
