// Indexing with integer tensors. Negative indices count from the end; one out of range fails the run with
// IndexRangeError.
#ifndef TESSERA_OPS_INDEXING_H
#define TESSERA_OPS_INDEXING_H

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

// x; the run fails when an element that is not `ignore` lies outside [low, high]. `what` says in the message what the
// elements are.
inline Tensor check_range(const Operand &x, const Dim &low, const Dim &high,
                          std::optional<int64_t> ignore = std::nullopt, const std::string &what = "value") {
    return detail::Call("check_range", {x})
        .set("low", low)
        .set("high", high)
        .set("ignore", ignore)
        .set("what", what)
        .result();
}
// Rows of x along an axis at the positions `index`: shape x[:axis] + index + x[axis+1:].
inline Tensor take(const Operand &x, const Operand &index, int64_t axis = 0) {
    return detail::Call("take", {x, index}).set("axis", axis).result();
}
// For each element of the index (of x's rank; other dimensions broadcast) the element of x at that position.
inline Tensor take_along_axis(const Operand &x, const Operand &index, int64_t axis) {
    return detail::Call("take_along_axis", {x, index}).set("axis", axis).result();
}
inline Tensor gather(const Operand &x, const Operand &index, int64_t axis) { return take_along_axis(x, index, axis); }
// x with `updates` (shape x[:axis] + index + x[axis+1:], or a scalar) added at the positions `index`; repeated ones add
// up.
inline Tensor index_add(const Operand &x, const Operand &index, const Operand &updates, int64_t axis = 0) {
    return detail::Call("index_add", {x, index, updates}).set("axis", axis).result();
}
// x with each element of `updates` added at the position along the axis that `index` (of the same shape) gives.
inline Tensor scatter_add(const Operand &x, const Operand &index, const Operand &updates, int64_t axis) {
    return detail::Call("scatter_add", {x, index, updates}).set("axis", axis).result();
}
// Labels in [0, depth) as vectors: a new last dimension, 1 at the label and 0 elsewhere.
inline Tensor one_hot(const Operand &labels, const Dim &depth, DType dtype = DType::F32) {
    return detail::Call("one_hot", {labels}).set("depth", depth).set("dtype", dtype).result();
}
// Rows of `table` (rows, size) at integer ids of any shape; ids are not negative.
inline Tensor embedding(const Operand &ids, const Operand &table) {
    return detail::Call("embedding", {ids, table}).result();
}

} // namespace op
} // namespace tessera

#endif
