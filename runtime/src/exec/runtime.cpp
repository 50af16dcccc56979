#include "exec/runtime.h"

#include <algorithm>

#include "core/error.h"
#include "core/futex.h"
#include "device/allocators.h"
#include "device/gpu/gpu_backend.h"

namespace tessera::core {

void Run::work(RunContext &context) {
    context.check_cancelled();
    if (program) {
        pointers_.clear();
        for (const Tensor &t : inputs)
            pointers_.push_back(&t);
        program->run(context, pointers_.data(), pointers_.size(), outputs.data(), outputs.size());
    }
    for (const std::shared_ptr<Lazy> &l : lazy)
        outputs.push_back(l->evaluate(context));
}

void Run::execute() noexcept {
    begun_ = Clock::now();
    try {
        const bool on_device = program && !program->device().is_cpu();
        RunContext context = on_device ? runtime_->context_on(program->device(), stream) : runtime_->context();
        if (!on_device)
            context.stream = stream.get();
        context.outputs_follow_inputs = !outputs_on_device;
        context.workspace = workspace.get();
        context.cancel = cancel.get();
        if (trace)
            context.trace = trace.get();
        work(context);
        pending_ = std::move(context.pending);
        if (pending_)
            runtime_->note_pending(pending_);
    } catch (...) {
        error_ = std::current_exception();
        runtime_->note_failure(*this);
    }
    ended_ = Clock::now();
}

void Run::wait() {
    if (!is_done())
        queue_->wait_for(*this);
    if (!error_ && pending_) {
        try {
            pending_->wait();
        } catch (...) {
            runtime_->forget_pending(pending_);
            throw;
        }
    }
    if (!error_)
        return;
    runtime_->forget_failure(error_);
    std::rethrow_exception(error_);
}

void Run::clear() {
    program = nullptr;
    lazy.clear();
    inputs.clear();
    outputs.clear();
    stream = nullptr;
    workspace = nullptr;
    cancel = nullptr;
    trace = nullptr;
    queue_ = nullptr;
    error_ = nullptr;
    pending_ = nullptr;
    outputs_on_device = false;
}

void Run::release() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1)
        return;
    std::shared_ptr<Runtime> runtime = std::move(runtime_);
    clear();
    if (runtime)
        runtime->recycle(this);
    else
        delete this;
}

Runtime::Runtime(const RuntimeOptions &options)
    : kept_(options.kept), pool_(options.threads, options.pool),
      allocator_(options.allocator ? options.allocator : make_backend_allocator()), trace_(options.trace),
      log_(options.log) {}

Runtime::~Runtime() {
    try {
        drain();
    } catch (...) {
        // A child of fork: the work is the parent's.
    }
    for (size_t i = 0; i < lane_count; ++i)
        if (lanes_[i].ready.load(std::memory_order_acquire))
            lanes_[i].queue->close();
    wait_for_devices();
}

RunContext Runtime::context() {
    RunContext out{pool_, allocator_};
    out.workspaces = &workspaces_;
    out.trace = trace_.get();
    out.log = &log_;
    return out;
}

RunContext Runtime::context_on(DeviceId device, const std::shared_ptr<Stream> &stream) {
    RunContext out = context();
    if (stream) {
        out.stream = stream.get();
        out.own_stream = gpu::own_stream(stream);
        return out;
    }
    std::lock_guard<std::mutex> hold(device_lock_);
    for (const std::shared_ptr<Stream> &s : streams_)
        if (s->device() == device)
            out.own_stream = s;
    if (!out.own_stream) {
        out.own_stream = backend(device).create_stream(device.index);
        streams_.push_back(out.own_stream);
    }
    out.stream = out.own_stream.get();
    return out;
}

void Runtime::note_pending(std::shared_ptr<Pending> pending) {
    std::lock_guard<std::mutex> hold(device_lock_);
    constexpr size_t looked_at = 16; // from here on: to ask a device costs more than to remember
    while (pending_.size() > looked_at && pending_.front()->reached()) {
        try {
            pending_.front()->wait();
        } catch (...) {
            keep_failure(std::current_exception());
        }
        pending_.pop_front();
    }
    pending_.push_back(std::move(pending));
}

void Runtime::forget_pending(const std::shared_ptr<Pending> &pending) {
    std::lock_guard<std::mutex> hold(device_lock_);
    pending_.erase(std::remove(pending_.begin(), pending_.end(), pending), pending_.end());
}

// Failures are kept for `wait`.
void Runtime::wait_for_devices() noexcept {
    std::deque<std::shared_ptr<Pending>> all;
    {
        std::lock_guard<std::mutex> hold(device_lock_);
        all.swap(pending_);
    }
    for (const std::shared_ptr<Pending> &p : all) {
        try {
            p->wait();
        } catch (...) {
            keep_failure(std::current_exception());
        }
    }
}

void Runtime::keep_failure(std::exception_ptr error) noexcept {
    std::lock_guard<std::mutex> hold(failure_lock_);
    if (!first_failure_)
        first_failure_ = std::move(error);
    has_failed_.store(true, std::memory_order_release);
}

Run *Runtime::new_run() {
    std::unique_ptr<Run> run = idle_runs_.take();
    if (!run)
        run = std::make_unique<Run>();
    run->references_.store(1, std::memory_order_relaxed);
    run->reset();
    run->runtime_ = shared_from_this();
    return run.release();
}

void Runtime::recycle(Run *run) noexcept { idle_runs_.put(std::unique_ptr<Run>(run)); }

// The lane of the calling thread; null when it has none and none is to be made. When all lanes are taken, threads share.
Runtime::Lane *Runtime::find_lane(bool make) {
    const uintptr_t mine = thread_mark();
    const size_t first = spread(mine, lane_bits);
    std::shared_ptr<CpuQueue> fresh;
    for (size_t i = 0; i < lane_count; ++i) {
        Lane &lane = lanes_[(first + i) % lane_count];
        uintptr_t owner = lane.thread.load(std::memory_order_acquire);
        if (owner == mine)
            return &lane;
        if (owner != 0)
            continue;
        if (!make)
            return nullptr;
        if (!fresh)
            fresh = std::make_shared<CpuQueue>();
        if (lane.thread.compare_exchange_strong(owner, mine, std::memory_order_acq_rel)) {
            lane.queue = std::move(fresh);
            lane.ready.store(true, std::memory_order_release);
            return &lane;
        }
    }
    Lane &shared = lanes_[first];
    while (!shared.ready.load(std::memory_order_acquire)) // its thread is about to make it so
        relax();
    return &shared;
}

void Runtime::submit(Run &run) {
    process_.check("runtime");
    run.submitted_ = Run::Clock::now();
    const bool elsewhere = run.program && !run.program->device().is_cpu();
    if (run.stream && run.stream->device() != (elsewhere ? run.program->device() : DeviceId{}))
        fail(Code::Device, "the run is on %s, its stream on %s",
             text(elsewhere ? run.program->device() : DeviceId{}).c_str(), text(run.stream->device()).c_str());
    auto *stream = static_cast<CpuStream *>(elsewhere ? nullptr : run.stream.get());
    run.queue_ = stream ? stream->queue() : find_lane(true)->queue;
    run.retain();
    try {
        CpuQueue::put(run.queue_, run);
        if (elsewhere)
            run.queue_->wait_for(run);
    } catch (...) {
        run.release();
        throw;
    }
}

void Runtime::drain_mine() {
    Lane *lane = find_lane(false);
    if (lane && lane->ready.load(std::memory_order_acquire) && !lane->queue->idle())
        lane->queue->drain();
}

void Runtime::drain() {
    for (size_t i = 0; i < lane_count; ++i)
        if (lanes_[i].ready.load(std::memory_order_acquire))
            lanes_[i].queue->drain();
}

void Runtime::note_failure(Run &run) noexcept {
    keep_failure(run.error_);
    if (!log_.wants(LogLevel::Error))
        return;
    try {
        std::rethrow_exception(run.error_);
    } catch (const Error &e) {
        log_.write(e.code() == Code::Cancelled ? LogLevel::Info : LogLevel::Error, "a run failed: " + e.message());
    } catch (...) {
        log_.write(LogLevel::Error, "a run failed");
    }
}

void Runtime::forget_failure(const std::exception_ptr &error) {
    std::lock_guard<std::mutex> hold(failure_lock_);
    if (first_failure_ == error)
        first_failure_ = nullptr;
}

void Runtime::wait() {
    drain();
    wait_for_devices();
    if (!has_failed_.load(std::memory_order_acquire))
        return;
    std::exception_ptr failure;
    {
        std::lock_guard<std::mutex> hold(failure_lock_);
        failure = std::move(first_failure_);
        first_failure_ = nullptr;
        has_failed_.store(false, std::memory_order_relaxed);
    }
    if (failure)
        std::rethrow_exception(failure);
}

} // namespace tessera::core
