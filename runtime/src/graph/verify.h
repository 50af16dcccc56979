// Checks that a graph is well formed.
#pragma once

#include "graph/graph.h"

namespace tessera::graph {

// Every node is a leaf, a primitive or a custom operator whose stated types are the inferred ones; names of leaves are unique; an update
// has its parameter's type. Throws what the type rules throw, with the user's line; GraphError for a wrong stated type.
void verify(const Graph &graph);

// Appends "\n  at file:line" to an error's message, once.
core::Error located(const core::Error &error, const std::optional<Location> &loc);

} // namespace tessera::graph
