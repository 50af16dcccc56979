#include "core/error.h"

#include <cstdarg>
#include <cstdio>

namespace tessera::core {

namespace {

std::string format_list(const char *text, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = std::vsnprintf(nullptr, 0, text, again);
    va_end(again);
    std::string out(length > 0 ? static_cast<size_t>(length) : 0, '\0');
    if (length > 0)
        std::vsnprintf(out.data(), out.size() + 1, text, arguments);
    return out;
}

} // namespace

std::string format(const char *text, ...) {
    va_list arguments;
    va_start(arguments, text);
    std::string out = format_list(text, arguments);
    va_end(arguments);
    return out;
}

void fail(Code code, const char *text, ...) {
    va_list arguments;
    va_start(arguments, text);
    std::string message = format_list(text, arguments);
    va_end(arguments);
    throw Error(code, std::move(message));
}

namespace {

// The length of the valid UTF-8 sequence at text[at]; 0 when there is none.
size_t utf8_length(const std::string &text, size_t at) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(at);
    const size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (length < 2 || at + length > text.size())
        return length == 1 ? 1 : 0;
    for (size_t i = at + 1; i < at + length; ++i)
        if ((byte(i) & 0xC0) != 0x80)
            return 0;
    const unsigned char second = byte(at + 1); // no overlong forms, no surrogates, nothing beyond U+10FFFF
    const bool legal = (lead != 0xE0 || second >= 0xA0) && (lead != 0xED || second < 0xA0) &&
                       (lead != 0xF0 || second >= 0x90) && (lead != 0xF4 || second < 0x90);
    return legal ? length : 0;
}

} // namespace

std::string shown(const std::string &text, size_t limit) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
        if (out.size() >= limit)
            return out + "...";
        const auto c = static_cast<unsigned char>(text[at]);
        const size_t length = utf8_length(text, at);
        if (c < 0x20 || c == 0x7f || length == 0) {
            out += format("\\x%02x", c);
            ++at;
        } else {
            out.append(text, at, length);
            at += length;
        }
    }
    return out;
}

} // namespace tessera::core
