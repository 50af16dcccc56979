// Activation functions: tessera/op/activation.py. Computed in f32 for bf16 and f16.
#include <cmath>

#include "front/functions.h"

namespace tessera::front {

namespace {

const double root_half = std::sqrt(0.5), root_2_over_pi = std::sqrt(2.0 / std::acos(-1.0));

// The one attribute of an activation: a number, or nothing.
double parameter_of(const char *name, const Attributes &attrs) {
    return attrs.items().empty() ? 0 : attrs.scalar(name, attrs.items().begin()->first).real;
}

template <class Body> void body(Registry &registry, const char *name, bool floats, Body body) {
    registry.body(name, [=](const Values &of, const Attributes &attrs) {
        if (floats)
            require_floats(name, of);
        return cast_to(body(widen(of[0]), parameter_of(name, attrs)), of[0].dtype());
    });
}

template <class Rule> void slope(Registry &registry, const char *name, Rule rule) {
    registry.gradient(name, [=](const NodePtr &node, const Values &g) -> Values {
        if (!g[0])
            return {{}};
        const Value x = node->operands()[0];
        return {cast_to(rule(widen(x), widen(node->result()), widen(g[0]), parameter_of(name, node->attrs)),
                        x.dtype())};
    });
}

Value inside(const Value &x, int low, int high) { return logical_and(gt(x, low), lt(x, high)); }

Value gelu_body(const Values &of, const Attributes &attrs) {
    require_floats("gelu", of);
    const Value x = widen(of[0]);
    const Value y = attrs.string("gelu", "approximate") == "tanh"
                        ? x * 0.5 * (tanh((x + x * x * x * 0.044715) * root_2_over_pi) + 1)
                        : x * 0.5 * (erf(x * root_half) + 1);
    return cast_to(y, of[0].dtype());
}

Value number(const char *op, const Operand &x) {
    const Value tensor = as_tensor(x);
    if (tensor.dtype() == DType::Bool || is_small_float(tensor.dtype()))
        fail_op(Code::DType, op,
                std::string("x has dtype ") + core::name(tensor.dtype()) + "; expected a number: cast it first");
    return tensor;
}

} // namespace

void define_activations(Registry &registry) {
    using V = const Value &;
    body(registry, "relu", false, [](V x, double) { return maximum(x, 0); });
    // In terms of the result, which the next operator keeps anyway; NaN keeps its gradient.
    slope(registry, "relu", [](V, V y, V g, double) { return where(le(y, 0), 0, g); });
    body(registry, "relu6", false, [](V x, double) { return minimum(maximum(x, 0), 6); });
    slope(registry, "relu6", [](V x, V, V g, double) { return where(inside(x, 0, 6), g, 0); });
    registry.body("gelu", gelu_body);
    body(registry, "silu", true, [](V x, double) { return x * sigmoid(x); });
    body(registry, "leaky_relu", true, [](V x, double a) { return where(gt(x, 0), x, x * a); });
    slope(registry, "leaky_relu", [](V x, V, V g, double a) { return where(gt(x, 0), g, g * a); });
    body(registry, "elu", true, [](V x, double a) { return where(gt(x, 0), x, expm1(minimum(x, 0)) * a); });
    slope(registry, "elu", [](V x, V, V g, double a) { return where(gt(x, 0), g, g * (exp(minimum(x, 0)) * a)); });
    body(registry, "softplus", true,
         [](V x, double a) { return (maximum(x * a, 0) + log1p(exp(-abs(x * a)))) / a; });
    slope(registry, "softplus", [](V x, V, V g, double a) { return g * sigmoid(x * a); });
    body(registry, "hard_sigmoid", true, [](V x, double) { return minimum(maximum(x / 6 + 0.5, 0), 1); });
    slope(registry, "hard_sigmoid", [](V x, V, V g, double) { return where(inside(x, -3, 3), g / 6, 0); });
    body(registry, "hard_swish", true, [](V x, double) { return x * hard_sigmoid(x); });
    body(registry, "mish", true, [](V x, double) { return x * tanh(softplus(x, 1.0)); });
}

Value relu(const Operand &x) { return build("relu", {number("relu", x)}); }
Value relu6(const Operand &x) { return build("relu6", {number("relu6", x)}); }

Value gelu(const Operand &x, const std::string &approximate) {
    if (approximate != "none" && approximate != "tanh")
        fail_op(Code::Argument, "gelu",
                "approximate is '" + core::shown(approximate) + "'; use \"none\" (exact, with erf) or \"tanh\"");
    return build("gelu", {as_floating(x)}, {{"approximate", text(approximate)}});
}

Value leaky_relu(const Operand &x, double negative_slope) {
    return build("leaky_relu", {as_floating(x)}, {{"slope", real(negative_slope)}});
}

Value elu(const Operand &x, double alpha) { return build("elu", {as_floating(x)}, {{"alpha", real(alpha)}}); }

Value softplus(const Operand &x, double beta) {
    if (beta == 0)
        fail_op(Code::Argument, "softplus", "beta is 0; it must be another number");
    return build("softplus", {as_floating(x)}, {{"beta", real(beta)}});
}

Value hard_sigmoid(const Operand &x) { return activation("hard_sigmoid", x); }
Value activation(const char *name, const Operand &x) { return build(name, {as_floating(x)}); }

} // namespace tessera::front
