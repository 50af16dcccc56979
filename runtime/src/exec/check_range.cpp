#include "exec/check_range.h"

#include "core/tensor.h"

#include <algorithm>

#include "core/error.h"

namespace tessera::core {

namespace {

template <class T>
int64_t find_out(const T *data, int64_t count, int64_t low, int64_t high, std::optional<int64_t> ignore) {
    // The common case, all in range, is one loop without branches; blocks bound the second look.
    constexpr int64_t block = 1024;
    const bool has_ignored = ignore.has_value();
    const int64_t ignored = ignore.value_or(0);
    for (int64_t start = 0; start < count; start += block) {
        int64_t stop = std::min(count, start + block);
        bool bad = false;
        for (int64_t i = start; i < stop; ++i) {
            int64_t x = data[i];
            bad |= ((x < low) | (x > high)) & !(has_ignored & (x == ignored));
        }
        for (int64_t i = start; bad && i < stop; ++i) {
            int64_t x = data[i];
            if ((x < low || x > high) && !(has_ignored && x == ignored))
                return i;
        }
    }
    return -1;
}

template <class Visit> auto visit_integers(const void *data, DType dtype, Visit &&visit) {
    switch (dtype) {
    case DType::I64:
        return visit(static_cast<const int64_t *>(data));
    case DType::I32:
        return visit(static_cast<const int32_t *>(data));
    case DType::I16:
        return visit(static_cast<const int16_t *>(data));
    case DType::I8:
        return visit(static_cast<const int8_t *>(data));
    case DType::U8:
        return visit(static_cast<const uint8_t *>(data));
    default:
        fail(Code::Internal, "a range check on %s", name(dtype));
    }
}

} // namespace

int64_t find_out_of_range(const void *data, DType dtype, int64_t count, int64_t low, int64_t high,
                          std::optional<int64_t> ignore) {
    return visit_integers(data, dtype, [&](auto *p) { return find_out(p, count, low, high, ignore); });
}

int64_t integer_at(const void *data, DType dtype, int64_t position) {
    return visit_integers(data, dtype, [&](auto *p) { return static_cast<int64_t>(p[position]); });
}

std::string position_text(const std::vector<int64_t> &shape, int64_t count, int64_t position) {
    if (shape.empty() || element_count(shape) != count)
        return shape_text(std::vector<int64_t>{position});
    std::vector<int64_t> index(shape.size());
    for (size_t i = shape.size(); i-- > 0; position /= shape[i])
        index[i] = position % shape[i];
    return shape_text(index);
}

} // namespace tessera::core
