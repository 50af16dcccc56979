#include "device/cpu/cpu_stream.h"

#include <chrono>
#include <mutex>

#include "core/error.h"

namespace tessera::core {

namespace {

class FunctionTask final : public StreamTask {
  public:
    explicit FunctionTask(std::function<void()> work) : work_(std::move(work)) {}

  private:
    void execute() noexcept override {
        work_();
        work_ = nullptr;
    }
    void let_go() noexcept override { delete this; }
    std::function<void()> work_;
};

// A recording of an event: a task that notes the time.
class Point final : public StreamTask, public std::enable_shared_from_this<Point> {
  public:
    static std::shared_ptr<Point> record(CpuStream &stream) {
        auto out = std::make_shared<Point>();
        out->queue_ = stream.queue();
        out->self_ = out;
        try {
            CpuQueue::put(out->queue_, *out);
        } catch (...) {
            out->self_ = nullptr;
            throw;
        }
        return out;
    }
    void wait() {
        if (!is_done())
            queue_->wait_for(*this);
    }
    int64_t nanoseconds() const { return nanoseconds_; } // when done

  private:
    void execute() noexcept override {
        const auto time = std::chrono::steady_clock::now().time_since_epoch();
        nanoseconds_ = std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
    }
    void let_go() noexcept override { std::shared_ptr<Point> last = std::move(self_); }

    std::shared_ptr<CpuQueue> queue_;
    std::shared_ptr<Point> self_; // while the queue needs it
    int64_t nanoseconds_ = 0;
};

class CpuEvent final : public Event {
  public:
    CpuEvent() : Event({}) {}
    void record(Stream &stream) override {
        if (!stream.device().is_cpu())
            fail(Code::Device, "an event of the CPU cannot be recorded on a stream of %s", text(stream.device()).c_str());
        std::shared_ptr<Point> fresh = Point::record(static_cast<CpuStream &>(stream));
        std::lock_guard<std::mutex> hold(lock_);
        point_ = std::move(fresh);
    }
    void wait() override {
        if (std::shared_ptr<Point> at = point())
            at->wait();
    }
    bool reached() override {
        std::shared_ptr<Point> at = point();
        return !at || at->is_done();
    }
    int64_t nanoseconds_since(Event &start) override {
        auto *other = dynamic_cast<CpuEvent *>(&start);
        if (!other)
            fail(Code::Argument, "the time between an event of the CPU and one of %s is not known",
                 text(start.device()).c_str());
        std::shared_ptr<Point> a = other->point(), b = point();
        if (!a || !b || !a->is_done() || !b->is_done())
            fail(Code::Argument, "the time between two events is known when both have been recorded and reached");
        return b->nanoseconds() - a->nanoseconds();
    }
    std::shared_ptr<Point> point() const {
        std::lock_guard<std::mutex> hold(lock_);
        return point_;
    }

  private:
    mutable std::mutex lock_;
    std::shared_ptr<Point> point_; // null: never recorded
};

} // namespace

CpuStream::~CpuStream() {
    try {
        queue_->drain();
    } catch (...) {
        // A child of fork: the work is the parent's.
    }
    queue_->close();
}

void CpuStream::call(std::function<void()> work) {
    auto task = std::make_unique<FunctionTask>(std::move(work));
    CpuQueue::put(queue_, *task);
    task.release();
}

std::shared_ptr<Event> make_cpu_event() { return std::make_shared<CpuEvent>(); }

void wait_on_cpu(Stream &stream, const std::shared_ptr<Event> &event) {
    if (event->reached())
        return;
    if (auto *own = dynamic_cast<CpuEvent *>(event.get())) {
        if (std::shared_ptr<Point> at = own->point()) // as it is now: the event may be recorded again
            stream.call([at] { at->wait(); });
        return;
    }
    stream.call([event] { event->wait(); });
}

} // namespace tessera::core
