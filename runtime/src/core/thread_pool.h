// The runtime's threads: parallel loops with a handoff of about a microsecond.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace tessera::core {

// The caller's threads. `parallel_for` calls function(argument, begin, end) on disjoint ranges that cover [0, units), on
// any threads, no range smaller than `grain` (except the last), and returns when all calls have. It must not throw.
struct ThreadPoolFunctions {
    void *context = nullptr;
    void (*parallel_for)(void *context, int64_t units, int64_t grain,
                         void (*function)(void *argument, int64_t begin, int64_t end), void *argument) = nullptr;
};

class ThreadPool {
  public:
    // `threads` counts the submitting thread too; 0: one per available core. With `functions`, loops are handed to the
    // caller's threads, of which at most `threads` work on one at the same time.
    explicit ThreadPool(int threads = 0, const ThreadPoolFunctions &functions = {});
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int threads() const { return threads_; }

    // Calls fn(begin, end, thread) on disjoint ranges that cover [0, units), on this thread (thread 0) and on workers
    // (thread < threads()). No range is split below `grain` units (except the last). Returns when all are done. When
    // calls throw, the exception of the lowest range is rethrown here after all ranges have run. May be called from
    // several threads at once and from within fn: the workers serve one loop at a time, any other loop runs on its caller.
    template <class Function> void parallel_for(int64_t units, int64_t grain, Function &&fn) {
        using F = std::remove_reference_t<Function>;
        run(units, grain,
            [](void *context, int64_t begin, int64_t end, int thread) {
                (*static_cast<F *>(context))(begin, end, thread);
            },
            const_cast<void *>(static_cast<const void *>(std::addressof(fn))));
    }

    using RangeFunction = void (*)(void *context, int64_t begin, int64_t end, int thread);
    void run(int64_t units, int64_t grain, RangeFunction fn, void *context);

  private:
    struct Impl;
    struct CallerLoop;
    int threads_;
    ThreadPoolFunctions functions_;
    std::unique_ptr<Impl> impl_;
};

// Cores this process may use: its CPU affinity, capped by the CPU quota of its control group.
int available_cores();

} // namespace tessera::core
