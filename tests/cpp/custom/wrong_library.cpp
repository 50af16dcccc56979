// Operators that are wrong on purpose, one for each check of `tessera op-check`, and one that is right.
#include <tessera/custom_op.h>

#include <chrono>
#include <cstdint>
#include <thread>

using namespace tessera;
using namespace tessera::custom;

namespace {

TensorType same(const TensorType &x) { return x; }

template <class F> void each(const Input &x, const Output &y, F &&function) {
    dispatch<double, float, bfloat16>(x.dtype(), [&](auto kind) {
        using T = decltype(kind);
        for (int64_t i = 0; i < x.size(); ++i)
            y.data<T>()[i] = T(function(x.data<T>()[i]));
    });
}

const std::vector<DType> floats = {DType::F64, DType::F32, DType::BF16};

TESSERA_OPERATOR(wrong, nothing) {
    declare.arguments({"x"})
        .dtypes(floats)
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) { each(x, y, [](auto v) { return v * v; }); })
        .gradient([](const Gradient &g, const Tensor &x) { return op::mul(op::mul(g.of(), x), 2); })
        .shard("*->*")
        .sample({random({3, 4})});
}

// For symbolic sizes another shape than for numbers.
TESSERA_OPERATOR(wrong, shape) {
    declare.arguments({"x"})
        .dtypes(floats)
        .shape([](const TensorType &x) {
            return TensorType{x.dtype, {x.shape.at(0).is_constant() ? x.shape[0] : x.shape[0] + 1}};
        })
        .cpu([](const Context &, const Input &x, const Output &y) { each(x, y, [](auto v) { return v; }); })
        .sample({random({5})});
}

// The last element stays as it was.
TESSERA_OPERATOR(wrong, unwritten) {
    declare.arguments({"x"})
        .dtypes({DType::F32})
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) {
            for (int64_t i = 0; i + 1 < x.size(); ++i)
                y.data<float>()[i] = x.data<float>()[i];
        })
        .sample({random({5})});
}

TESSERA_OPERATOR(wrong, gradient) {
    declare.arguments({"x"})
        .dtypes(floats)
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) { each(x, y, [](auto v) { return v * v; }); })
        .gradient([](const Gradient &g, const Tensor &x) { return op::mul(op::mul(g.of(), x), 3); })
        .shard("*->*")
        .sample({random({3, 4})});
}

// The gradient has memory of its own, which a graph in Python could not take over.
TESSERA_OPERATOR(wrong, tabled) {
    declare.arguments({"x"})
        .dtypes(floats)
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) { each(x, y, [](auto v) { return v; }); })
        .gradient([](const Gradient &g, const Tensor &x) {
            Tensor one = Tensor::create({}, x.dtype());
            return op::mul(g.of(), one);
        })
        .sample({random({3, 4})});
}

// bf16 is computed otherwise than f32.
TESSERA_OPERATOR(wrong, dtype) {
    declare.arguments({"x"})
        .dtypes(floats)
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) {
            const bool half = x.dtype() == DType::BF16;
            each(x, y, [&](auto v) { return half ? v * 1.25f : v; });
        })
        .sample({random({3, 4})});
}

// The shape function accepts what the kernel does not.
TESSERA_OPERATOR(wrong, accepted) {
    declare.arguments({"x"})
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) { each(x, y, [](auto v) { return v; }); })
        .sample({random({3, 4})});
}

// The result depends on where the operand lies.
TESSERA_OPERATOR(wrong, strides) {
    declare.arguments({"x"})
        .dtypes({DType::F32})
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) {
            const bool aligned = reinterpret_cast<uintptr_t>(x.data<float>()) % 64 == 0;
            each(x, y, [&](auto v) { return aligned ? v : v + 1; });
        })
        .sample({random({3, 16})});
}

// No elements are an error of the kernel.
TESSERA_OPERATOR(wrong, empty) {
    declare.arguments({"x"})
        .dtypes({DType::F32})
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) {
            if (x.size() == 0)
                throw Error(TSR_SHAPE_ERROR, "nothing to do");
            each(x, y, [](auto v) { return v; });
        })
        .sample({random({3, 4})});
}

// A running sum is not elementwise.
TESSERA_OPERATOR(wrong, sharding) {
    declare.arguments({"x"})
        .dtypes({DType::F32})
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) {
            float sum = 0;
            each(x, y, [&](auto v) { return sum += v; });
        })
        .shard("*->*")
        .sample({random({6})});
}

// A buffer that all calls share.
float shared = 0;

TESSERA_OPERATOR(wrong, threads) {
    declare.arguments({"x"})
        .dtypes({DType::F32})
        .shape(same)
        .cpu([](const Context &, const Input &x, const Output &y) {
            volatile float *place = &shared;
            each(x, y, [&](auto v) {
                *place = v;
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                return float(*place);
            });
        })
        .sample({random({5})});
}

} // namespace
