// A tensor that is still to be computed: a result of an operator that was applied but has not run.
#pragma once

#include <memory>
#include <vector>

#include "core/tensor.h"

namespace tessera::core {

struct RunContext;

class Lazy {
  public:
    Lazy(DType dtype, std::vector<int64_t> shape) : dtype_(dtype), shape_(std::move(shape)) {}
    virtual ~Lazy() = default;

    DType dtype() const { return dtype_; }
    const std::vector<int64_t> &shape() const { return shape_; }

    // Computes this and all it needs, unless that has been done, and returns the result. May be called by several
    // threads at once.
    virtual Tensor evaluate(RunContext &context) = 0;
    // The result, if it has been computed; else an empty tensor.
    virtual Tensor value() const = 0;

  private:
    DType dtype_;
    std::vector<int64_t> shape_;
};

} // namespace tessera::core
