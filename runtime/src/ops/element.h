// Elements of every dtype to and from the three types that kernels compute in.
//
// f64 is computed in double, the narrower floats in float, integers and bool in int64_t.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"

namespace tessera::portable {

using core::DType;

// Calls f with a zero of the type in which elements of this dtype are computed.
template <class F> decltype(auto) with_compute_type(DType dtype, F &&f) {
    if (dtype == DType::F64)
        return f(double{0});
    if (core::is_float(dtype))
        return f(float{0});
    return f(int64_t{0});
}

// Reads `count` elements, `stride` elements apart; T is the compute type of the dtype.
template <class T> void load(DType dtype, const void *source, int64_t stride, int64_t count, T *out);

// Writes `count` elements, `stride` elements apart, converted as `cast` does: a float to a narrower one rounds to
// nearest, halves to even; a float to an integer drops its fraction and saturates, NaN to 0; integers wrap; to bool,
// nonzero is true.
template <class T> void store(DType dtype, const T *values, int64_t count, void *target, int64_t stride = 1);

} // namespace tessera::portable
