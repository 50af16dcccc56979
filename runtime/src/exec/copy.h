// Copies between tensors, in the order of a stream.
#pragma once

#include <memory>

#include "core/tensor.h"
#include "device/backend.h"

namespace tessera::core {

// Puts a copy of all elements on `stream`; null: done when this returns. Both tensors are kept until it is done. Between
// tensors of the CPU either may be strided. Checked before anything is put there: DTypeError, ShapeError, ArgumentError for
// a target that is read-only or overlaps the source in part, DeviceError for a stream of another device,
// UnsupportedError for strided tensors on other devices.
void copy_tensor(const Tensor &source, const Tensor &target, const std::shared_ptr<Stream> &stream);

} // namespace tessera::core
