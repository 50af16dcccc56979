// Kernels of the primitives that arrange elements: copies between layouts.
#include <cstring>

#include "ops/kernel.h"
#include "ops/strided.h"

namespace tessera::portable {

namespace {

using Sizes = std::vector<int64_t>;

size_t item_size(const KernelCall &call) { return core::item_size(call.result.dtype); }

// Reads the operand, from element `offset` on, with these strides over the result's shape.
void gather(const KernelCall &call, int64_t offset, const Sizes &strides) {
    const char *source = call.operand(0).as<char>() + offset * static_cast<int64_t>(item_size(call));
    copy_strided(call, item_size(call), call.result.shape, source, strides, call.result.data,
                 row_major_strides(call.result.shape));
}

// The same elements in the same order.
void copy(const KernelCall &call) {
    const Sizes flat = {call.result.size()};
    copy_strided(call, item_size(call), flat, call.operand(0).data, {1}, call.result.data, {1});
}

void transpose(const KernelCall &call) {
    const Sizes strides = row_major_strides(call.operand(0).shape);
    Sizes permuted;
    for (int64_t axis : call.attrs.integers(call.op, "perm"))
        permuted.push_back(strides[static_cast<size_t>(axis)]);
    gather(call, 0, permuted);
}

void broadcast_to(const KernelCall &call) {
    gather(call, 0, broadcast_strides(call.operand(0).shape, call.result.shape));
}

void slice(const KernelCall &call) {
    const Sizes start = call.attrs.integers(call.op, "start"), step = call.attrs.integers(call.op, "step");
    Sizes strides = row_major_strides(call.operand(0).shape);
    int64_t offset = 0;
    for (size_t i = 0; i < strides.size(); ++i) {
        offset += call.result.shape[i] ? start[i] * strides[i] : 0;
        // With one element the step is not taken, and its product with the stride may not fit.
        strides[i] = call.result.shape[i] > 1 ? step[i] * strides[i] : 0;
    }
    gather(call, offset, strides);
}

void flip(const KernelCall &call) {
    const Sizes &shape = call.operand(0).shape;
    Sizes strides = row_major_strides(shape);
    int64_t offset = 0;
    for (int64_t axis : call.attrs.integers(call.op, "axes")) {
        const size_t i = static_cast<size_t>(axis);
        offset += std::max<int64_t>(0, shape[i] - 1) * strides[i];
        strides[i] = -strides[i];
    }
    gather(call, offset, strides);
}

// Writes an operand into the result, its first element at `offset`.
void place(const KernelCall &call, const TensorView &x, int64_t offset) {
    char *target = call.result.as<char>() + offset * static_cast<int64_t>(item_size(call));
    copy_strided(call, item_size(call), x.shape, x.data, row_major_strides(x.shape), target,
                 row_major_strides(call.result.shape));
}

void pad(const KernelCall &call) {
    const graph::Scalar value = call.attrs.scalar(call.op, "value");
    fill_scalar(call, value);
    if (call.operand(0).size() == 0)
        return;
    const Sizes low = call.attrs.integers(call.op, "low"), strides = row_major_strides(call.result.shape);
    int64_t offset = 0;
    for (size_t i = 0; i < low.size(); ++i)
        offset += low[i] * strides[i];
    place(call, call.operand(0), offset);
}

void concat(const KernelCall &call) {
    const size_t axis = call.axis();
    const int64_t stride = row_major_strides(call.result.shape)[axis];
    int64_t offset = 0;
    for (size_t k = 0; k < call.operand_count; ++k) {
        const TensorView &x = call.operand(k);
        if (x.size() != 0)
            place(call, x, offset);
        offset += x.shape[axis] * stride;
    }
}

} // namespace

const KernelTable &shape_kernels() {
    static const KernelTable table = {
        {"stop_gradient", copy}, {"reshape", copy}, {"transpose", transpose}, {"broadcast_to", broadcast_to},
        {"slice", slice},        {"flip", flip},    {"pad", pad},             {"concat", concat},
    };
    return table;
}

} // namespace tessera::portable
