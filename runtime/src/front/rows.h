// What softmax and cross entropy share.
#pragma once

#include "front/node.h"

namespace tessera::front {

// d = x - max(x), e = exp(d), s = sum(e), over an axis (kept). The maximum is a constant for the gradient: whatever is
// computed from these does not depend on it.
struct Shifted {
    Value d, e, s;
};
Shifted shifted_exponentials(const Value &x, int64_t axis);

} // namespace tessera::front
