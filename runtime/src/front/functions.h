// The operators as functions on values, with the names, order of arguments and rules of Python's `tessera.op`: what the
// bodies of composites and the gradients are written with, and what the C ABI calls.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "front/operand.h"

namespace tessera::front {

using Axes = std::optional<std::vector<int64_t>>; // none: all

// ---- Pointwise: one operand ----
// By name: mathematical functions cast integers and bool to f32, roundings return integers as they are.
Value unary(const std::string &name, const Operand &x);
inline Value neg(const Operand &x) { return unary("neg", x); }
inline Value abs(const Operand &x) { return unary("abs", x); }
inline Value sign(const Operand &x) { return unary("sign", x); }
inline Value floor(const Operand &x) { return unary("floor", x); }
inline Value sqrt(const Operand &x) { return unary("sqrt", x); }
inline Value rsqrt(const Operand &x) { return unary("rsqrt", x); }
inline Value reciprocal(const Operand &x) { return unary("reciprocal", x); }
inline Value exp(const Operand &x) { return unary("exp", x); }
inline Value expm1(const Operand &x) { return unary("expm1", x); }
inline Value log(const Operand &x) { return unary("log", x); }
inline Value log1p(const Operand &x) { return unary("log1p", x); }
inline Value sin(const Operand &x) { return unary("sin", x); }
inline Value cos(const Operand &x) { return unary("cos", x); }
inline Value sinh(const Operand &x) { return unary("sinh", x); }
inline Value cosh(const Operand &x) { return unary("cosh", x); }
inline Value tanh(const Operand &x) { return unary("tanh", x); }
inline Value erf(const Operand &x) { return unary("erf", x); }
inline Value sigmoid(const Operand &x) { return unary("sigmoid", x); }
inline Value isfinite(const Operand &x) { return unary("isfinite", x); }
inline Value square(const Operand &x) { return unary("square", x); }
Value cast(const Operand &x, DType dtype);
Value logical_not(const Operand &x);
Value bitwise_not(const Operand &x);
Value stop_gradient(const Operand &x);
// The names that `unary` takes.
const std::vector<std::string> &unary_names();

// ---- Pointwise: several operands ----
Value add(const Operand &x, const Operand &y);
Value sub(const Operand &x, const Operand &y);
Value mul(const Operand &x, const Operand &y);
Value div(const Operand &x, const Operand &y);
Value floordiv(const Operand &x, const Operand &y);
Value mod(const Operand &x, const Operand &y);
Value pow(const Operand &x, const Operand &y);
Value float_power(const Operand &x, const Operand &y);
Value maximum(const Operand &x, const Operand &y);
Value minimum(const Operand &x, const Operand &y);
Value atan2(const Operand &y, const Operand &x);
// eq, ne, lt, le, gt, ge, bitwise_and, bitwise_or, bitwise_xor, shift_left, shift_right.
Value promoted(const char *name, const Operand &x, const Operand &y);
inline Value eq(const Operand &x, const Operand &y) { return promoted("eq", x, y); }
inline Value ne(const Operand &x, const Operand &y) { return promoted("ne", x, y); }
inline Value lt(const Operand &x, const Operand &y) { return promoted("lt", x, y); }
inline Value le(const Operand &x, const Operand &y) { return promoted("le", x, y); }
inline Value gt(const Operand &x, const Operand &y) { return promoted("gt", x, y); }
inline Value ge(const Operand &x, const Operand &y) { return promoted("ge", x, y); }
inline Value bitwise_and(const Operand &x, const Operand &y) { return promoted("bitwise_and", x, y); }
inline Value bitwise_or(const Operand &x, const Operand &y) { return promoted("bitwise_or", x, y); }
// logical_and, logical_or, logical_xor.
Value logical(const char *name, const Operand &x, const Operand &y);
inline Value logical_and(const Operand &x, const Operand &y) { return logical("logical_and", x, y); }
Value where(const Operand &condition, const Operand &x, const Operand &y);
Value clip(const Operand &x, const Operand &low, const Operand &high);
Value lerp(const Operand &x, const Operand &y, const Operand &weight);
Value isclose(const Operand &x, const Operand &y, double rtol, double atol, bool equal_nan);
Value nan_to_num(const Operand &x, double nan, std::optional<double> posinf, std::optional<double> neginf);
Value logaddexp(const Operand &x, const Operand &y);

inline Value operator+(const Operand &x, const Operand &y) { return add(x, y); }
inline Value operator-(const Operand &x, const Operand &y) { return sub(x, y); }
inline Value operator*(const Operand &x, const Operand &y) { return mul(x, y); }
inline Value operator/(const Operand &x, const Operand &y) { return div(x, y); }
inline Value operator-(const Operand &x) { return neg(x); }

// ---- Reductions ----
Value sum(const Operand &x, const Axes &axis, bool keepdims);
Value prod(const Operand &x, const Axes &axis, bool keepdims);
Value max(const Operand &x, const Axes &axis, bool keepdims);
Value min(const Operand &x, const Axes &axis, bool keepdims);
Value argmax(const Operand &x, std::optional<int64_t> axis, bool keepdims);
Value argmin(const Operand &x, std::optional<int64_t> axis, bool keepdims);
Value cumsum(const Operand &x, int64_t axis);
Value mean(const Operand &x, const Axes &axis, bool keepdims);
Value var(const Operand &x, const Axes &axis, bool keepdims, double ddof);
Value std_deviation(const Operand &x, const Axes &axis, bool keepdims, double ddof);
Value logsumexp(const Operand &x, const Axes &axis, bool keepdims);
Value norm(const Operand &x, double ord, const Axes &axis, bool keepdims);
Value any(const Operand &x, const Axes &axis, bool keepdims);
Value all(const Operand &x, const Axes &axis, bool keepdims);

// ---- Creation ----
Value full(const Shape &shape, const Operand &value, std::optional<DType> dtype);
Value full_size(const Shape &shape, const Dim &value, std::optional<DType> dtype);
Value full_like(const Operand &x, const Operand &value, std::optional<DType> dtype);
Value iota(const Shape &shape, int64_t axis, DType dtype);
Value arange(const Number &start, const std::optional<Number> &stop, const Number &step, std::optional<DType> dtype);
Value arange_sizes(const Dim &start, const Dim &stop, std::optional<DType> dtype);
Value eye(const Dim &n, const std::optional<Dim> &m, int64_t k, DType dtype);

// ---- Shape ----
Value reshape(const Operand &x, const Shape &shape); // one size may be -1
Value to_shape(const Value &x, const Shape &shape);  // x itself when it has the shape; no -1
Value flatten(const Operand &x, int64_t start, int64_t stop);
Value squeeze(const Operand &x, const Axes &axis);
Value expand_dims(const Operand &x, const std::vector<int64_t> &axis);
Value transpose(const Operand &x, const Axes &perm);
Value swapaxes(const Operand &x, int64_t a, int64_t b);
Value moveaxis(const Operand &x, const std::vector<int64_t> &source, const std::vector<int64_t> &destination);
Value broadcast_to(const Operand &x, const Shape &shape);
Value tile(const Operand &x, const Shape &reps);
Value repeat(const Operand &x, const Dim &repeats, std::optional<int64_t> axis);
Value slice(const Operand &x, const Shape &start, const Shape &stop, const std::vector<int64_t> &step);
Value slice_axis(const Value &x, int64_t axis, const Dim &start, const Dim &stop);
Value flip(const Operand &x, const Axes &axis);
Values split(const Operand &x, int64_t sections, int64_t axis);
Values split_at(const Operand &x, const Shape &positions, int64_t axis);
Value concat(const std::vector<Operand> &tensors, int64_t axis);
Value stack(const std::vector<Operand> &tensors, int64_t axis);
Value pad(const Operand &x, const std::vector<std::pair<Dim, Dim>> &width, const std::string &mode,
          const Operand &value);
Value tril(const Operand &x, int64_t k);
Value triu(const Operand &x, int64_t k);

// ---- Indexing ----
Value check_range(const Operand &x, const Dim &low, const Dim &high, std::optional<int64_t> ignore,
                  const std::string &what);
// Indices in [0, size) from ones in [-size, size): cast to i64, wrapped and checked.
Value in_range(const Operand &index, const Dim &size, const std::string &op, int64_t axis);
Value take(const Operand &x, const Operand &index, int64_t axis);
Value take_along_axis(const Operand &x, const Operand &index, int64_t axis);
Value index_add(const Operand &x, const Operand &index, const Operand &updates, int64_t axis);
Value scatter_add(const Operand &x, const Operand &index, const Operand &updates, int64_t axis);
Value one_hot(const Operand &labels, const Dim &depth, DType dtype);
Value embedding(const Operand &ids, const Operand &table);

// ---- Products ----
Value matmul(const Operand &a, const Operand &b);
Value dot(const Operand &a, const Operand &b);
Value outer(const Operand &a, const Operand &b);
Value scaled_matmul(const Operand &a, const Operand &b, const Operand &scale_a, const Operand &scale_b, DType out_dtype);
Value grouped_matmul(const Operand &x, const Operand &w, const Operand &group_sizes);
Value linear(const Operand &x, const Operand &w, const Operand &b);
Value einsum(const std::string &equation, const std::vector<Operand> &operands);
Value swap_last(const Value &x);

// ---- Activations, normalisation, attention ----
Value relu(const Operand &x);
Value relu6(const Operand &x);
Value gelu(const Operand &x, const std::string &approximate);
Value softplus(const Operand &x, double beta);
Value leaky_relu(const Operand &x, double negative_slope);
Value elu(const Operand &x, double alpha);
Value hard_sigmoid(const Operand &x);
// silu, hard_sigmoid, hard_swish, mish.
Value activation(const char *name, const Operand &x);
// softmax, safe_softmax, log_softmax.
Value along(const char *name, const Operand &x, int64_t axis);
Value layer_norm(const Operand &x, const Operand &weight, const Operand &bias, const Axes &axes, double eps);
Value rms_norm(const Operand &x, const Operand &weight, const Axes &axes, double eps);
Value group_norm(const Operand &x, int64_t groups, const Operand &weight, const Operand &bias, double eps);
Value scaled_dot_product_attention(const Operand &q, const Operand &k, const Operand &v, const Operand &mask,
                                   bool causal,
                                   std::optional<double> scale);

// ---- Losses ----
// mse, l1, binary_cross_entropy_with_logits.
Value loss(const char *name, const Operand &prediction, const Operand &target, const std::string &reduction);
Value huber(const Operand &prediction, const Operand &target, double delta, const std::string &reduction);
Value cross_entropy(const Operand &logits, const Operand &labels, const Operand &weight, int64_t ignore_index,
                    double label_smoothing, const std::string &reduction, int64_t axis);
Value nll_loss(const Operand &log_probabilities, const Operand &labels, const Operand &weight, int64_t ignore_index,
               const std::string &reduction, int64_t axis);
void require_reduction(const char *op, const std::string &reduction);

// ---- Random numbers; without a key they draw from the state `tessera.rng` ----
Value random_uniform(const Operand &key, const Shape &shape, DType dtype, int64_t id);
Value uniform(const Shape &shape, double low, double high, DType dtype, const Operand &key);
Value normal(const Shape &shape, double mean, double std, DType dtype, const Operand &key);
Value randint(int64_t low, int64_t high, const Shape &shape, DType dtype, const Operand &key);
Value bernoulli(const Operand &p, const std::optional<Shape> &shape, const Operand &key);
Value dropout(const Operand &x, double p, bool training, const Operand &key);
// (seed, counter + 1): what the random state becomes when a graph that draws from it has run.
Value advanced(const Value &key);

// ---- Pieces of composites: tessera/op/accumulate.py ----
// f32 for bf16 and f16, else x.
Value widen(const Value &x);
Value total(const Value &x, const std::vector<int64_t> &axes, bool keepdims = true);
Value largest(const Value &x, const std::vector<int64_t> &axes, bool keepdims = true);
// The number of elements of a shape as a scalar.
Value count(const Shape &shape, DType dtype);
Value average(const Value &x, const std::vector<int64_t> &axes);
std::vector<int64_t> every_axis(const Value &x);
std::vector<int64_t> axes_but(const Value &x, int64_t axis);
Shape reduced_shape(const Shape &shape, const std::vector<int64_t> &axes, bool keepdims);

} // namespace tessera::front
