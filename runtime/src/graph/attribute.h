// Attributes of Graph IR nodes: named values of a few kinds, with checked access.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/dims.h"
#include "core/dtype.h"
#include "core/error.h"

namespace tessera::graph {

using core::Code;
using core::Dim;
using core::DType;
using core::fail;
using core::SymbolTable;

// One attribute value. A symbolic dimension that is an integer is always held as an integer.
class Attribute {
  public:
    using List = std::vector<Attribute>;
    // uint64_t holds integers from 2^63 on only.
    using Variant = std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, DType, Dim, List>;

    Attribute() = default; // none
    static Attribute boolean(bool value) { return Attribute(Variant(std::in_place_type<bool>, value)); }
    static Attribute integer(int64_t value) { return Attribute(Variant(std::in_place_type<int64_t>, value)); }
    static Attribute large_integer(uint64_t value) { return Attribute(Variant(std::in_place_type<uint64_t>, value)); }
    static Attribute real(double value) { return Attribute(Variant(std::in_place_type<double>, value)); }
    static Attribute string(std::string value) {
        return Attribute(Variant(std::in_place_type<std::string>, std::move(value)));
    }
    static Attribute dtype(DType value) { return Attribute(Variant(std::in_place_type<DType>, value)); }
    static Attribute dim(const Dim &value);
    static Attribute list(List items) { return Attribute(Variant(std::in_place_type<List>, std::move(items))); }
    static Attribute dims(const std::vector<Dim> &values);

    const Variant &value() const { return value_; }
    template <class T> const T *get_if() const { return std::get_if<T>(&value_); }
    bool is_none() const { return std::holds_alternative<std::monostate>(value_); }
    // Whether this is, or holds, a symbolic dimension.
    bool is_symbolic() const;
    // Symbolic dimensions replaced by their values, for sizes by Symbol::index.
    Attribute evaluate(const std::vector<int64_t> &sizes) const;

  private:
    explicit Attribute(Variant value) : value_(std::move(value)) {}
    Variant value_;
};

// A scalar attribute as every type a kernel may want.
struct Scalar {
    double real;
    int64_t integer;
    bool is_real;
};

// Attributes by name. The typed getters throw GraphError, naming the operator, when one is missing or of another kind.
class Attributes {
  public:
    Attributes() = default;
    Attributes(std::initializer_list<std::pair<const std::string, Attribute>> items) : items_(items) {}

    using Map = std::map<std::string, Attribute, std::less<>>;
    const Map &items() const { return items_; }
    void set(std::string name, Attribute value) { items_.insert_or_assign(std::move(name), std::move(value)); }
    const Attribute *find(std::string_view name) const;

    bool boolean(std::string_view op, std::string_view name) const;
    int64_t integer(std::string_view op, std::string_view name) const;
    std::vector<int64_t> integers(std::string_view op, std::string_view name) const;
    Dim dim(std::string_view op, std::string_view name) const;
    std::vector<Dim> dims(std::string_view op, std::string_view name) const;
    DType dtype(std::string_view op, std::string_view name) const;
    const std::string &string(std::string_view op, std::string_view name) const;
    Scalar scalar(std::string_view op, std::string_view name) const;

    bool is_symbolic() const;
    Attributes evaluate(const std::vector<int64_t> &sizes) const;

  private:
    const Attribute &at(std::string_view op, std::string_view name) const;
    Map items_;
};

} // namespace tessera::graph
