// Where memory comes from: a device's own functions or the caller's, counted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device_id.h"

namespace tessera::core {

class Stream;

struct AllocatorStatistics {
    int64_t bytes_in_use = 0, peak_bytes = 0; // as asked for, without what alignment adds
    int64_t allocations = 0, releases = 0;    // calls
};

// May be used by several threads at once. Memory belongs to the order of `stream`: it may be used by work put on the
// stream afterwards, and is released after the work put there before; with a null stream, at once.
class Allocator {
  public:
    virtual ~Allocator() = default;
    Allocator(const Allocator &) = delete;
    Allocator &operator=(const Allocator &) = delete;

    // `bytes` (more than 0) of uninitialised memory; OutOfMemoryError.
    void *allocate(DeviceId device, size_t bytes, size_t alignment, Stream *stream);
    void release(DeviceId device, void *pointer, size_t bytes, Stream *stream) noexcept;

    AllocatorStatistics statistics() const;
    // The peak becomes what is in use now.
    void reset_peak();

  protected:
    Allocator() = default;
    // Null when there is no memory.
    virtual void *take(DeviceId device, size_t bytes, size_t alignment, Stream *stream) = 0;
    virtual void give_back(DeviceId device, void *pointer, size_t bytes, Stream *stream) noexcept = 0;

  private:
    std::atomic<int64_t> in_use_{0}, peak_{0}, allocations_{0}, releases_{0};
};

} // namespace tessera::core
