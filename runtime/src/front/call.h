// Operators by name, as the C ABI calls them: operands and arguments as they come from a header in C++.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "front/functions.h"

namespace tessera::front {

// One operand as it was given: a size keeps its dimension, which some operators take as such.
struct Given {
    Operand operand;
    std::optional<Dim> size;
};

// A call of a function of `tessera.op`. The getters throw GraphError when an argument is missing or of another kind.
class Call {
  public:
    Call(std::string function, std::vector<Given> operands, Attributes arguments)
        : function_(std::move(function)), operands_(std::move(operands)), arguments_(std::move(arguments)) {}

    const std::string &function() const { return function_; }
    size_t count() const { return operands_.size(); }
    // ArgumentError when there is no such operand; one that was left out is empty.
    const Operand &operand(size_t i) const { return given(i).operand; }
    std::vector<Operand> operands() const;
    const Given &given(size_t i) const;

    bool has(const char *name) const; // whether the argument is there and not none
    bool flag(const char *name) const { return arguments_.boolean(function_, name); }
    int64_t integer(const char *name) const { return arguments_.integer(function_, name); }
    double real(const char *name) const { return arguments_.scalar(function_, name).real; }
    const std::string &text(const char *name) const { return arguments_.string(function_, name); }
    DType dtype(const char *name) const { return arguments_.dtype(function_, name); }
    Dim dim(const char *name) const { return arguments_.dim(function_, name); }
    Shape shape(const char *name) const { return arguments_.dims(function_, name); }
    std::vector<int64_t> integers(const char *name) const { return arguments_.integers(function_, name); }
    std::optional<DType> optional_dtype(const char *name) const;
    std::optional<double> optional_real(const char *name) const;
    std::optional<int64_t> optional_integer(const char *name) const;
    Axes axes(const char *name) const;

  private:
    std::string function_;
    std::vector<Given> operands_;
    Attributes arguments_;
};

// NameMissingError for an unknown function; what the function throws, with the user's line.
Values call(const Call &call);
// All functions, sorted.
const std::vector<std::string> &function_names();

} // namespace tessera::front
