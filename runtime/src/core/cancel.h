// A request to stop: set by any thread, read by runs between instructions.
#pragma once

#include <atomic>

#include "core/error.h"

namespace tessera::core {

class CancelFlag {
  public:
    void cancel() { set_.store(true, std::memory_order_release); }
    bool is_cancelled() const { return set_.load(std::memory_order_acquire); }
    // CancelledError when it is set.
    void check() const {
        if (is_cancelled())
            fail(Code::Cancelled, "the run was cancelled");
    }

  private:
    std::atomic<bool> set_{false};
};

} // namespace tessera::core
