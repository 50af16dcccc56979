// Gradients of custom operators, and the operators as the front end sees them.
#pragma once

#include <string>
#include <string_view>

#include "custom/definition.h"
#include "front/node.h"

namespace tessera::custom {

// The gradient of each operand of a node (an empty Value: none) from those of its results (empty: zero), built by the
// operator's function or operator. GradientError when there is none, or when it gives another type than the operand's.
front::Values gradient(const Definition &definition, const front::NodePtr &node, const front::Values &cotangents);

// The text of a graph with the inputs "operand_0", ... and "cotangent_0", ... of results whose character in the mask is
// '1', and the outputs "gradient_0", ...
std::string gradient_text(const Definition &definition, const std::vector<graph::TensorType> &operands,
                          const graph::Attributes &attrs, std::string_view cotangents);

} // namespace tessera::custom
