// Exchanges that run beside computation: each is waited for once, and its memory is left alone until then.
#pragma once

#include <string>

#include "exec/plan.h"

namespace tessera::core {

// FormatError, with `where` naming the plan, unless every collective that is started is waited for once, later, and no
// instruction between the two writes its operand, or touches its result. Exchanges are done in the order in which they
// stand, so that a later one may read the result of an earlier one.
void check_waits(const Plan &plan, const std::string &where);

} // namespace tessera::core
