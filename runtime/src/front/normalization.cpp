// layer_norm, rms_norm, group_norm: tessera/op/normalization.py. Statistics are f32 for bf16 and f16.
#include <algorithm>

#include "front/functions.h"

namespace tessera::front {

namespace {

using Ints = std::vector<int64_t>;

// The normalised x and the factor that normalised it.
using Statistics = std::pair<Value, Value> (*)(const Value &x, const Ints &axes, double eps);

std::pair<Value, Value> layer_statistics(const Value &x, const Ints &axes, double eps) {
    const Value wide = widen(x), centred = wide - average(wide, axes);
    const Value scale = rsqrt(average(centred * centred, axes) + eps);
    return {centred * scale, scale};
}

std::pair<Value, Value> rms_statistics(const Value &x, const Ints &axes, double eps) {
    const Value wide = widen(x), scale = rsqrt(average(wide * wide, axes) + eps);
    return {wide * scale, scale};
}

Shape parameter_shape(const Shape &x, const Ints &axes) {
    Shape out;
    for (int64_t a : axes)
        out.push_back(x[static_cast<size_t>(a)]);
    return out;
}

// A weight or bias over `axes`, in f32 for bf16 and f16, with size 1 in every other dimension.
Value aligned(const Value &parameter, int64_t rank, const Ints &axes) {
    Shape shape(static_cast<size_t>(rank), 1);
    for (size_t i = 0; i < axes.size(); ++i)
        shape[static_cast<size_t>(axes[i])] = parameter.shape()[i];
    while (!shape.empty() && shape[0] == Dim(1) && shape.size() > axes.size())
        shape.erase(shape.begin());
    return to_shape(widen(parameter), shape);
}

// y times parameters[1] plus parameters[2]; `count` operands take part.
Value affine(Value y, const Values &of, const Ints &axes, size_t count) {
    if (count > 1)
        y = y * aligned(of[1], y.rank(), axes);
    if (count > 2)
        y = y + aligned(of[2], y.rank(), axes);
    return y;
}

Value parameter_gradient(const Value &contribution, const Ints &axes, const Value &parameter) {
    Ints others;
    for (int64_t a = 0; a < contribution.rank(); ++a)
        if (std::find(axes.begin(), axes.end(), a) == axes.end())
            others.push_back(a);
    return cast_to(total(contribution, others, false), parameter.dtype());
}

void check(const char *name, const Values &of, const Ints &axes, size_t most) {
    if (of.empty() || of.size() > most)
        fail_op(Code::Argument, name,
                "takes 1 to " + std::to_string(most) + " operands, got " + std::to_string(of.size()));
    require_floats(name, of);
    require_equal_dtypes(name, of);
    const Shape expected = parameter_shape(of[0].shape(), axes);
    for (size_t i = 1; i < of.size(); ++i)
        if (of[i].shape() != expected)
            fail_op(Code::Shape, name,
                    std::string(i == 1 ? "weight" : "bias") + " has shape " + shown_shape(of[i].shape()) +
                        "; expected " + shown_shape(expected) + ", the sizes of x " + shown_shape(of[0].shape()) +
                        " over the normalised axes");
}

void define(Registry &registry, const char *name, size_t most, Statistics statistics) {
    registry.body(name, [=](const Values &of, const Attributes &attrs) {
        const Ints axes = attrs.integers(name, "axes");
        for (int64_t a : axes)
            one_axis(name, a, of.empty() ? 0 : of[0].rank(), "axes");
        check(name, of, axes, most);
        const Value y = statistics(of[0], axes, attrs.scalar(name, "eps").real).first;
        return cast_to(affine(y, of, axes, of.size()), of[0].dtype());
    });
    registry.gradient(name, [=](const NodePtr &node, const Values &gs) {
        const Values of = node->operands();
        const Ints axes = node->attrs.integers(name, "axes");
        const Value g = widen(gs[0]);
        const auto [normal, scale] = statistics(of[0], axes, node->attrs.scalar(name, "eps").real);
        const Value inner = affine(g, of, axes, std::min<size_t>(of.size(), 2));
        Value to_x = most == 3 ? inner - average(inner, axes) : inner;
        to_x = (to_x - normal * average(inner * normal, axes)) * scale;
        Values out = {cast_to(to_x, of[0].dtype())};
        if (of.size() > 1)
            out.push_back(parameter_gradient(g * normal, axes, of[1]));
        if (of.size() > 2)
            out.push_back(parameter_gradient(g, axes, of[2]));
        return out;
    });
}

Value normalize(const char *name, const Operand &x, const Operand &weight, const Operand &bias, const Axes &axes,
                double eps) {
    const Value tensor = as_floating(x);
    const Ints chosen = several_axes(name, axes, tensor.rank(), "axes");
    if (chosen.empty())
        fail_op(Code::Argument, name, "axes is empty; name at least one dimension");
    std::vector<Operand> operands = {tensor};
    if (!weight.is_none())
        operands.push_back(weight);
    if (!weight.is_none() && !bias.is_none())
        operands.push_back(bias);
    const Value y = build(name, promote_operands(name, operands), {{"axes", ints(chosen)}, {"eps", real(eps)}});
    if (bias.is_none() || !weight.is_none())
        return y;
    const Value shift = promote_operands(name, {y, bias})[1];
    const Shape expected = parameter_shape(tensor.shape(), chosen);
    if (shift.shape() != expected)
        fail_op(Code::Shape, name,
                "bias has shape " + shown_shape(shift.shape()) + "; expected " + shown_shape(expected));
    Shape shape(tensor.shape().size(), 1);
    for (int64_t a : chosen)
        shape[static_cast<size_t>(a)] = tensor.dim(a);
    return build("add", {y, to_shape(shift, shape)});
}

} // namespace

void define_normalization(Registry &registry) {
    define(registry, "layer_norm", 3, layer_statistics);
    define(registry, "rms_norm", 2, rms_statistics);
}

Value layer_norm(const Operand &x, const Operand &weight, const Operand &bias, const Axes &axes, double eps) {
    return normalize("layer_norm", x, weight, bias, axes, eps);
}

Value rms_norm(const Operand &x, const Operand &weight, const Axes &axes, double eps) {
    return normalize("rms_norm", x, weight, {}, axes, eps);
}

Value group_norm(const Operand &x, int64_t groups, const Operand &weight, const Operand &bias, double eps) {
    const Value tensor = as_floating(x);
    if (tensor.rank() < 2)
        fail_op(Code::Shape, "group_norm", "x has shape " + shown_shape(tensor.shape()) + "; expected (N, C, …)");
    const Dim channels = tensor.dim(1);
    if (groups < 1 || !channels.is_multiple(groups))
        fail_op(Code::Shape, "group_norm",
                "the " + channels.text() + " channels of x " + shown_shape(tensor.shape()) + " do not split into " +
                    std::to_string(groups) + " groups");
    Shape grouped = {tensor.dim(0), groups, floordiv(channels, Dim(groups))}, per_channel = {channels};
    grouped.insert(grouped.end(), tensor.shape().begin() + 2, tensor.shape().end());
    per_channel.insert(per_channel.end(), tensor.shape().size() - 2, Dim(1));
    Ints axes;
    for (int64_t a = 2; a < static_cast<int64_t>(grouped.size()); ++a)
        axes.push_back(a);
    Value y = to_shape(layer_norm(to_shape(tensor, grouped), {}, {}, axes, eps), tensor.shape());
    for (const bool is_weight : {true, false}) {
        const Operand &parameter = is_weight ? weight : bias;
        if (parameter.is_none())
            continue;
        const Values both = promote_operands("group_norm", {y, parameter});
        if (both[1].shape() != Shape{channels})
            fail_op(Code::Shape, "group_norm",
                    std::string(is_weight ? "weight" : "bias") + " has shape " + shown_shape(both[1].shape()) +
                        "; expected " + shown_shape({channels}));
        y = build(is_weight ? "mul" : "add", {both[0], to_shape(both[1], per_channel)});
    }
    return y;
}

} // namespace tessera::front
