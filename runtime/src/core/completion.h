// Work on a device that may still be under way when the tensors it writes are handed out.
#pragma once

#include <memory>

namespace tessera::core {

class Event;
class Stream;

// What an asynchronous run leaves behind.
class Pending {
  public:
    virtual ~Pending() = default;
    Pending(const Pending &) = delete;
    Pending &operator=(const Pending &) = delete;

    // Whether the work has ended, well or not.
    virtual bool reached() = 0;
    // Waits for it on this thread; throws what went wrong, each time.
    virtual void wait() = 0;

  protected:
    Pending() = default;
};

// The same of work that writes tensors.
class Completion : public Pending {
  public:
    // Returns when the work has ended, well or not; throws where it may never end, because another device failed.
    virtual void finish() = 0;
    // Behind the work; other streams wait for it.
    virtual const std::shared_ptr<Event> &event() const = 0;
    // The driver's handle of the stream that the work is on: what is put there needs no event.
    virtual void *native_stream() const = 0;
};

} // namespace tessera::core
