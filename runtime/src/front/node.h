// Nodes and values of graphs that are being built: what a lazy tensor stands for. A node applies one operator to
// values; it never changes, so that graphs share their parts.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/lazy.h"
#include "core/tensor.h"
#include "graph/graph.h"

namespace tessera::front {

using core::Code;
using core::Dim;
using core::DType;
using core::Tensor;
using graph::Attribute;
using graph::Attributes;
using graph::Location;
using graph::TensorType;
using Shape = std::vector<Dim>;

class Node;
using NodePtr = std::shared_ptr<Node>;

// One result of a node: a symbolic tensor. Empty: none.
struct Value {
    NodePtr node;
    uint32_t index = 0;

    explicit operator bool() const { return node != nullptr; }
    const TensorType &type() const;
    DType dtype() const { return type().dtype; }
    const Shape &shape() const { return type().shape; }
    int64_t rank() const { return static_cast<int64_t>(shape().size()); }
    const Dim &dim(int64_t axis) const { return shape()[static_cast<size_t>(axis)]; }
    // The number of elements.
    Dim size() const { return core::product(shape()); }
};

using Values = std::vector<Value>;
// A value as a key: the same node and result.
using ValueKey = std::pair<const Node *, uint32_t>;
inline ValueKey key_of(const Value &v) { return {v.node.get(), v.index}; }

class Node : public std::enable_shared_from_this<Node> {
  public:
    // `body`: for a composite the values, built of the same operands, that its results are.
    Node(std::string op, Values operands, Attributes attrs, std::vector<TensorType> types,
         std::optional<Location> loc = std::nullopt, Values body = {}, Tensor data = {});
    ~Node();

    const std::string op;
    const Attributes attrs;
    const std::vector<TensorType> types;
    const std::optional<Location> loc;
    const Tensor data; // of a parameter or constant

    bool is_leaf() const { return op == "input" || op == "param" || op == "constant"; }
    // Whether this depends on an input or parameter: such a node keeps its operands when it has been computed.
    bool is_open() const { return open_; }
    Values operands() const;
    // The body of a composite; empty otherwise.
    Values body() const;
    Value result(uint32_t index = 0) { return {shared_from_this(), index}; }

    // Computes the results, and what they need, unless that has been done.
    void evaluate(core::RunContext &context);
    // A result that has been computed, or a leaf's tensor; else empty.
    Tensor computed(uint32_t index) const;

  private:
    // The nodes that must be computed before this one.
    std::vector<NodePtr> pending() const;
    // Computes this node, whose operands (a composite's: whose body) have been.
    void compute(core::RunContext &context);

    bool open_;
    mutable std::mutex mutex_;
    Values operands_, body_; // let go when the results are there, unless the node is open
    std::vector<Tensor> results_;
};

inline const TensorType &Value::type() const { return node->types[index]; }

// A value as the lazy tensor of the C ABI: a symbolic size reads as -1.
class LazyValue final : public core::Lazy {
  public:
    explicit LazyValue(Value value);
    const Value &graph_value() const { return value_; }
    Tensor evaluate(core::RunContext &context) override;
    Tensor value() const override { return value_.node->computed(value_.index); }

  private:
    Value value_;
};

// Leaves.
Value input(const std::string &name, TensorType type, std::optional<Location> loc = std::nullopt);
// State that graphs read and update. ArgumentError for an empty name; DTypeError for a trainable integer.
Value parameter(const std::string &name, const Tensor &data, bool trainable,
                std::optional<Location> loc = std::nullopt);
// A tensor that exists. Values of one tensor are one constant of a traced graph.
Value constant(const Tensor &data);

// Within its lifetime new nodes of this thread get this location.
class LocationScope {
  public:
    explicit LocationScope(std::optional<Location> loc);
    ~LocationScope();
    LocationScope(const LocationScope &) = delete;
    LocationScope &operator=(const LocationScope &) = delete;

  private:
    std::optional<Location> before_;
};
const std::optional<Location> &current_location();

} // namespace tessera::front
