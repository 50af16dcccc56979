// JSON string literals as Python's json module writes them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::graph {

// Appends a quoted literal as json.dumps(text, ensure_ascii=False) does; when the text holds half a surrogate pair
// (encoded in three bytes, from an escape), all of it in ASCII.
void append_json(std::string &out, std::string_view text);

// Appends a code point in UTF-8.
void append_utf8(std::string &out, uint32_t code_point);

inline constexpr uint32_t invalid_code_point = 0xFFFFFFFF;

// The code point at text[at], which moves on; `invalid_code_point` and one byte for an invalid sequence. Halves of
// surrogate pairs are let through.
uint32_t next_code_point(std::string_view text, size_t &at);

inline bool is_surrogate(uint32_t code_point) { return code_point >= 0xD800 && code_point < 0xE000; }

} // namespace tessera::graph
