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

// Attention, or its gradient, on contiguous tensors of 16-bit floats: queries [batch, heads, length, size], keys and values
// [batch, shared, keys, size], where each of the shared heads serves heads / shared heads of queries, and the logarithms of
// sums of the exponentials of scores, [batch, heads, length] of f32. Operands q, k, v with results out and sums; of the
// gradient q, k, v, out, sums and the gradient of out, with the gradients of q, k and v.
struct LibraryAttention {
    Dim batch, heads, shared, length, keys;
    int64_t size = 0;
    double scale = 1;
    bool causal = false;        // position i attends to positions up to i
    bool gradient = false;
    bool deterministic = true;  // of the gradient: the same bits in every run, at the price of memory for all scores
};

} // namespace tessera::core
