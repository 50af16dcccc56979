// Type rules of reductions, running sums and matrix products.
#include <algorithm>

#include "graph/infer_rules.h"

namespace tessera::graph {

namespace {

std::vector<Dim> reduced(const Call &call, const std::vector<size_t> &axes) {
    const std::vector<Dim> &shape = call.operand(0).shape;
    const bool keepdims = call.attrs.boolean(call.op, "keepdims");
    std::vector<Dim> out;
    for (size_t i = 0; i < shape.size(); ++i) {
        if (std::find(axes.begin(), axes.end(), i) == axes.end())
            out.push_back(shape[i]);
        else if (keepdims)
            out.push_back(1);
    }
    return out;
}

void require_not_empty(const Call &call, const std::vector<size_t> &axes) {
    const std::vector<Dim> &shape = call.operand(0).shape;
    for (size_t axis : axes)
        if (shape[axis] == Dim(0))
            call.fail(Code::Shape, "the operand has shape " + core::shape_text(shape) + ": dimension " +
                                       std::to_string(axis) + " is empty and has no extremum");
}

TensorType sum(const Call &call) {
    require_dtype(call, 0, Accepts::NumbersAndBool);
    const TensorType &x = call.operand(0);
    return {accumulated(x.dtype), reduced(call, call.sorted_axes(x.rank()))};
}

TensorType extremum(const Call &call) {
    require_dtype(call, 0, Accepts::NumbersAndBool);
    const TensorType &x = call.operand(0);
    const std::vector<size_t> axes = call.sorted_axes(x.rank());
    require_not_empty(call, axes);
    return {x.dtype, reduced(call, axes)};
}

TensorType extremum_position(const Call &call) {
    require_dtype(call, 0, Accepts::NumbersAndBool);
    const std::vector<size_t> axes = {call.axis("axis", call.operand(0).rank())};
    require_not_empty(call, axes);
    return {DType::I64, reduced(call, axes)};
}

TensorType cumsum(const Call &call) {
    require_dtype(call, 0, Accepts::NumbersAndBool);
    const TensorType &x = call.operand(0);
    call.axis("axis", x.rank());
    return {accumulated(x.dtype), x.shape};
}

TensorType matmul(const Call &call) {
    const std::vector<Dim> &a = call.operand(0).shape, &b = call.operand(1).shape;
    const auto shapes = [&] {
        return "a has shape " + core::shape_text(a) + " and b has shape " + core::shape_text(b);
    };
    if (a.size() < 2 || b.size() < 2)
        call.fail(Code::Shape, shapes() + ": the primitive needs at least two dimensions each");
    require_dtype(call, 0, Accepts::Numbers);
    require_dtype(call, 1, Accepts::Numbers);
    require_equal_dtypes(call);
    const Dim &inner = a.back(), &other = b[b.size() - 2];
    if (inner != other)
        call.fail(Code::Shape, shapes() + ": the last dimension of a (" + inner.text() +
                                   ") must equal the second-last of b (" + other.text() + ")");
    std::vector<Dim> shape = broadcast_operands(call, 2);
    shape.push_back(a[a.size() - 2]);
    shape.push_back(b.back());
    return {call.operand(0).dtype, std::move(shape)};
}

} // namespace

const PrimitiveTable &reduction_rules() {
    static const PrimitiveTable table = {
        {"sum", 1, sum},
        {"prod", 1, sum},
        {"max", 1, extremum},
        {"min", 1, extremum},
        {"argmax", 1, extremum_position},
        {"argmin", 1, extremum_position},
        {"cumsum", 1, cumsum},
        {"matmul", 2, matmul},
    };
    return table;
}

} // namespace tessera::graph
