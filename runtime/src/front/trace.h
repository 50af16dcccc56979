// Graphs from values, and values from graphs.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "front/node.h"

namespace tessera::front {

using NamedValues = std::vector<std::pair<std::string, Value>>;
using Updates = std::vector<std::pair<Value, Value>>; // (parameter, what replaces its state)

// A graph with the tensors of its state and constants, in the order of the nodes.
struct Traced {
    graph::Graph graph;
    std::vector<Tensor> state, constants;
};

struct Program {
    Traced whole;      // composites kept, as the user wrote it
    Traced primitives; // composites replaced by their bodies, equal nodes merged
};

// The graph that computes the named outputs and updates from the inputs and parameters that they depend on. Tensors
// that exist become constants; a graph that draws from the random state advances it. ArgumentError for two inputs,
// parameters or outputs of one name, for an update that is no parameter or has another type, and for two different
// symbolic dimensions of one name. `number_draws`: draws from the random state get ids in the order of the graph, and
// the state advances; false for values of a graph that was read from text.
Program trace(const std::string &name, const NamedValues &outputs, const Updates &updates, bool number_draws = true);

// A graph's values, one for each of its value numbers. Composites get their bodies; GraphError when a stated type is
// not the operator's. `leaves` (may be empty) stand for the leaves: an empty Value keeps the graph's own, whose state
// and constants have no data.
Values import_graph(const graph::Graph &graph, const Values &leaves = {});

// Text of Graph IR with every composite replaced by its body; `merge` also merges equal nodes.
std::string decompose_text(std::string_view text, bool merge);

} // namespace tessera::front
