// Primitives and custom operators executed one by one on concrete tensors, without generated code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"
#include "custom/definition.h"
#include "graph/graph.h"

namespace tessera::portable {

using core::TensorView;
using core::ThreadPool;

// A primitive or custom operator with its attributes, ready to run: attribute text is read and the kernel found once,
// when this is made.
class Primitive {
  public:
    // NameMissingError for an unknown operator.
    Primitive(std::string op, graph::Attributes attrs, std::optional<graph::Location> loc = std::nullopt);
    // Attributes as text of Graph IR; GraphError when it is malformed.
    Primitive(std::string op, std::string_view attributes, const core::SymbolTable &symbols,
              std::optional<graph::Location> loc = std::nullopt);

    const std::string &op() const { return op_; }
    const graph::Attributes &attrs() const { return attrs_; }
    const std::optional<graph::Location> &loc() const { return loc_; }

    // Computes the results, whose dtypes and shapes must be those of the type rule; they overlap no operand. `sizes` gives
    // the symbols in the attributes by Symbol::index. Errors name the operator and the user's line.
    void run(const std::vector<TensorView> &operands, const std::vector<TensorView> &results, ThreadPool *pool,
             const std::vector<int64_t> &sizes = {}) const;
    // The results' dtypes and shapes.
    std::vector<graph::TensorType> result_types(const std::vector<graph::TensorType> &operands) const;

    // The same for an operator that has one result.
    void run(const std::vector<TensorView> &operands, const TensorView &result, ThreadPool *pool,
             const std::vector<int64_t> &sizes = {}) const {
        run(operands, std::vector<TensorView>{result}, pool, sizes);
    }
    graph::TensorType result_type(const std::vector<graph::TensorType> &operands) const;

  private:
    void run_evaluated(const graph::Attributes &attrs, const std::vector<TensorView> &operands,
                       const std::vector<TensorView> &results, ThreadPool *pool) const;

    std::string op_;
    graph::Attributes attrs_;
    std::optional<graph::Location> loc_;
    bool symbolic_;
    const custom::Definition *custom_ = nullptr;
    void (*kernel_)(const struct KernelCall &) = nullptr; // of a primitive
};

} // namespace tessera::portable
