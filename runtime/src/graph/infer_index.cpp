// Type rules of the primitives that read or add at indices.
#include "graph/infer_rules.h"

namespace tessera::graph {

namespace {

// x[:axis] + index + x[axis+1:]
std::vector<Dim> taken(const Call &call, size_t axis) {
    const std::vector<Dim> &x = call.operand(0).shape, &index = call.operand(1).shape;
    std::vector<Dim> out(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(axis));
    out.insert(out.end(), index.begin(), index.end());
    out.insert(out.end(), x.begin() + static_cast<std::ptrdiff_t>(axis) + 1, x.end());
    return out;
}

TensorType take(const Call &call) {
    require_index(call, 1);
    const size_t axis = call.axis("axis", call.operand(0).rank());
    return {call.operand(0).dtype, taken(call, axis)};
}

// The index has the rank of x and its sizes, except along the axis.
void require_aligned_index(const Call &call) {
    require_index(call, 1);
    const std::vector<Dim> &x = call.operand(0).shape, &index = call.operand(1).shape;
    const size_t axis = call.axis("axis", x.size());
    bool fits = index.size() == x.size();
    for (size_t i = 0; fits && i < x.size(); ++i)
        fits = i == axis || index[i] == x[i];
    if (!fits)
        call.fail(Code::Shape, "the index has shape " + core::shape_text(index) + " but x has shape " +
                                   core::shape_text(x) + ": all dimensions but " + std::to_string(axis) +
                                   " must be equal");
}

TensorType take_along_axis(const Call &call) {
    require_aligned_index(call);
    return {call.operand(0).dtype, call.operand(1).shape};
}

void require_updates(const Call &call, const std::vector<Dim> &shape) {
    const TensorType &x = call.operand(0), &updates = call.operand(2);
    require_dtype(call, 0, Accepts::Numbers);
    if (updates.dtype != x.dtype)
        call.fail(Code::DType, std::string("the updates have dtype ") + core::name(updates.dtype) + " but x has " +
                                   core::name(x.dtype) + "; cast one to the other's dtype");
    if (updates.shape != shape)
        call.fail(Code::Shape, "the updates have shape " + core::shape_text(updates.shape) + "; expected " +
                                   core::shape_text(shape));
}

TensorType index_add(const Call &call) {
    require_index(call, 1);
    require_updates(call, taken(call, call.axis("axis", call.operand(0).rank())));
    return call.operand(0);
}

TensorType scatter_add(const Call &call) {
    require_aligned_index(call);
    require_updates(call, call.operand(1).shape);
    return call.operand(0);
}

TensorType check_range(const Call &call) {
    require_dtype(call, 0, Accepts::Integers);
    call.attrs.dim(call.op, "low");
    call.attrs.dim(call.op, "high");
    call.attrs.string(call.op, "what");
    const Attribute *ignore = call.attrs.find("ignore");
    if (ignore && !ignore->is_none())
        call.attrs.integer(call.op, "ignore");
    return call.operand(0);
}

} // namespace

const PrimitiveTable &index_rules() {
    static const PrimitiveTable table = {
        {"take", 2, take},           {"take_along_axis", 2, take_along_axis}, {"index_add", 3, index_add},
        {"scatter_add", 3, scatter_add}, {"check_range", 1, check_range},
    };
    return table;
}

} // namespace tessera::graph
