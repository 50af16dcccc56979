#include "device/gpu/stream.h"

namespace tessera::core::gpu {

namespace {

// For destructors: a device that has failed, or a driver that has ended before us, is nobody's concern any more.
template <class Body> void quietly(Body &&body) noexcept {
    try {
        body();
    } catch (...) {
    }
}

} // namespace

GpuStream::GpuStream(const Driver &driver, DeviceId device) : Stream(device), driver_(driver), own_(true) {
    Current current(driver_, device.index);
    driver_.check(driver_.call().stream_create(&handle_, stream_non_blocking), "a stream cannot be made");
}

GpuStream::~GpuStream() {
    if (!own_)
        return;
    quietly([&] {
        Current current(driver_, device().index);
        driver_.call().stream_wait(handle_);
        driver_.call().stream_destroy(handle_);
    });
}

void GpuStream::wait() {
    Current current(driver_, device().index);
    driver_.check(driver_.call().stream_wait(handle_), "work on the device failed");
}

bool GpuStream::idle() {
    Current current(driver_, device().index);
    Result result = driver_.call().stream_query(handle_);
    if (result == not_ready)
        return false;
    driver_.check(result, "work on the device failed");
    return true;
}

void GpuStream::call(std::function<void()> work) {
    Current current(driver_, device().index);
    auto owned = std::make_unique<std::function<void()>>(std::move(work));
    auto run = [](void *argument) {
        std::unique_ptr<std::function<void()>> function(static_cast<std::function<void()> *>(argument));
        (*function)();
    };
    driver_.check(driver_.call().host_call(handle_, run, owned.get()), "a call in the order of a stream");
    owned.release();
}

GpuEvent::GpuEvent(const Driver &driver, DeviceId device, bool timed) : Event(device), driver_(driver), timed_(timed) {
    Current current(driver_, device.index);
    driver_.check(driver_.call().event_create(&handle_, timed ? 0 : event_without_timing), "an event cannot be made");
}

GpuEvent::~GpuEvent() {
    quietly([&] {
        Current current(driver_, device().index);
        driver_.call().event_destroy(handle_);
    });
}

void GpuEvent::record(Stream &stream) {
    if (stream.device() != device())
        fail(Code::Argument, "an event of %s cannot be recorded on a stream of %s", text(device()).c_str(),
             text(stream.device()).c_str());
    Current current(driver_, device().index);
    driver_.check(driver_.call().event_record(handle_, stream.native()), "an event cannot be recorded");
    recorded_.store(true, std::memory_order_release);
}

void GpuEvent::wait() {
    if (!recorded())
        return;
    Current current(driver_, device().index);
    driver_.check(driver_.call().event_wait(handle_), "work on the device failed");
}

bool GpuEvent::reached() {
    if (!recorded())
        return true;
    Current current(driver_, device().index);
    Result result = driver_.call().event_query(handle_);
    if (result == not_ready)
        return false;
    driver_.check(result, "work on the device failed");
    return true;
}

int64_t GpuEvent::nanoseconds_since(Event &start) {
    auto *first = dynamic_cast<GpuEvent *>(&start);
    if (!first || first->device() != device())
        fail(Code::Argument, "the time between events of %s and %s is not known", text(start.device()).c_str(),
             text(device()).c_str());
    if (!timed_ || !first->timed_ || !recorded() || !first->recorded() || !reached() || !first->reached())
        fail(Code::Argument, "the time between two events is known when both are recorded and reached");
    float milliseconds = 0;
    Current current(driver_, device().index);
    driver_.check(driver_.call().event_elapsed(&milliseconds, first->handle_, handle_), "the time between two events");
    return static_cast<int64_t>(static_cast<double>(milliseconds) * 1e6);
}

} // namespace tessera::core::gpu
