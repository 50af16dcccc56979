// The error that the runtime throws, with the status codes of the C ABI and of tessera/errors.py.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

namespace tessera::core {

enum class Code : int32_t {
    Ok = 0,
    Generic = 1,
    Shape = 2,
    DType = 3,
    Argument = 4,
    NameMissing = 5,
    IndexRange = 6,
    Format = 7,
    Version = 8,
    Device = 9,
    Unsupported = 10,
    Gradient = 11,
    Graph = 12,
    Compile = 13,
    OutOfMemory = 14,
    FileAccess = 15,
    Cancelled = 16,
    Internal = 99,
};

class Error : public std::exception {
  public:
    Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}
    Code code() const noexcept { return code_; }
    const std::string &message() const noexcept { return message_; }
    const char *what() const noexcept override { return message_.c_str(); }

  private:
    Code code_;
    std::string message_;
};

// Throws Error with a message in printf's format.
[[noreturn]] void fail(Code code, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A string in printf's format.
std::string format(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Text from outside, fit for a message: control characters escaped, cut after `limit` characters.
std::string shown(const std::string &text, size_t limit = 80);

} // namespace tessera::core
