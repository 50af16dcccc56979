// Graph IR in C++: nodes in topological order, values by number.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graph/attribute.h"

namespace tessera::graph {

using ValueId = uint32_t;

// A file and a line (1-based) of the user's program.
struct Location {
    std::string file;
    int64_t line = 0;

    std::string text() const { return file + ":" + std::to_string(line); }
};

struct TensorType {
    DType dtype = DType::F32;
    std::vector<Dim> shape;
    std::string sharding = {}; // as in the text, "split [dp, -]"; where a tensor lies does not change what it is

    size_t rank() const { return shape.size(); }
    // "f32[B, 64]"
    std::string text() const { return core::name(dtype) + core::shape_text(shape); }
    bool operator==(const TensorType &o) const { return dtype == o.dtype && shape == o.shape; }
    bool operator!=(const TensorType &o) const { return !(*this == o); }
};

// One operation. Leaves are the operators "input", "param" and "constant"; their attribute `name` is their name.
struct Node {
    std::string op;
    std::vector<ValueId> operands;
    Attributes attrs;
    std::vector<TensorType> types; // one per result
    ValueId first = 0;             // the results are the values first, first + 1, ...
    std::optional<Location> loc;

    bool is_leaf() const { return op == "input" || op == "param" || op == "constant"; }
};

class Graph {
  public:
    std::string name = "main";
    SymbolTable symbols;
    std::vector<std::pair<std::string, int64_t>> mesh; // axes of the mesh over which values are sharded
    std::vector<Node> nodes;
    std::vector<std::pair<std::string, ValueId>> outputs;
    std::vector<std::pair<ValueId, ValueId>> updates; // (param, the value that replaces its state)

    // Appends a node and gives its results their numbers; operands must be values of earlier nodes.
    Node &add(Node node);
    size_t value_count() const { return producers_.size(); }
    const Node &producer(ValueId value) const { return nodes[producers_[value]]; }
    const TensorType &type(ValueId value) const;

  private:
    std::vector<uint32_t> producers_; // node index by value
};

} // namespace tessera::graph
