// Element types of the runtime; the numbers are those of the C ABI and of tessera/ir/dtype.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::core {

enum class DType : int32_t {
    F64 = 0,
    F32 = 1,
    BF16 = 2,
    F16 = 3,
    F8E4M3 = 4,
    F8E5M2 = 5,
    I64 = 6,
    I32 = 7,
    I16 = 8,
    I8 = 9,
    U8 = 10,
    Bool = 11,
};

inline constexpr int32_t dtype_count = 12;

struct DTypeInfo {
    const char *name;        // the short name of the text form
    const char *safetensors; // the name in a safetensors header
    uint8_t item_size;       // bytes of one element
    uint8_t dlpack_code;     // DLDataTypeCode
    bool is_float;
    bool is_integer; // bool is not
};

inline constexpr DTypeInfo dtype_table[dtype_count] = {
    {"f64", "F64", 8, 2, true, false},     {"f32", "F32", 4, 2, true, false},
    {"bf16", "BF16", 2, 4, true, false},   {"f16", "F16", 2, 2, true, false},
    {"f8e4m3", "F8_E4M3", 1, 10, true, false}, {"f8e5m2", "F8_E5M2", 1, 12, true, false},
    {"i64", "I64", 8, 0, false, true},     {"i32", "I32", 4, 0, false, true},
    {"i16", "I16", 2, 0, false, true},     {"i8", "I8", 1, 0, false, true},
    {"u8", "U8", 1, 1, false, true},       {"bool", "BOOL", 1, 6, false, false},
};

inline bool is_dtype_code(int64_t code) { return code >= 0 && code < dtype_count; }
inline const DTypeInfo &info(DType d) { return dtype_table[static_cast<int32_t>(d)]; }
inline size_t item_size(DType d) { return info(d).item_size; }
inline const char *name(DType d) { return info(d).name; }
inline bool is_float(DType d) { return info(d).is_float; }
inline bool is_integer(DType d) { return info(d).is_integer; }

// The dtype of a short name; false when there is none of that name.
inline bool parse_dtype(std::string_view text, DType &out) {
    for (int32_t i = 0; i < dtype_count; ++i)
        if (text == dtype_table[i].name) {
            out = static_cast<DType>(i);
            return true;
        }
    return false;
}

// The dtype of a safetensors name; false when there is none of that name.
inline bool parse_safetensors_dtype(std::string_view text, DType &out) {
    for (int32_t i = 0; i < dtype_count; ++i)
        if (text == dtype_table[i].safetensors) {
            out = static_cast<DType>(i);
            return true;
        }
    return false;
}

} // namespace tessera::core
