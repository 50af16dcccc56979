// One submission: what to do, and how it went.
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <vector>

#include "core/lazy.h"
#include "core/tensor.h"
#include "device/cpu/cpu_stream.h"
#include "exec/program.h"

namespace tessera::core {

class Runtime;

// Counted by its handles and by the queue; given back to its runtime, to be used again, when the last reference goes.
// Arguments are kept until the last handle is gone: outputs are asked for by then.
class Run final : public StreamTask {
  public:
    using Clock = std::chrono::steady_clock;

    // What is to be done: a program on inputs and outputs, or
    std::shared_ptr<Program> program;
    // the evaluation of lazy tensors.
    std::vector<std::shared_ptr<Lazy>> lazy;
    std::vector<Tensor> inputs, outputs;
    // How: null for the runtime's own.
    std::shared_ptr<Stream> stream;
    std::shared_ptr<Workspace> workspace;
    std::shared_ptr<const CancelFlag> cancel;
    std::shared_ptr<TraceSink> trace;
    bool outputs_on_device = false; // also when all inputs are in host memory

    void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
    void release();

    Runtime &runtime() const { return *runtime_; }
    bool finished() const { return is_done() && (!pending_ || pending_->reached()); }
    // Waits on this thread until it has finished, and rethrows its error.
    void wait();
    // Only when finished.
    std::exception_ptr error() const { return error_; }
    int64_t queued_ns() const { return nanoseconds(submitted_, begun_); }
    int64_t run_ns() const { return nanoseconds(begun_, ended_); }

  private:
    friend class Runtime;
    void execute() noexcept override;
    void let_go() noexcept override { release(); }
    void work(RunContext &context);
    void clear();
    static int64_t nanoseconds(Clock::time_point a, Clock::time_point b) {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(b - a).count();
    }

    std::atomic<int64_t> references_{1};
    std::shared_ptr<Runtime> runtime_; // from submission on
    std::shared_ptr<CpuQueue> queue_;  // where it is or was
    Clock::time_point submitted_, begun_, ended_;
    std::exception_ptr error_;
    std::shared_ptr<Pending> pending_;
    std::vector<const Tensor *> pointers_;
};

} // namespace tessera::core
