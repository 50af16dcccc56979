#include "core/thread_pool.h"

#include <algorithm>
#include <cstdio>
#include <sched.h>
#include <system_error>
#include <unistd.h>

#include "core/error.h"
#include "core/futex.h"
#include "core/process.h"

namespace tessera::core {

namespace {

// Spinning covers the gap between two kernels of one run; a longer pause is worth a system call.
constexpr int spin_rounds = 4000;

// One thread's share of a loop. Others take from it when they have finished their own.
struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
};

// True on a worker and on a thread that is inside a loop: a nested loop runs on its caller.
thread_local bool inside_loop = false;

} // namespace

struct ThreadPool::Impl {
    // The loop that the workers serve. Written by its caller while the gate is closed and nobody is inside.
    RangeFunction fn = nullptr;
    void *context = nullptr;
    int64_t chunk = 1;
    int participants = 0;
    std::vector<Share> shares;

    static constexpr uint32_t open = 0x80000000u;
    alignas(64) std::atomic<uint32_t> gate{0};  // `open` | workers inside
    alignas(64) std::atomic<uint32_t> epoch{0}; // counts loops; workers sleep on it
    std::atomic<uint32_t> sleeping{0};
    std::atomic<bool> stop{false};
    std::mutex caller; // held by the thread whose loop is served

    std::mutex error_lock;
    std::exception_ptr error;
    int64_t error_begin = 0;

    std::vector<std::thread> workers;
    const ProcessMark process;

    explicit Impl(int threads) : shares(static_cast<size_t>(threads)) {}

    ~Impl() {
        stop.store(true);
        epoch.fetch_add(1, std::memory_order_seq_cst);
        futex_wake(epoch, ~0u);
        for (std::thread &t : workers)
            if (process.is_here())
                t.join();
            else
                t.detach(); // after a fork: the thread lives in the parent alone
    }

    void note_error(int64_t begin) {
        std::lock_guard<std::mutex> hold(error_lock);
        if (!error || begin < error_begin) {
            error = std::current_exception();
            error_begin = begin;
        }
    }

    void take_part(int thread) {
        for (int i = 0; i < participants; ++i) {
            Share &share = shares[static_cast<size_t>((thread + i) % participants)];
            while (share.next.load(std::memory_order_relaxed) < share.end) {
                int64_t begin = share.next.fetch_add(chunk, std::memory_order_relaxed);
                if (begin >= share.end)
                    break;
                try {
                    fn(context, begin, std::min(begin + chunk, share.end), thread);
                } catch (...) {
                    note_error(begin);
                }
            }
        }
    }

    bool enter() {
        uint32_t g = gate.load(std::memory_order_relaxed);
        while (g & open)
            if (gate.compare_exchange_weak(g, g + 1, std::memory_order_acquire, std::memory_order_relaxed))
                return true;
        return false;
    }

    void wait_for_epoch(uint32_t seen, uint32_t mask) {
        for (int i = 0; i < spin_rounds; ++i) {
            if (epoch.load(std::memory_order_acquire) != seen)
                return;
            relax();
        }
        sleeping.fetch_add(1, std::memory_order_seq_cst);
        while (epoch.load(std::memory_order_seq_cst) == seen && !stop.load(std::memory_order_relaxed))
            futex_wait(epoch, seen, mask);
        sleeping.fetch_sub(1, std::memory_order_relaxed);
    }

    void work(int thread) {
        inside_loop = true;
        uint32_t mask = 1u << (thread % 32);
        uint32_t seen = 0;
        while (!stop.load(std::memory_order_relaxed)) {
            wait_for_epoch(seen, mask);
            seen = epoch.load(std::memory_order_acquire);
            if (!enter())
                continue;
            if (thread < participants)
                take_part(thread);
            gate.fetch_sub(1, std::memory_order_release);
        }
    }

    void publish() {
        gate.store(open, std::memory_order_release);
        epoch.fetch_add(1, std::memory_order_seq_cst);
        if (sleeping.load(std::memory_order_seq_cst) == 0)
            return;
        futex_wake(epoch, participants > 31 ? ~0u : (1u << participants) - 1);
    }

    // Workers that have not entered by now find nothing to do; those inside finish their last chunk.
    void close() {
        uint32_t g = gate.fetch_and(~open, std::memory_order_acquire) & ~open;
        for (int i = 0; g != 0; ++i) {
            if (i < spin_rounds * 4)
                relax();
            else
                sched_yield(); // more threads than cores: let the worker run
            g = gate.load(std::memory_order_acquire);
        }
    }
};

ThreadPool::ThreadPool(int threads, const ThreadPoolFunctions &functions)
    : threads_(threads > 0 ? threads : available_cores()), functions_(functions) {
    if (functions_.parallel_for)
        return;
    impl_ = std::make_unique<Impl>(threads_);
    impl_->workers.reserve(static_cast<size_t>(threads_));
    try {
        for (int i = 1; i < threads_; ++i)
            impl_->workers.emplace_back([impl = impl_.get(), i] { impl->work(i); });
    } catch (const std::system_error &e) {
        fail(Code::OutOfMemory, "%d threads are wanted, the system gives no more than %zu (%s)", threads_,
             impl_->workers.size() + 1, e.what());
    }
}

ThreadPool::~ThreadPool() = default;

// A loop on the caller's threads: each call gets a thread number that no other has at the time, and exceptions wait here
// until all have returned.
struct ThreadPool::CallerLoop {
    RangeFunction fn;
    void *context;
    int threads;
    std::unique_ptr<std::atomic<bool>[]> taken;
    std::atomic<int64_t> done{0};
    std::mutex error_lock;
    std::exception_ptr error;
    int64_t error_begin = 0;

    CallerLoop(RangeFunction f, void *c, int t)
        : fn(f), context(c), threads(t), taken(std::make_unique<std::atomic<bool>[]>(static_cast<size_t>(t))) {}

    int take_number() {
        for (int i = 0;; i = (i + 1) % threads) {
            auto &place = taken[static_cast<size_t>(i)];
            if (!place.load(std::memory_order_relaxed) && !place.exchange(true, std::memory_order_acquire))
                return i;
            if (i + 1 == threads)
                sched_yield(); // more threads than announced
        }
    }

    static void call(void *argument, int64_t begin, int64_t end) {
        auto &loop = *static_cast<CallerLoop *>(argument);
        const int number = loop.take_number();
        const bool outer = std::exchange(inside_loop, true);
        try {
            loop.fn(loop.context, begin, end, number);
        } catch (...) {
            std::lock_guard<std::mutex> hold(loop.error_lock);
            if (!loop.error || begin < loop.error_begin) {
                loop.error = std::current_exception();
                loop.error_begin = begin;
            }
        }
        inside_loop = outer;
        loop.taken[static_cast<size_t>(number)].store(false, std::memory_order_release);
        loop.done.fetch_add(end - begin, std::memory_order_acq_rel);
    }

    void run(const ThreadPoolFunctions &functions, int64_t units, int64_t grain) {
        functions.parallel_for(functions.context, units, grain, call, this);
        if (int64_t count = done.load(std::memory_order_acquire); count != units)
            fail(Code::Argument, "the thread pool's parallel_for did %lld of %lld units before it returned",
                 static_cast<long long>(count), static_cast<long long>(units));
        if (error)
            std::rethrow_exception(error);
    }
};

void ThreadPool::run(int64_t units, int64_t grain, RangeFunction fn, void *context) {
    if (units <= 0)
        return;
    grain = std::max<int64_t>(grain, 1);
    int64_t wanted = units / grain + (units % grain != 0);
    int participants = static_cast<int>(std::min<int64_t>(wanted, threads_));
    if (functions_.parallel_for && participants > 1 && !inside_loop) {
        CallerLoop(fn, context, threads_).run(functions_, units, grain);
        return;
    }
    // In a child of fork the workers are not there, and one may have left the gate open behind it.
    if (participants <= 1 || inside_loop || !impl_->process.is_here() || !impl_->caller.try_lock()) {
        fn(context, 0, units, 0);
        return;
    }
    std::unique_lock<std::mutex> hold(impl_->caller, std::adopt_lock);
    Impl &p = *impl_;
    p.fn = fn;
    p.context = context;
    p.participants = participants;
    // A few chunks per thread even out uneven units; fewer would leave a late thread's share to it alone.
    int64_t per_chunk = units / (static_cast<int64_t>(participants) * 4);
    p.chunk = std::max(grain, per_chunk);
    for (int i = 0; i < participants; ++i) {
        Share &share = p.shares[static_cast<size_t>(i)];
        share.next.store(units / participants * i + std::min<int64_t>(units % participants, i), std::memory_order_relaxed);
        share.end = units / participants * (i + 1) + std::min<int64_t>(units % participants, i + 1);
    }
    p.publish();
    inside_loop = true;
    p.take_part(0);
    inside_loop = false;
    p.close();
    if (p.error) {
        std::exception_ptr error = std::move(p.error);
        p.error = nullptr;
        hold.unlock();
        std::rethrow_exception(error);
    }
}

namespace {

// The CPU quota of the control group in cores, or 0 when there is none.
int quota_cores() {
    int cores = 0;
    if (FILE *f = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {
        long long quota = 0, period = 0;
        if (std::fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0)
            cores = static_cast<int>(std::max<long long>(1, (quota + period - 1) / period));
        std::fclose(f);
    }
    return cores;
}

} // namespace

int available_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
    if (cores < 1)
        cores = std::max(1u, std::thread::hardware_concurrency());
    int quota = quota_cores();
    return quota > 0 ? std::min(cores, quota) : cores;
}

} // namespace tessera::core
