#include "core/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_set>

#include "core/error.h"

namespace tessera::core {

Json Json::boolean(bool value) {
    Json j;
    j.kind_ = Kind::Bool;
    j.integer_ = value;
    return j;
}

Json Json::integer(int64_t value) {
    Json j;
    j.kind_ = Kind::Integer;
    j.integer_ = value;
    return j;
}

Json Json::real(double value) {
    Json j;
    j.kind_ = Kind::Real;
    j.real_ = value;
    return j;
}

Json Json::string(std::string value) {
    Json j;
    j.kind_ = Kind::String;
    j.string_ = std::move(value);
    return j;
}

Json Json::array() {
    Json j;
    j.kind_ = Kind::Array;
    return j;
}

Json Json::object() {
    Json j;
    j.kind_ = Kind::Object;
    return j;
}

const char *Json::kind_name() const {
    constexpr const char *names[] = {"null", "a boolean", "an integer", "a number", "a string", "a list", "an object"};
    return names[static_cast<int>(kind_)];
}

const Json *Json::find(std::string_view name) const {
    for (const Member &m : members_)
        if (m.first == name)
            return &m.second;
    return nullptr;
}

class JsonParser {
  public:
    JsonParser(std::string_view text, const std::string &what, int max_depth, int64_t max_values)
        : text_(text), what_(what), max_depth_(max_depth), values_left_(max_values) {}

    Json document() {
        Json j = value(0);
        skip_space();
        if (at_ != text_.size())
            error("unexpected text after the end");
        return j;
    }

  private:
    [[noreturn]] void error(const char *message) const {
        fail(Code::Format, "%s: malformed JSON at byte %zu: %s", what_.c_str(), at_, message);
    }

    void skip_space() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
            ++at_;
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    void expect(char c, const char *message) {
        if (peek() != c || at_ >= text_.size())
            error(message);
        ++at_;
    }

    Json value(int depth) {
        if (depth > max_depth_)
            error("nested too deeply");
        if (--values_left_ < 0)
            error("too many values");
        skip_space();
        if (at_ >= text_.size())
            error("the text ends where a value is expected");
        switch (text_[at_]) {
        case '{':
            return object(depth);
        case '[':
            return array(depth);
        case '"':
            return Json::string(string());
        case 't':
            return word("true", Json::boolean(true));
        case 'f':
            return word("false", Json::boolean(false));
        case 'n':
            return word("null", Json());
        default:
            return number();
        }
    }

    Json word(std::string_view expected, Json result) {
        if (text_.substr(at_, expected.size()) != expected)
            error("a value is expected");
        at_ += expected.size();
        return result;
    }

    Json array(int depth) {
        Json j = Json::array();
        ++at_;
        skip_space();
        if (peek() == ']') {
            ++at_;
            return j;
        }
        for (;;) {
            j.items_.push_back(value(depth + 1));
            skip_space();
            if (peek() == ',') {
                ++at_;
                continue;
            }
            expect(']', "',' or ']' is expected");
            return j;
        }
    }

    Json object(int depth) {
        Json j = Json::object();
        ++at_;
        skip_space();
        if (peek() == '}') {
            ++at_;
            return j;
        }
        for (;;) {
            skip_space();
            if (peek() != '"')
                error("a member name is expected");
            std::string name = string();
            skip_space();
            expect(':', "':' is expected");
            j.members_.emplace_back(std::move(name), value(depth + 1));
            skip_space();
            if (peek() == ',') {
                ++at_;
                continue;
            }
            expect('}', "',' or '}' is expected");
            break;
        }
        check_unique(j);
        return j;
    }

    void check_unique(const Json &j) const {
        std::unordered_set<std::string_view> seen;
        for (const Json::Member &m : j.members_)
            if (!seen.insert(m.first).second)
                fail(Code::Format, "%s: the name \"%s\" occurs twice", what_.c_str(), shown(m.first).c_str());
    }

    unsigned hex4() {
        unsigned out = 0;
        if (text_.size() - at_ < 4)
            error("a \\u escape is cut off");
        auto [end, status] = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, out, 16);
        if (status != std::errc() || end != text_.data() + at_ + 4)
            error("a \\u escape needs four hexadecimal digits");
        at_ += 4;
        return out;
    }

    void append_utf8(std::string &out, unsigned c) {
        if (c < 0x80) {
            out += static_cast<char>(c);
        } else if (c < 0x800) {
            out += static_cast<char>(0xC0 | (c >> 6));
            out += static_cast<char>(0x80 | (c & 63));
        } else if (c < 0x10000) {
            out += static_cast<char>(0xE0 | (c >> 12));
            out += static_cast<char>(0x80 | ((c >> 6) & 63));
            out += static_cast<char>(0x80 | (c & 63));
        } else {
            out += static_cast<char>(0xF0 | (c >> 18));
            out += static_cast<char>(0x80 | ((c >> 12) & 63));
            out += static_cast<char>(0x80 | ((c >> 6) & 63));
            out += static_cast<char>(0x80 | (c & 63));
        }
    }

    void escape(std::string &out) {
        char c = peek();
        ++at_;
        constexpr std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
        if (size_t i = from.find(c); i != std::string_view::npos && c) {
            out += to[i];
            return;
        }
        if (c != 'u')
            error("unknown escape");
        unsigned code = hex4();
        if (code >= 0xD800 && code < 0xDC00) {
            if (text_.substr(at_, 2) != "\\u")
                error("half of a surrogate pair");
            at_ += 2;
            unsigned low = hex4();
            if (low < 0xDC00 || low >= 0xE000)
                error("half of a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xDC00 && code < 0xE000) {
            error("half of a surrogate pair");
        }
        append_utf8(out, code);
    }

    // The length of the valid UTF-8 sequence at `at_`, which starts with a byte of 0x80 or more.
    size_t utf8_length() const {
        auto byte = [&](size_t i) -> unsigned {
            return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0;
        };
        auto follows = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
        unsigned a = byte(0), b = byte(1);
        if (a >= 0xC2 && a <= 0xDF && follows(1))
            return 2;
        bool three = (a == 0xE0 && b >= 0xA0) || (a >= 0xE1 && a <= 0xEF && a != 0xED) || (a == 0xED && b < 0xA0);
        if (three && follows(1) && follows(2))
            return 3;
        bool four = (a == 0xF0 && b >= 0x90) || (a >= 0xF1 && a <= 0xF3) || (a == 0xF4 && b < 0x90);
        if (four && follows(1) && follows(2) && follows(3))
            return 4;
        error("invalid UTF-8");
    }

    std::string string() {
        std::string out;
        ++at_;
        for (;;) {
            size_t start = at_;
            while (at_ < text_.size() && static_cast<unsigned char>(text_[at_] - 0x20) < 0x60 && text_[at_] != '"' &&
                   text_[at_] != '\\')
                ++at_;
            out.append(text_.substr(start, at_ - start));
            if (at_ >= text_.size())
                error("a string is cut off");
            unsigned char c = static_cast<unsigned char>(text_[at_]);
            if (c == '"') {
                ++at_;
                return out;
            }
            if (c == '\\') {
                ++at_;
                escape(out);
            } else if (c >= 0x80) {
                size_t length = utf8_length();
                out.append(text_.substr(at_, length));
                at_ += length;
            } else {
                error("a control character in a string");
            }
        }
    }

    Json number() {
        size_t start = at_;
        bool real = false;
        auto digits = [&] {
            size_t first = at_;
            while (peek() >= '0' && peek() <= '9')
                ++at_;
            return at_ - first;
        };
        if (peek() == '-')
            ++at_;
        size_t first = at_;
        size_t count = digits();
        if (count == 0 || (count > 1 && text_[first] == '0'))
            error("a value is expected");
        if (peek() == '.') {
            real = true;
            ++at_;
            if (!digits())
                error("digits are expected after '.'");
        }
        if (peek() == 'e' || peek() == 'E') {
            real = true;
            ++at_;
            if (peek() == '+' || peek() == '-')
                ++at_;
            if (!digits())
                error("digits are expected in the exponent");
        }
        const char *begin = text_.data() + start, *end = text_.data() + at_;
        if (real) {
            double d = 0;
            if (std::from_chars(begin, end, d).ec != std::errc() || !std::isfinite(d))
                error("a number is out of range");
            return Json::real(d);
        }
        int64_t i = 0;
        if (std::from_chars(begin, end, i).ec != std::errc())
            error("an integer does not fit in 64 bits");
        return Json::integer(i);
    }

    std::string_view text_;
    const std::string &what_;
    int max_depth_;
    int64_t values_left_;
    size_t at_ = 0;
};

Json Json::parse(std::string_view text, const std::string &what, int max_depth, int64_t max_values) {
    return JsonParser(text, what, max_depth, max_values).document();
}

void append_json_string(std::string &out, std::string_view text) {
    out += '"';
    for (char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += format("\\u%04x", c);
        } else {
            out += c;
        }
    }
    out += '"';
}

namespace {

void write(std::string &out, const Json &j) {
    switch (j.kind()) {
    case Json::Kind::Null:
        out += "null";
        break;
    case Json::Kind::Bool:
        out += j.as_bool() ? "true" : "false";
        break;
    case Json::Kind::Integer:
        out += std::to_string(j.as_integer());
        break;
    case Json::Kind::Real: {
        std::string text = format("%.17g", j.as_real());
        out += text;
        if (text.find_first_of(".e") == std::string::npos)
            out += ".0"; // stays a real number, and -0 keeps its sign
        break;
    }
    case Json::Kind::String:
        append_json_string(out, j.as_string());
        break;
    case Json::Kind::Array:
        out += '[';
        for (size_t i = 0; i < j.items().size(); ++i) {
            if (i)
                out += ',';
            write(out, j.items()[i]);
        }
        out += ']';
        break;
    case Json::Kind::Object:
        out += '{';
        for (size_t i = 0; i < j.members().size(); ++i) {
            if (i)
                out += ',';
            append_json_string(out, j.members()[i].first);
            out += ':';
            write(out, j.members()[i].second);
        }
        out += '}';
        break;
    }
}

} // namespace

std::string Json::dump() const {
    std::string out;
    write(out, *this);
    return out;
}

} // namespace tessera::core
