// Losses between a prediction and a target of one shape: tessera/op/loss.py.
#include "front/functions.h"

namespace tessera::front {

namespace {

using V = const Value &;

// `each(x, t, delta)` per element and `slopes`, its derivatives by x and t.
template <class Each, class Slopes> void define(Registry &registry, const char *name, Each each, Slopes slopes) {
    const auto delta = [=](const Attributes &attrs) {
        return attrs.find("delta") ? attrs.scalar(name, "delta").real : 0.0;
    };
    registry.body(name, [=](const Values &of, const Attributes &attrs) {
        require_floats(name, of);
        require_equal_dtypes(name, of);
        const std::string &reduction = attrs.string(name, "reduction");
        require_reduction(name, reduction);
        if (of[0].shape() != of[1].shape())
            fail_op(Code::Shape, name,
                    "the prediction has shape " + shown_shape(of[0].shape()) + " and the target " +
                        shown_shape(of[1].shape()) + "; they must be equal: broadcast or reshape one of them");
        Value value = each(widen(of[0]), widen(of[1]), delta(attrs));
        if (reduction != "none") {
            const Value summed = total(value, every_axis(value), false);
            value = reduction == "mean" ? summed / count(of[0].shape(), summed.dtype()) : summed;
        }
        return cast_to(value, of[0].dtype());
    });
    registry.gradient(name, [=](const NodePtr &node, const Values &g) -> Values {
        const Values of = node->operands();
        Value scale = widen(g[0]);
        if (node->attrs.string(name, "reduction") == "mean")
            scale = scale / count(of[0].shape(), scale.dtype());
        const std::pair<Value, Value> found = slopes(widen(of[0]), widen(of[1]), delta(node->attrs));
        return {cast_to(found.first * scale, of[0].dtype()), cast_to(found.second * scale, of[0].dtype())};
    });
}

std::pair<Value, Value> and_its_negative(const Value &slope) { return {slope, -slope}; }

Value huber_each(V x, V t, double delta) {
    const Value size = abs(x - t);
    return where(lt(size, delta), size * size * 0.5, (size - 0.5 * delta) * delta);
}

} // namespace

void define_losses(Registry &registry) {
    define(registry, "mse", [](V x, V t, double) { return (x - t) * (x - t); },
           [](V x, V t, double) { return and_its_negative((x - t) * 2); });
    define(registry, "l1", [](V x, V t, double) { return abs(x - t); },
           [](V x, V t, double) { return and_its_negative(sign(x - t)); });
    define(registry, "huber", huber_each, [](V x, V t, double delta) {
        return and_its_negative(maximum(minimum(x - t, delta), -delta));
    });
    define(registry, "binary_cross_entropy_with_logits",
           [](V x, V t, double) { return maximum(x, 0) - x * t + log1p(exp(-abs(x))); },
           [](V x, V t, double) { return std::pair<Value, Value>(sigmoid(x) - t, -x); });
}

void require_reduction(const char *op, const std::string &reduction) {
    if (reduction != "mean" && reduction != "sum" && reduction != "none")
        fail_op(Code::Argument, op,
                "reduction is '" + core::shown(reduction) + "'; use \"mean\", \"sum\" or \"none\"");
}

Value loss(const char *name, const Operand &prediction, const Operand &target, const std::string &reduction) {
    const Values of = promote_operands(name, {prediction, target});
    return build(name, {as_floating(of[0]), as_floating(of[1])}, {{"reduction", text(reduction)}});
}

Value huber(const Operand &prediction, const Operand &target, double delta, const std::string &reduction) {
    if (!(delta > 0))
        fail_op(Code::Argument, "huber", "delta is " + Number{Number::Real, delta, 0}.text() + "; it must be positive");
    const Values of = promote_operands("huber", {prediction, target});
    return build("huber", {as_floating(of[0]), as_floating(of[1])},
                 {{"delta", real(delta)}, {"reduction", text(reduction)}});
}

} // namespace tessera::front
