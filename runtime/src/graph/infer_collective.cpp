// Type rules of the collectives.
#include "graph/infer_rules.h"

namespace tessera::graph {

namespace {

TensorType permute(const Call &call) { return {call.operand(0).dtype, call.operand(0).shape, {}}; }

TensorType all_reduce(const Call &call) {
    require_dtype(call, 0, Accepts::NumbersAndBool);
    return {call.operand(0).dtype, call.operand(0).shape, {}};
}

// The attribute `shape` is the result's; it may differ from the operand's in the dimensions that the collective changes.
TensorType exchanged(const Call &call) {
    const TensorType &x = call.operand(0);
    std::vector<Dim> shape = call.sizes("shape");
    const size_t dim = call.axis("dim", x.rank());
    const size_t split = call.op == "all_to_all" ? call.axis("split_dim", x.rank()) : dim;
    if (call.op == "reduce_scatter")
        require_dtype(call, 0, Accepts::NumbersAndBool);
    bool fits = shape.size() == x.rank();
    for (size_t i = 0; fits && i < shape.size(); ++i)
        fits = i == dim || i == split || shape[i] == x.shape[i];
    if (!fits)
        call.fail(Code::Shape, "operand 0 has shape " + core::shape_text(x.shape) + " and the result " +
                                   core::shape_text(shape) + "; they may differ in the exchanged dimensions alone");
    return {x.dtype, std::move(shape), {}};
}

} // namespace

const PrimitiveTable &collective_rules() {
    static const PrimitiveTable table = {
        {"all_reduce", 1, all_reduce}, {"all_gather", 1, exchanged}, {"reduce_scatter", 1, exchanged},
        {"all_to_all", 1, exchanged}, {"collective_permute", 1, permute},
    };
    return table;
}

} // namespace tessera::graph
