// Scalar semantics of the pointwise primitives, as tables of array functions.
//
// Elements are computed in one of three types: double for f64, float for the narrower floats, int64_t for integers
// and bool. Predicates give 0 or 1 in the same type; conversion to the result dtype is the caller's.
#pragma once

#include <cstdint>
#include <string_view>

namespace tessera::portable {

template <class T>
using UnaryFunction = void (*)(const T *x, T *out, int64_t count);
template <class T>
using BinaryFunction = void (*)(const T *a, const T *b, T *out, int64_t count);

// The function of that name, or null when it is not defined for elements computed in T (double, float or int64_t).
template <class T>
UnaryFunction<T> find_unary(std::string_view name);
template <class T>
BinaryFunction<T> find_binary(std::string_view name);

} // namespace tessera::portable
