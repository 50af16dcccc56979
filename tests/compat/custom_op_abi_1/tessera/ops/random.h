// Random numbers: counter-based (Philox4x32-10), a function of a key and the element's index.
//
// Without a key a draw comes from the state "tessera.rng" (seed, counter) of the traced graph, whose counter goes up by
// one with every run: operations differ from each other and from run to run. `graph.state("tessera.rng")` seeds it. A
// `key` (a seed, or an i64[2] tensor) makes the numbers a function of that key alone, so that draws that share a key
// share their numbers; with one a draw can be computed outside a graph too.
#ifndef TESSERA_OPS_RANDOM_H
#define TESSERA_OPS_RANDOM_H

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

// The primitive: uniform in [0, 1), f32 or f64. `id` tells operations that share a key apart.
inline Tensor random_uniform(const Operand &key, const Shape &shape, DType dtype = DType::F32, int64_t id = 0) {
    return detail::Call("random_uniform", {key}).set("shape", shape).set("dtype", dtype).set("id", id).result();
}
// Uniform in [low, high).
inline Tensor uniform(const Shape &shape, double low = 0.0, double high = 1.0, DType dtype = DType::F32,
                      const Operand &key = std::nullopt) {
    return detail::Call("uniform", {key})
        .set("shape", shape)
        .set("low", low)
        .set("high", high)
        .set("dtype", dtype)
        .result();
}
// Normal with a mean and a standard deviation (Box-Muller).
inline Tensor normal(const Shape &shape, double mean = 0.0, double std = 1.0, DType dtype = DType::F32,
                     const Operand &key = std::nullopt) {
    return detail::Call("normal", {key})
        .set("shape", shape)
        .set("mean", mean)
        .set("std", std)
        .set("dtype", dtype)
        .result();
}
// Integers uniform in [low, high).
inline Tensor randint(int64_t low, int64_t high, const Shape &shape, DType dtype = DType::I64,
                      const Operand &key = std::nullopt) {
    return detail::Call("randint", {key})
        .set("low", low)
        .set("high", high)
        .set("shape", shape)
        .set("dtype", dtype)
        .result();
}
// True with probability p (a number in [0, 1] or a tensor that broadcasts to shape): bool of p's shape by default.
inline Tensor bernoulli(const Operand &p, const std::optional<Shape> &shape = std::nullopt,
                        const Operand &key = std::nullopt) {
    return detail::Call("bernoulli", {p, key}).set("shape", shape).result();
}
// Each element is 0 with probability p, else x / (1 - p); the gradient makes the same choice. Without `training`: x.
inline Tensor dropout(const Operand &x, double p = 0.5, bool training = true, const Operand &key = std::nullopt) {
    return detail::Call("dropout", {x, key}).set("p", p).set("training", training).result();
}

} // namespace op
} // namespace tessera

#endif
