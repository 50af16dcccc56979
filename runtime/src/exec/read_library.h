// The attributes of a call of a vendor library, read from a plan.
#pragma once

#include <string>

#include "exec/plan.h"
#include "exec/plan_fields.h"

namespace tessera::core {

// Of an instruction whose operands and results are read. FormatError.
LibraryMatmul read_matmul(const PlanFields &f, const Json &j, const Instruction &in, const std::string &place);
LibraryAttention read_attention(const PlanFields &f, const Json &j, const Instruction &in, bool gradient, const std::string &place);

} // namespace tessera::core
