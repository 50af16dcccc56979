// Text of Graph IR, identical to what the Python printer gives for the same graph.
#pragma once

#include <string>

#include "graph/graph.h"

namespace tessera::graph {

std::string to_text(const Graph &graph);
std::string to_text(const Attribute &value);
// "{axes = [0], keepdims = false}"; empty without attributes.
std::string to_text(const Attributes &attributes);
// The shortest text that reads back as the same double, always with `.`, `e`, `inf` or `nan`.
std::string real_text(double value);

} // namespace tessera::graph
