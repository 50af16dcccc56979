// Reductions and running sums: tessera/op/reduce.py; pieces of composites: tessera/op/accumulate.py.
#include <algorithm>
#include <cmath>

#include "front/functions.h"

namespace tessera::front {

namespace {

using Ints = std::vector<int64_t>;

Attributes reduction(const Ints &axes, bool keepdims) { return {{"axes", ints(axes)}, {"keepdims", flag(keepdims)}}; }

// The vjp of a reduction from rule(x, y, g, axes), with y and g in the shape that keepdims gives.
template <class Rule> void reduction_gradient(Registry &registry, const char *name, Rule rule) {
    registry.gradient(name, [=](const NodePtr &node, const Values &g) -> Values {
        if (!g[0] || !core::is_float(g[0].dtype()))
            return {{}};
        const Value x = node->operands()[0];
        const Ints axes = node->attrs.integers(name, "axes");
        const Shape kept = reduced_shape(x.shape(), axes, true);
        const Value y = to_shape(node->result(), kept);
        return {rule(x, y, to_shape(g[0], kept), axes)};
    });
}

Value to_shape_of(const Value &g, const Value &x) {
    return g.shape() == x.shape() ? g : build("broadcast_to", {g}, {{"shape", dims(x.shape())}});
}

// Equal shares for all elements that attain the extremum; NaN where it is NaN.
Value extremum_slope(const Value &x, const Value &y, const Value &g, const Ints &axes) {
    const Value attained = cast(eq(x, y), x.dtype());
    return attained * (g / build("sum", {attained}, reduction(axes, true)));
}

// prod / x where nothing is zero; a single zero gets the product of the rest; else 0.
Value prod_others_body(const Values &of, const Attributes &attrs) {
    const Value &x = of[0];
    const Ints axes = attrs.integers("prod_others", "axes");
    const Value zero = eq(x, 0);
    const Value zeros = build("sum", {cast(zero, DType::I64)}, reduction(axes, true));
    const Value rest = where(zero, 1.0, x);
    const Value whole = build("prod", {rest}, reduction(axes, true));
    return where(zero, where(eq(zeros, 1), whole, 0.0), where(eq(zeros, 0), whole / rest, 0.0));
}

// d out[i] / d x[k] is the product of all but i and k: row i of a matrix in which element i is 1.
Values prod_others_gradient(const NodePtr &node, const Values &g) {
    if (!g[0])
        return {{}};
    const Value x = node->operands()[0];
    const Ints axes = node->attrs.integers("prod_others", "axes");
    Ints order;
    Shape outer, moved;
    for (int64_t a = 0; a < x.rank(); ++a)
        if (std::find(axes.begin(), axes.end(), a) == axes.end()) {
            order.push_back(a);
            outer.push_back(x.dim(a));
        }
    order.insert(order.end(), axes.begin(), axes.end());
    Dim count = 1;
    for (int64_t a : axes)
        count = count * x.dim(a);
    for (int64_t a : order)
        moved.push_back(x.dim(a));
    const int64_t rank = static_cast<int64_t>(outer.size());
    const auto with = [&](std::initializer_list<Dim> more) {
        Shape shape = outer;
        shape.insert(shape.end(), more);
        return dims(shape);
    };
    const auto rows = [&](const Value &v) {
        return build("reshape", {build("transpose", {v}, {{"perm", ints(order)}})}, {{"shape", with({count})}});
    };
    const auto numbers = [&](int64_t axis) {
        return build("iota", {}, {{"shape", dims({count, count})}, {"axis", integer(axis)}, {"dtype",
                                                                                             kind(DType::I64)}});
    };
    const Value matrix = build("broadcast_to", {build("reshape", {rows(x)}, {{"shape", with({1, count})}})},
                               {{"shape", with({count, count})}});
    const Value diagonal = eq(numbers(0), numbers(1));
    const Value others = build("prod_others", {where(diagonal, 1.0, matrix)}, {{"axes", ints({rank + 1})}});
    const Value weighted =
        where(diagonal, 0.0, others * build("reshape", {rows(g[0])}, {{"shape", with({count, 1})}}));
    const Value total = build("reshape", {build("sum", {weighted}, reduction({rank}, false))}, {{"shape",
                                                                                                 dims(moved)}});
    Ints back(order.size());
    for (size_t i = 0; i < order.size(); ++i)
        back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
    return {build("transpose", {total}, {{"perm", ints(back)}})};
}

Values cumsum_gradient(const NodePtr &node, const Values &g) {
    if (!g[0] || !core::is_float(g[0].dtype()))
        return {{}};
    const int64_t axis = node->attrs.integer("cumsum", "axis");
    const Attributes axes{{"axes", ints({axis})}};
    return {build("flip", {build("cumsum", {build("flip", {g[0]}, axes)}, {{"axis", integer(axis)}})}, axes)};
}

// The sum divided by max(count - correction, 0).
Value mean_of(const Value &x, const Ints &axes, bool keepdims, double correction = 0) {
    const Value total = build("sum", {x}, reduction(axes, keepdims));
    Dim count = 1;
    for (int64_t a : axes)
        count = count * x.dim(a);
    if (count.is_constant())
        return total / scalar(std::max(static_cast<double>(count.constant()) - correction, 0.0), x.dtype());
    const Value size =
        build("full", {}, {{"shape", dims({})}, {"value", Attribute::dim(count)}, {"dtype", kind(x.dtype())}});
    return total / build("maximum", {size - correction, scalar(0.0, x.dtype())});
}

Value variance(const Value &x, const Ints &axes, bool keepdims, double ddof) {
    return mean_of(square(x - mean_of(x, axes, true)), axes, keepdims, ddof);
}

Value logsumexp_body(const Value &x, const Ints &axes, bool keepdims) {
    const Value wide = widen(x);
    const Value top = stop_gradient(build("max", {wide}, reduction(axes, true)));
    const Value shift = where(isfinite(top), top, 0.0);
    const Value total = log(build("sum", {exp(wide - shift)}, reduction(axes, true))) + shift;
    return cast_to(build("reshape", {total}, {{"shape", dims(reduced_shape(x.shape(), axes, keepdims))}}), x.dtype());
}

Value norm_body(const Value &x, const Ints &axes, bool keepdims, double ord) {
    const Value size = abs(widen(x));
    const Attributes how = reduction(axes, keepdims);
    if (std::isinf(ord))
        return cast_to(build(ord > 0 ? "max" : "min", {size}, how), x.dtype());
    if (ord == 0)
        return build("sum", {cast(ne(size, 0), x.dtype())}, how);
    if (ord == 1)
        return cast_to(build("sum", {size}, how), x.dtype());
    if (ord == 2)
        return cast_to(sqrt(build("sum", {square(widen(x))}, how)), x.dtype());
    return cast_to(pow(build("sum", {pow(size, ord)}, how), 1.0 / ord), x.dtype());
}

template <class Body> void composite(Registry &registry, const char *name, Body body) {
    registry.body(name, [=](const Values &of, const Attributes &attrs) {
        require_floats(name, of);
        return body(of[0], attrs.integers(name, "axes"), attrs.boolean(name, "keepdims"), attrs);
    });
}

Value reduce(const char *name, const Operand &x, const Axes &axis, bool keepdims) {
    const Value tensor = as_tensor(x);
    return build(name, {tensor}, reduction(several_axes(name, axis, tensor.rank()), keepdims));
}

Value reduce_floating(const char *name, const Operand &x, const Axes &axis, bool keepdims,
                      std::optional<std::pair<const char *, double>> extra = std::nullopt) {
    const Value tensor = as_floating(x);
    Attributes attrs = reduction(several_axes(name, axis, tensor.rank()), keepdims);
    if (extra)
        attrs.set(extra->first, real(extra->second));
    return build(name, {tensor}, std::move(attrs));
}

Value position(const char *name, const Operand &x, std::optional<int64_t> axis, bool keepdims) {
    const Value tensor = as_tensor(x);
    if (axis)
        return build(name, {tensor},
                     {{"axis", integer(one_axis(name, *axis, tensor.rank()))}, {"keepdims", flag(keepdims)}});
    const Value flat = build("reshape", {tensor}, {{"shape", dims({tensor.size()})}});
    const Value found = build(name, {flat}, {{"axis", integer(0)}, {"keepdims", flag(false)}});
    return keepdims ? build("reshape", {found}, {{"shape", dims(Shape(tensor.shape().size(), 1))}}) : found;
}

Value truth(const char *name, const Operand &x, const Axes &axis, bool keepdims) {
    const bool any = std::string_view(name) == "any";
    const Value tensor = cast(x, DType::Bool);
    const Ints axes = several_axes(name, axis, tensor.rank());
    const bool never_empty = std::all_of(axes.begin(), axes.end(),
                                         [&](int64_t a) { return tensor.dim(a).bounds().first >= 1; });
    if (never_empty)
        return build(any ? "max" : "min", {tensor}, reduction(axes, keepdims));
    const Value count = build("sum", {any ? tensor : bitwise_not(tensor)}, reduction(axes, keepdims));
    return any ? gt(count, 0) : eq(count, 0);
}

} // namespace

void define_reductions(Registry &registry) {
    using A = const Attributes &;
    using V = const Value &;
    using I = const Ints &;
    reduction_gradient(registry, "sum", [](V x, V, V g, I) { return to_shape_of(g, x); });
    reduction_gradient(registry, "prod", [](V x, V, V g, I axes) {
        return g * build("prod_others", {x}, {{"axes", ints(axes)}});
    });
    reduction_gradient(registry, "max", extremum_slope);
    reduction_gradient(registry, "min", extremum_slope);
    registry.body("prod_others", prod_others_body);
    registry.gradient("prod_others", prod_others_gradient);
    registry.no_gradient("argmax", "the result is a position");
    registry.no_gradient("argmin", "the result is a position");
    registry.gradient("cumsum", cumsum_gradient);
    composite(registry, "mean", [](V x, I axes, bool keep, A) { return cast_to(mean_of(widen(x), axes, keep),
                                                                               x.dtype()); });
    composite(registry, "var", [](V x, I axes, bool keep, A attrs) {
        return cast_to(variance(widen(x), axes, keep, attrs.scalar("var", "ddof").real), x.dtype());
    });
    composite(registry, "std", [](V x, I axes, bool keep, A attrs) {
        return cast_to(sqrt(variance(widen(x), axes, keep, attrs.scalar("std", "ddof").real)), x.dtype());
    });
    composite(registry, "logsumexp", [](V x, I axes, bool keep, A) { return logsumexp_body(x, axes, keep); });
    composite(registry, "norm", [](V x, I axes, bool keep, A attrs) {
        return norm_body(x, axes, keep, attrs.scalar("norm", "ord").real);
    });
}

Value sum(const Operand &x, const Axes &axis, bool keepdims) { return reduce("sum", x, axis, keepdims); }
Value prod(const Operand &x, const Axes &axis, bool keepdims) { return reduce("prod", x, axis, keepdims); }
Value max(const Operand &x, const Axes &axis, bool keepdims) { return reduce("max", x, axis, keepdims); }
Value min(const Operand &x, const Axes &axis, bool keepdims) { return reduce("min", x, axis, keepdims); }
Value argmax(const Operand &x, std::optional<int64_t> axis, bool keepdims) {
    return position("argmax", x, axis, keepdims);
}
Value argmin(const Operand &x, std::optional<int64_t> axis, bool keepdims) {
    return position("argmin", x, axis, keepdims);
}
Value cumsum(const Operand &x, int64_t axis) {
    const Value tensor = as_tensor(x);
    return build("cumsum", {tensor}, {{"axis", integer(one_axis("cumsum", axis, tensor.rank()))}});
}
Value mean(const Operand &x, const Axes &axis, bool keepdims) { return reduce_floating("mean", x, axis, keepdims); }
Value var(const Operand &x, const Axes &axis, bool keepdims, double ddof) {
    return reduce_floating("var", x, axis, keepdims, std::pair{"ddof", ddof});
}
Value std_deviation(const Operand &x, const Axes &axis, bool keepdims, double ddof) {
    return reduce_floating("std", x, axis, keepdims, std::pair{"ddof", ddof});
}
Value logsumexp(const Operand &x, const Axes &axis, bool keepdims) {
    return reduce_floating("logsumexp", x, axis, keepdims);
}
Value norm(const Operand &x, double ord, const Axes &axis, bool keepdims) {
    return reduce_floating("norm", x, axis, keepdims, std::pair{"ord", ord});
}
Value any(const Operand &x, const Axes &axis, bool keepdims) { return truth("any", x, axis, keepdims); }
Value all(const Operand &x, const Axes &axis, bool keepdims) { return truth("all", x, axis, keepdims); }

Value widen(const Value &x) {
    return core::is_float(x.dtype()) && core::item_size(x.dtype()) < 4 ? cast_to(x, DType::F32) : x;
}
Value total(const Value &x, const Ints &axes, bool keepdims) {
    return axes.empty() ? x : build("sum", {x}, reduction(axes, keepdims));
}
Value largest(const Value &x, const Ints &axes, bool keepdims) {
    return axes.empty() ? x : build("max", {x}, reduction(axes, keepdims));
}
Value count(const Shape &shape, DType dtype) {
    const Dim size = core::product(shape);
    const Attribute value = size.is_constant() ? real(static_cast<double>(size.constant())) : Attribute::dim(size);
    return build("full", {}, {{"shape", dims({})}, {"value", value}, {"dtype", kind(dtype)}});
}
Value average(const Value &x, const Ints &axes) {
    Shape sizes;
    for (int64_t a : axes)
        sizes.push_back(x.dim(a));
    return build("div", {total(x, axes), count(sizes, x.dtype())});
}
Ints every_axis(const Value &x) { return several_axes("", std::nullopt, x.rank()); }
Ints axes_but(const Value &x, int64_t axis) {
    Ints out;
    for (int64_t a = 0; a < x.rank(); ++a)
        if (a != axis)
            out.push_back(a);
    return out;
}

Shape reduced_shape(const Shape &shape, const Ints &axes, bool keepdims) {
    Shape out;
    for (size_t i = 0; i < shape.size(); ++i) {
        const bool reduced = std::find(axes.begin(), axes.end(), static_cast<int64_t>(i)) != axes.end();
        if (!reduced)
            out.push_back(shape[i]);
        else if (keepdims)
            out.push_back(1);
    }
    return out;
}

} // namespace tessera::front
