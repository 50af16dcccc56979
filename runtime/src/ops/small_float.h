// Conversion of 8- and 16-bit floats, from the definition of each format.
#pragma once

#include <cstdint>
#include <cstring>

namespace tessera::portable {

// A float format with a sign bit. Without infinities (f8e4m3, the "fn" format) the code of all ones is NaN, and what is
// too large becomes NaN.
template <int exponent_bits, int mantissa_bits, bool has_infinity> struct SmallFloat {
    static constexpr int bits = 1 + exponent_bits + mantissa_bits;
    static constexpr int bias = (1 << (exponent_bits - 1)) - 1;
    static constexpr int least_exponent = 1 - bias;
    static constexpr uint32_t magnitude_mask = (1u << (bits - 1)) - 1;
    static constexpr uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
    static constexpr uint32_t nan = has_infinity ? infinity | 1u << (mantissa_bits - 1) : magnitude_mask;
    static constexpr uint32_t largest = has_infinity ? infinity - 1 : magnitude_mask - 1;

    static float decode(uint32_t code) {
        if constexpr (exponent_bits == 8) { // the exponents of float itself, and its subnormals
            const uint32_t wide = code << (32 - bits);
            float value;
            std::memcpy(&value, &wide, 4);
            return value;
        }
        const uint32_t sign = code >> (bits - 1) << 31;
        const uint32_t magnitude = code & magnitude_mask;
        const uint32_t exponent = magnitude >> mantissa_bits;
        const uint32_t mantissa = magnitude & ((1u << mantissa_bits) - 1);
        uint32_t out;
        if (magnitude > largest) {
            out = 0x7F800000u | (has_infinity ? mantissa << (23 - mantissa_bits) : 0x400000u);
        } else if (exponent == 0) { // a multiple of the least positive value, exact in float
            const uint32_t scale_bits = static_cast<uint32_t>(127 + least_exponent - mantissa_bits) << 23;
            float scale;
            std::memcpy(&scale, &scale_bits, 4);
            const float value = static_cast<float>(mantissa) * scale;
            std::memcpy(&out, &value, 4);
        } else {
            out = (exponent - bias + 127) << 23 | mantissa << (23 - mantissa_bits);
        }
        out |= sign;
        float value;
        std::memcpy(&value, &out, 4);
        return value;
    }

    // Rounds once, to nearest, halves to even.
    static uint32_t encode(double value) {
        uint64_t word;
        std::memcpy(&word, &value, 8);
        const uint32_t sign = static_cast<uint32_t>(word >> 63) << (bits - 1);
        const int exponent = static_cast<int>(word >> 52 & 0x7FF) - 1023;
        const uint64_t fraction = word & 0xFFFFFFFFFFFFFull;
        if (exponent == 1024)
            return sign | (fraction || !has_infinity ? nan : infinity);
        const uint64_t significand = fraction | uint64_t{1} << 52; // a subnormal double is far too small to matter
        int shift = 52 - mantissa_bits;
        uint64_t base = 0;
        if (exponent < least_exponent)
            shift += least_exponent - exponent;
        else
            base = static_cast<uint64_t>(exponent - least_exponent) << mantissa_bits;
        if (shift > 54)
            return sign;
        uint64_t rounded = significand >> shift;
        const uint64_t rest = significand & ((uint64_t{1} << shift) - 1), half = uint64_t{1} << (shift - 1);
        rounded += rest > half || (rest == half && (rounded & 1));
        // The leading bit of a normal significand adds 1 to the exponent field, as does a carry from rounding.
        const uint64_t code = base + rounded;
        return sign | (code > largest ? (has_infinity ? infinity : nan) : static_cast<uint32_t>(code));
    }
};

using BFloat16 = SmallFloat<8, 7, true>;
using Float16 = SmallFloat<5, 10, true>;
using Float8E4M3 = SmallFloat<4, 3, false>;
using Float8E5M2 = SmallFloat<5, 2, true>;

} // namespace tessera::portable
