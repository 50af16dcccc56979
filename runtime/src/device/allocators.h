// The two kinds of allocators: the devices' own memory, and the caller's functions.
#pragma once

#include <memory>

#include "core/allocator.h"

namespace tessera::core {

// Memory from the backends, for all devices.
std::shared_ptr<Allocator> make_backend_allocator();

// The caller's functions, which must not throw.
struct AllocatorFunctions {
    void *context = nullptr;
    // Null when there is no memory. The stream is the driver's handle, null on the CPU.
    void *(*allocate)(void *context, DeviceId device, size_t bytes, size_t alignment, void *native_stream) = nullptr;
    void (*release)(void *context, DeviceId device, void *pointer, size_t bytes, void *native_stream) = nullptr;
    void (*destroy)(void *context) = nullptr; // may be null; called when the allocator and all its memory are gone
};
std::shared_ptr<Allocator> make_allocator(const AllocatorFunctions &functions);

} // namespace tessera::core
