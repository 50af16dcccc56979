// Elements of a contiguous tensor in an index order of one's own: broadcast, permuted, cut, reversed.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/kernel.h"

namespace tessera::portable {

// Row-major strides, in elements.
std::vector<int64_t> row_major_strides(const std::vector<int64_t> &shape);
// Strides with which a tensor of `shape` is read as one of the larger shape `target`: 0 where it is repeated.
std::vector<int64_t> broadcast_strides(const std::vector<int64_t> &shape, const std::vector<int64_t> &target);

// Reads elements in the row-major order of `shape`.
class StridedReader {
  public:
    StridedReader(DType dtype, const void *data, const std::vector<int64_t> &shape,
                  const std::vector<int64_t> &strides);
    // The operand broadcast to a shape.
    StridedReader(const TensorView &operand, const std::vector<int64_t> &shape)
        : StridedReader(operand.dtype, operand.data, shape, broadcast_strides(operand.shape, shape)) {}

    // Elements [begin, begin + count), converted to their compute type T.
    template <class T> void read(int64_t begin, int64_t count, T *out) const;

  private:
    DType dtype_;
    const char *data_;
    std::vector<int64_t> shape_; // dimensions that follow each other in memory are joined; sizes 1 are left out
    std::vector<int64_t> strides_;
};

// Copies elements of `item_size` bytes between two layouts of one shape.
void copy_strided(const KernelCall &call, size_t item_size, const std::vector<int64_t> &shape, const void *source,
                  const std::vector<int64_t> &source_strides, void *target, const std::vector<int64_t> &target_strides);

} // namespace tessera::portable
