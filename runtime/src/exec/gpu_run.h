// A run on a GPU that was put on a stream: when it has ended, and whether a range check of it failed.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/completion.h"
#include "core/tensor.h"
#include "device/gpu/gpu_backend.h"
#include "exec/gpu_prepared.h"

namespace tessera::core {

// Memory of the host that the device writes without staging.
class PinnedWords {
  public:
    PinnedWords(DeviceId device, size_t count);
    ~PinnedWords();
    PinnedWords(const PinnedWords &) = delete;
    PinnedWords &operator=(const PinnedWords &) = delete;
    int64_t *data() const { return data_; }

  private:
    DeviceId device_;
    int64_t *data_ = nullptr;
};

// No range check has failed at any position.
inline constexpr int64_t no_position = INT64_MAX;

// Until something is so, for as long as aborted exchanges and copies under way may take; a device that hangs is left.
void wait_a_while(const std::function<bool()> &reached);

class GpuRun final : public Completion {
  public:
    // With `checks` range checks.
    GpuRun(std::shared_ptr<const Plan> plan, DeviceId device, size_t checks);

    void wait() override;
    bool reached() override;
    const std::shared_ptr<Event> &event() const override { return event_; }
    void *native_stream() const override { return stream_.load(std::memory_order_acquire); }

    // The same of the run's writes to state, which a failed range check leaves as it was: only the device can fail.
    static std::shared_ptr<Completion> state_writes(const std::shared_ptr<GpuRun> &run) { return {run, &run->state_writes_}; }

    // From here on the engine's own calls. Ready for another run.
    void begin(std::shared_ptr<const GpuPrepared> prepared, void *native_stream);
    // How the end is waited for where it may never come, as another device may fail; throws then. Else by the event.
    void watch(std::function<void()> await) { await_ = std::move(await); }
    void finish() override;
    // Where the device writes the words of the run: the flag, then one of each check.
    int64_t *status() const { return status_ ? status_->data() : nullptr; }
    // Kept until the run has ended: memory that the device still reads or writes.
    void hold(Tensor tensor) { held_.push_back(std::move(tensor)); }
    // Lets go of what was held, if the run has ended. Gives whether it has.
    bool settle();

  private:
    class StateWrites final : public Completion {
      public:
        explicit StateWrites(GpuRun &run) : run_(run) {}
        void wait() override;
        void finish() override { run_.finish(); }
        bool reached() override { return run_.reached(); }
        const std::shared_ptr<Event> &event() const override { return run_.event(); }
        void *native_stream() const override { return run_.native_stream(); }

      private:
        GpuRun &run_;
    };
    void throw_failure();

    std::shared_ptr<const Plan> plan_;
    std::shared_ptr<Event> event_;
    std::unique_ptr<PinnedWords> status_;
    std::shared_ptr<const GpuPrepared> prepared_;
    std::function<void()> await_;
    std::atomic<void *> stream_{nullptr};
    StateWrites state_writes_{*this};
    std::mutex lock_; // of what is held
    std::vector<Tensor> held_;
};

} // namespace tessera::core
