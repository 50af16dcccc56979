// Lazy tensors of the C++ front end: operators that were applied but have not run, and named inputs.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/lazy.h"
#include "graph/graph.h"
#include "ops/portable.h"

namespace tessera::portable {

// What an operator is applied to: a tensor that exists (its elements are read when the operator runs) or a lazy one.
struct LazyOperand {
    core::Tensor tensor; // empty when lazy
    std::shared_ptr<core::Lazy> lazy;

    core::DType dtype() const { return lazy ? lazy->dtype() : tensor.dtype(); }
    const std::vector<int64_t> &shape() const { return lazy ? lazy->shape() : tensor.shape(); }
    graph::TensorType type() const;
};

// The place of a tensor that is given when the traced graph runs.
class LazyInput final : public core::Lazy {
  public:
    LazyInput(std::string name, core::DType dtype, std::vector<int64_t> shape)
        : Lazy(dtype, std::move(shape)), name_(std::move(name)) {}
    const std::string &name() const { return name_; }
    // NameMissingError: an input has no elements.
    core::Tensor evaluate(core::RunContext &context) override;
    core::Tensor value() const override { return {}; }

  private:
    std::string name_;
};

class LazyOp final : public core::Lazy, public std::enable_shared_from_this<LazyOp> {
  public:
    // Checks the operands' types at once; throws what the type rule throws.
    static std::shared_ptr<LazyOp> apply(Primitive primitive, std::vector<LazyOperand> operands);
    LazyOp(Primitive primitive, std::vector<LazyOperand> operands, core::DType dtype, std::vector<int64_t> shape);
    ~LazyOp() override;

    core::Tensor evaluate(core::RunContext &context) override;
    core::Tensor value() const override;

    const Primitive &primitive() const { return primitive_; }
    // The operands; none once the result is there.
    std::vector<LazyOperand> operands() const;

  private:
    // Runs this operator, whose lazy operands have all run.
    void compute(core::RunContext &context);

    Primitive primitive_;
    mutable std::mutex mutex_;
    std::vector<LazyOperand> operands_; // let go when the result is there
    core::Tensor value_;
};

// A graph traced from lazy tensors, with the data of its constants (named "constant_0", …) in the order of the nodes.
struct Traced {
    graph::Graph graph;
    std::vector<core::Tensor> constants;
};

// The graph that computes the named outputs from the inputs that they depend on. Tensors that exist, and results that
// are there already, become constants.
Traced trace(const std::string &name, const std::vector<std::pair<std::string, LazyOperand>> &outputs);

} // namespace tessera::portable
