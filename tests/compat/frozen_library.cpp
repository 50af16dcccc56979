// Built with the frozen headers of each version of the operator ABI: uses whatever a library of that version could.
#include <tessera/custom_op.h>

#include <algorithm>

using namespace tessera;
using namespace tessera::custom;

TESSERA_OPERATOR(LIBRARY, axpy) {
    declare.doc("a * x + y")
        .arguments({"x", "y", {"a", 1.0}})
        .dtypes({DType::F32})
        .shape([](const TensorType &x, const TensorType &y, double) {
            if (x != y)
                throw Error(TSR_SHAPE_ERROR, "x is " + x.text() + " and y is " + y.text());
            return x;
        })
        .cpu([](const Context &context, const Input &x, const Input &y, double a, const Output &z) {
            context.parallel_for(z.size(), 1, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i)
                    z.data<float>()[i] = static_cast<float>(a) * x.data<float>()[i] + y.data<float>()[i];
            });
        })
        .gradient([](const Gradient &g, const Tensor &, const Tensor &, double a) {
            return std::pair(op::mul(g.of(), a), g.of());
        })
        .shard("*,*->*")
        .sample({random({2, 3}), random({2, 3})});
}

TESSERA_OPERATOR(LIBRARY, split) {
    declare.arguments({"x", "at"})
        .results({"head", "tail"})
        .shape([](const TensorType &x, const Dim &at) {
            TensorType head = x, tail = x;
            head.shape[0] = at;
            tail.shape[0] = max(x.shape[0] - at, 0);
            return std::array<TensorType, 2>{head, tail};
        })
        .scratch([](const TensorType &x, const Dim &) { return x.shape[0] * Dim(64); })
        .cpu([](const Context &context, const Input &x, int64_t, const Output &head, const Output &tail) {
            if (tail.size() == 0 || context.scratch_bytes() < 64)
                throw Error(TSR_INDEX_RANGE_ERROR, "nothing is left");
            const float *from = x.data<float>();
            std::copy_n(from, head.size(), head.data<float>());
            std::copy_n(from + head.size(), tail.size(), tail.data<float>());
        })
        .no_gradient("none is needed");
}
