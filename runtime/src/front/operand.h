// What operators take: a tensor, a number that takes the dtype of the tensor it meets, a dimension, or nothing; and how
// operands get their common dtype, as in tessera/op/promotion.py.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "front/definition.h"

namespace tessera::front {

struct Number {
    enum Kind { Bool, Integer, Real } kind = Integer;
    double real = 0;     // also of an integer, rounded
    int64_t integer = 0; // also of a bool

    // The dtype of the number on its own, and next to a tensor of this dtype: that one unless the number's kind is
    // higher.
    DType dtype() const { return kind == Bool ? DType::Bool : kind == Integer ? DType::I64 : DType::F32; }
    DType beside(DType tensor) const;
    std::string text() const;
};

class Operand {
  public:
    Operand() = default; // nothing
    Operand(Value value) : value_(std::move(value)) {} // NOLINT: all of these are operands
    Operand(Number number) : is_number_(true), number_(number) {} // NOLINT
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    Operand(T value) // NOLINT
        : Operand(Number{std::is_same<T, bool>::value ? Number::Bool
                         : std::is_integral<T>::value ? Number::Integer
                                                      : Number::Real,
                         static_cast<double>(value), static_cast<int64_t>(value)}) {}
    Operand(const Dim &size); // NOLINT

    bool is_none() const { return !is_number_ && !value_; }
    bool is_number() const { return is_number_; }
    const Value &value() const { return value_; }
    const Number &number() const { return number_; }
    bool is_exactly(const Node *node) const { return value_.node.get() == node; }

  private:
    Value value_;
    bool is_number_ = false;
    Number number_;
};

// Attribute values.
Attribute ints(const std::vector<int64_t> &values);
inline Attribute dims(const Shape &values) { return Attribute::dims(values); }
inline Attribute flag(bool value) { return Attribute::boolean(value); }
inline Attribute integer(int64_t value) { return Attribute::integer(value); }
inline Attribute real(double value) { return Attribute::real(value); }
inline Attribute text(std::string value) { return Attribute::string(std::move(value)); }
inline Attribute kind(DType value) { return Attribute::dtype(value); }

// The common dtype of two tensors: as in tessera/ir/dtype.py.
DType promote(DType a, DType b);
inline bool is_small_float(DType d) { return d == DType::F8E4M3 || d == DType::F8E5M2; }
// The value of a number as an attribute of an operator on this dtype; ArgumentError when it does not fit.
Attribute number_attribute(const Number &number, DType dtype);

// A rank-0 tensor.
Value scalar(const Number &number, DType dtype);
inline Value scalar(double number, DType dtype) { return scalar(Number{Number::Real, number, 0}, dtype); }
Value as_tensor(const Operand &x);
Value as_tensor(const Operand &x, DType like);
Value cast_to(const Value &x, DType dtype);
// Integers and bool become f32.
Value as_floating(const Operand &x);
// i32 or i64 from any integer dtype; DTypeError, which calls x `what`, for others.
Value as_index(const char *op, const char *what, const Operand &x);
// All operands as tensors of their common dtype.
Values promote_operands(const char *op, const std::vector<Operand> &operands);
// The same in a floating-point dtype: integers and bools become f32.
Values promote_floats(const char *op, const std::vector<Operand> &operands);

[[noreturn]] void fail_op(Code code, const char *op, const std::string &message);
// "(B, 64)", as in Python's messages.
std::string shown_shape(const Shape &shape);

// An axis in [0, rank) from one in [-rank, rank).
int64_t one_axis(const char *op, int64_t axis, int64_t rank, const char *argument = "axis");
// Sorted axes, without negative ones; none given: all.
std::vector<int64_t> several_axes(const char *op, const std::optional<std::vector<int64_t>> &axes, int64_t rank,
                                  const char *argument = "axis");
// ShapeError unless no size can be negative.
const Shape &checked_shape(const char *op, const Shape &shape);
// The common shape of NumPy's broadcasting.
Shape broadcast_shapes(const char *op, const std::vector<Shape> &shapes);
// A gradient summed over the dimensions along which an operand of this shape was broadcast.
Value unbroadcast(const Value &gradient, const Shape &shape);
void require_floats(const char *op, const Values &operands);
void require_equal_dtypes(const char *op, const Values &operands);

} // namespace tessera::front
