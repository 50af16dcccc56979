// Work on a device that may still be under way when the tensors it writes are handed out.
#pragma once

#include <memory>

namespace tessera::core {

class Event;
class Stream;

class Completion {
  public:
    virtual ~Completion() = default;
    Completion(const Completion &) = delete;
    Completion &operator=(const Completion &) = delete;

    // Waits on this thread; throws what made the work fail.
    virtual void wait() = 0;
    // Whether the work has ended, well or not.
    virtual bool done() = 0;
    // Behind the work; other streams wait for it.
    virtual const std::shared_ptr<Event> &event() const = 0;
    // The driver's handle of the stream that the work is on: what is put there needs no event.
    virtual void *native_stream() const = 0;

  protected:
    Completion() = default;
};

} // namespace tessera::core
