#include "device/gpu/gpu_backend.h"

#include "core/error.h"

namespace tessera::core {

namespace gpu {

namespace {

class StreamWork final : public Completion {
  public:
    StreamWork(std::shared_ptr<Event> event, void *native_stream) : event_(std::move(event)), stream_(native_stream) {}
    bool reached() override { return event_->reached(); }
    void wait() override { event_->wait(); }
    void finish() override { event_->wait(); }
    const std::shared_ptr<Event> &event() const override { return event_; }
    void *native_stream() const override { return stream_; }

  private:
    std::shared_ptr<Event> event_;
    void *stream_;
};

} // namespace

GpuBackend::GpuBackend(DeviceType type, const Driver &driver) : Backend(type), driver_(driver) {
    for (int i = 0; i < driver.devices(); ++i)
        devices_.push_back(std::make_unique<Device>());
}

// A device is set up at its first use: its primary context takes memory, and another process may want it alone.
GpuBackend::Device &GpuBackend::ready(int32_t index) {
    check_index(index);
    Device &d = *devices_[static_cast<size_t>(index)];
    std::call_once(d.once, [&] {
        Current current(driver_, index);
        d.properties = driver_.properties(index);
        PoolProperties properties;
        properties.device = index;
        Handle pool = nullptr;
        driver_.check(driver_.call().pool_create(&pool, &properties), "the device's memory pool");
        uint64_t keep = UINT64_MAX; // what runs give back stays for the next run
        driver_.check(driver_.call().pool_set(pool, pool_release_threshold, &keep), "the device's memory pool");
        d.home = std::make_shared<GpuStream>(driver_, device(index));
        d.pool = pool;
    });
    return d;
}

bool GpuBackend::open_to(int32_t index, int32_t peer) {
    Device &d = ready(index);
    ready(peer);
    int can = 0, back = 0;
    driver_.check(driver_.call().can_access_peer(&can, index, peer), "access between devices");
    driver_.check(driver_.call().can_access_peer(&back, peer, index), "access between devices");
    if (!can || !back)
        return false;
    Current current(driver_, index);
    const Result result = driver_.enable_peer(peer);
    PoolAccess access;
    access.device = peer;
    return (result == success || result == access_enabled) && driver_.call().pool_open(d.pool, &access, 1) == success;
}

const DeviceProperties &GpuBackend::properties(int32_t index) { return ready(index).properties; }
const std::shared_ptr<Stream> &GpuBackend::home(int32_t index) { return ready(index).home; }

void *GpuBackend::allocate(int32_t index, size_t bytes, size_t, Stream *stream) {
    Device &d = ready(index);
    Current current(driver_, index);
    Stream &order = stream ? *stream : *d.home;
    Address out = 0;
    Result result = driver_.call().allocate(&out, bytes, d.pool, order.native());
    if (result == out_of_memory) {
        // What is kept for later runs, and what work under way gives back, may be enough.
        driver_.call().stream_wait(order.native());
        driver_.call().pool_trim(d.pool, 0);
        result = driver_.call().allocate(&out, bytes, d.pool, order.native());
    }
    if (result == out_of_memory) {
        size_t available = 0, total = 0;
        driver_.check(driver_.call().memory_info(&available, &total), "memory of the device");
        constexpr double gib = 1 << 30;
        fail(Code::OutOfMemory, "%zu bytes could not be allocated on %s, where %.2f of %.2f GiB are free", bytes,
             text({type(), index}).c_str(), static_cast<double>(available) / gib, static_cast<double>(total) / gib);
    }
    driver_.check(result, "memory of the device");
    if (!stream)
        driver_.check(driver_.call().stream_wait(order.native()), "memory of the device");
    return reinterpret_cast<void *>(out); // at multiples of 256 or more
}

void GpuBackend::release(int32_t index, void *pointer, size_t, Stream *stream) noexcept {
    try {
        Device &d = ready(index);
        Current current(driver_, index);
        driver_.call().release(address_of(pointer), (stream ? *stream : *d.home).native());
    } catch (...) { // the device has failed, and its memory is gone with it
    }
}

void GpuBackend::copy(void *target, DeviceId target_device, const void *source, DeviceId source_device, size_t bytes,
                      Stream *stream) {
    if (bytes == 0)
        return;
    const bool in = target_device.type == type(), out = source_device.type == type();
    if ((!in && !target_device.is_cpu()) || (!out && !source_device.is_cpu()) || (!in && !out))
        fail(Code::Internal, "a copy from %s to %s is not for %s", text(source_device).c_str(), text(target_device).c_str(),
             driver_.name());
    if (stream && stream->device().type != type())
        fail(Code::Argument, "a copy to or from %s cannot be put on a stream of %s", driver_.name(),
             text(stream->device()).c_str());
    const int32_t index = stream ? stream->device().index : in ? target_device.index : source_device.index;
    Device &d = ready(index);
    if (in)
        check_index(target_device.index);
    if (out)
        check_index(source_device.index);
    Current current(driver_, index);
    Handle order = (stream ? *stream : *d.home).native();
    const Functions &call = driver_.call();
    Result result;
    if (in && out && target_device.index != source_device.index)
        result = driver_.copy_peer(address_of(target), target_device.index, address_of(source), source_device.index, bytes, order);
    else if (in && out)
        result = call.copy_within(address_of(target), address_of(source), bytes, order);
    else if (in)
        result = call.copy_in(address_of(target), source, bytes, order);
    else
        result = call.copy_out(target, address_of(source), bytes, order);
    driver_.check(result, "a copy");
    if (!stream)
        driver_.check(call.stream_wait(order), "a copy");
}

void GpuBackend::fill(void *target, int32_t index, unsigned char value, size_t bytes, Stream *stream) {
    if (bytes == 0)
        return;
    Device &d = ready(index);
    Current current(driver_, index);
    Handle order = (stream ? *stream : *d.home).native();
    driver_.check(driver_.call().fill(address_of(target), value, bytes, order), "memory cannot be filled");
    if (!stream)
        driver_.check(driver_.call().stream_wait(order), "memory cannot be filled");
}

std::shared_ptr<Stream> GpuBackend::create_stream(int32_t index) {
    ready(index);
    return std::make_shared<GpuStream>(driver_, device(index));
}

std::shared_ptr<Stream> GpuBackend::wrap_stream(int32_t index, void *native) {
    ready(index);
    Current current(driver_, index);
    const int there = driver_.device_of_stream(native);
    if (there < 0)
        fail(Code::Device, "the stream belongs to a context of the caller's own; streams of the devices' primary contexts, "
                           "which the CUDA runtime, PyTorch and JAX use, can be given");
    if (there != index)
        fail(Code::Device, "the stream belongs to %s, expected one of %s", text(device(there)).c_str(),
             text(device(index)).c_str());
    return std::make_shared<GpuStream>(driver_, device(index), native);
}

std::shared_ptr<Event> GpuBackend::create_event(int32_t index) {
    ready(index);
    return std::make_shared<GpuEvent>(driver_, device(index), true);
}

std::shared_ptr<GpuEvent> GpuBackend::create_plain_event(int32_t index) {
    ready(index);
    return std::make_shared<GpuEvent>(driver_, device(index), false);
}

std::shared_ptr<Completion> GpuBackend::work_so_far(Stream &stream) {
    std::shared_ptr<GpuEvent> event = create_plain_event(stream.device().index);
    event->record(stream);
    return std::make_shared<StreamWork>(event, stream.native());
}

void GpuBackend::wait(Stream &stream, std::shared_ptr<Event> event) {
    auto *mine = dynamic_cast<GpuEvent *>(event.get());
    if (mine && &mine->driver() == &driver_) {
        if (!mine->recorded())
            return;
        Current current(driver_, stream.device().index);
        driver_.check(driver_.call().stream_wait_event(stream.native(), mine->handle(), 0), "a wait for an event");
    } else if (!event->reached()) {
        stream.call([event] { event->wait(); });
    }
}

std::shared_ptr<Stream> own_stream(const std::shared_ptr<Stream> &stream) {
    auto *native = dynamic_cast<GpuStream *>(stream.get());
    return native && native->is_own() ? stream : nullptr;
}

GpuBackend &gpu_backend(DeviceId device) {
    if (device.is_cpu())
        fail(Code::Internal, "the CPU is no GPU");
    return static_cast<GpuBackend &>(backend(device));
}

} // namespace gpu

std::unique_ptr<Backend> make_cuda_backend() {
    return std::make_unique<gpu::GpuBackend>(DeviceType::CUDA, gpu::cuda_driver());
}

std::unique_ptr<Backend> make_hip_backend() {
    return std::make_unique<gpu::GpuBackend>(DeviceType::ROCM, gpu::hip_driver());
}

} // namespace tessera::core
