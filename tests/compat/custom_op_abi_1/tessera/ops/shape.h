// Operators that move elements: reshape, transpose, broadcast, slice, join, pad.
#ifndef TESSERA_OPS_SHAPE_H
#define TESSERA_OPS_SHAPE_H

#include <algorithm>

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

// One size may be -1: what is left.
inline Tensor reshape(const Operand &x, const Shape &shape) {
    return detail::Call("reshape", {x}).set("shape", shape).result();
}
// Dimensions start to stop (inclusive) merged into one.
inline Tensor flatten(const Operand &x, int64_t start = 0, int64_t stop = -1) {
    return detail::Call("flatten", {x}).set("start", start).set("stop", stop).result();
}
// Without dimensions of size 1: all of them, or those named.
inline Tensor squeeze(const Operand &x, const Axes &axis = std::nullopt) {
    return detail::Call("squeeze", {x}).set("axis", axis).result();
}
// With dimensions of size 1 inserted so that they stand at `axis` of the result.
inline Tensor expand_dims(const Operand &x, const Axes &axis) {
    return detail::Call("expand_dims", {x}).set("axis", axis.list()).result();
}
// Dimension i of the result is dimension perm[i] of x; by default they are reversed.
inline Tensor transpose(const Operand &x, const Axes &perm = std::nullopt) {
    return detail::Call("transpose", {x}).set("perm", perm).result();
}
inline Tensor permute(const Operand &x, const Axes &perm = std::nullopt) { return transpose(x, perm); }
inline Tensor swapaxes(const Operand &x, int64_t a, int64_t b) {
    return detail::Call("swapaxes", {x}).set("a", a).set("b", b).result();
}
// Dimensions `source` moved to the places `destination`; the others keep their order.
inline Tensor moveaxis(const Operand &x, const Axes &source, const Axes &destination) {
    return detail::Call("moveaxis", {x}).set("source", source.list()).set("destination", destination.list()).result();
}
inline Tensor broadcast_to(const Operand &x, const Shape &shape) {
    return detail::Call("broadcast_to", {x}).set("shape", shape).result();
}
// x repeated reps[i] times along each dimension.
inline Tensor tile(const Operand &x, const Shape &reps) {
    return detail::Call("tile", {x}).set("reps", reps).result();
}
// Each element repeated along an axis, or of the flattened tensor.
inline Tensor repeat(const Operand &x, const Dim &repeats, std::optional<int64_t> axis = std::nullopt) {
    return detail::Call("repeat", {x}).set("repeats", repeats).set("axis", axis).result();
}
// Elements start, start + step, ... before stop of each dimension. Negative bounds count from the end; 0 <= start <=
// stop <= size must hold for all legal sizes; steps are at least 1, and 1 by default.
inline Tensor slice(const Operand &x, const Shape &start, const Shape &stop, const std::vector<int64_t> &step = {}) {
    return detail::Call("slice", {x}).set("start", start).set("stop", stop).set("step", step).result();
}
// The order of elements reversed along axes.
inline Tensor flip(const Operand &x, const Axes &axis = std::nullopt) {
    return detail::Call("flip", {x}).set("axis", axis).result();
}

// How to split: into equal parts, or before the given positions.
class Sections {
  public:
    template <class T, class = std::enable_if_t<std::is_integral<T>::value>>
    Sections(T count) : count_(static_cast<int64_t>(count)) {}                 // NOLINT
    Sections(std::initializer_list<Dim> positions) : positions_(positions) {}  // NOLINT
    Sections(std::vector<Dim> positions) : positions_(std::move(positions)) {} // NOLINT
    const std::optional<int64_t> &count() const { return count_; }
    const std::vector<Dim> &positions() const { return positions_; }

  private:
    std::optional<int64_t> count_;
    std::vector<Dim> positions_;
};

// Parts along an axis.
inline std::vector<Tensor> split(const Operand &x, const Sections &sections, int64_t axis = 0) {
    const size_t most = sections.count() ? static_cast<size_t>(std::max<int64_t>(*sections.count(), 0))
                                         : sections.positions().size() + 1;
    detail::Call call("split", {x});
    if (sections.count())
        call.set("sections", *sections.count());
    else
        call.set("positions", sections.positions());
    return call.set("axis", axis).results(most);
}
// Tensors joined along an axis, promoted to one dtype.
inline Tensor concat(const Operands &tensors, int64_t axis = 0) {
    return detail::Call("concat", tensors.list()).set("axis", axis).result();
}
// Tensors of one shape joined along a new dimension.
inline Tensor stack(const Operands &tensors, int64_t axis = 0) {
    return detail::Call("stack", tensors.list()).set("axis", axis).result();
}

// Margins before and after: one for all sides, or (low, high) for every dimension in turn.
class Width {
  public:
    Width(const Dim &all) : sizes_{all, all} {} // NOLINT
    template <class T, class = std::enable_if_t<std::is_integral<T>::value>> Width(T all) : Width(Dim(all)) {} // NOLINT
    Width(std::initializer_list<std::pair<Dim, Dim>> pairs) : Width(std::vector<std::pair<Dim,
                                                                    Dim>>(pairs)) {} // NOLINT
    Width(const std::vector<std::pair<Dim, Dim>> &pairs) { // NOLINT
        for (const auto &pair : pairs)
            sizes_.insert(sizes_.end(), {pair.first, pair.second});
    }
    const std::vector<Dim> &sizes() const { return sizes_; }

  private:
    std::vector<Dim> sizes_; // low and high in turn
};

// A margin around x: "constant" (of `value`), "edge" (the outermost element repeated), "reflect" (mirrored).
inline Tensor pad(const Operand &x, const Width &width, const std::string &mode = "constant",
                  const Operand &value = 0) {
    return detail::Call("pad", {x, value}).set("width", width.sizes()).set("mode", mode).result();
}
// Matrices (the last two dimensions) with zeros where column - row > k.
inline Tensor tril(const Operand &x, int64_t k = 0) { return detail::Call("tril", {x}).set("k", k).result(); }
// Matrices with zeros where column - row < k.
inline Tensor triu(const Operand &x, int64_t k = 0) { return detail::Call("triu", {x}).set("k", k).result(); }

} // namespace op
} // namespace tessera

#endif
