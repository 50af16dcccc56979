// What traces call an instruction of a plan.
#pragma once

#include "exec/plan.h"
#include "exec/trace_sink.h"

namespace tessera::core {

// Without times; the strings are the plan's.
TraceEvent describe(const Plan &plan, const Instruction &in);

} // namespace tessera::core
