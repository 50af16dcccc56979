// Characters and words of the text form, with line and column for errors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::graph {

// Blanks, line ends and comments (from # to the end of the line) separate tokens. Every function but `adjacent_integer`
// skips them first. Errors are GraphError: "graph text, line 3, column 14: expected ...".
class Scanner {
  public:
    using Position = size_t;

    explicit Scanner(std::string_view text) : text_(text) {}

    // The next character, which stays; 0 at the end.
    char peek();
    bool at_end() { return peek() == 0 && at_ >= text_.size(); }
    // The offset of the next token.
    Position position() { return peek(), at_; }

    bool accept(char c);
    void expect(char c);
    bool accept_word(std::string_view word);
    void expect_word(std::string_view word);
    // A letter or _, then letters, digits, _ and dots; `what` says in errors what was expected.
    std::string_view word(const char *what);
    // A word, or the name of a custom operator: "library::name".
    std::string_view operator_name(const char *what);
    // A decimal integer of 64 bits.
    int64_t integer(const char *what);
    // A decimal integer that begins right here.
    int64_t adjacent_integer(const char *what);
    // The characters of a number, "-inf" included.
    std::string_view number_text();
    // The characters of a dimension: up to `,`, `]` or `>` outside parentheses.
    std::string_view dimension_text(size_t limit);
    // A JSON string.
    std::string string(size_t limit);

    [[noreturn]] void fail(const std::string &message) { fail_at(position(), message); }
    [[noreturn]] void fail_at(Position at, const std::string &message) const;

  private:
    std::string found();
    uint32_t hex4();
    uint32_t escaped_code_point();
    std::string_view text_;
    size_t at_ = 0;
};

} // namespace tessera::graph
