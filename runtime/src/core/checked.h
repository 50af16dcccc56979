// Integer arithmetic that reports overflow instead of wrapping.
#pragma once

#include <cstdint>
#include <vector>

#include "core/error.h"

namespace tessera::core {

inline int64_t checked_add(int64_t a, int64_t b) {
    int64_t out;
    if (__builtin_add_overflow(a, b, &out))
        fail(Code::Shape, "%lld + %lld does not fit in 64 bits", static_cast<long long>(a), static_cast<long long>(b));
    return out;
}

inline int64_t checked_mul(int64_t a, int64_t b) {
    int64_t out;
    if (__builtin_mul_overflow(a, b, &out))
        fail(Code::Shape, "%lld * %lld does not fit in 64 bits", static_cast<long long>(a), static_cast<long long>(b));
    return out;
}

// The number of elements of a shape; an error when a size is negative or the count does not fit.
inline int64_t element_count(const std::vector<int64_t> &shape) {
    int64_t count = 1;
    bool empty = false;
    for (int64_t size : shape) {
        if (size < 0)
            fail(Code::Shape, "a size is %lld; sizes are at least 0", static_cast<long long>(size));
        empty = empty || size == 0;
        // A zero size may stand after sizes whose product alone overflows.
        count = checked_mul(count, size == 0 ? 1 : size);
    }
    return empty ? 0 : count;
}

} // namespace tessera::core
