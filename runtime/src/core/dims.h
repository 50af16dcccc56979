// Dimensions: integers and integer expressions over symbols in a canonical form, as tessera/ir/dims.py.
// Two expressions that are equal as polynomials compare equal and print alike, here and in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::core {

// How deep an expression nests, and how long its text may be: far above what programs need.
inline constexpr int max_dim_depth = 64;
inline constexpr size_t max_dim_text = 65536;

// A named size with the range [min, max] (max absent: unbounded) and a divisor.
struct Symbol {
    std::string name;
    int64_t min = 0;
    std::optional<int64_t> max;
    int64_t multiple_of = 1;
    int index = 0; // its place in the table that declares it

    bool operator==(const Symbol &o) const {
        return name == o.name && min == o.min && max == o.max && multiple_of == o.multiple_of;
    }
    // ShapeError unless `size` is legal; `where` (may be empty) begins the message.
    void check(int64_t size, const std::string &where = {}) const;
};

using SymbolPtr = std::shared_ptr<const Symbol>;
// Symbols by name, in order of declaration.
using SymbolTable = std::vector<SymbolPtr>;
using Sizes = std::map<std::string, int64_t, std::less<>>;

// Letters, digits and _, no digit first, and not the name of a function of dimensions.
bool is_symbol_name(std::string_view name);
SymbolPtr find_symbol(const SymbolTable &table, std::string_view name);

struct Atom;

// A polynomial with integer coefficients over atoms: symbols and floordiv, mod, max, min of two dimensions.
class Dim {
  public:
    using Monomial = std::vector<std::shared_ptr<const Atom>>;
    struct Term {
        Monomial atoms;
        int64_t coefficient;
    };

    Dim(int64_t value = 0) : constant_(value) {} // NOLINT: integers are dimensions
    static Dim symbol(SymbolPtr symbol);
    // Parses the text of a dimension (GraphError when it is malformed or names an unknown symbol).
    static Dim parse(std::string_view text, const SymbolTable &symbols);

    bool is_constant() const { return terms_.empty(); }
    int64_t constant() const { return constant_; } // only when is_constant()
    std::string text() const;
    // The value for sizes by symbol name; ShapeError on overflow or division by zero, NameMissingError on a missing size.
    int64_t evaluate(const Sizes &sizes) const;
    // The same with sizes by Symbol::index.
    int64_t evaluate(const std::vector<int64_t> &sizes) const;
    // Symbols replaced by dimensions; others stay.
    Dim substitute(const std::map<std::string, Dim, std::less<>> &values) const;
    // The symbols, each once, in order of appearance.
    SymbolTable symbols() const;
    // (lowest, highest) over all legal sizes; infinities where unbounded.
    std::pair<double, double> bounds() const;

    friend Dim operator+(const Dim &a, const Dim &b);
    friend Dim operator-(const Dim &a, const Dim &b);
    friend Dim operator*(const Dim &a, const Dim &b);
    friend bool operator==(const Dim &a, const Dim &b);
    friend bool operator!=(const Dim &a, const Dim &b) { return !(a == b); }
    friend Dim floordiv(const Dim &a, const Dim &b);
    friend Dim mod(const Dim &a, const Dim &b);
    friend Dim max(const Dim &a, const Dim &b);
    friend Dim min(const Dim &a, const Dim &b);
    // Whether this is certainly at least 0 for all legal sizes; false when that cannot be proved. Proves what
    // tessera.ir.dims.nonnegative proves.
    bool is_nonnegative() const;
    // Whether this is certainly divisible by b.
    bool is_multiple(int64_t b) const;

  private:
    friend struct DimBuilder;
    int64_t constant_ = 0;
    std::vector<Term> terms_; // in canonical order, without the constant term; empty for an integer
};

Dim ceildiv(const Dim &a, const Dim &b);
Dim product(const std::vector<Dim> &dims);
// "[B, 64]"
std::string shape_text(const std::vector<Dim> &shape);

} // namespace tessera::core
