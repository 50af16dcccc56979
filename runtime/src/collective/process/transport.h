// Messages between processes, under every communicator of processes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace tessera::core {

struct Outgoing {
    int64_t to = 0;
    const void *data = nullptr;
    size_t bytes = 0;
};

struct Incoming {
    int64_t from = 0;
    void *data = nullptr;
    size_t bytes = 0;
};

// The processes of a job. Messages between two of them arrive in the order in which they were sent. After a failure,
// of this process or another, everything fails: what is under way cannot be called back.
class Transport {
  public:
    // `timeout_ms`: how long a process waits without anything arriving before it takes another for dead.
    explicit Transport(int64_t timeout_ms) : timeout_ms_(timeout_ms) {}
    virtual ~Transport() = default;
    virtual int64_t rank() const = 0;
    virtual int64_t size() const = 0;

    // Sends and receives all of these, in any order. `what` is being done, for messages. DeviceError; memory of `in` must
    // then go to `keep`, as it may still be written.
    void exchange(const std::vector<Outgoing> &out, const std::vector<Incoming> &in, const std::string &what);
    // Tells the others, once; they fail where they wait, or at their next exchange.
    void fail(const std::string &message) noexcept;
    // Tells the others that nothing more will come, waits until they say the same (after a failure, briefly), and closes
    // the connections. Later exchanges fail.
    void close() noexcept;
    bool failed() const { return failed_; }
    int64_t timeout_ms() const { return timeout_ms_; }
    // Sees to what others say meanwhile; DeviceError when one of them has failed. For waits of another kind.
    void watch(const std::string &what);
    // Memory for what arrives, when it is not needed any more.
    virtual void keep(std::shared_ptr<void> memory) noexcept { memory.reset(); }

  protected:
    using Clock = std::chrono::steady_clock;
    enum class Note : uint32_t { Fail = 1, Close = 2 };
    static constexpr size_t note_bytes = 1024; // of a note's text at most

    virtual void start(const std::vector<Outgoing> &out, const std::vector<Incoming> &in) = 0;
    // Goes on with what was started: whether anything moved; `waiting` becomes the processes not yet done with.
    virtual bool progress(std::vector<int64_t> &waiting) = 0;
    // What was started is given up.
    virtual void abandon() noexcept = 0;
    // A note to a process; it need not have gone when this returns. Calls `noted` for those that arrive in `poll`.
    virtual void send_note(int64_t to, Note note, const std::string &text) = 0;
    // Sees to notes: whether there was one.
    virtual bool poll() = 0;
    // From now on nothing but notes is of interest.
    virtual void ignore_data() noexcept {}
    // Closes the connections; `cleanly` when all others are there.
    virtual void disconnect(bool cleanly) noexcept = 0;
    // Waits until something can have changed, for a while that grows with `idle` calls that saw nothing.
    virtual void pause(int64_t idle);

    void noted(int64_t from, Note note, const std::string &text);
    // The process has gone without a word.
    void lost(int64_t from, const std::string &why);

  private:
    void check(const std::string &what) const;
    void grow_tables();
    void finish(const std::string &what);
    void tell(Note note, const std::string &text) noexcept;

    const int64_t timeout_ms_;
    std::mutex lock_;
    bool failed_ = false, lost_ = false, told_ = false, closed_ = false;
    std::string message_;
    std::vector<bool> left_;        // by rank: will send nothing more
    std::vector<Clock::time_point> left_at_;
};

} // namespace tessera::core
