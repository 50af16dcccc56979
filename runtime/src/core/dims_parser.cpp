#include <charconv>

#include "core/dims.h"
#include "core/error.h"

namespace tessera::core {

namespace {

// sum = product {("+" | "-") product}; product = unary {("*" | "//" | "%") unary};
// unary = ["-"] (integer | name | ("max" | "min") "(" sum "," sum ")" | "(" sum ")")
class DimParser {
  public:
    DimParser(std::string_view text, const SymbolTable &symbols) : text_(text), symbols_(symbols) {
        if (text.size() > max_dim_text)
            fail(Code::Graph, "a dimension's text is longer than %zu bytes", max_dim_text);
        advance();
    }

    Dim whole() {
        Dim d = sum(0);
        if (!token_.empty())
            error("unexpected '" + std::string(token_) + "'");
        return d;
    }

  private:
    [[noreturn]] void error(const std::string &message) const {
        fail(Code::Graph, "dimension '%s': %s", shown(std::string(text_), 40).c_str(), message.c_str());
    }

    static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
    static bool is_digit(char c) { return c >= '0' && c <= '9'; }

    void advance() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t'))
            ++at_;
        size_t start = at_;
        if (at_ < text_.size()) {
            char c = text_[at_++];
            if (is_letter(c)) {
                while (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_])))
                    ++at_;
            } else if (is_digit(c)) {
                while (at_ < text_.size() && is_digit(text_[at_]))
                    ++at_;
            } else if (c == '/') {
                if (at_ >= text_.size() || text_[at_] != '/')
                    error("unexpected character at column " + std::to_string(start + 1));
                ++at_;
            } else if (std::string_view("-+*%(),").find(c) == std::string_view::npos) {
                error("unexpected character at column " + std::to_string(start + 1));
            }
        }
        token_ = text_.substr(start, at_ - start);
    }

    void expect(std::string_view expected) {
        if (token_ != expected)
            error("expected '" + std::string(expected) + "' but found '" + (token_.empty() ? "the end" : std::string(token_)) + "'");
        advance();
    }

    Dim sum(int depth) {
        Dim value = product(depth);
        while (token_ == "+" || token_ == "-") {
            bool plus = token_ == "+";
            advance();
            value = plus ? value + product(depth) : value - product(depth);
        }
        return value;
    }

    Dim product(int depth) {
        Dim value = unary(depth);
        while (token_ == "*" || token_ == "//" || token_ == "%") {
            std::string_view operation = token_;
            advance();
            Dim right = unary(depth);
            value = operation == "*" ? value * right : operation == "//" ? floordiv(value, right) : mod(value, right);
        }
        return value;
    }

    Dim unary(int depth) {
        if (depth > max_dim_depth)
            error("nested too deeply");
        std::string_view token = token_;
        advance();
        if (token == "-")
            return Dim(-1) * unary(depth + 1);
        if (!token.empty() && is_digit(token[0]))
            return integer(token);
        if (token == "(") {
            Dim value = sum(depth + 1);
            expect(")");
            return value;
        }
        if (token == "max" || token == "min") {
            expect("(");
            Dim a = sum(depth + 1);
            expect(",");
            Dim b = sum(depth + 1);
            expect(")");
            return token == "max" ? max(a, b) : min(a, b);
        }
        SymbolPtr s = find_symbol(symbols_, token);
        if (!s)
            error("unknown symbol '" + (token.empty() ? "at the end" : std::string(token)) + "'");
        return Dim::symbol(s);
    }

    Dim integer(std::string_view token) const {
        int64_t value = 0;
        if (token.size() > 18 || std::from_chars(token.data(), token.data() + token.size(), value).ec != std::errc())
            error("the number is too large");
        return Dim(value);
    }

    std::string_view text_;
    const SymbolTable &symbols_;
    size_t at_ = 0;
    std::string_view token_;
};

} // namespace

Dim Dim::parse(std::string_view text, const SymbolTable &symbols) { return DimParser(text, symbols).whole(); }

} // namespace tessera::core
