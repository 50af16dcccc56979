// Runs programs: a thread pool and a queue of submitted work, done in order.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "core/allocator.h"
#include "core/lazy.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "exec/program.h"

namespace tessera::core {

// One submission: what to do, and how it went. Arguments are kept until it has finished.
class Run {
  public:
    using Clock = std::chrono::steady_clock;

    std::shared_ptr<Program> program; // or
    std::vector<std::shared_ptr<Lazy>> lazy;
    std::vector<Tensor> inputs;
    std::vector<Tensor> outputs;

    bool finished() const { return finished_.load(std::memory_order_acquire); }
    // Only when finished.
    std::exception_ptr error() const { return error_; }
    int64_t queued_ns() const { return nanoseconds(submitted_, begun_); }
    int64_t run_ns() const { return nanoseconds(begun_, ended_); }

  private:
    friend class Runtime;
    static int64_t nanoseconds(Clock::time_point a, Clock::time_point b) {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(b - a).count();
    }
    void execute(RunContext &context) noexcept;

    Clock::time_point submitted_, begun_, ended_;
    std::exception_ptr error_;
    std::atomic<bool> finished_{false};
};

struct RuntimeOptions {
    int threads = 0;                      // 0: one per available core
    std::shared_ptr<Allocator> allocator; // null: the devices' own memory
};

class Runtime {
  public:
    explicit Runtime(const RuntimeOptions &options);
    // Waits for all work. May be called by the runtime's own thread, when an argument of a run was the last owner.
    ~Runtime();
    Runtime(const Runtime &) = delete;
    Runtime &operator=(const Runtime &) = delete;

    ThreadPool &pool();
    const std::shared_ptr<Allocator> &allocator() const { return allocator_; }
    // For a run on the calling thread.
    RunContext context() { return {pool(), allocator_}; }
    // Queues a run. Work begins on the runtime's own thread, or on a thread that waits for it, whichever is first.
    void submit(std::shared_ptr<Run> run);
    // Waits for one run and rethrows its error.
    void wait(const std::shared_ptr<Run> &run);
    // Waits for all work and rethrows the first error that no wait has reported.
    void wait();
    // Waits until nothing is queued; errors stay for `wait`. One atomic load when there is nothing.
    void drain();

  private:
    struct Queue;
    std::shared_ptr<Allocator> allocator_;
    std::shared_ptr<Queue> queue_; // shared with the runtime's thread
};

} // namespace tessera::core
