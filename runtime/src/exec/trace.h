// Traces: events told to a function of the caller's, or kept and written in the Chrome trace event format.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "exec/trace_sink.h"

namespace tessera::core {

// The system's number of the calling thread.
uint64_t thread_number();

class RecordedTrace final : public TraceSink {
  public:
    // An event for which there is no memory is lost, and counted.
    void record(const TraceEvent &event) noexcept override;
    size_t count() const;
    void clear();
    // The JSON Object Format of "Trace Event Format" (Google, 2016): one complete event ("ph": "X") each, in microseconds
    // from the first; the user's file and line are in "args".
    std::string text() const;
    // Written to a temporary file of the same folder and renamed; FileAccessError.
    void save(const std::string &path) const;

  private:
    struct Kept {
        const std::string *category, *name, *location;
        int64_t begin_ns, end_ns;
        uint64_t thread;
        DeviceId device;
    };
    const std::string *shared(const char *text);

    mutable std::mutex lock_;
    std::unordered_set<std::string> strings_; // whose addresses do not change
    std::vector<Kept> events_;
    int64_t lost_ = 0;
};

} // namespace tessera::core
