// Streams and events of the CPU: a queue served by a thread of its own, or by a thread that waits for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "device/backend.h"

namespace tessera::core {

std::shared_ptr<Stream> make_cpu_stream();

class CpuEvent final : public Event {
  public:
    CpuEvent() : Event({}) {}
    void record(Stream &stream) override;
    void wait() override;
    bool reached() override;
    int64_t nanoseconds_since(Event &start) override;

  private:
    struct Point { // of one recording; the stream's thread fills it
        std::mutex lock;
        std::condition_variable done;
        std::atomic<int64_t> nanoseconds{-1};
    };
    std::shared_ptr<Point> point() const;
    mutable std::mutex lock_;
    std::shared_ptr<Point> point_; // null: never recorded
};

} // namespace tessera::core
