#include "exec/runtime.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unistd.h>

#include "core/error.h"
#include "device/allocators.h"

namespace tessera::core {

void Run::execute(RunContext &context) noexcept {
    begun_ = Clock::now();
    try {
        if (program) {
            std::vector<const Tensor *> pointers;
            pointers.reserve(inputs.size());
            for (const Tensor &t : inputs)
                pointers.push_back(&t);
            program->run(context, pointers.data(), pointers.size(), outputs.data(), outputs.size());
        }
        for (const std::shared_ptr<Lazy> &l : lazy)
            outputs.push_back(l->evaluate(context));
    } catch (...) {
        error_ = std::current_exception();
    }
    ended_ = Clock::now();
}

struct Runtime::Queue {
    Queue(int threads, std::shared_ptr<Allocator> a) : pool(threads), allocator(std::move(a)) {}

    // The lock. In a child of fork a thread that is not there may hold it, or be at work: an error, not a wait for ever.
    std::unique_lock<std::mutex> hold() {
        std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
        if (!lock) {
            check_process();
            lock.lock();
        }
        return lock;
    }
    void check_process() const {
        if (process != ::getpid())
            fail(Code::Unsupported, "the process was forked while this runtime was at work; make a new Runtime in the child");
    }
    // Does the first queued run on this thread, or waits while another thread is at work. `lock` is held.
    void advance(std::unique_lock<std::mutex> &lock);
    void do_front(std::unique_lock<std::mutex> &lock);
    void work();

    ThreadPool pool;
    const std::shared_ptr<Allocator> allocator;
    std::mutex mutex;
    std::condition_variable arrived; // for the runtime's thread
    std::condition_variable done;    // for waiting threads
    std::deque<std::shared_ptr<Run>> runs;
    std::atomic<int64_t> pending{0};
    std::shared_ptr<Run> first_failure;
    bool busy = false; // a thread is executing a run of the queue
    bool idle = false; // the runtime's thread sleeps
    bool stop = false;
    int waiting = 0;
    std::thread thread;
    const pid_t process = ::getpid();
};

// Called with the lock held and the queue not empty.
void Runtime::Queue::do_front(std::unique_lock<std::mutex> &lock) {
    std::shared_ptr<Run> run = std::move(runs.front());
    runs.pop_front();
    busy = true;
    lock.unlock();
    RunContext context{pool, allocator};
    run->execute(context);
    lock.lock();
    busy = false;
    if (run->error_ && !first_failure)
        first_failure = run;
    run->finished_.store(true, std::memory_order_release);
    pending.fetch_sub(1, std::memory_order_release);
    if (waiting > 0)
        done.notify_all();
    if (!runs.empty() && idle)
        arrived.notify_one();
    // The arguments are let go outside the lock: their deleters are the caller's code.
    lock.unlock();
    run.reset();
    lock.lock();
}

void Runtime::Queue::advance(std::unique_lock<std::mutex> &lock) {
    if (!busy && !runs.empty()) {
        do_front(lock);
        return;
    }
    check_process();
    ++waiting;
    done.wait(lock);
    --waiting;
}

void Runtime::Queue::work() {
    std::unique_lock<std::mutex> lock(mutex);
    while (!stop) {
        if (!busy && !runs.empty()) {
            do_front(lock);
            continue;
        }
        idle = true;
        arrived.wait(lock);
        idle = false;
    }
}

Runtime::Runtime(const RuntimeOptions &options)
    : allocator_(options.allocator ? options.allocator : make_backend_allocator()),
      queue_(std::make_shared<Queue>(options.threads, allocator_)) {}

Runtime::~Runtime() {
    Queue &q = *queue_;
    if (q.process != ::getpid()) {
        // A child of fork: the threads are the parent's alone, and to destroy what they wait on would never end.
        new std::shared_ptr<Queue>(std::move(queue_));
        return;
    }
    drain();
    {
        std::lock_guard<std::mutex> hold(q.mutex);
        q.stop = true;
    }
    q.arrived.notify_all();
    if (q.thread.get_id() == std::this_thread::get_id())
        q.thread.detach(); // it ends by itself, and the queue with it
    else if (q.thread.joinable())
        q.thread.join();
}

ThreadPool &Runtime::pool() { return queue_->pool; }

void Runtime::submit(std::shared_ptr<Run> run) {
    Queue &q = *queue_;
    run->submitted_ = Run::Clock::now();
    bool wake;
    {
        std::unique_lock<std::mutex> lock = q.hold();
        if (!q.thread.joinable())
            q.thread = std::thread([queue = queue_] { queue->work(); });
        q.runs.push_back(std::move(run));
        q.pending.fetch_add(1, std::memory_order_relaxed);
        wake = q.idle && !q.busy;
    }
    if (wake)
        q.arrived.notify_one();
}

void Runtime::wait(const std::shared_ptr<Run> &run) {
    Queue &q = *queue_;
    if (!run->finished()) {
        std::unique_lock<std::mutex> lock = q.hold();
        while (!run->finished())
            q.advance(lock);
    }
    if (!run->error_)
        return;
    {
        std::unique_lock<std::mutex> lock = q.hold();
        if (q.first_failure == run)
            q.first_failure.reset();
    }
    std::rethrow_exception(run->error_);
}

void Runtime::drain() {
    Queue &q = *queue_;
    if (q.pending.load(std::memory_order_acquire) == 0)
        return;
    std::unique_lock<std::mutex> lock = q.hold();
    while (q.pending.load(std::memory_order_acquire) != 0)
        q.advance(lock);
}

void Runtime::wait() {
    drain();
    std::shared_ptr<Run> failed;
    {
        std::unique_lock<std::mutex> lock = queue_->hold();
        failed = std::move(queue_->first_failure);
        queue_->first_failure.reset();
    }
    if (failed)
        std::rethrow_exception(failed->error_);
}

} // namespace tessera::core
