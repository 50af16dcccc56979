// Reverse-mode differentiation: tessera/transform/autodiff.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "front/node.h"

namespace tessera::front {

// The gradient of each of `wrt` of the outputs, whose gradients `seeds` are (an empty Value: zero); without seeds every
// output must be a floating-point scalar, whose gradient is 1. Zeros where no path leads. GradientError for an operator
// without gradient on a path, with its reason, and for values that are not floating-point.
Values gradients(const Values &outputs, const Values &wrt, const Values &seeds = {});

// The gradient of each operand of a composite node through its body, from those of its results: zeros where no path leads.
Values composite_gradients(const NodePtr &node, const Values &gradients);

// The graph of a text with one output more for each name in `wrt` (inputs or parameters), "grad.<name>": the gradient
// of the sum of all floating-point outputs, weighted by inputs "seed.<output>" where an output is no scalar.
std::string gradient_text(std::string_view text, const std::vector<std::string> &wrt);

} // namespace tessera::front
