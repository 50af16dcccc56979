// Pointwise functions: tessera/op/pointwise_unary.py and pointwise_binary.py.
#include <cmath>
#include <limits>
#include <map>

#include "front/functions.h"

namespace tessera::front {

namespace {

using Rule1 = Value (*)(const Value &x, const Value &y, const Value &g);
using Rule2 = std::pair<Value, Value> (*)(const Value &x, const Value &y, const Value &z, const Value &g);

const double ln2 = std::log(2.0), pi = std::acos(-1.0);

Value no_slope(const Value &, const Value &, const Value &) { return {}; }

void unary_gradient(Registry &registry, const char *name, Rule1 rule) {
    registry.gradient(name, [rule](const NodePtr &node, const Values &g) -> Values {
        return {g[0] ? rule(node->operands()[0], node->result(), g[0]) : Value()};
    });
}

void binary_gradient(Registry &registry, const char *name, Rule2 rule) {
    registry.gradient(name, [rule](const NodePtr &node, const Values &g) -> Values {
        if (!g[0])
            return {{}, {}};
        const Values of = node->operands();
        const auto [a, b] = rule(of[0], of[1], node->result(), g[0]);
        return {a ? unbroadcast(a, of[0].shape()) : a, b ? unbroadcast(b, of[1].shape()) : b};
    });
}

// The body computed in f32 for bf16 and f16, rounded once.
template <class Body> void wide_composite(Registry &registry, const char *name, Body body) {
    registry.body(name, [=](const Values &x, const Attributes &) {
        require_floats(name, x);
        const bool narrow = core::item_size(x[0].dtype()) == 2;
        return cast_to(body(narrow ? cast_to(x[0], DType::F32) : x[0]), x[0].dtype());
    });
}

Value asinh_body(const Value &x) {
    const Value size = abs(x), small = minimum(size, 1e4), square_small = small * small;
    const Value near = log1p(small + square_small / (sqrt(square_small + 1) + 1));
    return sign(x) * where(lt(size, 1e4), near, log(size) + ln2);
}

Value acosh_body(const Value &x) {
    const Value t = minimum(x, 1e4) - 1;
    return where(lt(x, 1e4), log1p(t + sqrt(t * (t + 2))), log(x) + ln2);
}

Value erf_slope(const Value &x, const Value &, const Value &g) {
    return g * (exp(-(x * x)) * (2 / std::sqrt(pi)));
}

void define_unary(Registry &registry) {
    using V = const Value &;
    const auto rule = [&](const char *name, Rule1 slope) { unary_gradient(registry, name, slope); };
    rule("neg", [](V, V, V g) { return -g; });
    rule("abs", [](V x, V, V g) { return g * sign(x); });
    for (const char *name : {"sign", "floor", "ceil", "round", "trunc", "stop_gradient"})
        rule(name, no_slope);
    rule("sqrt", [](V, V y, V g) { return g / (y + y); });
    rule("rsqrt", [](V, V y, V g) { return g * (y * y * y * -0.5); });
    rule("reciprocal", [](V, V y, V g) { return -g * y * y; });
    rule("exp", [](V, V y, V g) { return g * y; });
    rule("exp2", [](V, V y, V g) { return g * (y * ln2); });
    rule("expm1", [](V, V y, V g) { return g * (y + 1); });
    rule("log", [](V x, V, V g) { return g / x; });
    rule("log2", [](V x, V, V g) { return g / (x * ln2); });
    rule("log1p", [](V x, V, V g) { return g / (x + 1); });
    rule("sin", [](V x, V, V g) { return g * cos(x); });
    rule("cos", [](V x, V, V g) { return -g * sin(x); });
    rule("tan", [](V, V y, V g) { return g * (y * y + 1); });
    rule("asin", [](V x, V, V g) { return g * rsqrt(1 - x * x); });
    rule("acos", [](V x, V, V g) { return -g * rsqrt(1 - x * x); });
    rule("atan", [](V x, V, V g) { return g / (x * x + 1); });
    rule("sinh", [](V x, V, V g) { return g * cosh(x); });
    rule("cosh", [](V x, V, V g) { return g * sinh(x); });
    rule("tanh", [](V, V y, V g) { return g * (1 - y * y); });
    rule("erf", erf_slope);
    rule("sigmoid", [](V, V y, V g) { return g * (y * (1 - y)); });
    rule("cast", [](V x, V, V g) { return core::is_float(x.dtype()) ? cast_to(g, x.dtype()) : Value(); });
    for (const char *name : {"isnan", "isinf", "isfinite", "logical_not"})
        registry.no_gradient(name, "the result is boolean");
    registry.no_gradient("bitwise_not", "the result is an integer");

    wide_composite(registry, "asinh", asinh_body);
    rule("asinh", [](V x, V, V g) { return g * rsqrt(x * x + 1); });
    wide_composite(registry, "acosh", acosh_body);
    rule("acosh", [](V x, V, V g) { return g * rsqrt((x - 1) * (x + 1)); });
    wide_composite(registry, "atanh", [](V x) { return (log1p(x) - log1p(-x)) * 0.5; });
    rule("atanh", [](V x, V, V g) { return g / ((1 - x) * (1 + x)); });
    registry.body("square", [](const Values &x, const Attributes &) { return x[0] * x[0]; });
    rule("square", [](V x, V, V g) { return g * (x + x); });
}

// Exact also at exponent 0 (no 0 * inf) and at base 0 (z * log 0 is taken as 0 for exponents >= 0).
std::pair<Value, Value> pow_slopes(const Value &x, const Value &y, const Value &z, const Value &g) {
    const Value by_base = where(eq(y, 0), 0.0, g * y * build("pow", {x, y - 1}));
    const Value flat = bitwise_and(eq(x, 0), ge(y, 0));
    return {by_base, where(flat, 0.0, g * z * log(where(flat, 1.0, x)))};
}

// The gradient goes to the operand that was taken, half to each at a tie, to both where one is NaN.
std::pair<Value, Value> extremum_slopes(Value (*loses)(const Operand &, const Operand &), const Value &x,
                                        const Value &y,
                                        const Value &g) {
    const Value shared = where(eq(x, y), g * 0.5, g);
    return {where(loses(x, y), 0.0, shared), where(loses(y, x), 0.0, shared)};
}

Values where_gradient(const NodePtr &node, const Values &g) {
    if (!g[0] || !core::is_float(g[0].dtype()))
        return {{}, {}, {}};
    const Values of = node->operands();
    return {{},
            unbroadcast(where(of[0], g[0], 0.0), of[1].shape()),
            unbroadcast(where(of[0], 0.0, g[0]), of[2].shape())};
}

// x gets the gradient where low <= x <= high, a bound where it replaced x.
Values clip_gradient(const NodePtr &node, const Values &gs) {
    const Values of = node->operands();
    const Value &x = of[0], &low = of[1], &high = of[2], &g = gs[0];
    if (!g)
        return {{}, {}, {}};
    const Value above = gt(x, high), below = lt(x, low);
    return {unbroadcast(where(bitwise_or(above, below), 0.0, g), x.shape()),
            unbroadcast(where(bitwise_and(below, le(low, high)), g, 0.0), low.shape()),
            unbroadcast(where(bitwise_or(above, gt(low, high)), g, 0.0), high.shape())};
}

Value logaddexp_body(const Values &of, const Attributes &) {
    require_floats("logaddexp", of);
    require_equal_dtypes("logaddexp", of);
    const Value &x = of[0], &y = of[1];
    const Value a = core::item_size(x.dtype()) == 2 ? cast_to(x, DType::F32) : x;
    const Value b = core::item_size(y.dtype()) == 2 ? cast_to(y, DType::F32) : y;
    const Value larger = build("maximum", {a, b}), gap = abs(a - b);
    return cast_to(larger + log1p(exp(-where(eq(a, b), 0.0, gap))), x.dtype());
}

void define_binary(Registry &registry) {
    using V = const Value &;
    using Pair = std::pair<Value, Value>;
    const auto rule = [&](const char *name, Rule2 slopes) { binary_gradient(registry, name, slopes); };
    rule("add", [](V, V, V, V g) { return Pair(g, g); });
    rule("sub", [](V, V, V, V g) { return Pair(g, -g); });
    rule("mul", [](V x, V y, V, V g) { return Pair(g * y, g * x); });
    rule("div", [](V, V y, V z, V g) {
        const Value q = g / y;
        return Pair(q, -(q * z));
    });
    rule("floordiv", [](V, V, V, V) { return Pair(); });
    rule("mod", [](V x, V y, V, V g) { return Pair(g, -(g * floor(x / y))); });
    rule("pow", pow_slopes);
    rule("maximum", [](V x, V y, V, V g) { return extremum_slopes(lt, x, y, g); });
    rule("minimum", [](V x, V y, V, V g) { return extremum_slopes(gt, x, y, g); });
    rule("atan2", [](V y, V x, V, V g) {
        const Value scale = g / (x * x + y * y);
        return Pair(scale * x, -(scale * y));
    });
    for (const char *name : {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"})
        registry.no_gradient(name, "the result is boolean");
    for (const char *name : {"bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right"})
        registry.no_gradient(name, "the result is an integer");
    registry.gradient("where", where_gradient);
    registry.body("clip", [](const Values &of, const Attributes &) {
        return build("minimum", {build("maximum", {of[0], of[1]}), of[2]});
    });
    registry.gradient("clip", clip_gradient);
    registry.body("lerp", [](const Values &of, const Attributes &) { return of[0] + of[2] * (of[1] - of[0]); });
    registry.body("logaddexp", logaddexp_body);
    rule("logaddexp", [](V x, V y, V z, V g) { return Pair(g * exp(x - z), g * exp(y - z)); });
}

Values no_bool(const char *name, Values operands, const char *advice) {
    if (operands[0].dtype() == DType::Bool)
        fail_op(Code::DType, name, std::string("both operands have dtype bool; ") + advice);
    return operands;
}

Value arithmetic(const char *name, const char *of_bools, const Operand &x, const Operand &y) {
    const Values operands = promote_operands(name, {x, y});
    return build(operands[0].dtype() == DType::Bool ? of_bools : name, operands);
}

enum class UnaryKind { Maths, Number, Rounding, Other };

const std::map<std::string, UnaryKind> &unary_kinds() {
    static const std::map<std::string, UnaryKind> kinds = [] {
        std::map<std::string, UnaryKind> out;
        for (const char *name : {"sqrt", "rsqrt", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log1p", "sin",
                                 "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf", "sigmoid",
                                 "isnan", "isinf", "isfinite", "asinh", "acosh", "atanh"})
            out[name] = UnaryKind::Maths;
        for (const char *name : {"neg", "abs", "sign"})
            out[name] = UnaryKind::Number;
        for (const char *name : {"floor", "ceil", "round", "trunc"})
            out[name] = UnaryKind::Rounding;
        out["square"] = UnaryKind::Other;
        return out;
    }();
    return kinds;
}

} // namespace

void define_pointwise(Registry &registry) {
    define_unary(registry);
    define_binary(registry);
}

const std::vector<std::string> &unary_names() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> out;
        for (const auto &[name, kind] : unary_kinds())
            out.push_back(name);
        return out;
    }();
    return names;
}

Value unary(const std::string &name, const Operand &x) {
    const UnaryKind kind = unary_kinds().at(name);
    if (kind == UnaryKind::Maths)
        return build(name, {as_floating(x)});
    const Value tensor = as_tensor(x);
    if (kind == UnaryKind::Rounding && !core::is_float(tensor.dtype()))
        return tensor;
    if (kind == UnaryKind::Number && tensor.dtype() == DType::Bool)
        fail_op(Code::DType, name.c_str(),
                std::string("operand 0 has dtype bool; ") + (name == "neg" ? "use logical_not" : "it has no sign"));
    return build(name, {tensor});
}

Value cast(const Operand &x, DType dtype) { return cast_to(as_tensor(x), dtype); }
Value logical_not(const Operand &x) { return build("logical_not", {cast(x, DType::Bool)}); }
Value bitwise_not(const Operand &x) { return build("bitwise_not", {as_tensor(x)}); }
Value stop_gradient(const Operand &x) { return build("stop_gradient", {as_tensor(x)}); }

Value add(const Operand &x, const Operand &y) { return arithmetic("add", "logical_or", x, y); }
Value mul(const Operand &x, const Operand &y) { return arithmetic("mul", "logical_and", x, y); }
Value maximum(const Operand &x, const Operand &y) { return arithmetic("maximum", "logical_or", x, y); }
Value minimum(const Operand &x, const Operand &y) { return arithmetic("minimum", "logical_and", x, y); }
Value sub(const Operand &x, const Operand &y) {
    return build("sub", no_bool("sub", promote_operands("sub", {x, y}), "use logical_xor or cast them"));
}
Value div(const Operand &x, const Operand &y) { return build("div", promote_floats("div", {x, y})); }
Value floordiv(const Operand &x, const Operand &y) {
    return build("floordiv",
                 no_bool("floordiv", promote_operands("floordiv", {x, y}), "cast them to an integer dtype"));
}
Value mod(const Operand &x, const Operand &y) {
    return build("mod", no_bool("mod", promote_operands("mod", {x, y}), "cast them to an integer dtype"));
}

// A scalar exponent of ±0.5, ±1, 2 or 3 becomes roots and products.
Value pow(const Operand &x, const Operand &y) {
    if (y.is_number() && !x.is_number() && y.number().kind != Number::Bool) {
        const double exponent = y.number().real;
        const bool small_integer = exponent == 1 || exponent == 2 || exponent == 3;
        const Value base = as_tensor(x);
        const bool real_base = core::is_float(base.dtype());
        const bool special = small_integer || exponent == 0.5 || exponent == -0.5 || exponent == -1;
        if (special && (real_base || (core::is_integer(base.dtype()) && small_integer))) {
            const Value b =
                y.number().kind == Number::Integer || real_base ? base : cast_to(base, DType::F32);
            return exponent == 1      ? b
                   : exponent == 2    ? square(b)
                   : exponent == 3    ? b * b * b
                   : exponent == 0.5  ? sqrt(b)
                   : exponent == -0.5 ? rsqrt(b)
                                      : reciprocal(b);
        }
    }
    return build("pow", no_bool("pow", promote_operands("pow", {x, y}), "cast them to an integer dtype"));
}

Value float_power(const Operand &x, const Operand &y) { return build("pow", promote_floats("float_power", {x, y})); }
Value atan2(const Operand &y, const Operand &x) { return build("atan2", promote_floats("atan2", {y, x})); }
Value promoted(const char *name, const Operand &x, const Operand &y) {
    return build(name, promote_operands(name, {x, y}));
}
Value logical(const char *name, const Operand &x, const Operand &y) {
    return build(name, {cast(x, DType::Bool), cast(y, DType::Bool)});
}

Value where(const Operand &condition, const Operand &x, const Operand &y) {
    const Value chosen = cast(condition, DType::Bool);
    if (x.value() && y.value() && is_small_float(x.value().dtype()) && is_small_float(y.value().dtype())) {
        const DType dtype = promote(x.value().dtype(), y.value().dtype());
        return build("where", {chosen, cast_to(x.value(), dtype), cast_to(y.value(), dtype)});
    }
    const Values sides = promote_operands("where", {x, y});
    return build("where", {chosen, sides[0], sides[1]});
}

Value clip(const Operand &x, const Operand &low, const Operand &high) {
    const Values operands =
        promote_operands("clip", {x, low.is_none() ? x : low, high.is_none() ? x : high});
    const DType dtype = operands[0].dtype();
    if (dtype == DType::Bool)
        fail_op(Code::DType, "clip", "operand 0 has dtype bool; clip numbers");
    const auto limit = [&](bool upper) {
        if (core::is_float(dtype)) {
            const double infinity = std::numeric_limits<double>::infinity();
            return scalar(upper ? infinity : -infinity, dtype);
        }
        const int bits = static_cast<int>(core::item_size(dtype)) * 8;
        if (dtype == DType::U8)
            return scalar(Number{Number::Integer, upper ? 255.0 : 0.0, upper ? 255 : 0}, dtype);
        const int64_t lowest = bits == 64 ? std::numeric_limits<int64_t>::min() : -(int64_t{1} << (bits - 1));
        const int64_t bound = upper ? -(lowest + 1) : lowest;
        return scalar(Number{Number::Integer, static_cast<double>(bound), bound}, dtype);
    };
    return build("clip", {operands[0], low.is_none() ? limit(false) : operands[1],
                          high.is_none() ? limit(true) : operands[2]});
}

Value lerp(const Operand &x, const Operand &y, const Operand &weight) {
    return build("lerp", promote_floats("lerp", {x, y, weight}));
}

Value isclose(const Operand &x, const Operand &y, double rtol, double atol, bool equal_nan) {
    const Values of = promote_floats("isclose", {x, y});
    const Value &a = of[0], &b = of[1];
    const Value near = bitwise_and(le(abs(a - b), abs(b) * rtol + atol),
                                   lt(abs(b), std::numeric_limits<double>::infinity()));
    const Value close = bitwise_or(eq(a, b), near);
    return equal_nan ? bitwise_or(close, bitwise_and(ne(a, a), ne(b, b))) : close;
}

Value nan_to_num(const Operand &x, double nan, std::optional<double> posinf, std::optional<double> neginf) {
    const Value tensor = as_tensor(x);
    if (!core::is_float(tensor.dtype()))
        return tensor;
    static const std::map<DType, double> largest = {
        {DType::F64, std::numeric_limits<double>::max()},
        {DType::F32, static_cast<double>(std::numeric_limits<float>::max())},
        {DType::BF16, std::ldexp(255.0, 120)},
        {DType::F16, 65504.0},
        {DType::F8E4M3, 448.0},
        {DType::F8E5M2, 57344.0},
    };
    const double most = largest.at(tensor.dtype()), infinity = std::numeric_limits<double>::infinity();
    Value finite = where(ne(tensor, tensor), nan, tensor);
    finite = where(eq(tensor, infinity), posinf.value_or(most), finite);
    return where(eq(tensor, -infinity), neginf.value_or(-most), finite);
}

Value logaddexp(const Operand &x, const Operand &y) { return build("logaddexp", promote_floats("logaddexp", {x, y})); }

} // namespace tessera::front
