// What the type rules share. Each rule file lists its primitives in a table.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace tessera::graph {

// One application of a primitive whose type is wanted.
struct Call {
    std::string_view op;
    const std::vector<TensorType> &operands;
    const Attributes &attrs;

    const TensorType &operand(size_t i) const { return operands[i]; }
    // Throws with "[op] " in front.
    [[noreturn]] void fail(Code code, const std::string &message) const;
    // An axis attribute in [0, rank).
    size_t axis(std::string_view name, size_t rank) const;
    // A list of different axes in [0, rank).
    std::vector<size_t> axes(std::string_view name, size_t rank) const;
    // The same in ascending order, as the attribute `axes` must be.
    std::vector<size_t> sorted_axes(size_t rank) const;
    // A list of dimensions that can stand for sizes: none can be negative.
    std::vector<Dim> sizes(std::string_view name) const;
};

inline constexpr size_t any_count = static_cast<size_t>(-1); // one operand or more

struct Primitive {
    std::string_view name;
    size_t operands;
    TensorType (*rule)(const Call &);
};

using PrimitiveTable = std::vector<Primitive>;
const PrimitiveTable &pointwise_rules();
const PrimitiveTable &reduction_rules();
const PrimitiveTable &shape_rules();
const PrimitiveTable &index_rules();
const PrimitiveTable &collective_rules();

enum class Accepts { Floats, Numbers, Integers, IntegersAndBool, Bool, NumbersAndBool, All };

// DTypeError unless operand i has an accepted dtype. 8-bit floats are accepted by `All` only.
void require_dtype(const Call &call, size_t i, Accepts accepts);
// DTypeError unless all operands from `first` on have one dtype.
void require_equal_dtypes(const Call &call, size_t first = 0);
// DTypeError unless operand i is i64 or i32.
void require_index(const Call &call, size_t i);
// The NumPy broadcast of the shapes of the operands, of which `drop_last` trailing dimensions are left out.
std::vector<Dim> broadcast_operands(const Call &call, size_t drop_last = 0);
// The dtype of a sum or product: i64 for bool and the narrower integers.
DType accumulated(DType dtype);

} // namespace tessera::graph
