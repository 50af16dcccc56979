// Pointwise operators: arithmetic, comparison, logic, bits, mathematical functions, selection. Operands broadcast as in
// NumPy and are promoted to one dtype.
#ifndef TESSERA_OPS_POINTWISE_H
#define TESSERA_OPS_POINTWISE_H

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

namespace detail {
inline Tensor unary(const char *name, const Operand &x) { return Call(name, {x}).result(); }
inline Tensor binary(const char *name, const Operand &x, const Operand &y) { return Call(name, {x, y}).result(); }
} // namespace detail

// Another dtype: a float to an integer drops its fraction and saturates, NaN to 0; integers wrap; nonzero is true.
inline Tensor cast(const Operand &x, DType dtype) { return detail::Call("cast", {x}).set("dtype", dtype).result(); }
// x, as a constant for automatic differentiation.
inline Tensor stop_gradient(const Operand &x) { return detail::unary("stop_gradient", x); }

// ---- Floats and integers ----

// -x.
inline Tensor neg(const Operand &x) { return detail::unary("neg", x); }
inline Tensor abs(const Operand &x) { return detail::unary("abs", x); }
// -1, 0 or 1; NaN for NaN.
inline Tensor sign(const Operand &x) { return detail::unary("sign", x); }
// x · x.
inline Tensor square(const Operand &x) { return detail::unary("square", x); }

// ---- Roundings; integers are returned as they are ----

inline Tensor floor(const Operand &x) { return detail::unary("floor", x); }
inline Tensor ceil(const Operand &x) { return detail::unary("ceil", x); }
// Halves to even.
inline Tensor round(const Operand &x) { return detail::unary("round", x); }
inline Tensor trunc(const Operand &x) { return detail::unary("trunc", x); }

// ---- Mathematical functions; integers and bool are cast to f32 ----

inline Tensor sqrt(const Operand &x) { return detail::unary("sqrt", x); }
// 1 / sqrt(x).
inline Tensor rsqrt(const Operand &x) { return detail::unary("rsqrt", x); }
// 1 / x.
inline Tensor reciprocal(const Operand &x) { return detail::unary("reciprocal", x); }
inline Tensor exp(const Operand &x) { return detail::unary("exp", x); }
inline Tensor exp2(const Operand &x) { return detail::unary("exp2", x); }
// exp(x) - 1, exact near 0.
inline Tensor expm1(const Operand &x) { return detail::unary("expm1", x); }
inline Tensor log(const Operand &x) { return detail::unary("log", x); }
inline Tensor log2(const Operand &x) { return detail::unary("log2", x); }
// log(1 + x), exact near 0.
inline Tensor log1p(const Operand &x) { return detail::unary("log1p", x); }
inline Tensor sin(const Operand &x) { return detail::unary("sin", x); }
inline Tensor cos(const Operand &x) { return detail::unary("cos", x); }
inline Tensor tan(const Operand &x) { return detail::unary("tan", x); }
inline Tensor asin(const Operand &x) { return detail::unary("asin", x); }
inline Tensor acos(const Operand &x) { return detail::unary("acos", x); }
inline Tensor atan(const Operand &x) { return detail::unary("atan", x); }
inline Tensor sinh(const Operand &x) { return detail::unary("sinh", x); }
inline Tensor cosh(const Operand &x) { return detail::unary("cosh", x); }
inline Tensor tanh(const Operand &x) { return detail::unary("tanh", x); }
inline Tensor asinh(const Operand &x) { return detail::unary("asinh", x); }
inline Tensor acosh(const Operand &x) { return detail::unary("acosh", x); }
inline Tensor atanh(const Operand &x) { return detail::unary("atanh", x); }
// The error function.
inline Tensor erf(const Operand &x) { return detail::unary("erf", x); }
// 1 / (1 + exp(-x)).
inline Tensor sigmoid(const Operand &x) { return detail::unary("sigmoid", x); }
inline Tensor isnan(const Operand &x) { return detail::unary("isnan", x); }
// Of either sign.
inline Tensor isinf(const Operand &x) { return detail::unary("isinf", x); }
inline Tensor isfinite(const Operand &x) { return detail::unary("isfinite", x); }

// ---- Logic and bits ----

// Nonzero is true.
inline Tensor logical_not(const Operand &x) { return detail::unary("logical_not", x); }
// Integers and bool.
inline Tensor bitwise_not(const Operand &x) { return detail::unary("bitwise_not", x); }
inline Tensor logical_and(const Operand &x, const Operand &y) { return detail::binary("logical_and", x, y); }
inline Tensor logical_or(const Operand &x, const Operand &y) { return detail::binary("logical_or", x, y); }
inline Tensor logical_xor(const Operand &x, const Operand &y) { return detail::binary("logical_xor", x, y); }
inline Tensor bitwise_and(const Operand &x, const Operand &y) { return detail::binary("bitwise_and", x, y); }
inline Tensor bitwise_or(const Operand &x, const Operand &y) { return detail::binary("bitwise_or", x, y); }
inline Tensor bitwise_xor(const Operand &x, const Operand &y) { return detail::binary("bitwise_xor", x, y); }
// 0 when y is negative or at least the width of the dtype.
inline Tensor shift_left(const Operand &x, const Operand &y) { return detail::binary("shift_left", x, y); }
// All sign bits when y is negative or at least the width.
inline Tensor shift_right(const Operand &x, const Operand &y) { return detail::binary("shift_right", x, y); }

// ---- Arithmetic; of two bools + * maximum minimum are logic ----

inline Tensor add(const Operand &x, const Operand &y) { return detail::binary("add", x, y); }
inline Tensor sub(const Operand &x, const Operand &y) { return detail::binary("sub", x, y); }
inline Tensor mul(const Operand &x, const Operand &y) { return detail::binary("mul", x, y); }
// Integers and bool are cast to f32.
inline Tensor div(const Operand &x, const Operand &y) { return detail::binary("div", x, y); }
// floor(x / y); 0 for an integer divided by 0.
inline Tensor floordiv(const Operand &x, const Operand &y) { return detail::binary("floordiv", x, y); }
// The remainder of floordiv, with the sign of y; 0 for an integer modulo 0.
inline Tensor mod(const Operand &x, const Operand &y) { return detail::binary("mod", x, y); }
// x to the power y.
inline Tensor pow(const Operand &x, const Operand &y) { return detail::binary("pow", x, y); }
// The same in floating point.
inline Tensor float_power(const Operand &x, const Operand &y) { return detail::binary("float_power", x, y); }
// NaN where either is.
inline Tensor maximum(const Operand &x, const Operand &y) { return detail::binary("maximum", x, y); }
// NaN where either is.
inline Tensor minimum(const Operand &x, const Operand &y) { return detail::binary("minimum", x, y); }
// The angle in (-pi, pi] of the point (x, y).
inline Tensor atan2(const Operand &y, const Operand &x) { return detail::binary("atan2", y, x); }
// log(exp(x) + exp(y)) without overflow.
inline Tensor logaddexp(const Operand &x, const Operand &y) { return detail::binary("logaddexp", x, y); }

// ---- Comparison: bool ----

inline Tensor eq(const Operand &x, const Operand &y) { return detail::binary("eq", x, y); }
inline Tensor ne(const Operand &x, const Operand &y) { return detail::binary("ne", x, y); }
inline Tensor lt(const Operand &x, const Operand &y) { return detail::binary("lt", x, y); }
inline Tensor le(const Operand &x, const Operand &y) { return detail::binary("le", x, y); }
inline Tensor gt(const Operand &x, const Operand &y) { return detail::binary("gt", x, y); }
inline Tensor ge(const Operand &x, const Operand &y) { return detail::binary("ge", x, y); }
// Whether |x - y| <= atol + rtol * |y|. Infinities are close to themselves only.
inline Tensor isclose(const Operand &x, const Operand &y, double rtol = 1e-5, double atol = 1e-8,
                      bool equal_nan = false) {
    return detail::Call("isclose", {x, y}).set("rtol", rtol).set("atol", atol).set("equal_nan", equal_nan).result();
}

// ---- Selection and limits ----

// x where the condition is nonzero, else y.
inline Tensor where(const Operand &condition, const Operand &x, const Operand &y) {
    return detail::Call("where", {condition, x, y}).result();
}
// x limited to [low, high]; a side that is left out is open.
inline Tensor clip(const Operand &x, const Operand &low = std::nullopt, const Operand &high = std::nullopt) {
    return detail::Call("clip", {x, low, high}).result();
}
// x + weight * (y - x).
inline Tensor lerp(const Operand &x, const Operand &y, const Operand &weight) {
    return detail::Call("lerp", {x, y, weight}).result();
}
// x with NaN, inf and -inf replaced; by default infinities become the largest finite numbers.
inline Tensor nan_to_num(const Operand &x, double nan = 0.0, std::optional<double> posinf = std::nullopt,
                         std::optional<double> neginf = std::nullopt) {
    return detail::Call("nan_to_num", {x}).set("nan", nan).set("posinf", posinf).set("neginf", neginf).result();
}

} // namespace op

inline Tensor operator+(const op::Operand &a, const op::Operand &b) { return op::add(a, b); }
inline Tensor operator-(const op::Operand &a, const op::Operand &b) { return op::sub(a, b); }
inline Tensor operator*(const op::Operand &a, const op::Operand &b) { return op::mul(a, b); }
inline Tensor operator/(const op::Operand &a, const op::Operand &b) { return op::div(a, b); }
inline Tensor operator-(const op::Operand &x) { return op::neg(x); }

} // namespace tessera

#endif
