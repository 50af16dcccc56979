// Who is told what a run did.
#pragma once

#include <chrono>
#include <cstdint>

#include "core/device_id.h"

namespace tessera::core {

struct TraceEvent {
    const char *category = ""; // "run", "kernel", "check", "copy", "operator", "collective", "library", "custom"
    const char *name = "";     // the kernel's, operator's or library function's
    const char *location = ""; // the user's "file.py:12"; "" when unknown
    int64_t begin_ns = 0, end_ns = 0; // of the steady clock; a GPU's times are mapped to it
    DeviceId device;
};

class TraceSink {
  public:
    virtual ~TraceSink() = default;
    // Called on the thread that did the work, or that learnt of it. The strings are valid during the call.
    virtual void record(const TraceEvent &event) noexcept = 0;

    static int64_t now() {
        const auto time = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
    }
};

} // namespace tessera::core
