// An NCCL for tests on machines without a GPU, on the model of GPUs: every member is a thread of this process. A call does all
// work of its stream, then meets the other members and moves the data; sends and receives of a group do so at its end.
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fake_cuda/device_model.h"

namespace {

void finish(void *stream) {
    fake::Model &model = fake::Model::get();
    std::lock_guard<std::recursive_mutex> hold(model.lock);
    if (fake::Stream *found = model.stream(stream))
        model.run(*found);
}

constexpr int invalid = 4, aborted = 6;
constexpr int sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

std::mutex lock;
std::condition_variable changed;

struct Shared { // what the members of a communicator have together
    int members = 0, arrived = 0, alive = 0;
    uint64_t round = 0;
    bool aborted = false;
    std::vector<const void *> from;
    std::map<std::pair<int, int>, std::deque<std::pair<const void *, size_t>>> mail; // by sender and receiver
};

struct Member {
    std::shared_ptr<Shared> shared;
    int number = 0;
};

struct Part {
    Member *member;
    bool sends;
    void *data;
    size_t bytes;
    int other;
};

std::map<std::string, std::shared_ptr<Shared>> groups;
thread_local int depth = 0;
thread_local std::vector<Part> parts;
int64_t ids = 0;

bool meet(Shared &s) {
    std::unique_lock<std::mutex> hold(lock);
    const uint64_t round = s.round;
    if (++s.arrived == s.members) {
        s.arrived = 0;
        ++s.round;
        changed.notify_all();
    }
    changed.wait(hold, [&] { return s.round != round || s.aborted; });
    return !s.aborted;
}

// Tells the others where this member's operand lies, and waits for theirs.
bool show(Member &m, const void *from) {
    {
        std::lock_guard<std::mutex> hold(lock);
        m.shared->from[static_cast<size_t>(m.number)] = from;
    }
    return meet(*m.shared);
}

template <class T> T combined(T a, T b, int combine) {
    return combine == 0 ? static_cast<T>(a + b) : combine == 1 ? static_cast<T>(a * b) : combine == 2 ? (a > b ? a : b) : (a < b ? a : b);
}

float widened(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float out;
    std::memcpy(&out, &wide, sizeof out);
    return out;
}

uint16_t narrowed(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

template <class T> void combine_all(const Shared &s, size_t first, size_t count, int combine, void *to) {
    for (size_t i = 0; i < count; ++i) {
        T total = static_cast<const T *>(s.from[0])[first + i];
        for (int m = 1; m < s.members; ++m)
            total = combined(total, static_cast<const T *>(s.from[static_cast<size_t>(m)])[first + i], combine);
        static_cast<T *>(to)[i] = total;
    }
}

void combine_all_bf16(const Shared &s, size_t first, size_t count, int combine, void *to) {
    for (size_t i = 0; i < count; ++i) {
        float total = widened(static_cast<const uint16_t *>(s.from[0])[first + i]);
        for (int m = 1; m < s.members; ++m)
            total = combined(total, widened(static_cast<const uint16_t *>(s.from[static_cast<size_t>(m)])[first + i]), combine);
        static_cast<uint16_t *>(to)[i] = narrowed(total);
    }
}

int reduced(const void *from, void *to, size_t first, size_t count, int type, int combine, Member *m, void *stream, bool keeps) {
    if (type < 0 || type > 9 || type == 6 || combine < 0 || combine > 3)
        return invalid;
    finish(stream);
    Shared &s = *m->shared;
    if (!show(*m, from))
        return aborted;
    std::vector<char> result(count * static_cast<size_t>(sizes[type]));
    switch (keeps ? type : -1) {
    case 0: combine_all<int8_t>(s, first, count, combine, result.data()); break;
    case 1: combine_all<uint8_t>(s, first, count, combine, result.data()); break;
    case 2: combine_all<int32_t>(s, first, count, combine, result.data()); break;
    case 4: combine_all<int64_t>(s, first, count, combine, result.data()); break;
    case 7: combine_all<float>(s, first, count, combine, result.data()); break;
    case 8: combine_all<double>(s, first, count, combine, result.data()); break;
    case 9: combine_all_bf16(s, first, count, combine, result.data()); break;
    default: break;
    }
    if (!meet(s)) // nobody reads any more: results may overwrite operands
        return aborted;
    if (keeps)
        std::memcpy(to, result.data(), result.size());
    return 0;
}

int deliver() {
    for (const Part &p : parts)
        if (p.sends) {
            std::lock_guard<std::mutex> hold(lock);
            p.member->shared->mail[{p.member->number, p.other}].emplace_back(p.data, p.bytes);
            changed.notify_all();
        }
    int status = 0;
    for (const Part &p : parts) {
        if (p.sends)
            continue;
        Shared &s = *p.member->shared;
        std::unique_lock<std::mutex> hold(lock);
        auto &box = s.mail[{p.other, p.member->number}];
        changed.wait(hold, [&] { return !box.empty() || s.aborted; });
        if (s.aborted) {
            status = aborted;
            break;
        }
        if (box.front().second != p.bytes)
            status = invalid;
        else
            std::memcpy(p.data, box.front().first, p.bytes);
        box.pop_front();
        changed.notify_all();
    }
    for (const Part &p : parts) // what was sent may be overwritten when it is taken
        if (p.sends && !status) {
            Shared &s = *p.member->shared;
            std::unique_lock<std::mutex> hold(lock);
            changed.wait(hold, [&] { return s.mail[{p.member->number, p.other}].empty() || s.aborted; });
        }
    parts.clear();
    return status;
}

int post(Member *m, bool sends, void *data, size_t count, int type, int other, void *stream) {
    finish(stream);
    parts.push_back({m, sends, data, count * static_cast<size_t>(sizes[type]), other});
    return depth ? 0 : deliver();
}

} // namespace

extern "C" {

struct Id {
    char bytes[128];
};

const char *ncclGetErrorString(int status) { return status == aborted ? "remote process exited" : "invalid argument"; }
int ncclGetVersion(int *version) {
    *version = 22804;
    return 0;
}
int ncclGetUniqueId(Id *id) {
    std::lock_guard<std::mutex> hold(lock);
    std::memset(id, 0, sizeof *id);
    const int64_t number = ++ids;
    std::memcpy(id->bytes, &number, sizeof number);
    return 0;
}
int ncclCommInitRank(Member **out, int members, Id id, int number) {
    std::shared_ptr<Shared> shared;
    {
        std::lock_guard<std::mutex> hold(lock);
        std::shared_ptr<Shared> &found = groups[std::string(id.bytes, sizeof id.bytes)];
        if (!found) {
            found = std::make_shared<Shared>();
            found->members = members;
            found->from.resize(static_cast<size_t>(members));
        }
        shared = found;
    }
    *out = new Member{shared, number};
    return meet(*shared) ? 0 : aborted;
}
int ncclCommDestroy(Member *m) {
    delete m;
    return 0;
}
int ncclCommAbort(Member *m) {
    {
        std::lock_guard<std::mutex> hold(lock);
        m->shared->aborted = true;
        changed.notify_all();
    }
    delete m;
    return 0;
}
int ncclCommGetAsyncError(Member *, int *error) {
    *error = 0;
    return 0;
}
int ncclCommCount(Member *m, int *members) {
    *members = m->shared->members;
    return 0;
}
int ncclCommUserRank(Member *m, int *number) {
    *number = m->number;
    return 0;
}
int ncclGroupStart() {
    ++depth;
    return 0;
}
int ncclGroupEnd() { return --depth ? 0 : deliver(); }
int ncclSend(const void *from, size_t count, int type, int to, Member *m, void *stream) {
    return post(m, true, const_cast<void *>(from), count, type, to, stream);
}
int ncclRecv(void *to, size_t count, int type, int from, Member *m, void *stream) {
    return post(m, false, to, count, type, from, stream);
}
int ncclAllReduce(const void *from, void *to, size_t count, int type, int combine, Member *m, void *stream) {
    return reduced(from, to, 0, count, type, combine, m, stream, true);
}
int ncclReduceScatter(const void *from, void *to, size_t count, int type, int combine, Member *m, void *stream) {
    return reduced(from, to, static_cast<size_t>(m->number) * count, count, type, combine, m, stream, true);
}
int ncclReduce(const void *from, void *to, size_t count, int type, int combine, int root, Member *m, void *stream) {
    return reduced(from, to, 0, count, type, combine, m, stream, m->number == root);
}
int ncclAllGather(const void *from, void *to, size_t count, int type, Member *m, void *stream) {
    finish(stream);
    Shared &s = *m->shared;
    if (!show(*m, from))
        return aborted;
    const size_t bytes = count * static_cast<size_t>(sizes[type]);
    for (int k = 0; k < s.members; ++k)
        std::memmove(static_cast<char *>(to) + static_cast<size_t>(k) * bytes, s.from[static_cast<size_t>(k)], bytes);
    return meet(s) ? 0 : aborted;
}

} // extern "C"
