#include "collective/combine.h"

#include <algorithm>
#include <type_traits>

#include "core/error.h"
#include "ops/small_float.h"

namespace tessera::core {

namespace {

constexpr int64_t block = 1024; // elements that stay in the cache while the parts are gone through

template <Combine combine, class T> T join(T a, T b) {
    if constexpr (combine == Combine::Sum || combine == Combine::Prod) {
        if constexpr (std::is_integral_v<T>) { // wraps
            using Wide = std::conditional_t<(sizeof(T) < 4), uint32_t, std::make_unsigned_t<T>>;
            Wide x = static_cast<Wide>(a), y = static_cast<Wide>(b);
            return static_cast<T>(combine == Combine::Sum ? x + y : x * y);
        } else {
            return combine == Combine::Sum ? a + b : a * b;
        }
    } else {
        if constexpr (!std::is_integral_v<T>) { // a NaN wins
            if (a != a)
                return a;
            if (b != b)
                return b;
        }
        return combine == Combine::Max ? (a < b ? b : a) : (b < a ? b : a);
    }
}

template <Combine combine, class T>
void plain(const std::vector<const char *> &parts, char *result, int64_t count) {
    T sums[block];
    for (int64_t begin = 0; begin < count; begin += block) {
        const int64_t n = std::min(block, count - begin);
        const T *first = reinterpret_cast<const T *>(parts[0]) + begin;
        std::copy(first, first + n, sums);
        for (size_t p = 1; p < parts.size(); ++p) {
            const T *part = reinterpret_cast<const T *>(parts[p]) + begin;
            for (int64_t i = 0; i < n; ++i)
                sums[i] = join<combine>(sums[i], part[i]);
        }
        std::copy(sums, sums + n, reinterpret_cast<T *>(result) + begin);
    }
}

template <Combine combine, class Format>
void half(const std::vector<const char *> &parts, char *result, int64_t count) {
    float sums[block];
    for (int64_t begin = 0; begin < count; begin += block) {
        const int64_t n = std::min(block, count - begin);
        for (size_t p = 0; p < parts.size(); ++p) {
            const uint16_t *part = reinterpret_cast<const uint16_t *>(parts[p]) + begin;
            for (int64_t i = 0; i < n; ++i) {
                const float value = Format::decode(part[i]);
                sums[i] = p == 0 ? value : join<combine>(sums[i], value);
            }
        }
        uint16_t *out = reinterpret_cast<uint16_t *>(result) + begin;
        for (int64_t i = 0; i < n; ++i)
            out[i] = static_cast<uint16_t>(Format::encode(sums[i]));
    }
}

template <Combine combine> void typed(const std::vector<const char *> &parts, char *result, int64_t count, DType dtype) {
    switch (dtype) {
    case DType::F64: return plain<combine, double>(parts, result, count);
    case DType::F32: return plain<combine, float>(parts, result, count);
    case DType::BF16: return half<combine, portable::BFloat16>(parts, result, count);
    case DType::F16: return half<combine, portable::Float16>(parts, result, count);
    case DType::I64: return plain<combine, int64_t>(parts, result, count);
    case DType::I32: return plain<combine, int32_t>(parts, result, count);
    case DType::I16: return plain<combine, int16_t>(parts, result, count);
    case DType::I8: return plain<combine, int8_t>(parts, result, count);
    case DType::U8:
    case DType::Bool: return plain<combine, uint8_t>(parts, result, count);
    default: fail(Code::DType, "values of dtype %s are not combined over devices", name(dtype));
    }
}

} // namespace

void combine_parts(const std::vector<const char *> &parts, char *result, int64_t count, DType dtype, Combine combine) {
    switch (combine) {
    case Combine::Sum: return typed<Combine::Sum>(parts, result, count, dtype);
    case Combine::Prod: return typed<Combine::Prod>(parts, result, count, dtype);
    case Combine::Max: return typed<Combine::Max>(parts, result, count, dtype);
    case Combine::Min: return typed<Combine::Min>(parts, result, count, dtype);
    }
}

} // namespace tessera::core
