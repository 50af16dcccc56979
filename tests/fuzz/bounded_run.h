// Execution of graphs of primitives in which everything is small, whatever the text says.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/dims.h"
#include "core/tensor.h"
#include "exec/signature.h"
#include "ops/program.h"

// Legal sizes of the symbols, by Symbol::index: the least ones that are at least `wanted`; none when these are large.
std::optional<std::vector<int64_t>> small_sizes(const tessera::core::SymbolTable &symbols, int64_t wanted);

// A tensor of this spec with values that differ from element to element; none when it would be large.
std::optional<tessera::core::Tensor> small_tensor(const tessera::core::TensorSpec &spec, const std::vector<int64_t> &sizes);

// Runs the program on small inputs when the work is small too.
void run_if_small(const tessera::portable::Program &program, int64_t wanted_size);
