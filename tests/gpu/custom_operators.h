// Operators with kernels for GPUs, registered by the test itself.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpu_test {

// gputest::rotate (CUDA and HIP) and gputest::host_only (CPU).
void register_custom_operators();

// Puts a copy on a stream; given by the test.
void copy_on_device(void *to, const void *from, size_t bytes, void *stream);

// The stream and device index of the last call, and how many there were.
struct CustomCalls {
    void *stream = nullptr;
    int32_t device_type = 0, device_index = -1;
    int count = 0;
};
extern CustomCalls custom_calls;

} // namespace gpu_test
