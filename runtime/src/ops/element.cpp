#include "ops/element.h"

#include <cstring>
#include <limits>

#include "core/error.h"
#include "ops/small_float.h"

namespace tessera::portable {

namespace {

template <class Stored, class T, class Convert>
void load_each(const void *source, int64_t stride, int64_t count, T *out, Convert convert) {
    const Stored *in = static_cast<const Stored *>(source);
    if (stride == 1)
        for (int64_t i = 0; i < count; ++i)
            out[i] = convert(in[i]);
    else
        for (int64_t i = 0; i < count; ++i)
            out[i] = convert(in[i * stride]);
}

template <class Stored, class T, class Convert>
void store_each(const T *values, int64_t count, void *target, int64_t stride, Convert convert) {
    Stored *out = static_cast<Stored *>(target);
    if (stride == 1)
        for (int64_t i = 0; i < count; ++i)
            out[i] = convert(values[i]);
    else
        for (int64_t i = 0; i < count; ++i)
            out[i * stride] = convert(values[i]);
}

template <class Stored, class T> void load_plain(const void *source, int64_t stride, int64_t count, T *out) {
    load_each<Stored>(source, stride, count, out, [](Stored x) { return static_cast<T>(x); });
}

uint16_t bf16_from_float(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    if (value != value)
        return static_cast<uint16_t>(word >> 16 | 0x40);
    return static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}

float bf16_to_float(uint16_t code) {
    const uint32_t word = static_cast<uint32_t>(code) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

// Integers go through float, as in NumPy.
template <class Format, class T> uint32_t encode(T value) {
    if constexpr (std::is_integral_v<T>)
        return Format::encode(static_cast<double>(static_cast<float>(value)));
    else
        return Format::encode(static_cast<double>(value));
}

template <class T> uint16_t encode_bf16(T value) {
    if constexpr (std::is_same_v<T, double>)
        return static_cast<uint16_t>(BFloat16::encode(value));
    else
        return bf16_from_float(static_cast<float>(value));
}

template <class Stored, class T> Stored to_integer(T value) {
    if constexpr (std::is_integral_v<T>) {
        return static_cast<Stored>(value);
    } else {
        using Limits = std::numeric_limits<Stored>;
        // One more than the largest value: a power of two, so exact in any float.
        const T end = static_cast<T>(Limits::max() / 2 + 1) * 2;
        if (value != value)
            return 0;
        if (value >= end)
            return Limits::max();
        if (value <= static_cast<T>(Limits::min()))
            return Limits::min();
        return static_cast<Stored>(value);
    }
}

template <class Stored, class T> void store_integer(const T *values, int64_t count, void *target, int64_t stride) {
    store_each<Stored>(values, count, target, stride, to_integer<Stored, T>);
}

} // namespace

template <> void load(DType, const void *source, int64_t stride, int64_t count, double *out) {
    load_plain<double>(source, stride, count, out);
}

template <> void load(DType dtype, const void *source, int64_t stride, int64_t count, float *out) {
    switch (dtype) {
    case DType::F32: return load_plain<float>(source, stride, count, out);
    case DType::BF16: return load_each<uint16_t>(source, stride, count, out, bf16_to_float);
    case DType::F16: return load_each<uint16_t>(source, stride, count, out, Float16::decode);
    case DType::F8E4M3: return load_each<uint8_t>(source, stride, count, out, Float8E4M3::decode);
    case DType::F8E5M2: return load_each<uint8_t>(source, stride, count, out, Float8E5M2::decode);
    default: core::fail(core::Code::Internal, "%s is not computed in float", core::name(dtype));
    }
}

template <> void load(DType dtype, const void *source, int64_t stride, int64_t count, int64_t *out) {
    switch (dtype) {
    case DType::I64: return load_plain<int64_t>(source, stride, count, out);
    case DType::I32: return load_plain<int32_t>(source, stride, count, out);
    case DType::I16: return load_plain<int16_t>(source, stride, count, out);
    case DType::I8: return load_plain<int8_t>(source, stride, count, out);
    case DType::U8: return load_plain<uint8_t>(source, stride, count, out);
    case DType::Bool: return load_each<uint8_t>(source, stride, count, out, [](uint8_t x) { return int64_t{x != 0}; });
    default: core::fail(core::Code::Internal, "%s is not computed in i64", core::name(dtype));
    }
}

template <class T> void store(DType dtype, const T *values, int64_t count, void *target, int64_t stride) {
    switch (dtype) {
    case DType::F64:
        return store_each<double>(values, count, target, stride, [](T x) { return static_cast<double>(x); });
    case DType::F32:
        return store_each<float>(values, count, target, stride, [](T x) { return static_cast<float>(x); });
    case DType::BF16: return store_each<uint16_t>(values, count, target, stride, encode_bf16<T>);
    case DType::F16: return store_each<uint16_t>(values, count, target, stride, encode<Float16, T>);
    case DType::F8E4M3: return store_each<uint8_t>(values, count, target, stride, encode<Float8E4M3, T>);
    case DType::F8E5M2: return store_each<uint8_t>(values, count, target, stride, encode<Float8E5M2, T>);
    case DType::I64: return store_integer<int64_t>(values, count, target, stride);
    case DType::I32: return store_integer<int32_t>(values, count, target, stride);
    case DType::I16: return store_integer<int16_t>(values, count, target, stride);
    case DType::I8: return store_integer<int8_t>(values, count, target, stride);
    case DType::U8: return store_integer<uint8_t>(values, count, target, stride);
    case DType::Bool: return store_each<uint8_t>(values, count, target, stride, [](T x) { return uint8_t{x != 0}; });
    }
}

template void store(DType, const double *, int64_t, void *, int64_t);
template void store(DType, const float *, int64_t, void *, int64_t);
template void store(DType, const int64_t *, int64_t, void *, int64_t);

} // namespace tessera::portable
