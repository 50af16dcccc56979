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

std::string shown(const std::string &text, size_t limit) {
    std::string out;
    for (unsigned char c : text) {
        if (out.size() >= limit) {
            out += "...";
            break;
        }
        if (c < 0x20 || c == 0x7f)
            out += format("\\x%02x", c);
        else
            out += static_cast<char>(c);
    }
    return out;
}

} // namespace tessera::core
