// Runs programs: threads, memory, and queues of submitted work, one for each thread that submits.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "core/allocator.h"
#include "core/log.h"
#include "core/thread_pool.h"
#include "exec/run.h"
#include "exec/run_context.h"
#include "exec/workspace.h"

namespace tessera::core {

struct RuntimeOptions {
    int threads = 0;                      // 0: one per available core
    std::shared_ptr<Allocator> allocator; // null: the devices' own memory
    ThreadPoolFunctions pool;             // without parallel_for: threads of the runtime's own
    std::shared_ptr<TraceSink> trace;     // null: nobody watches
    Log log{nullptr, nullptr, LogLevel::Error};
    std::shared_ptr<void> kept;           // let go when the runtime is gone
};

// Runs that one thread submits are done in their order; those of different threads go on side by side. Submission and
// runs take no lock in the steady state.
class Runtime : public std::enable_shared_from_this<Runtime> {
  public:
    explicit Runtime(const RuntimeOptions &options);
    // Waits for all work. May be called by a queue's own thread, when an argument of a run was the last owner.
    ~Runtime();
    Runtime(const Runtime &) = delete;
    Runtime &operator=(const Runtime &) = delete;

    ThreadPool &pool() { return pool_; }
    const std::shared_ptr<Allocator> &allocator() const { return allocator_; }
    const Log &log() const { return log_; }
    // For a run on the calling thread.
    RunContext context();
    // For a run on a GPU: puts it on `stream`, or null: on the runtime's own stream of that device.
    RunContext context_on(DeviceId device, const std::shared_ptr<Stream> &stream);
    // Work on a device that `wait` waits for, and whose failure it throws unless that was thrown elsewhere.
    void note_pending(std::shared_ptr<Pending> pending);

    // A run to fill in and submit, with one reference.
    Run *new_run();
    // Queues a run behind those of this thread, or of its stream. Work begins on a thread of the queue, or on a thread
    // that waits for it, whichever is first; on a device that is not the CPU it is put on the stream at once.
    void submit(Run &run);
    // Waits for all work and rethrows the first error that no wait has reported.
    void wait();
    // Waits for the work that this thread has submitted; errors stay for `wait`. No lock, and little time, without any.
    void drain_mine();
    // The same for all threads' work.
    void drain();

  private:
    friend class Run;
    struct alignas(64) Lane {
        std::atomic<uintptr_t> thread{0}; // the mark of the thread whose lane it is; 0: nobody's yet
        std::shared_ptr<CpuQueue> queue;  // made by the thread, published by `ready`
        std::atomic<bool> ready{false};
    };
    static constexpr int lane_bits = 7;
    static constexpr size_t lane_count = size_t{1} << lane_bits;
    Lane *find_lane(bool make);
    void note_failure(Run &run) noexcept;
    void keep_failure(std::exception_ptr error) noexcept;
    void forget_failure(const std::exception_ptr &error);
    void forget_pending(const std::shared_ptr<Pending> &pending);
    void wait_for_devices() noexcept;
    void recycle(Run *run) noexcept;

    const std::shared_ptr<void> kept_; // destroyed last
    ThreadPool pool_;
    const std::shared_ptr<Allocator> allocator_;
    const std::shared_ptr<TraceSink> trace_;
    const Log log_;
    WorkspaceCache workspaces_;
    SlotCache<Run> idle_runs_;
    std::unique_ptr<Lane[]> lanes_ = std::make_unique<Lane[]>(lane_count);
    std::mutex device_lock_; // of the next two
    std::vector<std::shared_ptr<Stream>> streams_; // the runtime's own, of GPUs
    std::deque<std::shared_ptr<Pending>> pending_; // in the order in which they were put on streams
    std::mutex failure_lock_;
    std::exception_ptr first_failure_;
    std::atomic<bool> has_failed_{false};
    ProcessMark process_;
};

} // namespace tessera::core
