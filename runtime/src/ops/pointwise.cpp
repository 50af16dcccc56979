// Kernels of the pointwise primitives.
#include <algorithm>

#include "ops/kernel.h"
#include "ops/pointwise_functions.h"
#include "ops/strided.h"

namespace tessera::portable {

namespace {

constexpr int64_t chunk = 512; // elements that are loaded, computed and stored at a time

// Calls compute(begin, count) for chunks that cover the result.
template <class F> void for_chunks(const KernelCall &call, F &&compute) {
    const int64_t size = call.result.size();
    call.parallel((size + chunk - 1) / chunk, chunk, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
            compute(i * chunk, std::min(chunk, size - i * chunk));
    });
}

template <class T> void store_chunk(const KernelCall &call, const T *values, int64_t begin, int64_t count) {
    char *target = call.result.as<char>() + begin * static_cast<int64_t>(core::item_size(call.result.dtype));
    store(call.result.dtype, values, count, target);
}

[[noreturn]] void not_defined(const KernelCall &call) {
    call.fail(Code::DType, std::string("is not defined for ") + core::name(call.operand(0).dtype));
}

void unary(const KernelCall &call) {
    with_compute_type(call.operand(0).dtype, [&](auto zero) {
        using T = decltype(zero);
        const UnaryFunction<T> function = find_unary<T>(call.op);
        if (!function)
            not_defined(call);
        const StridedReader x(call.operand(0), call.result.shape);
        for_chunks(call, [&](int64_t begin, int64_t count) {
            T in[chunk], out[chunk];
            x.read(begin, count, in);
            function(in, out, count);
            store_chunk(call, out, begin, count);
        });
    });
}

void binary(const KernelCall &call) {
    with_compute_type(call.operand(0).dtype, [&](auto zero) {
        using T = decltype(zero);
        const BinaryFunction<T> function = find_binary<T>(call.op);
        if (!function)
            not_defined(call);
        const StridedReader a(call.operand(0), call.result.shape), b(call.operand(1), call.result.shape);
        for_chunks(call, [&](int64_t begin, int64_t count) {
            T left[chunk], right[chunk], out[chunk];
            a.read(begin, count, left);
            b.read(begin, count, right);
            function(left, right, out, count);
            store_chunk(call, out, begin, count);
        });
    });
}

// The bits of bool are logical values: its inverse is not ~.
void bitwise_not(const KernelCall &call) {
    if (call.operand(0).dtype != DType::Bool)
        return unary(call);
    unary({"logical_not", call.attrs, call.operands, call.operand_count, call.result, call.pool, call.loc});
}

void cast(const KernelCall &call) {
    with_compute_type(call.operand(0).dtype, [&](auto zero) {
        using T = decltype(zero);
        const StridedReader x(call.operand(0), call.result.shape);
        for_chunks(call, [&](int64_t begin, int64_t count) {
            T in[chunk];
            x.read(begin, count, in);
            store_chunk(call, in, begin, count);
        });
    });
}

void where(const KernelCall &call) {
    with_compute_type(call.result.dtype, [&](auto zero) {
        using T = decltype(zero);
        const StridedReader condition(call.operand(0), call.result.shape);
        const StridedReader a(call.operand(1), call.result.shape), b(call.operand(2), call.result.shape);
        for_chunks(call, [&](int64_t begin, int64_t count) {
            int64_t chosen[chunk];
            T out[chunk], other[chunk];
            condition.read(begin, count, chosen);
            a.read(begin, count, out);
            b.read(begin, count, other);
            for (int64_t i = 0; i < count; ++i)
                out[i] = chosen[i] ? out[i] : other[i];
            store_chunk(call, out, begin, count);
        });
    });
}

} // namespace

const KernelTable &pointwise_kernels() {
    static const KernelTable table = [] {
        KernelTable out;
        const auto add = [&](Kernel kernel, auto... names) { (out.push_back({names, kernel}), ...); };
        add(unary, "neg", "abs", "sign", "floor", "ceil", "round", "trunc", "sqrt", "rsqrt", "reciprocal", "exp",
            "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
            "tanh", "erf", "sigmoid", "logical_not", "isnan", "isinf", "isfinite");
        add(binary, "add", "sub", "mul", "div", "floordiv", "mod", "pow", "maximum", "minimum", "atan2", "eq", "ne",
            "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or",
            "bitwise_xor", "shift_left", "shift_right");
        add(bitwise_not, "bitwise_not");
        add(cast, "cast");
        add(where, "where");
        return out;
    }();
    return table;
}

} // namespace tessera::portable
