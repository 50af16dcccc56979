#include "collective/process/transport.h"

#include <sched.h>

#include <algorithm>
#include <thread>

#include "core/error.h"

namespace tessera::core {

namespace {

// Notes may overtake data: so long may data be under way from a process that has said that it leaves.
constexpr std::chrono::milliseconds overtaking{1000};
// After a failure, for the others to say why they fail.
constexpr std::chrono::milliseconds parting{2000};

std::string ranks_text(const std::vector<int64_t> &ranks) {
    std::string out = ranks.size() == 1 ? "rank " : "ranks ";
    for (size_t i = 0; i < ranks.size() && i < 8; ++i)
        out += (i ? ", " : "") + std::to_string(ranks[i]);
    return out + (ranks.size() > 8 ? format(" and %zu more", ranks.size() - 8) : "");
}

} // namespace

void Transport::check(const std::string &what) const {
    if (failed_ && lost_)
        core::fail(Code::Device, "%s: %s", what.c_str(), message_.c_str());
    if (failed_)
        core::fail(Code::Device, "another device failed: %s", message_.c_str());
    if (closed_)
        core::fail(Code::Device, "%s: the connections between the processes are closed", what.c_str());
}

void Transport::watch(const std::string &what) {
    std::lock_guard<std::mutex> hold(lock_);
    grow_tables();
    poll();
    check(what);
}

void Transport::grow_tables() {
    left_.resize(static_cast<size_t>(size()));
    left_at_.resize(static_cast<size_t>(size()));
}

void Transport::exchange(const std::vector<Outgoing> &out, const std::vector<Incoming> &in, const std::string &what) {
    std::lock_guard<std::mutex> hold(lock_);
    grow_tables();
    poll();
    check(what);
    try {
        start(out, in);
        finish(what);
    } catch (const std::exception &error) {
        abandon();
        if (!failed_)
            message_ = format("rank %lld: %s", static_cast<long long>(rank()), error.what());
        failed_ = true;
        throw;
    }
}

void Transport::finish(const std::string &what) {
    std::vector<int64_t> waiting;
    auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms_);
    for (int64_t idle = 0;; ++idle) {
        const bool moved = progress(waiting);
        if (waiting.empty())
            return;
        if (poll())
            check(what);
        if (moved) {
            idle = 0;
            deadline = Clock::now() + std::chrono::milliseconds(timeout_ms_);
            continue;
        }
        const auto now = Clock::now();
        for (int64_t other : waiting)
            if (left_[static_cast<size_t>(other)] && now - left_at_[static_cast<size_t>(other)] > overtaking)
                core::fail(Code::Device, "%s: rank %lld has ended its run without taking part", what.c_str(),
                           static_cast<long long>(other));
        if (now > deadline)
            core::fail(Code::Device, "%s: for %.1f s nothing has come from %s", what.c_str(),
                       static_cast<double>(timeout_ms_) / 1000, ranks_text(waiting).c_str());
        pause(idle);
    }
}

void Transport::pause(int64_t idle) {
    if (idle < 100)
        return;
    if (idle < 2000)
        ::sched_yield();
    else
        std::this_thread::sleep_for(std::chrono::microseconds(idle < 4000 ? 20 : 200));
}

void Transport::tell(Note note, const std::string &text) noexcept {
    for (int64_t other = 0; other < size(); ++other) {
        if (other == rank())
            continue;
        try {
            send_note(other, note, text.substr(0, note_bytes));
        } catch (const std::exception &) { // it has gone; the rest must know nevertheless
        }
    }
}

void Transport::fail(const std::string &message) noexcept {
    std::lock_guard<std::mutex> hold(lock_);
    if (told_ || closed_)
        return;
    told_ = true;
    try {
        if (!failed_)
            message_ = format("rank %lld: %s", static_cast<long long>(rank()), message.c_str());
        failed_ = true;
        tell(Note::Fail, message_);
    } catch (const std::exception &) { // out of memory for the text: the others find out by themselves
        failed_ = true;
    }
}

void Transport::noted(int64_t from, Note note, const std::string &text) {
    grow_tables();
    if (note == Note::Close && !left_[static_cast<size_t>(from)]) {
        left_[static_cast<size_t>(from)] = true;
        left_at_[static_cast<size_t>(from)] = Clock::now();
    }
    if (note == Note::Fail && !failed_) {
        failed_ = true;
        message_ = text;
    }
}

void Transport::lost(int64_t from, const std::string &why) {
    grow_tables();
    if (left_[static_cast<size_t>(from)])
        return;
    left_[static_cast<size_t>(from)] = true;
    left_at_[static_cast<size_t>(from)] = Clock::now();
    if (!failed_ && !closed_) {
        failed_ = lost_ = true;
        message_ = format("rank %lld is gone: %s", static_cast<long long>(from), why.c_str());
    }
}

void Transport::close() noexcept {
    std::lock_guard<std::mutex> hold(lock_);
    if (closed_)
        return;
    try {
        grow_tables();
        left_[static_cast<size_t>(rank())] = true;
        ignore_data();
        tell(Note::Close, "");
        const auto begin = Clock::now();
        for (int64_t idle = 0; std::count(left_.begin(), left_.end(), false); ++idle) {
            if (poll())
                idle = 0;
            if (Clock::now() - begin > (failed_ ? parting : std::chrono::milliseconds(timeout_ms_)))
                break;
            pause(idle);
        }
        closed_ = true;
        disconnect(!failed_ && !std::count(left_.begin(), left_.end(), false));
    } catch (const std::exception &) {
        closed_ = true;
    }
}

} // namespace tessera::core
