// Values of the front end as tensor handles of the C ABI, and back.
#pragma once

#include "api/handles.h"
#include "front/node.h"

namespace tessera::front {

// A new handle; a constant comes back as the tensor that it is.
tsr_tensor *to_handle(const Value &value);
// A tensor that exists becomes a constant.
Value from_handle(const tsr_tensor *handle);

} // namespace tessera::front
