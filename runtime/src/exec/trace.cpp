#include "exec/trace.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/error.h"
#include "core/json.h"

namespace tessera::core {

uint64_t thread_number() {
    thread_local const auto number = static_cast<uint64_t>(::syscall(SYS_gettid));
    return number;
}

const std::string *RecordedTrace::shared(const char *text) { return &*strings_.emplace(text).first; }

void RecordedTrace::record(const TraceEvent &e) noexcept {
    std::lock_guard<std::mutex> hold(lock_);
    try {
        events_.push_back({shared(e.category), shared(e.name), shared(e.location), e.begin_ns, e.end_ns, thread_number(),
                           e.device});
    } catch (...) {
        ++lost_;
    }
}

size_t RecordedTrace::count() const {
    std::lock_guard<std::mutex> hold(lock_);
    return events_.size();
}

void RecordedTrace::clear() {
    std::lock_guard<std::mutex> hold(lock_);
    events_.clear();
    strings_.clear();
    lost_ = 0;
}

namespace {

// Nanoseconds as microseconds with three digits.
std::string microseconds(int64_t ns) {
    return format("%lld.%03d", static_cast<long long>(ns / 1000), static_cast<int>(ns % 1000));
}

std::string quoted(const std::string &text) { return Json::string(shown(text, 4096)).dump(); }

} // namespace

std::string RecordedTrace::text() const {
    std::lock_guard<std::mutex> hold(lock_);
    int64_t start = INT64_MAX;
    for (const Kept &e : events_)
        start = std::min(start, e.begin_ns);
    std::string out = "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"producer\":\"tessera " TESSERA_VERSION "\",\"lost\":\"" +
                      std::to_string(lost_) + "\"},\"traceEvents\":[";
    const auto process = std::to_string(::getpid());
    bool first = true;
    for (const Kept &e : events_) {
        out += first ? "\n" : ",\n";
        first = false;
        out += "{\"ph\":\"X\",\"cat\":" + quoted(*e.category) + ",\"name\":" + quoted(*e.name) + ",\"pid\":" + process +
               ",\"tid\":" + std::to_string(e.thread) + ",\"ts\":" + microseconds(e.begin_ns - start) +
               ",\"dur\":" + microseconds(std::max<int64_t>(0, e.end_ns - e.begin_ns)) + ",\"args\":{\"location\":" +
               quoted(*e.location) + ",\"device\":" + quoted(core::text(e.device)) + "}}";
    }
    return out + "\n]}\n";
}

void RecordedTrace::save(const std::string &path) const {
    const std::string content = text(), temporary = path + ".part" + std::to_string(::getpid());
    std::FILE *file = std::fopen(temporary.c_str(), "wbe");
    bool written = file && std::fwrite(content.data(), 1, content.size(), file) == content.size();
    if (file)
        written = std::fclose(file) == 0 && written;
    if (written && std::rename(temporary.c_str(), path.c_str()) == 0)
        return;
    const int reason = errno;
    std::remove(temporary.c_str());
    fail(Code::FileAccess, "the trace could not be written to %s: %s", path.c_str(), std::strerror(reason));
}

} // namespace tessera::core
