#include "graph/json_string.h"

namespace tessera::graph {

namespace {

void append_escape(std::string &out, uint32_t unit) {
    static constexpr char digits[] = "0123456789abcdef";
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4)
        out += digits[unit >> shift & 0xF];
}

} // namespace

uint32_t next_code_point(std::string_view text, size_t &at) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(at++);
    if (lead < 0x80)
        return lead;
    const int tail = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || at + tail > text.size())
        return invalid_code_point;
    uint32_t code = lead & (0x3F >> tail);
    for (int i = 0; i < tail; ++i) {
        if ((byte(at + i) & 0xC0) != 0x80)
            return invalid_code_point;
        code = code << 6 | (byte(at + i) & 0x3F);
    }
    static constexpr uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (code < least[tail] || code > 0x10FFFF)
        return invalid_code_point;
    at += tail;
    return code;
}

void append_utf8(std::string &out, uint32_t code) {
    const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
    if (code == invalid_code_point)
        code = 0xFFFD; // the replacement character
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
    } else {
        put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)),
            put(0x80 | (code & 0x3F));
    }
}

void append_json(std::string &out, std::string_view text) {
    bool ascii = false;
    for (size_t at = 0; at < text.size() && !ascii;)
        ascii = is_surrogate(next_code_point(text, at));
    out += '"';
    for (size_t at = 0; at < text.size();) {
        const uint32_t c = next_code_point(text, at);
        switch (c) {
        case '"': out += "\\\""; break;
        case '\\': out += "\\\\"; break;
        case '\b': out += "\\b"; break;
        case '\f': out += "\\f"; break;
        case '\n': out += "\\n"; break;
        case '\r': out += "\\r"; break;
        case '\t': out += "\\t"; break;
        default:
            if (c >= 0x20 && (c < 0x80 || !ascii)) {
                append_utf8(out, c);
            } else if (c < 0x10000) {
                append_escape(out, c);
            } else {
                append_escape(out, 0xD800 + ((c - 0x10000) >> 10));
                append_escape(out, 0xDC00 + ((c - 0x10000) & 0x3FF));
            }
        }
    }
    out += '"';
}

} // namespace tessera::graph
