#include <mutex>
#include <sched.h>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "core/futex.h"
#include "core/slot_cache.h"
#include "device/cpu/cpu_stream.h"

namespace tessera::core {

namespace {
// How long the thread looks for work before it sleeps, and a waiting thread for the end of its task: waking costs more.
constexpr int spin_rounds = 2000;
// How long the thread sleeps at a time while threads that wait do all the work themselves: they need not wake it.
constexpr long short_sleep_ns = 100'000;
// How long the thread leaves a new task to the thread that put it there, which may be about to wait for it.
constexpr int courtesy_rounds = 40;
} // namespace

struct CpuQueue::Thread {
    std::mutex lock;
    std::atomic<bool> started{false};
    std::thread thread;
};

CpuQueue::CpuQueue() : back_(&stub_), front_(&stub_), thread_(std::make_unique<Thread>()) {}

CpuQueue::~CpuQueue() = default;

void CpuQueue::start_thread(const std::shared_ptr<CpuQueue> &self) {
    std::lock_guard<std::mutex> hold(thread_->lock);
    if (thread_->started.load(std::memory_order_relaxed))
        return;
    try {
        thread_->thread = std::thread([self] { self->serve(); });
    } catch (const std::system_error &e) {
        fail(Code::OutOfMemory, "a thread for submitted work could not be started (%s)", e.what());
    }
    thread_->started.store(true, std::memory_order_release);
}

void CpuQueue::put(const std::shared_ptr<CpuQueue> &self, StreamTask &task) {
    CpuQueue &q = *self;
    q.process_.check("runtime or stream");
    if (!q.thread_->started.load(std::memory_order_acquire))
        q.start_thread(self);
    q.pending_.fetch_add(1, std::memory_order_relaxed);
    task.next_.store(nullptr, std::memory_order_relaxed);
    StreamTask *before = q.back_.exchange(&task, std::memory_order_acq_rel);
    before->next_.store(&task, std::memory_order_release);
    q.wake_thread(Sleep::Long);
}

void CpuQueue::wake_thread(Sleep least) {
    signal_.fetch_add(1, std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) >= least)
        futex_wake(signal_);
}

void CpuQueue::sleep(uint32_t seen, Sleep kind) {
    asleep_.store(kind, std::memory_order_seq_cst);
    if (signal_.load(std::memory_order_seq_cst) == seen && !closed_.load(std::memory_order_seq_cst)) {
        if (kind == Sleep::Short)
            futex_wait_for(signal_, seen, short_sleep_ns);
        else
            futex_wait(signal_, seen);
    }
    asleep_.store(Sleep::None, std::memory_order_relaxed);
}

// The first task, or null when there is none, or when the thread that is putting one there has not finished.
StreamTask *CpuQueue::pop() {
    StreamTask *front = front_, *next = front->next_.load(std::memory_order_acquire);
    if (front == &stub_) {
        if (!next)
            return nullptr;
        front_ = front = next;
        next = front->next_.load(std::memory_order_acquire);
    }
    if (next) {
        front_ = next;
        return front;
    }
    if (front != back_.load(std::memory_order_acquire))
        return nullptr;
    // The last one: the stub goes behind it, so that it can leave.
    stub_.next_.store(nullptr, std::memory_order_relaxed);
    StreamTask *before = back_.exchange(&stub_, std::memory_order_acq_rel);
    before->next_.store(&stub_, std::memory_order_release);
    next = front->next_.load(std::memory_order_acquire);
    if (!next)
        return nullptr;
    front_ = next;
    return front;
}

bool CpuQueue::try_serve() {
    if (serving_.load(std::memory_order_relaxed) || serving_.exchange(true, std::memory_order_acquire))
        return false;
    server_.store(thread_mark(), std::memory_order_relaxed);
    return true;
}

// Tasks that came while this thread served were left to it; the queue's own thread takes what is still there.
void CpuQueue::end_service() {
    server_.store(0, std::memory_order_relaxed);
    serving_.store(false, std::memory_order_seq_cst);
    if (pending_.load(std::memory_order_seq_cst) != 0)
        wake_thread(Sleep::Short);
}

bool CpuQueue::do_one() {
    StreamTask *task = pop();
    if (task) {
        task->execute();
        pending_.fetch_sub(1, std::memory_order_release);
        if (task->state_.exchange(StreamTask::done, std::memory_order_acq_rel) == StreamTask::waited_for)
            futex_wake(task->state_);
    }
    end_service();
    if (task)
        task->let_go(); // lets go of the caller's objects, whose destructors may come back here
    return task != nullptr;
}

void CpuQueue::sleep_on(StreamTask &task) {
    uint32_t state = 0;
    if (task.state_.compare_exchange_strong(state, StreamTask::waited_for, std::memory_order_acq_rel) ||
        state == StreamTask::waited_for)
        futex_wait(task.state_, StreamTask::waited_for);
}

void CpuQueue::check_not_serving() const {
    if (server_.load(std::memory_order_relaxed) == thread_mark())
        fail(Code::Argument, "work of a queue waits for work of the same queue, which can only begin after it");
}

void CpuQueue::wait_for(StreamTask &task) {
    for (int round = 0; !task.is_done(); ++round) {
        if (try_serve()) {
            if (do_one())
                done_by_waiters_.fetch_add(1, std::memory_order_relaxed);
            continue;
        }
        check_not_serving();
        process_.check("runtime or stream");
        if (round < spin_rounds)
            relax();
        else
            sleep_on(task);
    }
}

namespace {

// A task that a thread waits for, on its stack.
class Mark final : public StreamTask {
  public:
    bool may_go() const { return gone_.load(std::memory_order_acquire); }

  private:
    void execute() noexcept override {}
    void let_go() noexcept override { gone_.store(true, std::memory_order_release); }
    std::atomic<bool> gone_{false};
};

} // namespace

void CpuQueue::drain() {
    if (idle())
        return;
    process_.check("runtime or stream");
    check_not_serving();
    Mark mark;
    pending_.fetch_add(1, std::memory_order_relaxed);
    StreamTask *before = back_.exchange(&mark, std::memory_order_acq_rel);
    before->next_.store(&mark, std::memory_order_release);
    wait_for(mark);
    while (!mark.may_go())
        relax();
}

void CpuQueue::serve() {
    int empty_rounds = 0;
    uint32_t by_waiters = 0;
    // Closed by its own work, the queue still does what is behind that.
    while (!closed_.load(std::memory_order_acquire) || pending_.load(std::memory_order_acquire) != 0) {
        const uint32_t seen = signal_.load(std::memory_order_seq_cst);
        if (pending_.load(std::memory_order_seq_cst) != 0 && !serving_.load(std::memory_order_relaxed)) {
            for (int i = 0; i < courtesy_rounds && !serving_.load(std::memory_order_relaxed); ++i)
                relax();
            if (try_serve() && do_one()) {
                empty_rounds = 0;
                continue;
            }
        }
        const uint32_t done = done_by_waiters_.load(std::memory_order_relaxed);
        if (done != by_waiters) {
            by_waiters = done;
            sleep(seen, Sleep::Short);
        } else if (++empty_rounds < spin_rounds) {
            relax();
        } else {
            sleep(seen, Sleep::Long);
            empty_rounds = 0;
        }
    }
}

void CpuQueue::close() noexcept {
    closed_.store(true, std::memory_order_seq_cst);
    signal_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(signal_);
    std::thread &thread = thread_->thread;
    if (!thread.joinable())
        return;
    if (!process_.is_here() || thread.get_id() == std::this_thread::get_id())
        thread.detach(); // the parent's; or it ends by itself, and the queue with it
    else
        thread.join();
}

} // namespace tessera::core
