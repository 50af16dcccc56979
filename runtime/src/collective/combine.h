// Elementwise combination of the parts of several devices, in their order.
#pragma once

#include <cstdint>
#include <vector>

#include "collective/communicator.h"
#include "core/dtype.h"

namespace tessera::core {

// result[i] = ((parts[0][i] ∘ parts[1][i]) ∘ …) for `count` contiguous elements; bf16 and f16 are combined in f32 and
// rounded once. `result` may be one of the parts. DTypeError for 8-bit floats.
void combine_parts(const std::vector<const char *> &parts, char *result, int64_t count, DType dtype, Combine combine);

} // namespace tessera::core
