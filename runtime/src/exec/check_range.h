// The check instruction: integers of a buffer must lie in a range.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace tessera::core {

// The position of the first of `count` integers that is outside [low, high] and is not `ignore`; -1 when there is none.
int64_t find_out_of_range(const void *data, DType dtype, int64_t count, int64_t low, int64_t high,
                          std::optional<int64_t> ignore);

// One integer of a buffer.
int64_t integer_at(const void *data, DType dtype, int64_t position);

// Where element `position` is, as an index when the buffer's shape is known.
std::string position_text(const std::vector<int64_t> &shape, int64_t count, int64_t position);

} // namespace tessera::core
