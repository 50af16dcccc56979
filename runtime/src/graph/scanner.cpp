#include "graph/scanner.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "graph/json_string.h"

namespace tessera::graph {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

} // namespace

char Scanner::peek() {
    while (at_ < text_.size()) {
        const char c = text_[at_];
        if (c == '#')
            at_ = std::min(text_.find('\n', at_), text_.size());
        else if (c == ' ' || c == '\n' || c == '\t' || c == '\r')
            ++at_;
        else
            return c;
    }
    return 0;
}

void Scanner::fail_at(Position at, const std::string &message) const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < text_.size(); ++i) {
        column = text_[i] == '\n' ? 1 : column + 1;
        line += text_[i] == '\n';
    }
    core::fail(core::Code::Graph, "graph text, line %zu, column %zu: %s", line, column, message.c_str());
}

std::string Scanner::found() {
    if (at_end())
        return "the end of the text";
    size_t end = at_;
    if (next_code_point(text_, end) == invalid_code_point)
        return "a byte that is not UTF-8";
    return "'" + core::shown(std::string(text_.substr(at_, end - at_))) + "'";
}

bool Scanner::accept(char c) {
    if (peek() != c || at_ >= text_.size())
        return false;
    ++at_;
    return true;
}

void Scanner::expect(char c) {
    if (!accept(c))
        fail(std::string("expected '") + c + "' but found " + found());
}

bool Scanner::accept_word(std::string_view word) {
    peek();
    if (text_.substr(at_, word.size()) != word)
        return false;
    const size_t after = at_ + word.size();
    if (after < text_.size() && (is_letter(text_[after]) || is_digit(text_[after])))
        return false;
    at_ = after;
    return true;
}

void Scanner::expect_word(std::string_view word) {
    if (!accept_word(word))
        fail("expected '" + std::string(word) + "' but found " + found());
}

std::string_view Scanner::word(const char *what) {
    if (!is_letter(peek()))
        fail(std::string("expected ") + what + " but found " + found());
    const size_t start = at_;
    while (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_]) || text_[at_] == '.'))
        ++at_;
    return text_.substr(start, at_ - start);
}

std::string_view Scanner::operator_name(const char *what) {
    const std::string_view first = word(what);
    if (text_.substr(at_, 2) != "::")
        return first;
    const size_t start = at_ - first.size();
    at_ += 2;
    if (at_ >= text_.size() || !is_letter(text_[at_]))
        fail_at(at_, "expected the operator's name in its library");
    const size_t second = word("the operator's name in its library").size();
    return text_.substr(start, first.size() + 2 + second);
}

int64_t Scanner::integer(const char *what) {
    peek();
    return adjacent_integer(what);
}

int64_t Scanner::adjacent_integer(const char *what) {
    int64_t value = 0;
    const char *begin = text_.data() + at_;
    auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error == std::errc::result_out_of_range)
        fail(std::string(what) + " does not fit in 64 bits");
    if (error != std::errc())
        fail(std::string("expected ") + what + " but found " + found());
    at_ += static_cast<size_t>(end - begin);
    return value;
}

std::string_view Scanner::number_text() {
    peek();
    const size_t start = at_;
    while (at_ < text_.size()) {
        const char c = text_[at_];
        const bool exponent_sign =
            (c == '+' || c == '-') && (at_ == start || text_[at_ - 1] == 'e' || text_[at_ - 1] == 'E');
        if (!is_digit(c) && !is_letter(c) && c != '.' && !exponent_sign)
            break;
        ++at_;
    }
    return text_.substr(start, at_ - start);
}

std::string_view Scanner::dimension_text(size_t limit) {
    peek();
    const size_t start = at_;
    int depth = 0;
    for (; at_ < text_.size(); ++at_) {
        const char c = text_[at_];
        depth += (c == '(') - (c == ')');
        if (c == '\n' || c == ']' || c == '>' || (c == ',' && depth <= 0))
            break;
        if (at_ - start >= limit)
            fail_at(start, "a dimension is longer than " + std::to_string(limit) + " characters");
    }
    std::string_view text = text_.substr(start, at_ - start);
    while (!text.empty() && text.back() == ' ')
        text.remove_suffix(1);
    if (text.empty())
        fail_at(start, "expected a dimension but found " + found());
    return text;
}

uint32_t Scanner::hex4() {
    uint32_t value = 0;
    const char *begin = text_.data() + at_;
    const char *last = text_.data() + std::min(at_ + 4, text_.size());
    auto [end, error] = std::from_chars(begin, last, value, 16);
    if (error != std::errc() || end != begin + 4)
        fail_at(at_, "expected four hexadecimal digits");
    at_ += 4;
    return value;
}

// After "\u": a code point, from a surrogate pair if there is one. Half of a pair stands for itself.
uint32_t Scanner::escaped_code_point() {
    const uint32_t high = hex4();
    if (high < 0xD800 || high > 0xDBFF || text_.substr(at_, 2) != "\\u")
        return high;
    const size_t after = at_;
    at_ += 2;
    const uint32_t low = hex4();
    if (low >= 0xDC00 && low <= 0xDFFF)
        return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    at_ = after;
    return high;
}

std::string Scanner::string(size_t limit) {
    const Position start = position();
    expect('"');
    std::string out;
    for (;;) {
        if (at_ >= text_.size())
            fail_at(start, "the string does not end");
        if (out.size() > limit)
            fail_at(start, "the string is longer than " + std::to_string(limit) + " bytes");
        const char c = text_[at_];
        if (c == '"') {
            ++at_;
            return out;
        }
        if (static_cast<unsigned char>(c) < 0x20)
            fail_at(at_, "a control character in a string");
        if (c != '\\') {
            const size_t before = at_;
            const uint32_t code = next_code_point(text_, at_);
            if (code == invalid_code_point || is_surrogate(code))
                fail_at(before, "the string is not valid UTF-8");
            append_utf8(out, code);
            continue;
        }
        if (++at_ >= text_.size())
            fail_at(start, "the string does not end");
        static constexpr std::string_view escapes = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
        const char escape = text_[at_++];
        const size_t known = escapes.find(escape);
        if (known != std::string_view::npos)
            out += meanings[known];
        else if (escape == 'u')
            append_utf8(out, escaped_code_point());
        else
            fail_at(at_ - 1, "unknown escape in a string");
    }
}

} // namespace tessera::graph
