// Indexing with integer tensors: tessera/op/index.py and embedding.py.
#include "front/functions.h"

namespace tessera::front {

namespace {

Value zeros_of(const Value &x) {
    return build("full", {}, {{"shape", dims(x.shape())}, {"value", real(0.0)}, {"dtype", kind(x.dtype())}});
}

// `adds` collects what `picks` reads: the gradient of take and take_along_axis.
void picking_gradient(Registry &registry, const char *picks, const char *adds) {
    registry.gradient(picks, [=](const NodePtr &node, const Values &g) -> Values {
        if (!g[0] || !core::is_float(g[0].dtype()))
            return {{}, {}};
        const Values of = node->operands();
        return {build(adds, {zeros_of(of[0]), of[1], g[0]}, node->attrs), {}};
    });
    registry.gradient(adds, [=](const NodePtr &node, const Values &g) -> Values {
        if (!g[0] || !core::is_float(g[0].dtype()))
            return {{}, {}, {}};
        return {g[0], {}, build(picks, {g[0], node->operands()[1]}, node->attrs)};
    });
}

Value one_hot_body(const Values &of, const Attributes &attrs) {
    const Value &x = of[0];
    Shape shape(x.shape().size(), 1);
    shape.push_back(attrs.dim("one_hot", "depth"));
    const Value classes = build("iota", {}, {{"shape", dims(shape)}, {"axis", integer(x.rank())}, {"dtype",
                                                                                                   kind(x.dtype())}});
    return cast_to(eq(expand_dims(x, {x.rank()}), classes), attrs.dtype("one_hot", "dtype"));
}

Value embedding_body(const Values &of, const Attributes &) {
    const Value &ids = of[0], &table = of[1];
    if (table.rank() != 2)
        fail_op(Code::Shape, "embedding",
                "the table has shape " + shown_shape(table.shape()) + "; expected (rows, size)");
    const Value checked = check_range(ids, 0, table.dim(0) - Dim(1), std::nullopt, "embedding index");
    return build("take", {table, checked}, {{"axis", integer(0)}});
}

Shape taken_shape(const Value &x, const Value &index, int64_t axis) {
    Shape shape(x.shape().begin(), x.shape().begin() + axis);
    shape.insert(shape.end(), index.shape().begin(), index.shape().end());
    shape.insert(shape.end(), x.shape().begin() + axis + 1, x.shape().end());
    return shape;
}

} // namespace

void define_indexing(Registry &registry) {
    registry.no_gradient("check_range", "the result is an integer");
    picking_gradient(registry, "take", "index_add");
    picking_gradient(registry, "take_along_axis", "scatter_add");
    registry.body("one_hot", one_hot_body);
    registry.no_gradient("one_hot", "labels are integers");
    registry.body("embedding", embedding_body);
}

Value check_range(const Operand &x, const Dim &low, const Dim &high, std::optional<int64_t> ignore,
                  const std::string &what) {
    return build("check_range", {as_tensor(x)},
                 {{"low", Attribute::dim(low)},
                  {"high", Attribute::dim(high)},
                  {"ignore", ignore ? integer(*ignore) : Attribute()},
                  {"what", text(what)}});
}

Value in_range(const Operand &index, const Dim &size, const std::string &op, int64_t axis) {
    const Value tensor = as_tensor(index);
    if (!core::is_integer(tensor.dtype()))
        fail_op(Code::DType, op.c_str(),
                std::string("the index has dtype ") + core::name(tensor.dtype()) + "; expected an integer dtype: " +
                    (tensor.dtype() == DType::Bool ? "use where" : "cast it to i64"));
    Value wide = cast_to(tensor, DType::I64);
    if (tensor.dtype() != DType::U8)
        wide = where(lt(wide, 0), wide + as_tensor(Operand(size), DType::I64), wide);
    return check_range(wide, 0, size - Dim(1), std::nullopt,
                       op + ": index into dimension " + std::to_string(axis) + " of size " + size.text());
}

Value take(const Operand &x, const Operand &index, int64_t axis) {
    const Value tensor = as_tensor(x);
    const int64_t at = one_axis("take", axis, tensor.rank());
    return build("take", {tensor, in_range(index, tensor.dim(at), "take", at)}, {{"axis", integer(at)}});
}

Value take_along_axis(const Operand &x, const Operand &index, int64_t axis) {
    Value tensor = as_tensor(x), places = as_tensor(index);
    const int64_t at = one_axis("take_along_axis", axis, tensor.rank());
    if (places.rank() == tensor.rank()) {
        const size_t i = static_cast<size_t>(at);
        Shape a = tensor.shape(), b = places.shape();
        a[i] = b[i] = 1;
        Shape others = broadcast_shapes("take_along_axis", {a, b});
        others[i] = tensor.dim(at);
        tensor = broadcast_to(tensor, others);
        others[i] = places.dim(at);
        places = broadcast_to(places, others);
    }
    return build("take_along_axis", {tensor, in_range(places, tensor.dim(at), "take_along_axis", at)},
                 {{"axis", integer(at)}});
}

Value index_add(const Operand &x, const Operand &index, const Operand &updates, int64_t axis) {
    const Value tensor = as_tensor(x);
    Value added = as_tensor(updates, tensor.dtype());
    const int64_t at = one_axis("index_add", axis, tensor.rank());
    const Value places = in_range(index, tensor.dim(at), "index_add", at);
    if (added.rank() == 0)
        added = broadcast_to(added, taken_shape(tensor, places, at));
    return build("index_add", {tensor, places, added}, {{"axis", integer(at)}});
}

Value scatter_add(const Operand &x, const Operand &index, const Operand &updates, int64_t axis) {
    const Value tensor = as_tensor(x);
    Value added = as_tensor(updates, tensor.dtype());
    const int64_t at = one_axis("scatter_add", axis, tensor.rank());
    const Value places = in_range(index, tensor.dim(at), "scatter_add", at);
    if (added.rank() == 0)
        added = broadcast_to(added, places.shape());
    return build("scatter_add", {tensor, places, added}, {{"axis", integer(at)}});
}

Value one_hot(const Operand &labels, const Dim &depth, DType dtype) {
    const Value tensor = as_tensor(labels);
    if (!core::is_integer(tensor.dtype()))
        fail_op(Code::DType, "one_hot",
                std::string("operand 0 (the labels) has dtype ") + core::name(tensor.dtype()) +
                    "; expected an integer dtype: cast it to i64");
    checked_shape("one_hot", {depth});
    const Value checked = check_range(cast_to(tensor, DType::I64), 0, depth - Dim(1), std::nullopt,
                                      "one_hot: label for " + depth.text() + " classes");
    return build("one_hot", {checked}, {{"depth", Attribute::dim(depth)}, {"dtype", kind(dtype)}});
}

Value embedding(const Operand &ids, const Operand &table) {
    return build("embedding", {as_index("embedding", "ids", ids), as_tensor(table)});
}

} // namespace tessera::front
