// Matrix products, activations, normalisation and attention. bf16 and f16 compute and accumulate in f32.
#ifndef TESSERA_OPS_LAYERS_H
#define TESSERA_OPS_LAYERS_H

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

// ---- Products ----

// The rules of numpy.matmul: a (…, m, k) or (k,), b (…, k, n) or (k,); batch dimensions broadcast.
inline Tensor matmul(const Operand &a, const Operand &b) { return detail::Call("matmul", {a, b}).result(); }
// The rules of numpy.dot.
inline Tensor dot(const Operand &a, const Operand &b) { return detail::Call("dot", {a, b}).result(); }
// Products of all pairs of elements.
inline Tensor outer(const Operand &a, const Operand &b) { return detail::Call("outer", {a, b}).result(); }
// (a @ b) · scale_a · scale_b of 8-bit floats, summed in f32 and rounded once; a scale is one f32, or one per row of a or
// per column of b.
inline Tensor scaled_matmul(const Operand &a, const Operand &b, const Operand &scale_a = 1.0, const Operand &scale_b = 1.0,
                            DType out_dtype = DType::BF16) {
    return detail::Call("scaled_matmul", {a, b, scale_a, scale_b}).set("out_dtype", out_dtype).result();
}
// Groups of rows, each times its own matrix: x (rows, in) with the rows of a group side by side, w (groups, in, out),
// group_sizes (groups,) integers. Rows after the last group give zeros; sizes that are negative or add up to more than the
// rows make the run fail.
inline Tensor grouped_matmul(const Operand &x, const Operand &w, const Operand &group_sizes) {
    return detail::Call("grouped_matmul", {x, w, group_sizes}).result();
}
// x @ w + b: x (…, in), w (in, out), b (out,).
inline Tensor linear(const Operand &x, const Operand &w, const Operand &b = std::nullopt) {
    return detail::Call("linear", {x, w, b}).result();
}
// A contraction in index notation, with the rules of numpy.einsum.
inline Tensor einsum(const std::string &equation, const Operands &operands) {
    return detail::Call("einsum", operands.list()).set("equation", equation).result();
}

// ---- Activations ----

inline Tensor relu(const Operand &x) { return detail::Call("relu", {x}).result(); }
inline Tensor relu6(const Operand &x) { return detail::Call("relu6", {x}).result(); }
// x · Φ(x); approximate "tanh" is the cheaper formula.
inline Tensor gelu(const Operand &x, const std::string &approximate = "none") {
    return detail::Call("gelu", {x}).set("approximate", approximate).result();
}
// x · sigmoid(x).
inline Tensor silu(const Operand &x) { return detail::Call("silu", {x}).result(); }
inline Tensor leaky_relu(const Operand &x, double negative_slope = 0.01) {
    return detail::Call("leaky_relu", {x}).set("negative_slope", negative_slope).result();
}
// x where positive, else alpha · (exp(x) - 1).
inline Tensor elu(const Operand &x, double alpha = 1.0) { return detail::Call("elu", {x}).set("alpha",
                                                                                              alpha).result(); }
// log(1 + exp(beta · x)) / beta.
inline Tensor softplus(const Operand &x, double beta = 1.0) {
    return detail::Call("softplus", {x}).set("beta", beta).result();
}
inline Tensor hard_sigmoid(const Operand &x) { return detail::Call("hard_sigmoid", {x}).result(); }
inline Tensor hard_swish(const Operand &x) { return detail::Call("hard_swish", {x}).result(); }
// x · tanh(softplus(x)).
inline Tensor mish(const Operand &x) { return detail::Call("mish", {x}).result(); }
// exp(x) / sum(exp(x)) along an axis.
inline Tensor softmax(const Operand &x, int64_t axis = -1) {
    return detail::Call("softmax", {x}).set("axis", axis).result();
}
// The same, with zeros where a row is -inf throughout.
inline Tensor safe_softmax(const Operand &x, int64_t axis = -1) {
    return detail::Call("safe_softmax", {x}).set("axis", axis).result();
}
inline Tensor log_softmax(const Operand &x, int64_t axis = -1) {
    return detail::Call("log_softmax", {x}).set("axis", axis).result();
}

// ---- Normalisation ----

// (x - mean) / sqrt(variance + eps) · weight + bias, statistics over `axes`.
inline Tensor layer_norm(const Operand &x, const Operand &weight = std::nullopt, const Operand &bias = std::nullopt,
                         const Axes &axes = -1, double eps = 1e-5) {
    return detail::Call("layer_norm", {x, weight, bias}).set("axes", axes).set("eps", eps).result();
}
// x / sqrt(mean(x²) + eps) · weight, the mean over `axes`.
inline Tensor rms_norm(const Operand &x, const Operand &weight = std::nullopt, const Axes &axes = -1,
                       double eps = 1e-6) {
    return detail::Call("rms_norm", {x, weight}).set("axes", axes).set("eps", eps).result();
}
// Each group of channels of each example of x (N, C, …).
inline Tensor group_norm(const Operand &x, int64_t groups, const Operand &weight = std::nullopt,
                         const Operand &bias = std::nullopt, double eps = 1e-5) {
    return detail::Call("group_norm", {x, weight, bias}).set("groups", groups).set("eps", eps).result();
}

// ---- Attention ----

// softmax(q kᵀ · scale + mask) v: q (…, heads, L, E), k (…, heads, S, E), v (…, heads, S, F); k and v may have fewer
// heads, a divisor of q's. `mask`: bool (true: attend) or floats that are added. scale: 1/√E by default.
inline Tensor scaled_dot_product_attention(const Operand &q, const Operand &k, const Operand &v,
                                           const Operand &mask = std::nullopt, bool causal = false,
                                           std::optional<double> scale = std::nullopt) {
    return detail::Call("scaled_dot_product_attention", {q, k, v, mask})
        .set("causal", causal)
        .set("scale", scale)
        .result();
}

} // namespace op
} // namespace tessera

#endif
