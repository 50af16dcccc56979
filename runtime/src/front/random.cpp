// Random numbers: tessera/op/random.py. A draw is a function of a key (seed, counter), the operation's id and the
// element's index.
#include <cmath>

#include "front/functions.h"

namespace tessera::front {

namespace {

const double two_pi = 2 * std::acos(-1.0);

// The random state: its tensor is made when the graph is traced, and its draws get their ids then. Each operation has a
// leaf of its own, by which the draws of one operation and its gradient are known.
Value state_leaf() {
    return std::make_shared<Node>("param", Values(),
                                  Attributes{{"name", text(rng_state)}, {"trainable", flag(false)}},
                                  std::vector<TensorType>{{DType::I64, {2}}}, current_location())
        ->result();
}

Value as_key(const char *name, const Operand &given) {
    if (given.is_none())
        return state_leaf();
    if (given.is_number() && given.number().kind == Number::Integer) {
        Tensor key = Tensor::empty(DType::I64, {2});
        static_cast<int64_t *>(key.data())[0] = given.number().integer;
        static_cast<int64_t *>(key.data())[1] = 0;
        return constant(key);
    }
    const Value key = as_tensor(given);
    if (key.type() != TensorType{DType::I64, {2}})
        fail_op(Code::Shape, name, "the key is " + key.type().text() + "; expected i64[2], (seed, counter), or a seed");
    return key;
}

Value unit(const Value &key, const Shape &shape, DType dtype, int64_t id) {
    return build("random_uniform", {key},
                 {{"shape", dims(shape)}, {"dtype", kind(dtype == DType::F64 ? DType::F64 : DType::F32)}, {"id",
                     integer(id)}});
}

void check_dtype(const char *name, DType dtype, bool integers) {
    const bool fits = integers ? core::is_integer(dtype) : core::is_float(dtype) && !is_small_float(dtype);
    if (!fits)
        fail_op(Code::DType, name,
                std::string("dtype is ") + core::name(dtype) + "; expected one of " +
                    (integers ? "i64, i32, i16, i8, u8" : "f64, f32, bf16, f16"));
}

struct Draw {
    Draw(const char *name, const Values &of, const Attributes &attrs)
        : key(of[0]), shape(attrs.dims(name, "shape")), dtype(attrs.dtype(name, "dtype")), id(attrs.integer(name,
                                                                                                            "id")) {}
    Value key;
    Shape shape;
    DType dtype;
    int64_t id;
};

Value uniform_body(const Values &of, const Attributes &attrs) {
    const Draw draw("uniform", of, attrs);
    check_dtype("uniform", draw.dtype, false);
    const double low = attrs.scalar("uniform", "low").real, high = attrs.scalar("uniform", "high").real;
    const Value u = unit(draw.key, draw.shape, draw.dtype, draw.id);
    return cast_to(low == 0 && high == 1 ? u : u * (high - low) + low, draw.dtype);
}

// Box and Muller 1958; 1 - u is in (0, 1], so that the logarithm is finite.
Value normal_body(const Values &of, const Attributes &attrs) {
    const Draw draw("normal", of, attrs);
    check_dtype("normal", draw.dtype, false);
    const Value radius = sqrt(log(1 - unit(draw.key, draw.shape, draw.dtype, draw.id)) * -2);
    const Value angle = unit(draw.key, draw.shape, draw.dtype, (draw.id + 1) % (int64_t{1} << 32)) * two_pi;
    return cast_to(radius * cos(angle) * attrs.scalar("normal", "std").real + attrs.scalar("normal", "mean").real,
                   draw.dtype);
}

Value randint_body(const Values &of, const Attributes &attrs) {
    const Draw draw("randint", of, attrs);
    check_dtype("randint", draw.dtype, true);
    const int64_t low = attrs.integer("randint", "low"), high = attrs.integer("randint", "high");
    const Value u = unit(draw.key, draw.shape, DType::F64, draw.id);
    const Value whole = cast_to(floor(u * static_cast<double>(high - low)), DType::I64);
    return cast_to(low ? whole + low : whole, draw.dtype);
}

Value bernoulli_body(const Values &of, const Attributes &attrs) {
    require_floats("bernoulli", {of[0]});
    const Value wide = widen(of[0]);
    return lt(unit(of[1], of[0].shape(), wide.dtype(), attrs.integer("bernoulli", "id")), wide);
}

Value dropout_body(const Values &of, const Attributes &attrs) {
    const Value &x = of[0];
    require_floats("dropout", {x});
    const double p = attrs.scalar("dropout", "p").real;
    const Value chosen = ge(unit(of[1], x.shape(), DType::F32, attrs.integer("dropout", "id")), p);
    return cast_to(where(chosen, widen(x) * (1.0 / (1.0 - p)), 0), x.dtype());
}

Attributes drawn(const char *name, const Shape &shape, DType dtype) {
    return {{"shape", dims(checked_shape(name, shape))}, {"dtype", kind(dtype)}, {"id", integer(0)}};
}

std::string shown_number(double value) { return Number{Number::Real, value, 0}.text(); }

} // namespace

void define_random(Registry &registry) {
    registry.body("uniform", uniform_body);
    registry.body("normal", normal_body);
    registry.body("randint", randint_body);
    registry.body("bernoulli", bernoulli_body);
    registry.body("dropout", dropout_body);
    for (const char *name : {"random_uniform", "uniform", "normal", "randint"})
        registry.no_gradient(name, "random numbers do not depend on a differentiable operand");
    registry.no_gradient("bernoulli", "the result is boolean");
    // The same draw, made again: the mask is not kept in memory.
    registry.gradient("dropout", [](const NodePtr &node, const Values &g) -> Values {
        return {build("dropout", {g[0], node->operands()[1]}, node->attrs), {}};
    });
}

Value random_uniform(const Operand &key, const Shape &shape, DType dtype, int64_t id) {
    return build("random_uniform", {as_key("random_uniform", key)},
                 {{"shape", dims(checked_shape("random_uniform", shape))}, {"dtype", kind(dtype)}, {"id",
                                                                                                    integer(id)}});
}

Value uniform(const Shape &shape, double low, double high, DType dtype, const Operand &key) {
    if (!(std::isfinite(low) && std::isfinite(high) && low <= high))
        fail_op(Code::Argument, "uniform",
                "low = " + shown_number(low) + " and high = " + shown_number(high) +
                    ": both must be finite and low at most high");
    Attributes attrs = drawn("uniform", shape, dtype);
    attrs.set("low", real(low));
    attrs.set("high", real(high));
    return build("uniform", {as_key("uniform", key)}, std::move(attrs));
}

Value normal(const Shape &shape, double mean, double std, DType dtype, const Operand &key) {
    if (!(std >= 0))
        fail_op(Code::Argument, "normal", "std is " + shown_number(std) + "; it must be at least 0");
    Attributes attrs = drawn("normal", shape, dtype);
    attrs.set("mean", real(mean));
    attrs.set("std", real(std));
    return build("normal", {as_key("normal", key)}, std::move(attrs));
}

Value randint(int64_t low, int64_t high, const Shape &shape, DType dtype, const Operand &key) {
    const std::string range = "low = " + std::to_string(low) + " and high = " + std::to_string(high);
    if (!(low < high) || static_cast<uint64_t>(high) - static_cast<uint64_t>(low) > uint64_t{1} << 53)
        fail_op(Code::Argument, "randint", range + ": low must be below high, by at most 2**53");
    if (core::is_integer(dtype)) {
        const int bits = static_cast<int>(core::item_size(dtype)) * 8;
        const bool is_signed = dtype != DType::U8;
        const double least = is_signed ? -std::ldexp(1.0, bits - 1) : 0, end = std::ldexp(1.0, bits - is_signed);
        if (static_cast<double>(low) < least || static_cast<double>(high) > end)
            fail_op(Code::Argument, "randint", range + " do not fit " + core::name(dtype));
    }
    Attributes attrs = drawn("randint", shape, dtype);
    attrs.set("low", integer(low));
    attrs.set("high", integer(high));
    return build("randint", {as_key("randint", key)}, std::move(attrs));
}

Value bernoulli(const Operand &p, const std::optional<Shape> &shape, const Operand &key) {
    if (p.is_number() && !(p.number().real >= 0 && p.number().real <= 1))
        fail_op(Code::Argument, "bernoulli", "p is " + p.number().text() + "; it must be in [0, 1]");
    Value chance = as_floating(p);
    if (shape)
        chance = broadcast_to(chance, checked_shape("bernoulli", *shape));
    return build("bernoulli", {chance, as_key("bernoulli", key)}, {{"id", integer(0)}});
}

Value dropout(const Operand &x, double p, bool training, const Operand &key) {
    if (!(p >= 0 && p <= 1))
        fail_op(Code::Argument, "dropout", "p is " + shown_number(p) + "; it must be in [0, 1]");
    const Value tensor = as_floating(x);
    if (!training || p == 0)
        return tensor;
    if (p == 1)
        return build("full", {}, {{"shape", dims(tensor.shape())}, {"value", real(0.0)}, {"dtype",
                                                                                          kind(tensor.dtype())}});
    return build("dropout", {tensor, as_key("dropout", key)}, {{"p", real(p)}, {"id", integer(0)}});
}

Value advanced(const Value &key) {
    return build("add", {key, build("iota", {}, {{"shape", dims({2})}, {"axis", integer(0)}, {"dtype",
                                                                                              kind(DType::I64)}})});
}

} // namespace tessera::front
