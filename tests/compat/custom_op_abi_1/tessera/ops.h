// Operators on tensors, from C++.
//
// `Tensor c = op::matmul(a, b);` records what is to be computed, with dtype and shape checked at once (tessera::Error
// names the operator and the operands, and the line of the call); `runtime.submit(c)` computes it with the portable
// kernels, `Graph::trace` makes it a graph, `grad` differentiates it. The elements of tensors that exist are read when the
// operator runs.
//
// Functions have the names, order of arguments, defaults and promotion of Python's `tessera.op`; docs/operators.md lists
// them side by side. None is a C++ keyword; as some are functions of <cmath> too, write `op::exp`, and do not import the
// whole namespace. Axes that count from the end may be negative; std::nullopt stands for None.
#ifndef TESSERA_OPS_H
#define TESSERA_OPS_H

#include "tessera/ops/creation.h"
#include "tessera/ops/gradient.h"
#include "tessera/ops/indexing.h"
#include "tessera/ops/layers.h"
#include "tessera/ops/loss.h"
#include "tessera/ops/operand.h"
#include "tessera/ops/pointwise.h"
#include "tessera/ops/random.h"
#include "tessera/ops/reduction.h"
#include "tessera/ops/shape.h"

#endif
