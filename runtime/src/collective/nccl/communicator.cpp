#include "collective/nccl/communicator.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>

#include "collective/parts.h"
#include "core/error.h"
#include "device/gpu/gpu_backend.h"

namespace tessera::core {

namespace {

using Number = long long;

constexpr int bytes_type = 1, i64_type = 4, largest = 2; // ncclUint8, ncclInt64, ncclMax
constexpr int in_progress = 7;                           // ncclInProgress

// ncclDataType_t of what can be reduced; -1: NCCL does not know it.
int type_of(DType dtype, Combine combine) {
    switch (dtype) {
    case DType::F64:
        return 8;
    case DType::F32:
        return 7;
    case DType::BF16:
        return 9;
    case DType::F16:
        return 6;
    case DType::I64:
        return 4;
    case DType::I32:
        return 2;
    case DType::I8:
        return 0;
    case DType::U8:
        return 1;
    case DType::Bool:
        return combine == Combine::Sum ? -1 : 1;
    default:
        return -1;
    }
}

int combine_of(Combine combine) { return static_cast<int>(combine); } // ncclSum, ncclProd, ncclMax, ncclMin

int64_t bytes_of(const TensorView &t) { return t.size() * static_cast<int64_t>(item_size(t.dtype)); }

int64_t sum(const std::vector<int64_t> &values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

bool all_equal(const std::vector<int64_t> &values) {
    return std::all_of(values.begin(), values.end(), [&](int64_t v) { return v == values.front(); });
}

TensorView with_size(TensorView t, int64_t dim, int64_t size) {
    t.shape[static_cast<size_t>(dim)] = size;
    return t;
}

const gpu::Driver &driver_of(DeviceId device) {
    backend(device); // DeviceError when there is no driver or no such device
    return gpu::gpu_backend(device).driver();
}

char *offset(void *base, int64_t bytes) { return static_cast<char *>(base) + bytes; }

} // namespace

NcclCommunicator::NcclCommunicator(std::shared_ptr<Communicator> host, DeviceId device, void *existing, int64_t timeout_ms)
    : host_(std::move(host)), device_(device), driver_(driver_of(device)), library_(nccl(device.type)),
      existing_(existing), timeout_ms_(timeout_ms), peers_(*host_, device),
      watch_(std::make_shared<Watch>(this)) {
    if (!existing)
        return;
    int members = 0, member = 0;
    library_.check(library_.count(existing, &members), "the communicator handed in");
    library_.check(library_.member(existing, &member), "the communicator handed in");
    if (members != mesh().devices() || member != rank())
        core::fail(Code::Device, "the %s communicator handed in is that of member %d of %d, the device has rank %lld in a mesh of %lld",
                   library_.name(), member, members, Number(rank()), Number(mesh().devices()));
}

void NcclCommunicator::Watch::await(const std::function<bool()> &reached, const std::string &what) {
    std::shared_lock<std::shared_mutex> hold(lock_);
    if (group_)
        group_->await(reached, what);
}

NcclCommunicator::~NcclCommunicator() {
    {
        std::lock_guard<std::shared_mutex> hold(watch_->lock_);
        watch_->group_ = nullptr;
    }
    for (auto &[axes, team] : teams_)
        if (team.communicator && team.communicator != existing_)
            library_.destroy(team.communicator);
}

void NcclCommunicator::fail(const std::string &message) noexcept {
    host_->fail(message);
    abort();
}

// Ends what waits on the device. The others do the same when they learn of the failure.
void NcclCommunicator::abort() noexcept {
    try {
        std::lock_guard<std::mutex> hold(lock_);
        for (auto &[axes, team] : teams_)
            drop(team);
    } catch (...) {
    }
}

void NcclCommunicator::drop(Team &team) {
    if (team.communicator && team.communicator != existing_)
        library_.abort(team.communicator);
    team.communicator = nullptr;
}

std::pair<uint64_t, uint64_t> NcclCommunicator::traffic() const {
    const auto [bytes, calls] = host_->traffic();
    return {bytes + received_, calls + calls_};
}

void NcclCommunicator::reset_traffic() {
    host_->reset_traffic();
    received_ = calls_ = 0;
}

// ncclDataType_t of what a collective combines; UnsupportedError where there is none.
int NcclCommunicator::reduced_type(const Collective &c, DType dtype) const {
    const int type = type_of(dtype, c.combine);
    if (type < 0)
        core::fail(Code::Unsupported, "[%s] %s does not combine elements of %s; cast them to i32 or f32", c.name.c_str(),
                   library_.name(), core::name(dtype));
    return type;
}

// All members of the team come here at the same place of their programs.
NcclCommunicator::Team &NcclCommunicator::team(const std::vector<std::string> &axes) {
    const uint64_t epoch = host_->epoch();
    {
        std::lock_guard<std::mutex> hold(lock_);
        if (epoch != epoch_) // some have ended theirs after a failure, others not: all connect again
            for (auto &[key, team] : teams_)
                drop(team);
        epoch_ = epoch;
        auto found = teams_.find(axes);
        if (found != teams_.end())
            return found->second;
    }
    Team made;
    const std::vector<int64_t> ranks = mesh().team(axes, rank());
    made.members = static_cast<int64_t>(ranks.size());
    made.member = std::find(ranks.begin(), ranks.end(), rank()) - ranks.begin();
    // Whoever hands in a communicator wants the exchanges done by it.
    made.copies = !existing_ && peers_.reach(axes, made.members, made.member);
    std::lock_guard<std::mutex> hold(lock_);
    return teams_.emplace(axes, made).first->second;
}

// All members come here at the same place, too.
void NcclCommunicator::connect(Team &team, const std::vector<std::string> &axes) {
    {
        std::lock_guard<std::mutex> hold(lock_);
        if (team.communicator)
            return;
    }
    const std::vector<int64_t> ranks = mesh().team(axes, rank());
    bool whole = team.members == mesh().devices();
    for (int64_t i = 0; whole && i < team.members; ++i)
        whole = ranks[static_cast<size_t>(i)] == i;
    if (existing_ && whole) {
        std::lock_guard<std::mutex> hold(lock_);
        team.communicator = existing_;
        return;
    }
    NcclId id{};
    if (team.member == 0)
        library_.check(library_.get_id(&id), "a communicator between GPUs");
    std::vector<NcclId> ids(ranks.size());
    Collective meeting;
    meeting.kind = CollectiveKind::AllGather;
    meeting.axes = axes;
    meeting.members = team.members;
    meeting.name = "the first meeting of GPUs";
    const auto size = static_cast<int64_t>(sizeof(NcclId));
    host_->run(meeting, {DType::U8, {size}, &id}, {DType::U8, {size * team.members}, ids.data()});
    gpu::Current current(driver_, device_.index);
    gpu::Handle made = nullptr;
    library_.check(library_.connect(&made, static_cast<int>(team.members), ids.front(), static_cast<int>(team.member)),
                   "a communicator between GPUs");
    std::lock_guard<std::mutex> hold(lock_);
    team.communicator = made;
}

GpuExchange NcclCommunicator::exchange(const Collective &c, const TensorView &operand, const TensorView &result) {
    GpuExchange out;
    const int64_t members = c.members;
    const auto rank_of = static_cast<int64_t>(operand.shape.size());
    if (operand.dtype != result.dtype || operand.shape.size() != result.shape.size() || c.dim >= std::max<int64_t>(rank_of, 1) ||
        c.split_dim >= std::max<int64_t>(rank_of, 1))
        core::fail(Code::Shape, "[%s] the operand is %s, the result %s", c.name.c_str(), type_text(operand.dtype, operand.shape).c_str(),
                   type_text(result.dtype, result.shape).c_str());
    if (c.kind == CollectiveKind::AllReduce || c.kind == CollectiveKind::Permute) {
        if (operand.shape != result.shape)
            misfit(c, result);
        out.known = true;
        return out;
    }
    const bool all_to_all = c.kind == CollectiveKind::AllToAll;
    const auto of = [](const TensorView &t, int64_t d) { return t.shape[static_cast<size_t>(d)]; };
    const int64_t split = all_to_all ? c.split_dim : c.dim;
    const int64_t own[2] = {of(operand, c.dim), of(result, split)};
    std::vector<int64_t> all(static_cast<size_t>(2 * members));
    Collective sizes;
    sizes.kind = CollectiveKind::AllGather;
    sizes.axes = c.axes;
    sizes.members = members;
    sizes.name = c.name;
    host_->run(sizes, {DType::I64, {2}, const_cast<int64_t *>(own)}, {DType::I64, {2 * members}, all.data()});
    for (int64_t m = 0; m < members; ++m) {
        out.brought.push_back(all[static_cast<size_t>(2 * m)]);
        out.got.push_back(all[static_cast<size_t>(2 * m + 1)]);
    }
    const bool gathers = c.kind == CollectiveKind::AllGather;
    if (!same_but(operand.shape, result.shape, c.dim, split) || (gathers && sum(out.brought) != of(result, c.dim)) ||
        (!gathers && sum(out.got) != of(operand, split)) || (all_to_all && sum(out.brought) != of(result, c.dim)))
        misfit(c, result);
    out.known = true;
    return out;
}

int64_t NcclCommunicator::scratch(const Collective &c, const TensorView &operand, const TensorView &result) {
    switch (c.kind) {
    case CollectiveKind::AllReduce:
    case CollectiveKind::Permute:
        return 0;
    case CollectiveKind::AllGather:
        return Along(result, c.dim).outer == 1 ? 0 : bytes_of(result);
    case CollectiveKind::ReduceScatter:
        return Along(operand, c.dim).outer == 1 ? 0 : bytes_of(operand);
    case CollectiveKind::AllToAll:
        break;
    }
    return (Along(operand, c.split_dim).outer == 1 ? 0 : bytes_of(operand)) + (Along(result, c.dim).outer == 1 ? 0 : bytes_of(result));
}

void NcclCommunicator::put(const Collective &c, const GpuExchange &e, const TensorView &operand, const TensorView &result,
                           void *scratch, gpu::Handle stream) {
    Team &t = team(c.axes);
    if (t.members != c.members)
        core::fail(Code::Device, "[%s] the program is for groups of %lld devices; here are %lld", c.name.c_str(),
                   Number(c.members), Number(t.members));
    ++calls_;
    if (t.copies && put_copies(t, c, e, operand, result, stream))
        return;
    connect(t, c.axes);
    switch (c.kind) {
    case CollectiveKind::AllReduce: {
        const int type = t.members == 1 ? bytes_type : reduced_type(c, operand.dtype);
        const int64_t count = t.members == 1 ? bytes_of(operand) : operand.size(), chunk = (count + t.members - 1) / t.members;
        if (count == 0)
            return;
        library_.check(library_.all_reduce(operand.data, result.data, static_cast<size_t>(count), type, combine_of(c.combine),
                                           t.communicator, stream),
                       c.name);
        const int64_t first = std::min(t.member * chunk, count), last = std::min(first + chunk, count);
        if (t.members > 1)
            received_ += static_cast<uint64_t>((last - first) * (t.members - 1) + count - (last - first)) * item_size(operand.dtype);
        return;
    }
    case CollectiveKind::AllGather:
        return gather(t, c, e, operand, result, scratch, stream);
    case CollectiveKind::ReduceScatter:
        return scatter(t, c, e, operand, result, scratch, stream);
    case CollectiveKind::AllToAll:
        return swap(t, c, e, operand, result, scratch, stream);
    case CollectiveKind::Permute:
        return permute(t, c, operand, result, stream);
    }
}

bool NcclCommunicator::put_copies(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand,
                                  const TensorView &result, gpu::Handle stream) {
    std::vector<PeerCopies::Piece> pieces;
    const int64_t own = bytes_of(operand);
    switch (c.kind) {
    case CollectiveKind::AllGather: {
        const Along to(result, c.dim);
        if (to.outer != 1)
            return false;
        const int64_t first = std::accumulate(e.brought.begin(), e.brought.begin() + t.member, int64_t{0}) * to.inner;
        for (int64_t m = 0; m < t.members; ++m)
            pieces.push_back({m, 0, first, own, false});
        received_ += static_cast<uint64_t>(bytes_of(result) - own);
        break;
    }
    case CollectiveKind::AllToAll: {
        if (!all_equal(e.got) || !all_equal(e.brought) || Along(operand, c.split_dim).outer != 1 || Along(result, c.dim).outer != 1)
            return false;
        const int64_t each = own / t.members;
        for (int64_t m = 0; m < t.members; ++m)
            pieces.push_back({m, m * each, t.member * each, each, false});
        received_ += static_cast<uint64_t>(own - each);
        break;
    }
    case CollectiveKind::Permute: {
        const int64_t source = c.source(static_cast<size_t>(t.member));
        if (source < 0 && own)
            driver_.check(driver_.call().fill(gpu::address_of(result.data), 0, static_cast<size_t>(own), stream),
                          "an exchange");
        for (int64_t m = 0; m < t.members; ++m)
            if (c.source(static_cast<size_t>(m)) == t.member)
                pieces.push_back({m, 0, 0, own, true});
        received_ += source < 0 || source == t.member ? 0 : static_cast<uint64_t>(own);
        break;
    }
    case CollectiveKind::AllReduce:
    case CollectiveKind::ReduceScatter:
        return false;
    }
    peers_.put(c, t.member, pieces, operand, result, stream);
    return true;
}

void NcclCommunicator::permute(const Team &t, const Collective &c, const TensorView &operand, const TensorView &result,
                               gpu::Handle stream) {
    const auto bytes = static_cast<size_t>(bytes_of(operand));
    if (!bytes)
        return;
    const int64_t source = c.source(t.member);
    if (source < 0)
        driver_.check(driver_.call().fill(gpu::address_of(result.data), 0, bytes, stream), "an exchange");
    else
        received_ += source == t.member ? 0 : bytes;
    library_.check(library_.group_begin(), c.name);
    for (int64_t m = 0; m < t.members; ++m)
        if (c.source(m) == t.member)
            library_.check(library_.send(operand.data, bytes, bytes_type, static_cast<int>(m), t.communicator, stream), c.name);
    if (source >= 0)
        library_.check(library_.receive(result.data, bytes, bytes_type, static_cast<int>(source), t.communicator, stream), c.name);
    library_.check(library_.group_end(), c.name);
}

void NcclCommunicator::gather(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand,
                              const TensorView &result, void *scratch, gpu::Handle stream) {
    const Along to(result, c.dim);
    const bool direct = to.outer == 1;
    void *target = direct ? result.data : scratch;
    const int64_t unit = to.outer * to.inner, own = bytes_of(operand);
    received_ += static_cast<uint64_t>(bytes_of(result) - own);
    if (all_equal(e.brought)) {
        if (own)
            library_.check(library_.all_gather(operand.data, target, static_cast<size_t>(own), bytes_type, t.communicator, stream), c.name);
    } else {
        library_.check(library_.group_begin(), c.name);
        int64_t at = 0;
        for (int64_t m = 0; m < t.members; at += e.brought[static_cast<size_t>(m++)] * unit) {
            const auto bytes = static_cast<size_t>(e.brought[static_cast<size_t>(m)] * unit);
            if (own)
                library_.check(library_.send(operand.data, static_cast<size_t>(own), bytes_type, static_cast<int>(m), t.communicator, stream), c.name);
            if (bytes)
                library_.check(library_.receive(offset(target, at), bytes, bytes_type, static_cast<int>(m), t.communicator, stream), c.name);
        }
        library_.check(library_.group_end(), c.name);
    }
    if (direct)
        return;
    int64_t at = 0, from = 0;
    for (int64_t size : e.brought) {
        const Along part(with_size(result, c.dim, size), c.dim);
        copy_along(offset(scratch, from), part, 0, result.as<char>(), to, at, size, copier(stream));
        at += size;
        from += size * unit;
    }
}

void NcclCommunicator::scatter(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand,
                               const TensorView &result, void *scratch, gpu::Handle stream) {
    const int type = reduced_type(c, operand.dtype);
    const Along from(operand, c.dim);
    const void *source = operand.data;
    const int64_t unit = from.outer * from.inner, item = static_cast<int64_t>(item_size(operand.dtype));
    received_ += static_cast<uint64_t>(bytes_of(result) * (t.members - 1));
    if (from.outer != 1) { // the members' parts one after the other
        int64_t first = 0;
        for (int64_t size : e.got) {
            const Along part(with_size(operand, c.dim, size), c.dim);
            copy_along(operand.as<char>(), from, first, offset(scratch, first * unit), part, 0, size, copier(stream));
            first += size;
        }
        source = scratch;
    }
    if (all_equal(e.got)) {
        if (result.size())
            library_.check(library_.reduce_scatter(source, result.data, static_cast<size_t>(result.size()), type, combine_of(c.combine),
                                                   t.communicator, stream),
                           c.name);
        return;
    }
    library_.check(library_.group_begin(), c.name);
    int64_t at = 0;
    for (int64_t m = 0; m < t.members; at += e.got[static_cast<size_t>(m++)] * unit)
        if (const int64_t bytes = e.got[static_cast<size_t>(m)] * unit)
            library_.check(library_.reduce(offset(const_cast<void *>(source), at), result.data, static_cast<size_t>(bytes / item), type,
                                           combine_of(c.combine), static_cast<int>(m), t.communicator, stream),
                           c.name);
    library_.check(library_.group_end(), c.name);
}

void NcclCommunicator::swap(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand,
                            const TensorView &result, void *scratch, gpu::Handle stream) {
    const Along from(operand, c.split_dim), to(result, c.dim);
    const int64_t own = e.got[static_cast<size_t>(t.member)];
    const bool lies_apart = from.outer != 1, joins_rows = to.outer != 1; // else the parts follow each other in memory
    int64_t packed = 0, first = 0;
    for (int64_t size : e.got) {
        const Along part(with_size(operand, c.split_dim, size), c.split_dim);
        if (lies_apart)
            copy_along(operand.as<char>(), from, first, offset(scratch, packed), part, 0, size, copier(stream));
        first += size;
        packed += size * from.outer * from.inner;
    }
    void *leaving = lies_apart ? scratch : operand.data;
    void *arrived = joins_rows ? offset(scratch, lies_apart ? packed : 0) : result.data;
    const auto piece = [&](int64_t m) { return with_size(result, c.dim, e.brought[static_cast<size_t>(m)]); };
    library_.check(library_.group_begin(), c.name);
    int64_t at = 0, received = 0;
    for (int64_t m = 0; m < t.members; ++m) {
        const int64_t sent = e.got[static_cast<size_t>(m)] * from.outer * from.inner, bytes = own ? bytes_of(piece(m)) : 0;
        if (sent)
            library_.check(library_.send(offset(leaving, at), static_cast<size_t>(sent), bytes_type, static_cast<int>(m), t.communicator, stream), c.name);
        if (bytes)
            library_.check(library_.receive(offset(arrived, received), static_cast<size_t>(bytes), bytes_type, static_cast<int>(m), t.communicator, stream), c.name);
        at += sent;
        received += bytes;
        received_ += m == t.member ? 0 : static_cast<uint64_t>(bytes);
    }
    library_.check(library_.group_end(), c.name);
    int64_t place = 0, source = 0;
    for (int64_t m = 0; m < t.members && joins_rows; ++m) {
        const TensorView part = piece(m);
        copy_along(offset(arrived, source), Along(part, c.dim), 0, result.as<char>(), to, place,
                   e.brought[static_cast<size_t>(m)], copier(stream));
        place += e.brought[static_cast<size_t>(m)];
        source += bytes_of(part);
    }
}

// Copies on the device, in the order of a stream.
CopyBytes NcclCommunicator::copier(gpu::Handle stream) const {
    return [this, stream](void *target, const void *source, size_t bytes) {
        driver_.check(driver_.call().copy_within(gpu::address_of(target), gpu::address_of(source),
                                                 bytes, stream),
                      "a part of an exchange");
    };
}

void NcclCommunicator::put_largest(void *word, gpu::Handle stream) {
    std::vector<std::string> axes;
    for (const auto &[name, size] : mesh().axes)
        axes.push_back(name);
    Team &t = team(axes);
    connect(t, axes);
    library_.check(library_.all_reduce(word, word, 1, i64_type, largest, t.communicator, stream), "agreeing on checks");
}

void NcclCommunicator::await(const std::function<bool()> &reached, const std::string &what) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    for (int64_t tries = 0; !reached(); ++tries) {
        if (tries < 200) {
            std::this_thread::yield();
            continue;
        }
        try {
            host_->check();
            std::lock_guard<std::mutex> hold(lock_);
            for (auto &[axes, team] : teams_) {
                if (!team.communicator)
                    continue;
                int error = 0;
                library_.check(library_.async_error(team.communicator, &error), what);
                if (error != in_progress)
                    library_.check(error, what);
            }
            if (Clock::now() - start > std::chrono::milliseconds(timeout_ms_))
                core::fail(Code::Device, "%s: after %.1f s the devices are not done; one of them hangs or is gone", what.c_str(),
                           static_cast<double>(timeout_ms_) / 1000);
        } catch (const Error &) {
            abort();
            throw;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

} // namespace tessera::core
