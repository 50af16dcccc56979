// Kernels of the primitives that create elements: full, iota, random_uniform.
#include "ops/kernel.h"
#include "ops/philox.h"

namespace tessera::portable {

namespace {

constexpr int64_t chunk = 512;

template <class F> void for_chunks(const KernelCall &call, F &&fill) {
    const int64_t size = call.result.size();
    const int64_t item = static_cast<int64_t>(core::item_size(call.result.dtype));
    call.parallel((size + chunk - 1) / chunk, chunk, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
            fill(i * chunk, std::min(chunk, size - i * chunk), call.result.as<char>() + i * chunk * item);
    });
}

void full(const KernelCall &call) { fill_scalar(call, call.attrs.scalar(call.op, "value")); }

void iota(const KernelCall &call) {
    const std::vector<int64_t> &shape = call.result.shape;
    const size_t axis = call.axis();
    const int64_t inner = size_product(shape, axis + 1, shape.size());
    for_chunks(call, [&](int64_t begin, int64_t count, char *target) {
        int64_t values[chunk];
        for (int64_t i = 0; i < count; ++i)
            values[i] = (begin + i) / inner % shape[axis];
        store(call.result.dtype, values, count, target);
    });
}

void random_uniform(const KernelCall &call) {
    const int64_t *words = call.operand(0).as<int64_t>();
    const Philox philox(static_cast<uint64_t>(words[0]), static_cast<uint64_t>(words[1]),
                        static_cast<uint32_t>(call.attrs.integer(call.op, "id")));
    const bool wide = call.result.dtype == DType::F64;
    for_chunks(call, [&](int64_t begin, int64_t count, char *target) {
        double values[chunk];
        for (int64_t i = 0; i < count; ++i) {
            const auto word = philox(static_cast<uint64_t>(begin + i));
            const uint64_t both = static_cast<uint64_t>(word[0]) << 32 | word[1];
            values[i] = wide ? static_cast<double>(both >> 11) * 0x1p-53 : static_cast<double>(word[0] >> 8) * 0x1p-24;
        }
        store(call.result.dtype, values, count, target);
    });
}

} // namespace

void fill_scalar(const KernelCall &call, const graph::Scalar &value) {
    char item[8];
    if (value.is_real)
        store(call.result.dtype, &value.real, 1, item);
    else
        store(call.result.dtype, &value.integer, 1, item);
    // Copies of the one element, as bytes: the dtype no longer matters.
    const size_t size = core::item_size(call.result.dtype);
    for_chunks(call, [&](int64_t, int64_t count, char *target) {
        for (int64_t i = 0; i < count; ++i)
            std::copy(item, item + size, target + static_cast<size_t>(i) * size);
    });
}

const KernelTable &creation_kernels() {
    static const KernelTable table = {{"full", full}, {"iota", iota}, {"random_uniform", random_uniform}};
    return table;
}

} // namespace tessera::portable
