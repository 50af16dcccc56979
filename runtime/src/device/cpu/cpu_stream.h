// Streams and events of the CPU: a queue of tasks, done in order by whoever is there: a thread that waits for one of
// them, or the queue's own thread. Putting a task there takes no lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/process.h"
#include "device/backend.h"

namespace tessera::core {

// A piece of work. It is kept alive by who made it until `let_go` has been called.
class StreamTask {
  public:
    virtual ~StreamTask() = default;
    StreamTask() = default;
    StreamTask(const StreamTask &) = delete;
    StreamTask &operator=(const StreamTask &) = delete;

    bool is_done() const { return state_.load(std::memory_order_acquire) == done; }

  protected:
    virtual void execute() noexcept = 0;
    // The queue has no more use for this task, which may be destroyed here.
    virtual void let_go() noexcept = 0;
    // For a task that is used again.
    void reset() { state_.store(0, std::memory_order_relaxed); }

  private:
    friend class CpuQueue;
    static constexpr uint32_t waited_for = 1, done = 2;
    std::atomic<StreamTask *> next_{nullptr};
    std::atomic<uint32_t> state_{0}; // a word that waiting threads sleep on
};

// A first-in first-out queue: many threads put tasks there, one at a time takes them (after D. Vyukov's intrusive queue).
class CpuQueue {
  public:
    CpuQueue();
    // All tasks are done.
    ~CpuQueue();
    CpuQueue(const CpuQueue &) = delete;
    CpuQueue &operator=(const CpuQueue &) = delete;

    // Starts the queue's thread at the first call. OutOfMemoryError when there can be none, UnsupportedError in a child
    // of fork; the task is then not here. `self` keeps the queue alive as long as its thread.
    static void put(const std::shared_ptr<CpuQueue> &self, StreamTask &task);
    // Does tasks until `task`, which is in this queue or has been, is done. UnsupportedError in a child of fork.
    void wait_for(StreamTask &task);
    // Waits for all tasks put here so far.
    void drain();
    bool idle() const { return pending_.load(std::memory_order_acquire) == 0; }
    // No task comes any more: lets the thread end, and waits for that unless this is the thread.
    void close() noexcept;

  private:
    struct Thread;
    StreamTask *pop();
    bool try_serve();
    // ArgumentError on the thread that serves: it would wait for itself.
    void check_not_serving() const;
    void end_service();
    // Does the first task, for the thread that serves, which then does not serve any more; false when there was none.
    bool do_one();
    void serve();
    void sleep_on(StreamTask &task);
    void start_thread(const std::shared_ptr<CpuQueue> &self);
    enum class Sleep : int { None, Short, Long };
    // Wakes the thread from a sleep of this kind or a deeper one.
    void wake_thread(Sleep least);
    void sleep(uint32_t seen, Sleep kind);

    class Stub final : public StreamTask {
        void execute() noexcept override {}
        void let_go() noexcept override {}
    };
    Stub stub_;
    alignas(64) std::atomic<StreamTask *> back_;
    alignas(64) StreamTask *front_; // of the thread that serves
    std::atomic<bool> serving_{false};
    std::atomic<uintptr_t> server_{0}; // the mark of the thread that serves
    alignas(64) std::atomic<int64_t> pending_{0};
    std::atomic<uint32_t> signal_{0};   // counts what the thread should look at; it sleeps on it
    std::atomic<Sleep> asleep_{Sleep::None};
    std::atomic<uint32_t> done_by_waiters_{0};
    std::atomic<bool> closed_{false};
    std::unique_ptr<Thread> thread_;
    ProcessMark process_;
};

class CpuStream final : public Stream {
  public:
    CpuStream() : Stream({}), queue_(std::make_shared<CpuQueue>()) {}
    ~CpuStream() override;
    void *native() const override { return nullptr; }
    void wait() override { queue_->drain(); }
    bool idle() override { return queue_->idle(); }
    void call(std::function<void()> work) override;
    const std::shared_ptr<CpuQueue> &queue() const { return queue_; }

  private:
    std::shared_ptr<CpuQueue> queue_;
};

std::shared_ptr<Event> make_cpu_event();
// Work put on `stream` from now on begins after the point at which `event` is now.
void wait_on_cpu(Stream &stream, const std::shared_ptr<Event> &event);

} // namespace tessera::core
