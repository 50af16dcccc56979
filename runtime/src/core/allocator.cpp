#include "core/allocator.h"

#include "core/error.h"

namespace tessera::core {

void *Allocator::allocate(DeviceId device, size_t bytes, size_t alignment, Stream *stream) {
    void *out = take(device, bytes, alignment, stream);
    if (!out)
        fail(Code::OutOfMemory, "%zu bytes could not be allocated on %s", bytes, text(device).c_str());
    if (reinterpret_cast<uintptr_t>(out) % alignment) {
        give_back(device, out, bytes, stream);
        fail(Code::Argument, "the allocator gave %p, which is not aligned to %zu bytes as asked for", out, alignment);
    }
    allocations_.fetch_add(1, std::memory_order_relaxed);
    const int64_t now = in_use_.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed) + static_cast<int64_t>(bytes);
    int64_t peak = peak_.load(std::memory_order_relaxed);
    while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
    return out;
}

void Allocator::release(DeviceId device, void *pointer, size_t bytes, Stream *stream) noexcept {
    give_back(device, pointer, bytes, stream);
    releases_.fetch_add(1, std::memory_order_relaxed);
    in_use_.fetch_sub(static_cast<int64_t>(bytes), std::memory_order_relaxed);
}

AllocatorStatistics Allocator::statistics() const {
    AllocatorStatistics out;
    out.bytes_in_use = in_use_.load(std::memory_order_relaxed);
    out.peak_bytes = peak_.load(std::memory_order_relaxed);
    out.allocations = allocations_.load(std::memory_order_relaxed);
    out.releases = releases_.load(std::memory_order_relaxed);
    return out;
}

void Allocator::reset_peak() { peak_.store(in_use_.load(std::memory_order_relaxed), std::memory_order_relaxed); }

} // namespace tessera::core
