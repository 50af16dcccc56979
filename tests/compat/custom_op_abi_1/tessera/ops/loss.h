// Losses, reduced by "mean", "sum" or "none". bf16 and f16 compute in f32.
#ifndef TESSERA_OPS_LOSS_H
#define TESSERA_OPS_LOSS_H

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

// The squared difference.
inline Tensor mse(const Operand &prediction, const Operand &target, const std::string &reduction = "mean") {
    return detail::Call("mse", {prediction, target}).set("reduction", reduction).result();
}
// The absolute difference.
inline Tensor l1(const Operand &prediction, const Operand &target, const std::string &reduction = "mean") {
    return detail::Call("l1", {prediction, target}).set("reduction", reduction).result();
}
// d² / 2 where |d| < delta, else delta · (|d| - delta / 2).
inline Tensor huber(const Operand &prediction, const Operand &target, double delta = 1.0,
                    const std::string &reduction = "mean") {
    return detail::Call("huber", {prediction, target}).set("delta", delta).set("reduction", reduction).result();
}
// -(t log σ(x) + (1 - t) log(1 - σ(x))) for probabilities t.
inline Tensor binary_cross_entropy_with_logits(const Operand &logits, const Operand &target,
                                               const std::string &reduction = "mean") {
    return detail::Call("binary_cross_entropy_with_logits", {logits, target}).set("reduction", reduction).result();
}
// Between softmax(logits) and labels along an axis: integers of the logits' shape less that axis, or probabilities of
// the logits' shape. `weight`: one factor per class. A label outside [0, classes) that is not ignore_index fails the
// run.
inline Tensor cross_entropy(const Operand &logits, const Operand &labels, const Operand &weight = std::nullopt,
                            int64_t ignore_index = -100, double label_smoothing = 0.0,
                            const std::string &reduction = "mean", int64_t axis = -1) {
    return detail::Call("cross_entropy", {logits, labels, weight})
        .set("ignore_index", ignore_index)
        .set("label_smoothing", label_smoothing)
        .set("reduction", reduction)
        .set("axis", axis)
        .result();
}
// -log_probabilities[label].
inline Tensor nll_loss(const Operand &log_probabilities, const Operand &labels, const Operand &weight = std::nullopt,
                       int64_t ignore_index = -100, const std::string &reduction = "mean", int64_t axis = -1) {
    return detail::Call("nll_loss", {log_probabilities, labels, weight})
        .set("ignore_index", ignore_index)
        .set("reduction", reduction)
        .set("axis", axis)
        .result();
}

} // namespace op
} // namespace tessera

#endif
