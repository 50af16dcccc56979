// Reductions over all dimensions, one or several; with `keepdims` they stay as size 1. Sums and products of bool, i8,
// i16, u8 and i32 are i64; bf16 and f16 accumulate in f32.
#ifndef TESSERA_OPS_REDUCTION_H
#define TESSERA_OPS_REDUCTION_H

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

namespace detail {
inline Call reduction(const char *name, const Operand &x, const Axes &axis, bool keepdims) {
    return Call(name, {x}).set("axis", axis).set("keepdims", keepdims);
}
inline Tensor position(const char *name, const Operand &x, std::optional<int64_t> axis, bool keepdims) {
    return Call(name, {x}).set("axis", axis).set("keepdims", keepdims).result();
}
} // namespace detail

inline Tensor sum(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("sum", x, axis, keepdims).result();
}
inline Tensor prod(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("prod", x, axis, keepdims).result();
}
// NaN if any element is; no reduced dimension may be empty.
inline Tensor max(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("max", x, axis, keepdims).result();
}
inline Tensor min(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("min", x, axis, keepdims).result();
}
// Floating-point; integers and bool are cast to f32. NaN of no elements.
inline Tensor mean(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("mean", x, axis, keepdims).result();
}
// Squared deviations from the mean, divided by their number less ddof.
inline Tensor var(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false, double ddof = 0.0) {
    return detail::reduction("var", x, axis, keepdims).set("ddof", ddof).result();
}
// The square root of `var`.
inline Tensor std(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false, double ddof = 0.0) {
    return detail::reduction("std", x, axis, keepdims).set("ddof", ddof).result();
}
// log(sum(exp(x))) without overflow.
inline Tensor logsumexp(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("logsumexp", x, axis, keepdims).result();
}
// (sum |x|**ord)**(1/ord); ord may be infinite, or 0 for the number of nonzeros.
inline Tensor norm(const Operand &x, double ord = 2.0, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("norm", x, axis, keepdims).set("ord", ord).result();
}
// Whether an element is nonzero; false for no elements.
inline Tensor any(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("any", x, axis, keepdims).result();
}
// Whether every element is nonzero; true for no elements.
inline Tensor all(const Operand &x, const Axes &axis = std::nullopt, bool keepdims = false) {
    return detail::reduction("all", x, axis, keepdims).result();
}
// The position (i64) of the first extremum along an axis, or in the flattened tensor; NaN counts as the extremum.
inline Tensor argmax(const Operand &x, std::optional<int64_t> axis = std::nullopt, bool keepdims = false) {
    return detail::position("argmax", x, axis, keepdims);
}
inline Tensor argmin(const Operand &x, std::optional<int64_t> axis = std::nullopt, bool keepdims = false) {
    return detail::position("argmin", x, axis, keepdims);
}
// Running sums.
inline Tensor cumsum(const Operand &x, int64_t axis) { return detail::Call("cumsum", {x}).set("axis", axis).result(); }

} // namespace op
} // namespace tessera

#endif
