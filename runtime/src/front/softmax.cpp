// softmax and its relatives: tessera/op/softmax.py.
#include <limits>

#include "front/functions.h"
#include "front/rows.h"

namespace tessera::front {

namespace {

const double infinity = std::numeric_limits<double>::infinity();

// The maximum along an axis (kept). A symbolic axis that may be empty has -inf behind its elements.
Value top_of(Value x, int64_t axis) {
    if (x.dim(axis).bounds().first == 0) {
        Shape high(x.shape().size(), 0);
        high[static_cast<size_t>(axis)] = 1;
        x = build("pad", {x},
                  {{"low", dims(Shape(high.size(), 0))}, {"high", dims(high)}, {"value", real(-infinity)}});
    }
    return largest(x, {axis});
}

Value softmax_body(const Value &x, int64_t axis) {
    const Shifted of = shifted_exponentials(x, axis);
    return of.e * reciprocal(of.s);
}

Value safe_softmax_body(const Value &x, int64_t axis) {
    const Value top = top_of(x, axis);
    const Value e = exp(x - where(eq(top, -infinity), 0, top));
    const Value s = total(e, {axis});
    return e * reciprocal(where(eq(s, 0), 1, s));
}

Value log_softmax_body(const Value &x, int64_t axis) {
    const Shifted of = shifted_exponentials(x, axis);
    return of.d - log(of.s);
}

Values softmax_gradient(const NodePtr &node, const Values &g) {
    const Value y = node->result(), wide = widen(y), product = widen(g[0]) * wide;
    const int64_t axis = node->attrs.integer(node->op, "axis");
    return {cast_to(product - wide * total(product, {axis}), y.dtype())};
}

Values log_softmax_gradient(const NodePtr &node, const Values &g) {
    const Value y = node->result(), wide = widen(g[0]);
    const int64_t axis = node->attrs.integer(node->op, "axis");
    return {cast_to(wide - exp(widen(y)) * total(wide, {axis}), y.dtype())};
}

} // namespace

Shifted shifted_exponentials(const Value &x, int64_t axis) {
    const Value d = x - stop_gradient(top_of(x, axis)), e = exp(d);
    return {d, e, total(e, {axis})};
}

void define_softmax(Registry &registry) {
    const auto define = [&](const char *name, Value (*body)(const Value &, int64_t), auto gradient) {
        registry.body(name, [=](const Values &of, const Attributes &attrs) {
            require_floats(name, of);
            const Value &x = of[0];
            const int64_t axis = one_axis(name, attrs.integer(name, "axis"), x.rank());
            return x.dim(axis) == Dim(0) ? x : cast_to(body(widen(x), axis), x.dtype());
        });
        registry.gradient(name, gradient);
    };
    define("softmax", softmax_body, softmax_gradient);
    define("safe_softmax", safe_softmax_body, softmax_gradient);
    define("log_softmax", log_softmax_body, log_softmax_gradient);
}

Value along(const char *name, const Operand &x, int64_t axis) {
    const Value tensor = as_floating(x);
    return build(name, {tensor}, {{"axis", integer(one_axis(name, axis, tensor.rank()))}});
}

} // namespace tessera::front
