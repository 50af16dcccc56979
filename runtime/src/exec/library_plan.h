// What a plan says about the call of a vendor library.
#pragma once

#include <cstdint>

#include "core/dims.h"

namespace tessera::core {

// A matrix in an operand or result: element (r, c) of entry b is at offset + b * batch_step + r * step + c, or, when it is
// transposed, at offset + b * batch_step + c * step + r.
struct LibraryMatrix {
    int position = -1; // of its operand in the instruction; -1: there is none
    Dim offset, step, batch_step;
    bool transposed = false;
};

// d = act(alpha * scales * a b + beta * c + bias): a has rows x terms, b terms x columns, c and d rows x columns; the bias is a
// vector that is added to each row. All matrices are row-major.
struct LibraryMatmul {
    enum class Activation : uint8_t { None, Relu, GeluTanh };
    Dim rows, columns, terms, batch;
    LibraryMatrix a, b, c, d;
    int bias = -1;             // position of its operand; -1: none
    int scales[2] = {-1, -1};  // positions of numbers in f32 that products of 8-bit floats are multiplied by
    double alpha = 1, beta = 0;
    Activation activation = Activation::None;
    bool tf32 = false;         // factors of f32 are rounded to 10 bits behind the point
    int64_t algorithm = 0;     // which of the library's proposals for these sizes, the best first
    int64_t version = 0;       // of the library that the number is from; another takes its best
};

} // namespace tessera::core
