// Type rules of the pointwise primitives.
#include "graph/infer_rules.h"

namespace tessera::graph {

namespace {

template <Accepts accepts> TensorType unary(const Call &call) {
    require_dtype(call, 0, accepts);
    return call.operand(0);
}

template <Accepts accepts> TensorType test(const Call &call) {
    require_dtype(call, 0, accepts);
    return {DType::Bool, call.operand(0).shape};
}

template <Accepts accepts> TensorType binary(const Call &call) {
    require_dtype(call, 0, accepts);
    require_dtype(call, 1, accepts);
    require_equal_dtypes(call);
    return {call.operand(0).dtype, broadcast_operands(call)};
}

template <Accepts accepts> TensorType comparison(const Call &call) {
    return {DType::Bool, binary<accepts>(call).shape};
}

TensorType where(const Call &call) {
    require_dtype(call, 0, Accepts::Bool);
    require_equal_dtypes(call, 1);
    return {call.operand(1).dtype, broadcast_operands(call)};
}

TensorType cast(const Call &call) { return {call.attrs.dtype(call.op, "dtype"), call.operand(0).shape}; }

} // namespace

const PrimitiveTable &pointwise_rules() {
    static const PrimitiveTable table = [] {
        PrimitiveTable out;
        const auto add = [&](size_t operands, TensorType (*rule)(const Call &), auto... names) {
            (out.push_back({names, operands, rule}), ...);
        };
        add(1, unary<Accepts::Numbers>, "neg", "abs", "sign");
        add(1, unary<Accepts::Floats>, "floor", "ceil", "round", "trunc", "sqrt", "rsqrt", "reciprocal", "exp", "exp2",
            "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf",
            "sigmoid");
        add(1, unary<Accepts::Bool>, "logical_not");
        add(1, unary<Accepts::IntegersAndBool>, "bitwise_not");
        add(1, test<Accepts::Floats>, "isnan", "isinf", "isfinite");
        add(1, unary<Accepts::All>, "stop_gradient");
        add(1, cast, "cast");
        add(2, binary<Accepts::Numbers>, "add", "sub", "mul", "floordiv", "mod", "pow", "maximum", "minimum");
        add(2, binary<Accepts::Floats>, "div", "atan2");
        add(2, comparison<Accepts::NumbersAndBool>, "eq", "ne", "lt", "le", "gt", "ge");
        add(2, binary<Accepts::Bool>, "logical_and", "logical_or", "logical_xor");
        add(2, binary<Accepts::IntegersAndBool>, "bitwise_and", "bitwise_or", "bitwise_xor");
        add(2, binary<Accepts::Integers>, "shift_left", "shift_right");
        add(3, where, "where");
        return out;
    }();
    return table;
}

} // namespace tessera::graph
