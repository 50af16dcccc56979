#include "custom_operators.h"

#include <stdexcept>

#include "tessera/custom_op.h"

namespace gpu_test {

CustomCalls custom_calls;

namespace {

using namespace tessera;
using namespace tessera::custom;

// Through scratch memory, so that three copies have to stay in order. Fails after the first for a negative distance.
void rotate(const Context &context, const Input &x, int64_t by, const Output &y) {
    custom_calls = {context.stream(), context.device().type, context.device().index, custom_calls.count + 1};
    const auto item = sizeof(float), bytes = static_cast<size_t>(x.size()) * item;
    char *scratch = context.scratch<char>();
    copy_on_device(scratch, x.data<float>(), bytes, context.stream());
    if (by < 0)
        throw std::runtime_error("cannot rotate backwards");
    if (x.size() == 0)
        return;
    const size_t head = static_cast<size_t>(by % x.size()) * item;
    copy_on_device(y.data<float>(), scratch + head, bytes - head, context.stream());
    copy_on_device(reinterpret_cast<char *>(y.data<float>()) + (bytes - head), scratch, head, context.stream());
}

} // namespace

TESSERA_OPERATOR(gputest, rotate) {
    declare.doc("The elements of a vector, rotated.")
        .arguments({"x", "by"})
        .dtypes({DType::F32})
        .shape([](const TensorType &x, int64_t) { return x; })
        .scratch([](const TensorType &x, int64_t) { return x.shape[0] * 4; })
        .cuda(rotate)
        .hip(rotate);
}

TESSERA_OPERATOR(gputest, host_only) {
    declare.doc("Has no kernel for GPUs.")
        .arguments({"x"})
        .shape([](const TensorType &x) { return x; })
        .cpu([](const Context &, const Input &, const Output &) {});
}

void register_custom_operators() { register_operators("engine_test"); }

} // namespace gpu_test
