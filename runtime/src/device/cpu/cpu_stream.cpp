#include "device/cpu/cpu_stream.h"

#include <chrono>
#include <deque>
#include <thread>
#include <unistd.h>

#include "core/error.h"

namespace tessera::core {

namespace {

int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class CpuStream final : public Stream {
  public:
    CpuStream() : Stream({}), queue_(std::make_shared<Queue>()) {}
    ~CpuStream() override;
    void *native() const override { return nullptr; }
    void wait() override;
    bool idle() override { return queue_->pending.load(std::memory_order_acquire) == 0; }
    void call(std::function<void()> work) override;

  private:
    struct Queue { // shared with the thread, which may outlive the stream for a moment
        std::mutex mutex;
        std::condition_variable arrived, done;
        std::deque<std::function<void()>> work;
        std::atomic<int64_t> pending{0};
        bool stop = false;
        std::thread thread;
        const pid_t process = ::getpid();
        void serve();
    };
    std::shared_ptr<Queue> queue_;
};

void CpuStream::Queue::serve() {
    std::unique_lock<std::mutex> hold(mutex);
    for (;;) {
        arrived.wait(hold, [&] { return stop || !work.empty(); });
        if (work.empty())
            return;
        std::function<void()> next = std::move(work.front());
        work.pop_front();
        hold.unlock();
        next();
        next = nullptr;
        hold.lock();
        if (pending.fetch_sub(1, std::memory_order_release) == 1)
            done.notify_all();
    }
}

void CpuStream::call(std::function<void()> work) {
    Queue &q = *queue_;
    if (q.process != ::getpid())
        fail(Code::Unsupported, "the process was forked; make a new stream in the child");
    std::lock_guard<std::mutex> hold(q.mutex);
    if (!q.thread.joinable())
        q.thread = std::thread([queue = queue_] { queue->serve(); });
    q.work.push_back(std::move(work));
    q.pending.fetch_add(1, std::memory_order_relaxed);
    q.arrived.notify_one();
}

void CpuStream::wait() {
    Queue &q = *queue_;
    if (idle())
        return;
    if (q.process != ::getpid())
        fail(Code::Unsupported, "the process was forked while this stream was at work; make a new stream in the child");
    std::unique_lock<std::mutex> hold(q.mutex);
    q.done.wait(hold, [&] { return idle(); });
}

CpuStream::~CpuStream() {
    Queue &q = *queue_;
    if (q.process != ::getpid()) { // the thread is the parent's alone; what it waits on cannot be destroyed
        new std::shared_ptr<Queue>(std::move(queue_));
        return;
    }
    {
        std::lock_guard<std::mutex> hold(q.mutex);
        q.stop = true;
    }
    q.arrived.notify_all();
    if (q.thread.get_id() == std::this_thread::get_id())
        q.thread.detach();
    else if (q.thread.joinable())
        q.thread.join();
}

} // namespace

std::shared_ptr<Stream> make_cpu_stream() { return std::make_shared<CpuStream>(); }

std::shared_ptr<CpuEvent::Point> CpuEvent::point() const {
    std::lock_guard<std::mutex> hold(lock_);
    return point_;
}

void CpuEvent::record(Stream &stream) {
    if (!stream.device().is_cpu())
        fail(Code::Device, "an event of the CPU cannot be recorded on a stream of %s", text(stream.device()).c_str());
    auto fresh = std::make_shared<Point>();
    stream.call([fresh] {
        {
            std::lock_guard<std::mutex> hold(fresh->lock);
            fresh->nanoseconds.store(now(), std::memory_order_release);
        }
        fresh->done.notify_all();
    });
    std::lock_guard<std::mutex> hold(lock_);
    point_ = std::move(fresh);
}

void CpuEvent::wait() {
    std::shared_ptr<Point> at = point();
    if (!at || at->nanoseconds.load(std::memory_order_acquire) >= 0)
        return;
    std::unique_lock<std::mutex> hold(at->lock);
    at->done.wait(hold, [&] { return at->nanoseconds.load(std::memory_order_relaxed) >= 0; });
}

bool CpuEvent::reached() {
    std::shared_ptr<Point> at = point();
    return !at || at->nanoseconds.load(std::memory_order_acquire) >= 0;
}

int64_t CpuEvent::nanoseconds_since(Event &start) {
    auto *other = dynamic_cast<CpuEvent *>(&start);
    if (!other)
        fail(Code::Argument, "the time between an event of the CPU and one of %s is not known", text(start.device()).c_str());
    std::shared_ptr<Point> a = other->point(), b = point();
    if (!a || !b || a->nanoseconds.load(std::memory_order_acquire) < 0 || b->nanoseconds.load(std::memory_order_acquire) < 0)
        fail(Code::Argument, "the time between two events is known when both have been recorded and reached");
    return b->nanoseconds.load(std::memory_order_relaxed) - a->nanoseconds.load(std::memory_order_relaxed);
}

} // namespace tessera::core
