// The backend of a GPU driver, CUDA's or HIP's: devices, stream-ordered memory, copies.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/completion.h"
#include "device/backend.h"
#include "device/gpu/driver.h"
#include "device/gpu/stream.h"

namespace tessera::core::gpu {

class GpuBackend final : public Backend {
  public:
    GpuBackend(DeviceType type, const Driver &driver);

    int32_t count() override { return driver_.devices(); }
    std::string name(int32_t index) override { return properties(index).name; }

    void *allocate(int32_t index, size_t bytes, size_t alignment, Stream *stream) override;
    void release(int32_t index, void *pointer, size_t bytes, Stream *stream) noexcept override;
    void copy(void *target, DeviceId target_device, const void *source, DeviceId source_device, size_t bytes,
              Stream *stream) override;
    void fill(void *target, int32_t index, unsigned char value, size_t bytes, Stream *stream) override;
    std::shared_ptr<Stream> create_stream(int32_t index) override;
    // DeviceError for a stream of another device, or of a context that is not the device's primary one.
    std::shared_ptr<Stream> wrap_stream(int32_t index, void *native) override;
    std::shared_ptr<Event> create_event(int32_t index) override;
    void wait(Stream &stream, std::shared_ptr<Event> event) override;

    const Driver &driver() const { return driver_; }
    DeviceId device(int32_t index) const { return {type(), index}; }
    const DeviceProperties &properties(int32_t index);
    // Lets a device use the memory of another of this process, and the other its; false where the machine cannot.
    bool open_to(int32_t index, int32_t peer);
    // The stream of work that no caller's stream orders: new tensors, copies that are waited for.
    const std::shared_ptr<Stream> &home(int32_t index);
    // What has been put on a stream up to now, also of another library's.
    std::shared_ptr<Completion> work_so_far(Stream &stream);
    // The same as create_event, without times: cheaper to record.
    std::shared_ptr<GpuEvent> create_plain_event(int32_t index);

  private:
    struct Device {
        std::once_flag once;
        DeviceProperties properties;
        Handle pool = nullptr;
        std::shared_ptr<Stream> home;
    };
    Device &ready(int32_t index);

    const Driver &driver_;
    std::vector<std::unique_ptr<Device>> devices_;
};

// The stream itself when it is Tessera's own, so that memory may be released in its order later; null for a caller's.
std::shared_ptr<Stream> own_stream(const std::shared_ptr<Stream> &stream);

// The GPU backend of a device; InternalError for the CPU.
GpuBackend &gpu_backend(DeviceId device);

} // namespace tessera::core::gpu
