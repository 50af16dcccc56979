// The parts of tensors that collectives move between devices.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "collective/communicator.h"

namespace tessera::core {

// A tensor as outer × dim × inner, the last in bytes.
struct Along {
    int64_t outer = 1, size = 1, inner = 1;

    Along(const TensorView &t, int64_t dim);
};

// Copies bytes that lie together: std::memcpy in host memory.
using CopyBytes = std::function<void(void *target, const void *source, size_t bytes)>;

// Copies `count` elements along a dimension for each outer index.
void copy_along(const char *source, const Along &from, int64_t first, char *target, const Along &to, int64_t at,
                int64_t count, const CopyBytes &copy);
void copy_along(const char *source, const Along &from, int64_t first, char *target, const Along &to, int64_t at,
                int64_t count);

// The box of `part` from `first` on along `split`, as long as the result is, put at `at` along `dim`.
void copy_box(const TensorView &part, const TensorView &result, int64_t dim, int64_t split, int64_t first, int64_t at);

// Whether two shapes agree in all dimensions but these two.
bool same_but(const std::vector<int64_t> &a, const std::vector<int64_t> &b, int64_t first, int64_t second);

// ShapeError: the parts that the devices have do not make the tensor `t`.
[[noreturn]] void misfit(const Collective &collective, const TensorView &t);

} // namespace tessera::core
