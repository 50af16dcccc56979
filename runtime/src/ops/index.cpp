// Kernels of the primitives that read or add at indices, and of the range check.
#include <cstring>

#include "ops/kernel.h"
#include "ops/strided.h"

namespace tessera::portable {

namespace {

std::string position_text(const std::vector<int64_t> &shape, int64_t element) {
    std::vector<int64_t> index(shape.size());
    for (size_t i = shape.size(); i-- > 0; element /= shape[i])
        index[i] = element % shape[i];
    return core::shape_text(index);
}

std::vector<int64_t> integers_of(const TensorView &x) {
    std::vector<int64_t> out(static_cast<size_t>(x.size()));
    load(x.dtype, x.data, 1, x.size(), out.data());
    return out;
}

// The index operand, each entry in [0, size) of the axis.
std::vector<int64_t> checked_index(const KernelCall &call) {
    const TensorView &index = call.operand(1);
    const int64_t size = call.operand(0).shape[call.axis()];
    std::vector<int64_t> out = integers_of(index);
    for (size_t i = 0; i < out.size(); ++i)
        if (out[i] < 0 || out[i] >= size)
            call.fail(Code::IndexRange, "the index at position " + position_text(index.shape, static_cast<int64_t>(i)) +
                                            " is " + std::to_string(out[i]) + "; expected 0 to " +
                                            std::to_string(size - 1) + ", as dimension " + std::to_string(call.axis()) +
                                            " of x has size " + std::to_string(size));
    return out;
}

// x seen as [outer, size, inner] around the axis.
struct Around {
    int64_t outer, size, inner;

    Around(const TensorView &x, size_t axis)
        : outer(size_product(x.shape, 0, axis)), size(x.shape[axis]),
          inner(size_product(x.shape, axis + 1, x.shape.size())) {}
};

void take(const KernelCall &call) {
    const TensorView &x = call.operand(0);
    const Around around(x, call.axis());
    const std::vector<int64_t> index = checked_index(call);
    if (call.result.size() == 0)
        return;
    const int64_t count = static_cast<int64_t>(index.size());
    const int64_t row = around.inner * static_cast<int64_t>(core::item_size(x.dtype));
    call.parallel(around.outer * count, row / 8, [&](int64_t first, int64_t last) {
        for (int64_t unit = first; unit < last; ++unit) {
            const int64_t from = unit / count * around.size + index[static_cast<size_t>(unit % count)];
            std::memcpy(call.result.as<char>() + unit * row, x.as<char>() + from * row, static_cast<size_t>(row));
        }
    });
}

// The element of x, as [outer, size, inner], that entry `element` of an index of `length` along the axis means.
int64_t along_axis(const Around &around, int64_t length, int64_t element, int64_t index) {
    const int64_t outer = element / (length * around.inner);
    return (outer * around.size + index) * around.inner + element % around.inner;
}

void take_along_axis(const KernelCall &call) {
    const TensorView &x = call.operand(0);
    const Around around(x, call.axis());
    const std::vector<int64_t> index = checked_index(call);
    const int64_t length = call.operand(1).shape[call.axis()];
    const size_t item = core::item_size(x.dtype);
    call.parallel(static_cast<int64_t>(index.size()), 4, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t from = along_axis(around, length, i, index[static_cast<size_t>(i)]);
            std::memcpy(call.result.as<char>() + static_cast<size_t>(i) * item,
                        x.as<char>() + static_cast<size_t>(from) * item, item);
        }
    });
}

// Runs add(sums) on a copy of x in the compute type and stores it: each element is rounded once, however many updates
// it gets. Updates are added in the order of the index.
template <class Add> void add_updates(const KernelCall &call, Add &&add) {
    with_compute_type(call.result.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t size = call.result.size(), update_size = call.operand(2).size();
        std::vector<T> sums(static_cast<size_t>(size)), updates(static_cast<size_t>(update_size));
        load(call.result.dtype, call.operand(0).data, 1, size, sums.data());
        load(call.result.dtype, call.operand(2).data, 1, update_size, updates.data());
        add(sums.data(), updates.data());
        store(call.result.dtype, sums.data(), size, call.result.data);
    });
}

template <class T> void add_to(T &sum, T value) {
    if constexpr (std::is_integral_v<T>)
        sum = static_cast<T>(static_cast<uint64_t>(sum) + static_cast<uint64_t>(value));
    else
        sum += value;
}

void index_add(const KernelCall &call) {
    const Around around(call.operand(0), call.axis());
    const std::vector<int64_t> index = checked_index(call);
    const int64_t count = static_cast<int64_t>(index.size());
    add_updates(call, [&](auto *sums, const auto *updates) {
        if (call.operand(2).size() == 0)
            return;
        call.parallel(around.outer, count * around.inner, [&](int64_t first, int64_t last) {
            for (int64_t unit = first * count; unit < last * count; ++unit) {
                auto *row =
                    sums + (unit / count * around.size + index[static_cast<size_t>(unit % count)]) * around.inner;
                for (int64_t i = 0; i < around.inner; ++i)
                    add_to(row[i], updates[unit * around.inner + i]);
            }
        });
    });
}

void scatter_add(const KernelCall &call) {
    const Around around(call.operand(0), call.axis());
    const std::vector<int64_t> index = checked_index(call);
    const int64_t length = call.operand(1).shape[call.axis()];
    add_updates(call, [&](auto *sums, const auto *updates) {
        for (size_t i = 0; i < index.size(); ++i)
            add_to(sums[along_axis(around, length, static_cast<int64_t>(i), index[i])], updates[i]);
    });
}

void check_range(const KernelCall &call) {
    const TensorView &x = call.operand(0);
    const int64_t low = call.attrs.integer(call.op, "low"), high = call.attrs.integer(call.op, "high");
    const graph::Attribute *ignore = call.attrs.find("ignore");
    const int64_t *ignored = ignore ? ignore->get_if<int64_t>() : nullptr;
    const std::vector<int64_t> values = integers_of(x);
    for (size_t i = 0; i < values.size(); ++i)
        if ((values[i] < low || values[i] > high) && !(ignored && values[i] == *ignored))
            call.fail(Code::IndexRange, core::shown(call.attrs.string(call.op, "what"), 400) + " at position " +
                                            position_text(x.shape, static_cast<int64_t>(i)) + " is " +
                                            std::to_string(values[i]) + "; expected " + std::to_string(low) + " to " +
                                            std::to_string(high) +
                                            (ignored ? ", or " + std::to_string(*ignored) + " to be ignored" : ""));
    if (!values.empty())
        std::memcpy(call.result.data, x.data, static_cast<size_t>(x.size()) * core::item_size(x.dtype));
}

} // namespace

const KernelTable &index_kernels() {
    static const KernelTable table = {
        {"take", take},           {"take_along_axis", take_along_axis}, {"index_add", index_add},
        {"scatter_add", scatter_add}, {"check_range", check_range},
    };
    return table;
}

} // namespace tessera::portable
