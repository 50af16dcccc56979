// Operators on tensors, from C++.
//
// `Tensor c = op::matmul(a, b);` records what is to be computed, with dtype and shape checked at once (tessera::Error
// names the operator and the operands); `runtime.submit(c)` computes it with the portable kernels. The elements of
// tensors that exist are read when the operator runs.
//
// Functions have the names, defaults and promotion of Python's `tessera.op`. Names are those of the primitives of Graph
// IR, none of which is a C++ keyword; as some are functions of <cmath> too, write `op::exp`, and do not import the
// whole namespace. Integer-valued arguments that count from the end may be negative.
#ifndef TESSERA_OPS_H
#define TESSERA_OPS_H

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/tensor.h"

namespace tessera {
namespace op {

using Shape = std::vector<int64_t>;

// The dimensions over which to reduce or flip: all by default, one, or several.
class Axes {
  public:
    Axes() : all_(true) {}
    template <class T, class = std::enable_if_t<std::is_integral<T>::value>>
    Axes(T axis) : axes_{static_cast<int64_t>(axis)} {}         // NOLINT: an axis is a list of one
    Axes(std::initializer_list<int64_t> axes) : axes_(axes) {}  // NOLINT
    Axes(std::vector<int64_t> axes) : axes_(std::move(axes)) {} // NOLINT

    bool all() const { return all_; }
    const std::vector<int64_t> &list() const { return axes_; }

  private:
    bool all_ = false;
    std::vector<int64_t> axes_;
};

// A tensor, or a number that takes the dtype of the tensor it meets: unless its kind is higher, a float with integers
// giving f32 and an integer with bool giving i64.
class Operand {
  public:
    Operand(const Tensor &tensor) : tensor_(tensor) {} // NOLINT: a tensor is an operand
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    Operand(T value) // NOLINT: and so is a number
        : kind_(std::is_same<T, bool>::value ? Bool
                : std::is_integral<T>::value ? Integer
                                             : Real),
          real_(static_cast<double>(value)), integer_(static_cast<int64_t>(std::is_integral<T>::value ? value : T(0))) {
    }

    bool is_tensor() const { return kind_ == None; }
    const Tensor &tensor() const { return tensor_; }
    // The dtype of a number on its own, and next to a tensor of this dtype.
    DType dtype() const { return kind_ == Bool ? DType::Bool : kind_ == Integer ? DType::I64 : DType::F32; }
    inline DType dtype_beside(DType tensor) const;
    // The number as attribute text for a tensor of this dtype.
    inline std::string text(DType dtype) const;

  private:
    enum Kind { None, Bool, Integer, Real };
    Kind kind_ = None;
    Tensor tensor_;
    double real_ = 0;
    int64_t integer_ = 0;
};

namespace detail {

inline bool is_float(DType d) { return static_cast<int>(d) <= static_cast<int>(DType::F8E5M2); }
inline bool is_small_float(DType d) { return d == DType::F8E4M3 || d == DType::F8E5M2; }

// The common dtype of two tensors: as in tessera/ir/dtype.py.
inline DType promote(DType a, DType b) {
    const auto are = [&](DType x, DType y) { return (a == x && b == y) || (a == y && b == x); };
    if (a == b)
        return a;
    if (are(DType::BF16, DType::F16))
        return DType::F32;
    if (are(DType::F8E4M3, DType::F8E5M2))
        return DType::BF16;
    if (are(DType::U8, DType::I8))
        return DType::I16;
    if (is_float(a) != is_float(b))
        return is_float(a) ? a : b;
    // The numbers of dtypes fall with their width among floats and among signed integers; then come u8 and bool.
    return static_cast<int>(a) < static_cast<int>(b) ? a : b;
}

inline std::string real_text(double value) {
    if (value != value)
        return "nan";
    if (value - value != 0)
        return value < 0 ? "-inf" : "inf";
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "%.17g", value);
    std::string text(buffer);
    for (char &c : text)
        if (c == ',') // a locale's decimal point
            c = '.';
    return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

inline std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\')
            out += '\\';
        if (static_cast<unsigned char>(c) < 0x20) {
            char buffer[8];
            std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(c));
            out += buffer;
        } else {
            out += c;
        }
    }
    return out + "\"";
}

// Attributes in the text form of Graph IR.
class Attributes {
  public:
    Attributes &set(const char *name, const std::string &text) {
        text_ += (text_.empty() ? "{" : ", ") + std::string(name) + " = " + text;
        return *this;
    }
    Attributes &set(const char *name, const char *text) { return set(name, std::string(text)); }
    Attributes &set(const char *name, int64_t value) { return set(name, std::to_string(value)); }
    Attributes &set(const char *name, bool value) { return set(name, value ? "true" : "false"); }
    Attributes &set(const char *name, DType value) { return set(name, tsr_dtype_name(static_cast<tsr_dtype>(value))); }
    Attributes &set(const char *name, const std::vector<int64_t> &values) {
        std::string list = "[";
        for (size_t i = 0; i < values.size(); ++i)
            list += (i ? ", " : "") + std::to_string(values[i]);
        return set(name, list + "]");
    }
    std::string text() const { return text_.empty() ? text_ : text_ + "}"; }

  private:
    std::string text_;
};

inline Tensor apply(const char *name, const std::vector<Tensor> &operands, const Attributes &attributes = {}) {
    std::vector<tsr_tensor *> handles;
    handles.reserve(operands.size());
    for (const Tensor &t : operands)
        handles.push_back(t.handle());
    tsr_tensor *result = nullptr;
    check(tsr_op_apply(name, attributes.text().c_str(), handles.data(), static_cast<int32_t>(handles.size()), &result,
                       1));
    return Tensor::adopt(result);
}

[[noreturn]] inline void fail(tsr_status status, const std::string &message) { throw Error(status, message); }

inline int64_t rank(const Tensor &x) { return static_cast<int64_t>(x.shape().size()); }

inline int64_t one_axis(const char *op, int64_t axis, int64_t rank) {
    if (axis < -rank || axis >= rank)
        fail(TSR_ARGUMENT_ERROR, std::string("[") + op + "] axis " + std::to_string(axis) +
                                     " is out of range for a tensor with " + std::to_string(rank) + " dimensions");
    return axis < 0 ? axis + rank : axis;
}

// Sorted, without negative ones.
inline std::vector<int64_t> several_axes(const char *op, const Axes &axes, int64_t rank) {
    std::vector<bool> chosen(static_cast<size_t>(rank), axes.all());
    for (int64_t axis : axes.list()) {
        const size_t i = static_cast<size_t>(one_axis(op, axis, rank));
        if (chosen[i])
            fail(TSR_ARGUMENT_ERROR, std::string("[") + op + "] axis " + std::to_string(axis) + " is given twice");
        chosen[i] = true;
    }
    std::vector<int64_t> out;
    for (int64_t i = 0; i < rank; ++i)
        if (chosen[static_cast<size_t>(i)])
            out.push_back(i);
    return out;
}

inline Shape shape_of(const Tensor &x) { return x.shape().vector(); }

} // namespace detail

inline DType Operand::dtype_beside(DType tensor) const {
    if (kind_ == Integer)
        return tensor == DType::Bool ? DType::I64 : tensor;
    if (kind_ == Real)
        return detail::is_float(tensor) ? tensor : DType::F32;
    return tensor;
}

inline std::string Operand::text(DType dtype) const {
    if (dtype == DType::Bool)
        return real_ != 0 ? "true" : "false";
    if (detail::is_float(dtype) || kind_ == Real)
        return detail::real_text(real_);
    return std::to_string(integer_);
}

// ---- Creation and conversion ----

// A tensor filled with one number.
inline Tensor full(const Shape &shape, const Operand &value, DType dtype) {
    if (value.is_tensor())
        detail::fail(TSR_ARGUMENT_ERROR, "[full] value must be a number; use broadcast_to for a tensor");
    return detail::apply("full", {},
                         detail::Attributes().set("dtype", dtype).set("shape", shape).set("value", value.text(dtype)));
}
// The dtype is that of the number: bool, i64 or f32.
inline Tensor full(const Shape &shape, const Operand &value) { return full(shape, value, value.dtype()); }

// 0, 1, 2, ... along an axis.
inline Tensor iota(const Shape &shape, int64_t axis = 0, DType dtype = DType::I64) {
    axis = detail::one_axis("iota", axis, static_cast<int64_t>(shape.size()));
    return detail::apply("iota", {}, detail::Attributes().set("axis", axis).set("dtype", dtype).set("shape", shape));
}

// Uniform in [0, 1), f32 or f64, by Philox4x32-10. `key`: i64[2], a seed and a counter; `id`: tells operations that
// share a key apart.
inline Tensor random_uniform(const Tensor &key, const Shape &shape, DType dtype = DType::F32, int64_t id = 0) {
    return detail::apply("random_uniform", {key},
                         detail::Attributes().set("dtype", dtype).set("id", id).set("shape", shape));
}

// Another dtype: a float to an integer drops its fraction and saturates, NaN to 0; integers wrap.
inline Tensor cast(const Tensor &x, DType dtype) {
    return x.dtype() == dtype ? x : detail::apply("cast", {x}, detail::Attributes().set("dtype", dtype));
}

// x, as a constant for automatic differentiation.
inline Tensor stop_gradient(const Tensor &x) { return detail::apply("stop_gradient", {x}); }

namespace detail {

inline Tensor as_tensor(const Operand &x, DType dtype) {
    return x.is_tensor() ? cast(x.tensor(), dtype) : full({}, x, dtype);
}

inline DType common_dtype(const Operand &a, const Operand &b) {
    if (a.is_tensor() && b.is_tensor())
        return promote(a.tensor().dtype(), b.tensor().dtype());
    if (a.is_tensor())
        return b.dtype_beside(a.tensor().dtype());
    return a.dtype_beside(b.is_tensor() ? b.tensor().dtype() : b.dtype());
}

inline DType floating(DType d) { return is_float(d) ? d : DType::F32; }

inline Tensor as_floating(const Tensor &x) { return cast(x, floating(x.dtype())); }

inline Tensor unary_floating(const char *name, const Tensor &x) { return apply(name, {as_floating(x)}); }

// Both operands in their common dtype.
inline Tensor binary(const char *name, const Operand &a, const Operand &b) {
    const DType dtype = common_dtype(a, b);
    return apply(name, {as_tensor(a, dtype), as_tensor(b, dtype)});
}

// The arithmetic of two bools is logic.
inline Tensor arithmetic(const char *name, const char *of_bools, const Operand &a, const Operand &b) {
    return binary(common_dtype(a, b) == DType::Bool ? of_bools : name, a, b);
}

inline Tensor binary_floating(const char *name, const Operand &a, const Operand &b) {
    const DType dtype = floating(common_dtype(a, b));
    return apply(name, {as_tensor(a, dtype), as_tensor(b, dtype)});
}

inline Tensor logical(const char *name, const Operand &a, const Operand &b) {
    return apply(name, {as_tensor(a, DType::Bool), as_tensor(b, DType::Bool)});
}

// Floats are rounded, other tensors returned.
inline Tensor rounding(const char *name, const Tensor &x) { return is_float(x.dtype()) ? apply(name, {x}) : x; }

} // namespace detail

// ---- One tensor: floats and integers ----

inline Tensor neg(const Tensor &x) { return detail::apply("neg", {x}); }
inline Tensor abs(const Tensor &x) { return detail::apply("abs", {x}); }
// -1, 0 or 1; NaN for NaN.
inline Tensor sign(const Tensor &x) { return detail::apply("sign", {x}); }

// ---- One tensor: rounding; integers are returned as they are ----

inline Tensor floor(const Tensor &x) { return detail::rounding("floor", x); }
inline Tensor ceil(const Tensor &x) { return detail::rounding("ceil", x); }
// To the nearest integer, halves to the even one.
inline Tensor round(const Tensor &x) { return detail::rounding("round", x); }
inline Tensor trunc(const Tensor &x) { return detail::rounding("trunc", x); }

// ---- One tensor: mathematical functions; integers and bool are cast to f32 ----

inline Tensor sqrt(const Tensor &x) { return detail::unary_floating("sqrt", x); }
inline Tensor rsqrt(const Tensor &x) { return detail::unary_floating("rsqrt", x); }
inline Tensor reciprocal(const Tensor &x) { return detail::unary_floating("reciprocal", x); }
inline Tensor exp(const Tensor &x) { return detail::unary_floating("exp", x); }
inline Tensor exp2(const Tensor &x) { return detail::unary_floating("exp2", x); }
inline Tensor expm1(const Tensor &x) { return detail::unary_floating("expm1", x); }
inline Tensor log(const Tensor &x) { return detail::unary_floating("log", x); }
inline Tensor log2(const Tensor &x) { return detail::unary_floating("log2", x); }
inline Tensor log1p(const Tensor &x) { return detail::unary_floating("log1p", x); }
inline Tensor sin(const Tensor &x) { return detail::unary_floating("sin", x); }
inline Tensor cos(const Tensor &x) { return detail::unary_floating("cos", x); }
inline Tensor tan(const Tensor &x) { return detail::unary_floating("tan", x); }
inline Tensor asin(const Tensor &x) { return detail::unary_floating("asin", x); }
inline Tensor acos(const Tensor &x) { return detail::unary_floating("acos", x); }
inline Tensor atan(const Tensor &x) { return detail::unary_floating("atan", x); }
inline Tensor sinh(const Tensor &x) { return detail::unary_floating("sinh", x); }
inline Tensor cosh(const Tensor &x) { return detail::unary_floating("cosh", x); }
inline Tensor tanh(const Tensor &x) { return detail::unary_floating("tanh", x); }
inline Tensor erf(const Tensor &x) { return detail::unary_floating("erf", x); }
inline Tensor sigmoid(const Tensor &x) { return detail::unary_floating("sigmoid", x); }
inline Tensor isnan(const Tensor &x) { return detail::unary_floating("isnan", x); }
inline Tensor isinf(const Tensor &x) { return detail::unary_floating("isinf", x); }
inline Tensor isfinite(const Tensor &x) { return detail::unary_floating("isfinite", x); }

// ---- Two tensors, broadcast and promoted ----

// Of two bools, add and maximum are the logical or, mul and minimum the logical and.
inline Tensor add(const Operand &a, const Operand &b) { return detail::arithmetic("add", "logical_or", a, b); }
inline Tensor sub(const Operand &a, const Operand &b) { return detail::binary("sub", a, b); }
inline Tensor mul(const Operand &a, const Operand &b) { return detail::arithmetic("mul", "logical_and", a, b); }
// Integers and bool are cast to f32.
inline Tensor div(const Operand &a, const Operand &b) { return detail::binary_floating("div", a, b); }
// floor(a / b); 0 for an integer divided by 0.
inline Tensor floordiv(const Operand &a, const Operand &b) { return detail::binary("floordiv", a, b); }
// The remainder of floordiv, with the sign of b; 0 for an integer modulo 0.
inline Tensor mod(const Operand &a, const Operand &b) { return detail::binary("mod", a, b); }
inline Tensor pow(const Operand &a, const Operand &b) { return detail::binary("pow", a, b); }
// NaN where either is.
inline Tensor maximum(const Operand &a, const Operand &b) { return detail::arithmetic("maximum", "logical_or", a, b); }
inline Tensor minimum(const Operand &a, const Operand &b) { return detail::arithmetic("minimum", "logical_and", a, b); }
// The angle of the point (x, y).
inline Tensor atan2(const Operand &y, const Operand &x) { return detail::binary_floating("atan2", y, x); }

inline Tensor eq(const Operand &a, const Operand &b) { return detail::binary("eq", a, b); }
inline Tensor ne(const Operand &a, const Operand &b) { return detail::binary("ne", a, b); }
inline Tensor lt(const Operand &a, const Operand &b) { return detail::binary("lt", a, b); }
inline Tensor le(const Operand &a, const Operand &b) { return detail::binary("le", a, b); }
inline Tensor gt(const Operand &a, const Operand &b) { return detail::binary("gt", a, b); }
inline Tensor ge(const Operand &a, const Operand &b) { return detail::binary("ge", a, b); }

// Nonzero is true.
inline Tensor logical_not(const Tensor &x) { return detail::apply("logical_not", {cast(x, DType::Bool)}); }
inline Tensor logical_and(const Operand &a, const Operand &b) { return detail::logical("logical_and", a, b); }
inline Tensor logical_or(const Operand &a, const Operand &b) { return detail::logical("logical_or", a, b); }
inline Tensor logical_xor(const Operand &a, const Operand &b) { return detail::logical("logical_xor", a, b); }

// Integers and bool.
inline Tensor bitwise_not(const Tensor &x) { return detail::apply("bitwise_not", {x}); }
inline Tensor bitwise_and(const Operand &a, const Operand &b) { return detail::binary("bitwise_and", a, b); }
inline Tensor bitwise_or(const Operand &a, const Operand &b) { return detail::binary("bitwise_or", a, b); }
inline Tensor bitwise_xor(const Operand &a, const Operand &b) { return detail::binary("bitwise_xor", a, b); }
inline Tensor shift_left(const Operand &a, const Operand &b) { return detail::binary("shift_left", a, b); }
inline Tensor shift_right(const Operand &a, const Operand &b) { return detail::binary("shift_right", a, b); }

// a where the condition is nonzero, else b.
inline Tensor where(const Tensor &condition, const Operand &a, const Operand &b) {
    const DType dtype = detail::common_dtype(a, b);
    return detail::apply("where",
                         {cast(condition, DType::Bool), detail::as_tensor(a, dtype), detail::as_tensor(b, dtype)});
}

// ---- Shape ----

// One size may be -1: what is left.
inline Tensor reshape(const Tensor &x, Shape shape) {
    int64_t known = 1, *open = nullptr;
    for (int64_t &size : shape)
        if (size == -1 && !open)
            open = &size;
        else
            known *= size;
    if (open)
        *open = known > 0 && x.size() % known == 0 ? x.size() / known : 0;
    return detail::apply("reshape", {x}, detail::Attributes().set("shape", shape));
}

// Dimension i of the result is dimension perm[i] of x; by default they are reversed.
inline Tensor transpose(const Tensor &x, std::vector<int64_t> perm = {}) {
    const int64_t rank = detail::rank(x);
    if (perm.empty())
        for (int64_t i = rank; i-- > 0;)
            perm.push_back(i);
    for (int64_t &axis : perm)
        axis = detail::one_axis("transpose", axis, rank);
    return detail::apply("transpose", {x}, detail::Attributes().set("perm", perm));
}

inline Tensor broadcast_to(const Tensor &x, const Shape &shape) {
    return x.shape() == shape
               ? x
               : detail::apply("broadcast_to", {x}, detail::Attributes().set("shape", shape));
}

// Elements start, start + step, ... before stop of each dimension. Negative bounds count from the end; 0 <= start <=
// stop <= size must hold; steps are at least 1, and 1 by default.
inline Tensor slice(const Tensor &x, std::vector<int64_t> start, std::vector<int64_t> stop,
                    std::vector<int64_t> step = {}) {
    const Shape shape = detail::shape_of(x);
    if (step.empty())
        step.assign(shape.size(), 1);
    for (std::vector<int64_t> *bounds : {&start, &stop})
        for (size_t i = 0; i < bounds->size() && i < shape.size(); ++i)
            if ((*bounds)[i] < 0)
                (*bounds)[i] += shape[i];
    return detail::apply("slice", {x}, detail::Attributes().set("start", start).set("step", step).set("stop", stop));
}

// The order of elements reversed along axes.
inline Tensor flip(const Tensor &x, const Axes &axes = {}) {
    return detail::apply("flip", {x},
                         detail::Attributes().set("axes", detail::several_axes("flip", axes, detail::rank(x))));
}

// `low[i]` elements before and `high[i]` after dimension i.
inline Tensor pad(const Tensor &x, const std::vector<int64_t> &low, const std::vector<int64_t> &high,
                  const Operand &value = 0) {
    return detail::apply("pad", {x},
                         detail::Attributes().set("high", high).set("low", low).set("value", value.text(x.dtype())));
}

// Tensors joined along an axis, promoted to one dtype.
inline Tensor concat(std::vector<Tensor> tensors, int64_t axis = 0) {
    if (tensors.empty())
        detail::fail(TSR_ARGUMENT_ERROR, "[concat] needs at least one tensor");
    DType dtype = tensors[0].dtype();
    for (const Tensor &t : tensors)
        dtype = detail::promote(dtype, t.dtype());
    for (Tensor &t : tensors)
        t = cast(t, dtype);
    axis = detail::one_axis("concat", axis, detail::rank(tensors[0]));
    return detail::apply("concat", tensors, detail::Attributes().set("axis", axis));
}

// ---- Reductions ----

namespace detail {

inline Tensor reduce(const char *name, const Tensor &x, const Axes &axes, bool keepdims) {
    return apply(name, {x}, Attributes().set("axes", several_axes(name, axes, rank(x))).set("keepdims", keepdims));
}

inline Tensor position(const char *name, const Tensor &x, std::optional<int64_t> axis, bool keepdims) {
    if (axis)
        return apply(name, {x}, Attributes().set("axis", one_axis(name, *axis, rank(x))).set("keepdims", keepdims));
    const Tensor found =
        apply(name, {reshape(x, {x.size()})}, Attributes().set("axis", int64_t{0}).set("keepdims", false));
    return keepdims ? reshape(found, Shape(static_cast<size_t>(rank(x)), 1)) : found;
}

} // namespace detail

// Over all dimensions by default. Sums and products of bool, i8, i16, u8 and i32 are i64; bf16 and f16 accumulate in
// f32.
inline Tensor sum(const Tensor &x, const Axes &axes = {}, bool keepdims = false) {
    return detail::reduce("sum", x, axes, keepdims);
}
inline Tensor prod(const Tensor &x, const Axes &axes = {}, bool keepdims = false) {
    return detail::reduce("prod", x, axes, keepdims);
}
// NaN if any element is; no reduced dimension may be empty.
inline Tensor max(const Tensor &x, const Axes &axes = {}, bool keepdims = false) {
    return detail::reduce("max", x, axes, keepdims);
}
inline Tensor min(const Tensor &x, const Axes &axes = {}, bool keepdims = false) {
    return detail::reduce("min", x, axes, keepdims);
}
// The position (i64) of the first extremum along an axis, or in the flattened tensor; NaN counts as the extremum.
inline Tensor argmax(const Tensor &x, std::optional<int64_t> axis = std::nullopt, bool keepdims = false) {
    return detail::position("argmax", x, axis, keepdims);
}
inline Tensor argmin(const Tensor &x, std::optional<int64_t> axis = std::nullopt, bool keepdims = false) {
    return detail::position("argmin", x, axis, keepdims);
}
// Running sums.
inline Tensor cumsum(const Tensor &x, int64_t axis) {
    return detail::apply("cumsum", {x},
                         detail::Attributes().set("axis", detail::one_axis("cumsum", axis, detail::rank(x))));
}

// ---- Products ----

// The matrix product, with the rules of numpy.matmul: a (..., m, k) or (k,), b (..., k, n) or (k,); batch dimensions
// broadcast; bf16 and f16 accumulate in f32.
inline Tensor matmul(const Tensor &a, const Tensor &b) {
    const DType dtype = detail::promote(a.dtype(), b.dtype());
    Tensor x = cast(a, dtype), y = cast(b, dtype);
    const bool row = detail::rank(x) == 1, column = detail::rank(y) == 1;
    if (row)
        x = reshape(x, {1, x.size()});
    if (column)
        y = reshape(y, {y.size(), 1});
    Tensor out = detail::apply("matmul", {x, y});
    Shape shape = detail::shape_of(out);
    if (column)
        shape.pop_back();
    if (row)
        shape.erase(shape.end() - (column ? 1 : 2));
    return row || column ? reshape(out, shape) : out;
}

// ---- Indexing; an index out of range fails the run with IndexRangeError ----

// x; the run fails when an element that is not `ignore` lies outside [low, high]. `what` says in the message what the
// elements are.
inline Tensor check_range(const Tensor &x, int64_t low, int64_t high, std::optional<int64_t> ignore = std::nullopt,
                          const std::string &what = "value") {
    return detail::apply("check_range", {x},
                         detail::Attributes()
                             .set("high", high)
                             .set("ignore", ignore ? std::to_string(*ignore) : "none")
                             .set("low", low)
                             .set("what", detail::quoted(what)));
}

namespace detail {

// Indices in [0, size) from ones in [-size, size).
inline Tensor in_range(const char *op, const Tensor &index, const Tensor &x, int64_t axis) {
    if (is_float(index.dtype()) || index.dtype() == DType::Bool)
        fail(TSR_DTYPE_ERROR, std::string("[") + op + "] the index has dtype " +
                                  tsr_dtype_name(static_cast<tsr_dtype>(index.dtype())) +
                                  "; expected an integer dtype");
    const int64_t size = shape_of(x)[static_cast<size_t>(axis)];
    const Tensor wide = cast(index, DType::I64);
    const Tensor wrapped = where(lt(wide, 0), add(wide, size), wide);
    return check_range(wrapped, 0, size - 1, std::nullopt,
                       std::string(op) + ": index into dimension " + std::to_string(axis) + " of size " +
                           std::to_string(size));
}

} // namespace detail

// Rows of x along an axis at the positions `index`: shape x[:axis] + index + x[axis+1:].
inline Tensor take(const Tensor &x, const Tensor &index, int64_t axis = 0) {
    axis = detail::one_axis("take", axis, detail::rank(x));
    return detail::apply("take", {x, detail::in_range("take", index, x, axis)}, detail::Attributes().set("axis", axis));
}

// For each element of the index (of x's rank and sizes but for the axis) the element of x at that position.
inline Tensor take_along_axis(const Tensor &x, const Tensor &index, int64_t axis) {
    axis = detail::one_axis("take_along_axis", axis, detail::rank(x));
    return detail::apply("take_along_axis", {x, detail::in_range("take_along_axis", index, x, axis)},
                         detail::Attributes().set("axis", axis));
}

// x with `updates` (shape x[:axis] + index + x[axis+1:]) added at the positions `index`; repeated ones add up.
inline Tensor index_add(const Tensor &x, const Tensor &index, const Operand &updates, int64_t axis = 0) {
    axis = detail::one_axis("index_add", axis, detail::rank(x));
    const Tensor places = detail::in_range("index_add", index, x, axis);
    Tensor added = updates.is_tensor() ? updates.tensor() : full({}, updates, updates.dtype_beside(x.dtype()));
    if (detail::rank(added) == 0) {
        const Shape own = detail::shape_of(x), index_shape = detail::shape_of(index);
        Shape shape(own.begin(), own.begin() + static_cast<std::ptrdiff_t>(axis));
        shape.insert(shape.end(), index_shape.begin(), index_shape.end());
        shape.insert(shape.end(), own.begin() + static_cast<std::ptrdiff_t>(axis) + 1, own.end());
        added = broadcast_to(added, shape);
    }
    return detail::apply("index_add", {x, places, added}, detail::Attributes().set("axis", axis));
}

// x with each element of `updates` added at the position along the axis that `index` (of the same shape) gives.
inline Tensor scatter_add(const Tensor &x, const Tensor &index, const Operand &updates, int64_t axis) {
    axis = detail::one_axis("scatter_add", axis, detail::rank(x));
    const Tensor places = detail::in_range("scatter_add", index, x, axis);
    Tensor added = updates.is_tensor() ? updates.tensor() : full({}, updates, updates.dtype_beside(x.dtype()));
    if (detail::rank(added) == 0)
        added = broadcast_to(added, detail::shape_of(index));
    return detail::apply("scatter_add", {x, places, added}, detail::Attributes().set("axis", axis));
}

// ---- Graphs ----

// A named input of a graph that is built in C++, for Graph::trace: it has a dtype and a shape, and no elements.
inline Tensor input(const std::string &name, const Shape &shape, DType dtype) {
    tsr_tensor_info info{};
    info.size = sizeof info;
    info.shape = shape.data();
    info.rank = static_cast<int32_t>(shape.size());
    info.dtype = static_cast<tsr_dtype>(dtype);
    tsr_tensor *result = nullptr;
    check(tsr_op_input(name.c_str(), &info, &result));
    return Tensor::adopt(result);
}

} // namespace op

inline Tensor operator+(const Tensor &a, const Tensor &b) { return op::add(a, b); }
inline Tensor operator-(const Tensor &a, const Tensor &b) { return op::sub(a, b); }
inline Tensor operator*(const Tensor &a, const Tensor &b) { return op::mul(a, b); }
inline Tensor operator/(const Tensor &a, const Tensor &b) { return op::div(a, b); }
inline Tensor operator-(const Tensor &x) { return op::neg(x); }

// With a number on either side.
template <class T> using EnableNumber = std::enable_if_t<std::is_arithmetic<T>::value, Tensor>;
template <class T> EnableNumber<T> operator+(const Tensor &a, T b) { return op::add(a, b); }
template <class T> EnableNumber<T> operator-(const Tensor &a, T b) { return op::sub(a, b); }
template <class T> EnableNumber<T> operator*(const Tensor &a, T b) { return op::mul(a, b); }
template <class T> EnableNumber<T> operator/(const Tensor &a, T b) { return op::div(a, b); }
template <class T> EnableNumber<T> operator+(T a, const Tensor &b) { return op::add(a, b); }
template <class T> EnableNumber<T> operator-(T a, const Tensor &b) { return op::sub(a, b); }
template <class T> EnableNumber<T> operator*(T a, const Tensor &b) { return op::mul(a, b); }
template <class T> EnableNumber<T> operator/(T a, const Tensor &b) { return op::div(a, b); }

} // namespace tessera

#endif
