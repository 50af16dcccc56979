// Functions that move elements: tessera/op/shape.py, slicing.py, joining.py, triangle.py.
#include <algorithm>
#include <numeric>

#include "front/functions.h"

namespace tessera::front {

namespace {

using Ints = std::vector<int64_t>;

Ints inverse(const Ints &perm) {
    Ints out(perm.size());
    for (size_t i = 0; i < perm.size(); ++i)
        out[static_cast<size_t>(perm[i])] = static_cast<int64_t>(i);
    return out;
}

template <class Rule> void one_operand(Registry &registry, const char *name, Rule rule) {
    registry.gradient(name, [=](const NodePtr &node, const Values &g) -> Values {
        return {g[0] ? rule(node->operands()[0], g[0], node->attrs) : Value()};
    });
}

// `step - 1` zeros after each element along an axis.
Value dilate(const Value &g, int64_t axis, const Dim &step) {
    Shape wide = g.shape();
    wide.insert(wide.begin() + axis + 1, 1);
    Shape high(wide.size(), 0), shape = g.shape();
    high[static_cast<size_t>(axis) + 1] = step - Dim(1);
    const Value padded = build("pad", {build("reshape", {g}, {{"shape", dims(wide)}})},
                               {{"low", dims(Shape(wide.size(), 0))}, {"high", dims(high)}, {"value", real(0.0)}});
    shape[static_cast<size_t>(axis)] = g.dim(axis) * step;
    return build("reshape", {padded}, {{"shape", dims(shape)}});
}

// Zeros around g; between its elements too where the step is not 1.
Value slice_gradient(const Value &x, Value g, const Attributes &attrs) {
    const Shape starts = attrs.dims("slice", "start"), stops = attrs.dims("slice", "stop"),
                steps = attrs.dims("slice", "step");
    Shape high;
    for (int64_t axis = 0; axis < x.rank(); ++axis) {
        const size_t i = static_cast<size_t>(axis);
        Dim end = stops[i];
        if (steps[i] != Dim(1)) {
            g = dilate(g, axis, steps[i]);
            end = starts[i] + g.dim(axis);
        }
        const Dim rest = x.dim(axis) - end;
        // Dilation may reach past the end: then pad too much (or nothing) and cut below.
        high.push_back(rest.is_nonnegative() ? rest : rest.is_constant() ? Dim(0) : x.dim(axis));
    }
    const Value padded =
        build("pad", {g}, {{"low", dims(starts)}, {"high", dims(high)}, {"value", real(0.0)}});
    if (padded.shape() == x.shape())
        return padded;
    return build("slice", {padded},
                 {{"start", dims(Shape(starts.size(), 0))},
                  {"stop", dims(x.shape())},
                  {"step", dims(Shape(starts.size(), 1))}});
}

Value pad_gradient(const Value &x, const Value &g, const Attributes &attrs) {
    const Shape low = attrs.dims("pad", "low");
    Shape stop;
    for (size_t i = 0; i < low.size(); ++i)
        stop.push_back(low[i] + x.shape()[i]);
    return build("slice", {g}, {{"start", dims(low)}, {"stop", dims(stop)}, {"step", dims(Shape(low.size(), 1))}});
}

Values concat_gradient(const NodePtr &node, const Values &g) {
    const Values of = node->operands();
    if (!g[0])
        return Values(of.size());
    const int64_t axis = node->attrs.integer("concat", "axis");
    Values out;
    Dim at = 0;
    for (const Value &v : of) {
        const Dim end = at + v.dim(axis);
        out.push_back(slice_axis(g[0], axis, at, end));
        at = end;
    }
    return out;
}

Value triangle_body(const Values &of, const Attributes &attrs) {
    const Value &x = of[0];
    const int64_t k = attrs.integer("triangle", "k");
    const bool lower = attrs.boolean("triangle", "lower");
    if (x.rank() < 2)
        fail_op(Code::Shape, lower ? "tril" : "triu",
                "operand 0 has shape " + shown_shape(x.shape()) + "; a matrix needs 2 dimensions");
    const Shape shape(x.shape().end() - 2, x.shape().end());
    const auto numbers = [&](int64_t axis) { return iota(shape, axis, DType::I64); };
    const Value rows = numbers(0), columns = numbers(1), bound = rows + k;
    return where(lower ? le(columns, bound) : ge(columns, bound), x,
                 x.dtype() == DType::Bool ? Operand(false) : Operand(0));
}

std::vector<Value> promoted_list(const char *op, const std::vector<Operand> &tensors) {
    if (tensors.empty())
        fail_op(Code::Argument, op, "the first argument must be a list of one or more tensors");
    Values values;
    for (const Operand &x : tensors)
        values.push_back(as_tensor(x));
    DType dtype = values[0].dtype();
    for (const Value &v : values)
        dtype = promote(dtype, v.dtype());
    for (Value &v : values)
        v = cast_to(v, dtype);
    return values;
}

Value pad_edge(const Value &x, int64_t axis, const Dim &low, const Dim &high) {
    const auto edge = [&](const Dim &start, const Dim &count) {
        const Value row = slice_axis(x, axis, start, start + Dim(1));
        Shape shape = row.shape();
        shape[static_cast<size_t>(axis)] = count;
        return broadcast_to(row, shape);
    };
    return concat({edge(0, low), x, edge(x.dim(axis) - Dim(1), high)}, axis);
}

Value pad_reflect(const Value &x, int64_t axis, const Dim &low, const Dim &high) {
    const Dim last = x.dim(axis) - Dim(1);
    const Value before = flip(slice_axis(x, axis, 1, low + Dim(1)), Ints{axis});
    const Value after = flip(slice_axis(x, axis, last - high, last), Ints{axis});
    return concat({before, x, after}, axis);
}

Values cut(const Value &x, int64_t axis, const Shape &edges) {
    Values out;
    for (size_t i = 0; i + 1 < edges.size(); ++i)
        out.push_back(slice_axis(x, axis, edges[i], edges[i + 1]));
    return out;
}

} // namespace

void define_shapes(Registry &registry) {
    using V = const Value &;
    using A = const Attributes &;
    one_operand(registry, "reshape", [](V x, V g, A) { return build("reshape", {g}, {{"shape", dims(x.shape())}}); });
    one_operand(registry, "transpose", [](V, V g, A attrs) {
        return build("transpose", {g}, {{"perm", ints(inverse(attrs.integers("transpose", "perm")))}});
    });
    one_operand(registry, "broadcast_to", [](V x, V g, A) { return unbroadcast(g, x.shape()); });
    one_operand(registry, "slice", [](V x, V g, A attrs) { return slice_gradient(x, g, attrs); });
    one_operand(registry, "flip", [](V, V g, A attrs) { return build("flip", {g}, attrs); });
    one_operand(registry, "pad", pad_gradient);
    registry.gradient("concat", concat_gradient);
    registry.body("triangle", triangle_body);
    registry.no_gradient("full", "it has no operands");
    registry.no_gradient("iota", "it has no operands");
}

Value to_shape(const Value &x, const Shape &shape) {
    return x.shape() == shape ? x : build("reshape", {x}, {{"shape", dims(shape)}});
}

Value reshape(const Operand &x, const Shape &shape) {
    const Value tensor = as_tensor(x);
    const auto unknown = std::find(shape.begin(), shape.end(), Dim(-1));
    if (unknown == shape.end())
        return to_shape(tensor, checked_shape("reshape", shape));
    if (std::count(shape.begin(), shape.end(), Dim(-1)) > 1)
        fail_op(Code::Shape, "reshape",
                "shape " + shown_shape(shape) + " has more than one -1; give all sizes but one");
    Shape target = shape;
    Dim &open = target[static_cast<size_t>(unknown - shape.begin())];
    open = 1;
    const Dim known = core::product(checked_shape("reshape", target));
    const bool empty = known == Dim(0);
    const Dim left = empty ? Dim(0) : floordiv(tensor.size(), known);
    if (empty || left * known != tensor.size())
        fail_op(Code::Shape, "reshape",
                "operand 0 with shape " + shown_shape(tensor.shape()) + " has " + tensor.size().text() +
                    " elements, which the other dimensions of " + shown_shape(shape) +
                    " do not divide; no size fits -1");
    open = left;
    return to_shape(tensor, target);
}

Value flatten(const Operand &x, int64_t start, int64_t stop) {
    const Value tensor = as_tensor(x);
    if (tensor.rank() == 0)
        return to_shape(tensor, {1});
    const int64_t first = one_axis("flatten", start, tensor.rank(), "start");
    const int64_t last = one_axis("flatten", stop, tensor.rank(), "stop");
    if (first > last)
        fail_op(Code::Argument, "flatten",
                "start " + std::to_string(start) + " comes after stop " + std::to_string(stop));
    const auto at = tensor.shape().begin();
    Shape shape(at, at + first);
    shape.push_back(core::product(Shape(at + first, at + last + 1)));
    shape.insert(shape.end(), at + last + 1, tensor.shape().end());
    return to_shape(tensor, shape);
}

Value squeeze(const Operand &x, const Axes &axis) {
    const Value tensor = as_tensor(x);
    Ints axes;
    if (axis)
        axes = several_axes("squeeze", axis, tensor.rank());
    for (int64_t a : axes)
        if (tensor.dim(a) != Dim(1))
            fail_op(Code::Shape, "squeeze",
                    "dimension " + std::to_string(a) + " of operand 0 with shape " + shown_shape(tensor.shape()) +
                        " is " + tensor.dim(a).text() + ", not 1");
    Shape shape;
    for (int64_t a = 0; a < tensor.rank(); ++a) {
        const bool dropped =
            axis ? std::find(axes.begin(), axes.end(), a) != axes.end() : tensor.dim(a) == Dim(1);
        if (!dropped)
            shape.push_back(tensor.dim(a));
    }
    return to_shape(tensor, shape);
}

Value expand_dims(const Operand &x, const Ints &axis) {
    const Value tensor = as_tensor(x);
    const int64_t rank = tensor.rank() + static_cast<int64_t>(axis.size());
    const Ints axes = several_axes("expand_dims", axis, rank);
    Shape shape;
    int64_t next = 0;
    for (int64_t a = 0; a < rank; ++a)
        shape.push_back(std::find(axes.begin(), axes.end(), a) != axes.end() ? Dim(1) : tensor.dim(next++));
    return to_shape(tensor, shape);
}

Value transpose(const Operand &x, const Axes &perm) {
    const Value tensor = as_tensor(x);
    Ints order, same(static_cast<size_t>(tensor.rank()));
    std::iota(same.begin(), same.end(), 0);
    if (perm)
        for (int64_t a : *perm)
            order.push_back(one_axis("transpose", a, tensor.rank(), "perm"));
    else
        order.assign(same.rbegin(), same.rend());
    return order == same ? tensor : build("transpose", {tensor}, {{"perm", ints(order)}});
}

Value swapaxes(const Operand &x, int64_t a, int64_t b) {
    const Value tensor = as_tensor(x);
    Ints order(static_cast<size_t>(tensor.rank()));
    std::iota(order.begin(), order.end(), 0);
    std::swap(order[static_cast<size_t>(one_axis("swapaxes", a, tensor.rank()))],
              order[static_cast<size_t>(one_axis("swapaxes", b, tensor.rank()))]);
    return transpose(tensor, order);
}

Value moveaxis(const Operand &x, const Ints &source, const Ints &destination) {
    const Value tensor = as_tensor(x);
    std::vector<std::pair<int64_t, int64_t>> moves; // (place, axis)
    Ints start = source, end = destination;
    for (int64_t &a : start)
        a = one_axis("moveaxis", a, tensor.rank(), "source");
    for (int64_t &a : end)
        a = one_axis("moveaxis", a, tensor.rank(), "destination");
    const auto repeats = [](Ints list) {
        std::sort(list.begin(), list.end());
        return std::adjacent_find(list.begin(), list.end()) != list.end();
    };
    if (start.size() != end.size() || repeats(start) || repeats(end))
        fail_op(Code::Argument, "moveaxis", "source and destination must be as many different dimensions");
    Ints order;
    for (int64_t a = 0; a < tensor.rank(); ++a)
        if (std::find(start.begin(), start.end(), a) == start.end())
            order.push_back(a);
    for (size_t i = 0; i < start.size(); ++i)
        moves.emplace_back(end[i], start[i]);
    std::sort(moves.begin(), moves.end());
    for (const auto &[place, a] : moves)
        order.insert(order.begin() + place, a);
    return transpose(tensor, order);
}

Value broadcast_to(const Operand &x, const Shape &shape) {
    const Value tensor = as_tensor(x);
    return tensor.shape() == checked_shape("broadcast_to", shape)
               ? tensor
               : build("broadcast_to", {tensor}, {{"shape", dims(shape)}});
}

Value tile(const Operand &x, const Shape &reps) {
    Value tensor = as_tensor(x);
    Shape counts = checked_shape("tile", reps), sizes = tensor.shape();
    counts.insert(counts.begin(), sizes.size() > counts.size() ? sizes.size() - counts.size() : 0, Dim(1));
    sizes.insert(sizes.begin(), counts.size() - sizes.size(), Dim(1));
    tensor = to_shape(tensor, sizes);
    Shape paired, spread, result;
    for (size_t i = 0; i < sizes.size(); ++i) {
        paired.insert(paired.end(), {Dim(1), sizes[i]});
        spread.insert(spread.end(), {counts[i], sizes[i]});
        result.push_back(counts[i] * sizes[i]);
    }
    return to_shape(broadcast_to(to_shape(tensor, paired), spread), result);
}

Value repeat(const Operand &x, const Dim &repeats, std::optional<int64_t> axis) {
    Value tensor = as_tensor(x);
    if (!axis)
        tensor = to_shape(tensor, {tensor.size()});
    const int64_t at = one_axis("repeat", axis.value_or(0), tensor.rank());
    const Dim count = checked_shape("repeat", {repeats})[0];
    Shape spread = tensor.shape(), result = tensor.shape();
    spread.insert(spread.begin() + at + 1, count);
    result[static_cast<size_t>(at)] = tensor.dim(at) * count;
    return to_shape(broadcast_to(expand_dims(tensor, {at + 1}), spread), result);
}

Value slice(const Operand &x, const Shape &start, const Shape &stop, const Ints &step) {
    const Value tensor = as_tensor(x);
    Shape first = start, last = stop, steps;
    for (int64_t s : step)
        steps.push_back(s);
    if (steps.empty())
        steps.assign(tensor.shape().size(), 1);
    for (Shape *bounds : {&first, &last})
        for (size_t i = 0; i < bounds->size() && i < tensor.shape().size(); ++i)
            if ((*bounds)[i].is_constant() && (*bounds)[i].constant() < 0)
                (*bounds)[i] = tensor.shape()[i] + (*bounds)[i];
    return build("slice", {tensor}, {{"start", dims(first)}, {"stop", dims(last)}, {"step", dims(steps)}});
}

Value slice_axis(const Value &x, int64_t axis, const Dim &start, const Dim &stop) {
    if (start == Dim(0) && stop == x.dim(axis))
        return x;
    Shape first(x.shape().size(), 0), last = x.shape();
    first[static_cast<size_t>(axis)] = start;
    last[static_cast<size_t>(axis)] = stop;
    return build("slice", {x},
                 {{"start", dims(first)}, {"stop", dims(last)}, {"step", dims(Shape(x.shape().size(), 1))}});
}

Value flip(const Operand &x, const Axes &axis) {
    const Value tensor = as_tensor(x);
    const Ints axes = several_axes("flip", axis, tensor.rank());
    return axes.empty() ? tensor : build("flip", {tensor}, {{"axes", ints(axes)}});
}

Values split(const Operand &x, int64_t sections, int64_t axis) {
    const Value tensor = as_tensor(x);
    const int64_t at = one_axis("split", axis, tensor.rank());
    if (sections < 1)
        fail_op(Code::Argument, "split", "sections must be at least 1, got " + std::to_string(sections));
    const Dim size = tensor.dim(at);
    if (!size.is_multiple(sections))
        fail_op(Code::Shape, "split",
                "dimension " + std::to_string(at) + " of operand 0 with shape " + shown_shape(tensor.shape()) + " is " +
                    size.text() + ", which is not a multiple of " + std::to_string(sections) +
                    "; give the positions of the cuts");
    const Dim width = floordiv(size, Dim(sections));
    Shape edges;
    for (int64_t i = 0; i <= sections; ++i)
        edges.push_back(width * Dim(i));
    return cut(tensor, at, edges);
}

Values split_at(const Operand &x, const Shape &positions, int64_t axis) {
    const Value tensor = as_tensor(x);
    const int64_t at = one_axis("split", axis, tensor.rank());
    Shape edges = positions;
    edges.insert(edges.begin(), 0);
    edges.push_back(tensor.dim(at));
    return cut(tensor, at, edges);
}

Value concat(const std::vector<Operand> &tensors, int64_t axis) {
    const Values values = promoted_list("concat", tensors);
    if (values[0].rank() == 0)
        fail_op(Code::Shape, "concat", "operand 0 is a scalar, which has no dimension to join along; use stack");
    const int64_t at = one_axis("concat", axis, values[0].rank());
    return values.size() == 1 ? values[0] : build("concat", values, {{"axis", integer(at)}});
}

Value stack(const std::vector<Operand> &tensors, int64_t axis) {
    const Values values = promoted_list("stack", tensors);
    for (size_t i = 0; i < values.size(); ++i)
        if (values[i].shape() != values[0].shape())
            fail_op(Code::Shape, "stack",
                    "operand " + std::to_string(i) + " has shape " + shown_shape(values[i].shape()) +
                        " but operand 0 has " + shown_shape(values[0].shape()) + "; they must be equal");
    const int64_t at = one_axis("stack", axis, values[0].rank() + 1);
    std::vector<Operand> wide;
    for (const Value &v : values)
        wide.push_back(expand_dims(v, {at}));
    return concat(wide, at);
}

Value pad(const Operand &x, const std::vector<std::pair<Dim, Dim>> &width, const std::string &mode,
          const Operand &value) {
    Value tensor = as_tensor(x);
    std::vector<std::pair<Dim, Dim>> pairs = width;
    if (pairs.size() == 1)
        pairs.assign(tensor.shape().size(), width[0]);
    if (pairs.size() != tensor.shape().size())
        fail_op(Code::Argument, "pad",
                "width has " + std::to_string(width.size()) + " entries; it must be a number, (low, high) or one "
                "(low, high) for each of " + std::to_string(tensor.rank()) + " dimensions");
    if (mode == "constant") {
        if (!value.is_number())
            fail_op(Code::Argument, "pad", "value must be a number");
        const Attribute number = number_attribute(value.number(), tensor.dtype());
        Shape low, high;
        for (const auto &[a, b] : pairs) {
            low.push_back(a);
            high.push_back(b);
        }
        const Shape none(low.size(), 0);
        if (low == none && high == none)
            return tensor;
        return build("pad", {tensor}, {{"low", dims(low)}, {"high", dims(high)}, {"value", number}});
    }
    if (mode != "edge" && mode != "reflect")
        fail_op(Code::Argument, "pad",
                "mode '" + core::shown(mode) + "' is unknown; use 'constant', 'edge' or 'reflect'");
    for (size_t i = 0; i < pairs.size(); ++i) {
        const auto &[low, high] = pairs[i];
        if (low != Dim(0) || high != Dim(0))
            tensor = (mode == "edge" ? pad_edge : pad_reflect)(tensor, static_cast<int64_t>(i), low, high);
    }
    return tensor;
}

Value tril(const Operand &x, int64_t k) {
    return build("triangle", {as_tensor(x)}, {{"k", integer(k)}, {"lower", flag(true)}});
}
Value triu(const Operand &x, int64_t k) {
    return build("triangle", {as_tensor(x)}, {{"k", integer(k)}, {"lower", flag(false)}});
}

} // namespace tessera::front
