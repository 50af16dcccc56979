// What a program takes and gives: names, dtypes and symbolic shapes; and the check of concrete tensors against it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dims.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace tessera::core {

struct TensorSpec {
    std::string name;
    DType dtype = DType::F32;
    std::vector<Dim> shape;
    bool trainable = false;
    bool mutated = false;
    int buffer = -1; // in the plan's list; -1 in a portable program

    // The shape for sizes by Symbol::index.
    std::vector<int64_t> concrete_shape(const std::vector<int64_t> &sizes) const;
    // "f32[B, 64]"
    std::string type() const { return std::string(core::name(dtype)) + shape_text(shape); }
    bool is_symbolic() const;
};

// A condition on sizes, tested before anything runs: expr >= min.
struct SizeCheck {
    Dim expr;
    int64_t min = 0;
    std::string message;
    std::string loc;
};

struct Signature {
    SymbolTable symbols;
    std::vector<TensorSpec> inputs, outputs, state, constants;
    std::vector<SizeCheck> checks;
    std::vector<std::optional<int64_t>> given_sizes; // by symbol, or empty: what no input has to say

    // From now on a symbol has this size. NameMissingError, ShapeError.
    void give(std::string_view name, int64_t size);
    // The place of a name in a list; NameMissingError lists the names there are. `kind` is "input", "output", …
    static size_t find(const std::vector<TensorSpec> &list, std::string_view name, const char *kind);

    // Checks the inputs' number, dtypes and shapes and gives the size of every symbol, by index. Messages name the
    // input, what was expected and what was given; a conflict names the dimension and both inputs.
    std::vector<int64_t> solve(const Tensor *const *inputs, size_t count) const;
    // The same from sizes by name.
    std::vector<int64_t> sizes_by_name(const Sizes &sizes) const;

  private:
    void check_sizes(const std::vector<int64_t> &sizes) const;
};

} // namespace tessera::core
