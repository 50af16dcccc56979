// Type rules of the primitives: operand types and attributes to the result type.
#pragma once

#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace tessera::graph {

// The result type of a primitive; each has one result. Sizes may be symbolic. Throws NameMissingError for an unknown
// operator, else ShapeError, DTypeError, ArgumentError or GraphError with the operator's name in front.
TensorType infer(std::string_view op, const std::vector<TensorType> &operands, const Attributes &attrs);

// The result types of a primitive or, for a name with "::", of a custom operator.
std::vector<TensorType> infer_results(std::string_view op, const std::vector<TensorType> &operands,
                                      const Attributes &attrs);

bool is_primitive(std::string_view op);
// All primitives, sorted.
const std::vector<std::string_view> &primitive_names();

} // namespace tessera::graph
