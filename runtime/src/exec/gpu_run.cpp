#include "exec/gpu_run.h"

#include <chrono>
#include <thread>

#include "core/error.h"
#include "exec/check_range.h"

namespace tessera::core {

PinnedWords::PinnedWords(DeviceId device, size_t count) : device_(device) {
    const gpu::Driver &driver = gpu::gpu_backend(device).driver();
    gpu::Current current(driver, device.index);
    void *data = nullptr;
    driver.check(driver.call().allocate_host(&data, count * sizeof(int64_t), gpu::host_portable), "memory for status words");
    data_ = static_cast<int64_t *>(data);
}

PinnedWords::~PinnedWords() {
    try {
        const gpu::Driver &driver = gpu::gpu_backend(device_).driver();
        gpu::Current current(driver, device_.index);
        driver.call().release_host(data_);
    } catch (...) { // the driver is at its end
    }
}

GpuRun::GpuRun(std::shared_ptr<const Plan> plan, DeviceId device, size_t checks)
    : plan_(std::move(plan)), event_(gpu::gpu_backend(device).create_plain_event(device.index)) {
    if (checks)
        status_ = std::make_unique<PinnedWords>(device, checks + 1);
}

void GpuRun::begin(std::shared_ptr<const GpuPrepared> prepared, void *native_stream) {
    prepared_ = std::move(prepared);
    stream_.store(native_stream, std::memory_order_release);
    await_ = nullptr;
    if (status_)
        status_->data()[0] = 0;
}

void wait_a_while(const std::function<bool()> &reached) {
    constexpr auto longest = std::chrono::seconds(2);
    const auto start = std::chrono::steady_clock::now();
    while (!reached() && std::chrono::steady_clock::now() - start < longest)
        std::this_thread::sleep_for(std::chrono::microseconds(50));
}

void GpuRun::finish() {
    if (await_ && !reached()) {
        try {
            await_();
        } catch (const Error &) {
            wait_a_while([this] { return reached(); });
            throw;
        }
    }
    event_->wait();
}

void GpuRun::wait() {
    finish();
    settle();
    throw_failure();
}

void GpuRun::StateWrites::wait() {
    run_.finish();
    run_.settle();
}

bool GpuRun::reached() {
    try {
        return event_->reached();
    } catch (const Error &) {
        return true; // the device has failed; `wait` says so
    }
}

bool GpuRun::settle() {
    if (!reached())
        return false;
    std::vector<Tensor> over; // let go outside the lock: their deleters are the caller's code
    {
        std::lock_guard<std::mutex> hold(lock_);
        over.swap(held_);
    }
    over.clear();
    std::lock_guard<std::mutex> hold(lock_);
    if (held_.empty())
        held_.swap(over); // keeps the capacity: no allocation in steady state
    return true;
}

void GpuRun::throw_failure() {
    if (!status_ || status_->data()[0] == 0)
        return;
    const int64_t *positions = status_->data() + 1;
    for (const GpuStep &step : prepared_->steps) {
        if (step.source->kind != InstructionKind::CheckRange || positions[step.check] == no_position)
            continue;
        const Instruction &in = *step.source;
        const PlanBuffer &b = plan_->buffers[static_cast<size_t>(in.checked)];
        std::vector<int64_t> shape;
        if (b.kind == BufferKind::Input)
            shape = prepared_->input_shapes[static_cast<size_t>(b.binding)];
        const auto low = prepared_->check_limits[2 * step.check].i64, high = prepared_->check_limits[2 * step.check + 1].i64;
        fail(Code::IndexRange, "[check_range] %s at position %s is outside %lld to %lld%s%s%s", in.what.c_str(),
             position_text(shape, in.count.evaluate(prepared_->sizes), positions[step.check]).c_str(),
             static_cast<long long>(low), static_cast<long long>(high),
             in.ignore ? format(", and is not %lld, which is ignored", static_cast<long long>(*in.ignore)).c_str() : "",
             in.loc.empty() ? "" : "\n  at ", in.loc.c_str());
    }
    fail(Code::Device, "another device failed: a range check of its run");
}

} // namespace tessera::core
