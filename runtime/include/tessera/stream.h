// Memory and scheduling: allocators, streams, events, copies, workspaces. Header-only C++17 over the C ABI.
#ifndef TESSERA_STREAM_H
#define TESSERA_STREAM_H

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tessera/tensor.h"

namespace tessera {

// The number of devices of a kind; a DeviceError that says why, when there is no support for that kind.
inline int32_t device_count(Device::Type type) {
    int32_t count = 0;
    check(tsr_device_count(type, &count));
    return count;
}

// Bytes as asked for, without what alignment adds; calls.
struct AllocatorStatistics {
    uint64_t bytes_in_use = 0, peak_bytes = 0, allocations = 0, releases = 0;
};

// Where memory comes from. Copies are the same allocator. Lives as long as its memory.
class Allocator {
  public:
    // The caller's functions; they must not throw. `stream` is the driver's handle, null on the CPU. Derive, override, and
    // give an instance to Allocator's constructor.
    class Functions {
      public:
        virtual ~Functions() = default;
        // Null when there is no memory.
        virtual void *allocate(Device device, size_t bytes, size_t alignment, void *stream) noexcept = 0;
        virtual void release(Device device, void *pointer, size_t bytes, void *stream) noexcept = 0;
    };

    // The devices' own memory, counted.
    Allocator() { create(nullptr); }
    explicit Allocator(std::unique_ptr<Functions> functions) {
        if (!functions)
            throw Error(TSR_ARGUMENT_ERROR, "Allocator: no functions are given");
        tsr_allocator_options options{};
        options.size = sizeof options;
        options.context = functions.get();
        options.allocate = [](void *context, int32_t type, int32_t index, size_t bytes, size_t alignment, void *stream) {
            return static_cast<Functions *>(context)->allocate({static_cast<Device::Type>(type), index}, bytes, alignment,
                                                               stream);
        };
        options.release = [](void *context, int32_t type, int32_t index, void *pointer, size_t bytes, void *stream) {
            static_cast<Functions *>(context)->release({static_cast<Device::Type>(type), index}, pointer, bytes, stream);
        };
        options.destroy = [](void *context) { delete static_cast<Functions *>(context); };
        create(&options);
        functions.release();
    }

    AllocatorStatistics statistics() const {
        tsr_allocator_statistics s{};
        s.size = sizeof s;
        check(tsr_allocator_describe(handle(), &s));
        return {s.bytes_in_use, s.peak_bytes, s.allocations, s.releases};
    }
    // The peak becomes what is in use now.
    void reset_peak() { check(tsr_allocator_reset_peak(handle())); }
    tsr_allocator *handle() const noexcept { return handle_.get(); }

  private:
    void create(const tsr_allocator_options *options) {
        tsr_allocator *handle = nullptr;
        check(tsr_allocator_create(options, &handle));
        handle_ = detail::Handle<tsr_allocator, tsr_allocator_retain, tsr_allocator_release>(handle);
    }
    detail::Handle<tsr_allocator, tsr_allocator_retain, tsr_allocator_release> handle_;
};

class Event;

// Work done in the order in which it was put here. Copies are the same stream; the last waits for the work.
class Stream {
  public:
    // A new stream. On the CPU it is a queue served by a thread of its own, and by threads that wait for it.
    explicit Stream(Device device = {}) {
        tsr_stream *handle = nullptr;
        check(tsr_stream_create(device.type, device.index, &handle));
        handle_ = detail::Handle<tsr_stream, tsr_stream_retain, tsr_stream_release>(handle);
    }
    // A CUstream or hipStream_t of the caller's, which stays alive longer than this and is never destroyed.
    static Stream wrap(Device device, void *native) {
        tsr_stream *handle = nullptr;
        check(tsr_stream_wrap(device.type, device.index, native, &handle));
        return Stream(handle);
    }

    Device device() const {
        int32_t type = 0, index = 0;
        check(tsr_stream_device(handle(), &type, &index));
        return {static_cast<Device::Type>(type), index};
    }
    void *native() const noexcept { return tsr_stream_native(handle()); }
    // Waits for all work put here so far. Errors of runs are thrown by Run::wait and Runtime::wait.
    void wait() { check(tsr_stream_wait(handle())); }
    // Whether all work put here so far is done.
    bool idle() const {
        int32_t out = 0;
        check(tsr_stream_query(handle(), &out));
        return out != 0;
    }
    // Work put here from now on begins after the event.
    inline void wait(const Event &event);
    // Calls a function, which must not throw, in the order of the stream on a thread of the host.
    void call(std::function<void()> function) {
        auto context = std::make_unique<std::function<void()>>(std::move(function));
        check(tsr_stream_call(handle(), detail::call_deleter, context.get()));
        context.release();
    }
    tsr_stream *handle() const noexcept { return handle_.get(); }

  private:
    explicit Stream(tsr_stream *handle) : handle_(handle) {}
    detail::Handle<tsr_stream, tsr_stream_retain, tsr_stream_release> handle_;
};

// A point in a stream's work. Copies are the same event; one that was never recorded counts as reached.
class Event {
  public:
    explicit Event(Device device = {}) {
        tsr_event *handle = nullptr;
        check(tsr_event_create(device.type, device.index, &handle));
        handle_ = detail::Handle<tsr_event, tsr_event_retain, tsr_event_release>(handle);
    }
    // From now on: the point after all work put on the stream so far.
    void record(Stream &stream) { check(tsr_event_record(handle(), stream.handle())); }
    void wait() const { check(tsr_event_wait(handle())); }
    bool reached() const {
        int32_t out = 0;
        check(tsr_event_query(handle(), &out));
        return out != 0;
    }
    // From `start` to this event, which have both been reached.
    double seconds_since(const Event &start) const {
        int64_t nanoseconds = 0;
        check(tsr_event_elapsed(start.handle(), handle(), &nanoseconds));
        return static_cast<double>(nanoseconds) * 1e-9;
    }
    tsr_event *handle() const noexcept { return handle_.get(); }

  private:
    detail::Handle<tsr_event, tsr_event_retain, tsr_event_release> handle_;
};

inline void Stream::wait(const Event &event) { check(tsr_stream_wait_event(handle(), event.handle())); }

// Copies all elements, between any two places; done when this returns, or in the order of a stream, until when both
// tensors are kept. Equal dtypes and shapes; strided tensors within the memory of the CPU only.
inline void copy(const Tensor &source, const Tensor &target) {
    check(tsr_tensor_copy(source.handle(), target.handle(), nullptr));
}
inline void copy(const Tensor &source, const Tensor &target, Stream &stream) {
    check(tsr_tensor_copy(source.handle(), target.handle(), stream.handle()));
}

// A tensor, all zero, in memory from `allocator`.
inline Tensor create(const std::vector<int64_t> &shape, DType dtype, const Allocator &allocator, Device device = {}) {
    tsr_tensor_info info{};
    info.size = sizeof info;
    info.shape = shape.data();
    info.rank = static_cast<int32_t>(shape.size());
    info.dtype = static_cast<tsr_dtype>(dtype);
    info.device_type = device.type;
    info.device_index = device.index;
    tsr_tensor *handle = nullptr;
    check(tsr_tensor_create_from(&info, allocator.handle(), nullptr, &handle));
    return Tensor::adopt(handle);
}

// Memory for the arena and the scratch of runs of any graphs, one run at a time: a run that finds it in use fails with an
// ArgumentError, one that needs more (Requirements::workspace) with an OutOfMemoryError. Copies are the same memory.
class Workspace {
  public:
    // No workspace: a runtime's own memory is used.
    Workspace() = default;
    explicit Workspace(size_t bytes, const Allocator &allocator = {}) {
        tsr_workspace *handle = nullptr;
        check(tsr_workspace_create(allocator.handle(), bytes, &handle));
        handle_ = detail::Handle<tsr_workspace, tsr_workspace_retain, tsr_workspace_release>(handle);
    }
    // The caller's memory, aligned to 64 bytes. `deleter` is called once, when no run uses it any more.
    Workspace(void *data, size_t bytes, std::function<void()> deleter = nullptr) {
        std::unique_ptr<std::function<void()>> context;
        if (deleter)
            context = std::make_unique<std::function<void()>>(std::move(deleter));
        tsr_workspace *handle = nullptr;
        check(tsr_workspace_wrap(data, bytes, context ? detail::call_deleter : nullptr, context.get(), &handle));
        context.release();
        handle_ = detail::Handle<tsr_workspace, tsr_workspace_retain, tsr_workspace_release>(handle);
    }
    size_t bytes() const noexcept { return tsr_workspace_bytes(handle()); }
    tsr_workspace *handle() const noexcept { return handle_.get(); }

  private:
    detail::Handle<tsr_workspace, tsr_workspace_retain, tsr_workspace_release> handle_;
};

} // namespace tessera

#endif
