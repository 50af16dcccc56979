// Streams and events of a GPU driver.
#pragma once

#include <atomic>
#include <memory>

#include "device/backend.h"
#include "device/gpu/driver.h"

namespace tessera::core::gpu {

class GpuStream final : public Stream {
  public:
    // A stream of our own, which does not wait for the default stream.
    GpuStream(const Driver &driver, DeviceId device);
    // The caller's.
    GpuStream(const Driver &driver, DeviceId device, Handle native) : Stream(device), driver_(driver), handle_(native) {}
    ~GpuStream() override;

    bool is_own() const { return own_; }
    void *native() const override { return handle_; }
    void wait() override;
    bool idle() override;
    void call(std::function<void()> work) override;

  private:
    const Driver &driver_;
    Handle handle_ = nullptr;
    bool own_ = false;
};

class GpuEvent final : public Event {
  public:
    GpuEvent(const Driver &driver, DeviceId device, bool timed);
    ~GpuEvent() override;

    void record(Stream &stream) override;
    void wait() override;
    bool reached() override;
    int64_t nanoseconds_since(Event &start) override;

    const Driver &driver() const { return driver_; }
    Handle handle() const { return handle_; }
    bool recorded() const { return recorded_.load(std::memory_order_acquire); }

  private:
    const Driver &driver_;
    Handle handle_ = nullptr;
    bool timed_;
    std::atomic<bool> recorded_{false};
};

} // namespace tessera::core::gpu
