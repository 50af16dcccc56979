#include "exec/runtime.h"

namespace tessera::core {

void Run::execute(ThreadPool &pool) noexcept {
    begun_ = Clock::now();
    try {
        if (program) {
            std::vector<const Tensor *> pointers;
            pointers.reserve(inputs.size());
            for (const Tensor &t : inputs)
                pointers.push_back(&t);
            program->run(pool, pointers.data(), pointers.size(), outputs.data(), outputs.size());
        }
        for (const std::shared_ptr<Lazy> &l : lazy)
            outputs.push_back(l->evaluate(pool));
    } catch (...) {
        error_ = std::current_exception();
    }
    ended_ = Clock::now();
}

Runtime::~Runtime() {
    drain();
    {
        std::lock_guard<std::mutex> hold(lock_);
        stop_ = true;
    }
    arrived_.notify_all();
    if (thread_.joinable())
        thread_.join();
}

void Runtime::submit(std::shared_ptr<Run> run) {
    run->submitted_ = Run::Clock::now();
    bool wake;
    {
        std::lock_guard<std::mutex> hold(lock_);
        if (!thread_.joinable())
            thread_ = std::thread([this] { work(); });
        queue_.push_back(std::move(run));
        pending_.fetch_add(1, std::memory_order_relaxed);
        wake = idle_ && !busy_;
    }
    if (wake)
        arrived_.notify_one();
}

// Called with the lock held and the queue not empty.
void Runtime::do_front(std::unique_lock<std::mutex> &lock) {
    std::shared_ptr<Run> run = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    run->execute(pool_);
    lock.lock();
    busy_ = false;
    if (run->error_ && !first_failure_)
        first_failure_ = run;
    run->finished_.store(true, std::memory_order_release);
    pending_.fetch_sub(1, std::memory_order_release);
    if (waiting_ > 0)
        done_.notify_all();
    if (!queue_.empty() && idle_)
        arrived_.notify_one();
    // The arguments are let go outside the lock: their deleters are the caller's code.
    lock.unlock();
    run.reset();
    lock.lock();
}

void Runtime::advance(std::unique_lock<std::mutex> &lock) {
    if (!busy_ && !queue_.empty()) {
        do_front(lock);
        return;
    }
    ++waiting_;
    done_.wait(lock);
    --waiting_;
}

void Runtime::wait(const std::shared_ptr<Run> &run) {
    if (!run->finished()) {
        std::unique_lock<std::mutex> lock(lock_);
        while (!run->finished())
            advance(lock);
    }
    if (!run->error_)
        return;
    {
        std::lock_guard<std::mutex> hold(lock_);
        if (first_failure_ == run)
            first_failure_.reset();
    }
    std::rethrow_exception(run->error_);
}

void Runtime::drain() {
    if (pending_.load(std::memory_order_acquire) == 0)
        return;
    std::unique_lock<std::mutex> lock(lock_);
    while (pending_.load(std::memory_order_acquire) != 0)
        advance(lock);
}

void Runtime::wait() {
    drain();
    std::shared_ptr<Run> failed;
    {
        std::lock_guard<std::mutex> hold(lock_);
        failed = std::move(first_failure_);
        first_failure_.reset();
    }
    if (failed)
        std::rethrow_exception(failed->error_);
}

void Runtime::work() {
    std::unique_lock<std::mutex> lock(lock_);
    while (!stop_) {
        if (!busy_ && !queue_.empty()) {
            do_front(lock);
            continue;
        }
        idle_ = true;
        arrived_.wait(lock);
        idle_ = false;
    }
}

} // namespace tessera::core
