// One backend per kind of device: memory, copies, streams, events. Everything above uses DeviceId and these calls, never
// a driver (docs/decisions/0004-devices.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/allocator.h"
#include "core/device_id.h"

namespace tessera::core {

class Backend;

// Work done in the order in which it was put here. All functions may be called from any thread.
class Stream : public std::enable_shared_from_this<Stream> {
  public:
    virtual ~Stream() = default; // waits for the work of an own stream; a wrapped handle is the caller's and stays
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    DeviceId device() const { return device_; }
    // The driver's handle (CUstream, hipStream_t); null on the CPU.
    virtual void *native() const = 0;
    // Waits on this thread until all work put here so far is done. Failures of that work are thrown where it was made:
    // by the run or the copy's event, not here, except for those of the device itself (DeviceError).
    virtual void wait() = 0;
    // Whether all work put here so far is done.
    virtual bool idle() = 0;
    // Calls `work`, which must not throw, in the order of the stream on a thread of the host.
    virtual void call(std::function<void()> work) = 0;

  protected:
    explicit Stream(DeviceId device) : device_(device) {}

  private:
    DeviceId device_;
};

// A point in a stream's work. An event that was never recorded counts as reached.
class Event {
  public:
    virtual ~Event() = default;
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;

    DeviceId device() const { return device_; }
    // From now on: the point after all work put on `stream`, which is of this event's device, so far.
    virtual void record(Stream &stream) = 0;
    // Waits on this thread.
    virtual void wait() = 0;
    virtual bool reached() = 0;
    // From `start` to this event, both reached; ArgumentError otherwise.
    virtual int64_t nanoseconds_since(Event &start) = 0;

  protected:
    explicit Event(DeviceId device) : device_(device) {}

  private:
    DeviceId device_;
};

class Backend {
  public:
    virtual ~Backend() = default;
    Backend(const Backend &) = delete;
    Backend &operator=(const Backend &) = delete;

    DeviceType type() const { return type_; }
    virtual int32_t count() = 0;
    virtual std::string name(int32_t index) = 0;
    // DeviceError unless 0 <= index < count.
    void check_index(int32_t index);

    // In the order of `stream`, which is of device `index`; a null stream means: now, waited for.
    // Null, or an OutOfMemoryError that says more, when there is no memory. `alignment` is a power of two.
    virtual void *allocate(int32_t index, size_t bytes, size_t alignment, Stream *stream) = 0;
    virtual void release(int32_t index, void *pointer, size_t bytes, Stream *stream) noexcept = 0;
    // Between two places of which one at least is this backend's; the other may be the CPU's or this backend's. Host
    // memory must stay until the copy is done.
    virtual void copy(void *target, DeviceId target_device, const void *source, DeviceId source_device, size_t bytes,
                      Stream *stream) = 0;
    virtual void fill(void *target, int32_t index, unsigned char value, size_t bytes, Stream *stream) = 0;

    virtual std::shared_ptr<Stream> create_stream(int32_t index) = 0;
    // A native handle that the caller keeps alive and destroys; UnsupportedError on the CPU.
    virtual std::shared_ptr<Stream> wrap_stream(int32_t index, void *native) = 0;
    virtual std::shared_ptr<Event> create_event(int32_t index) = 0;
    // Work put on `stream` from now on, which is of this backend, begins after `event`, which may be of any.
    virtual void wait(Stream &stream, std::shared_ptr<Event> event) = 0;

  protected:
    explicit Backend(DeviceType type) : type_(type) {}

  private:
    DeviceType type_;
};

// The backend of a kind of device. Loads a driver's library at the first call; DeviceError that says why there is none.
Backend &backend(DeviceType type);
// The same, and checks the index.
Backend &backend(DeviceId device);

// How a backend comes into the registry: a function that makes it or throws a DeviceError, called once.
using BackendFactory = std::unique_ptr<Backend> (*)();
std::unique_ptr<Backend> make_cpu_backend();
std::unique_ptr<Backend> make_cuda_backend();
std::unique_ptr<Backend> make_hip_backend();

} // namespace tessera::core
