// Tensors from one device to another.
#pragma once

#include <memory>

#include "core/allocator.h"
#include "core/tensor.h"

namespace tessera::core {

// A row-major copy on a device, made after the work that writes `tensor`, and waited for. Throws what made that work
// fail. A tensor with strides on a GPU goes through host memory. `allocator` null: the device's own memory.
Tensor to_device(const Tensor &tensor, DeviceId device, std::shared_ptr<Allocator> allocator = nullptr);
// Copies the elements of `source` into `target`: same dtype and shape, both row-major; on any devices. Waited for.
void copy_elements(const Tensor &source, const Tensor &target);
// Waits for the work that writes the tensor; throws what made it fail.
void wait_for(const Tensor &tensor);

} // namespace tessera::core
