#include "collective/process/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "collective/combine.h"
#include "collective/parts.h"
#include "core/error.h"
#include "core/hash.h"

namespace tessera::core {

namespace {

using Number = long long;

size_t bytes_of(const TensorView &t) { return static_cast<size_t>(t.size()) * item_size(t.dtype); }

// The elements of chunk `m` of `n`: chunks are ceil(n / members) long, as far as there are elements.
std::pair<int64_t, int64_t> chunk_of(int64_t n, size_t members, size_t m) {
    const int64_t count = static_cast<int64_t>(members), chunk = (n + count - 1) / count;
    const int64_t begin = std::min(static_cast<int64_t>(m) * chunk, n);
    return {begin, std::min(begin + chunk, n)};
}

} // namespace

struct ProcessCommunicator::Post {
    CollectiveKind kind;
    Combine combine;
    DType dtype;
    int64_t dim, split_dim, rank, members;
    uint64_t pairs; // their hash
    int64_t operand[max_rank], result[max_rank];
    char name[256];

    std::vector<int64_t> operand_shape() const { return {operand, operand + rank}; }
    std::vector<int64_t> result_shape() const { return {result, result + rank}; }
};

struct ProcessCommunicator::Team {
    const Collective &collective;
    std::vector<int64_t> ranks; // of processes
    size_t member = 0;          // this one
    std::vector<Post> posts;

    size_t size() const { return ranks.size(); }
};

std::vector<std::string> all_gather(Transport &transport, const std::vector<int64_t> &ranks, const std::string &part,
                                    const std::string &what) {
    std::vector<std::string> parts(ranks.size());
    const uint64_t own = part.size();
    // Memory that arrives late must not be somebody else's by then.
    auto sizes_kept = std::make_shared<std::vector<uint64_t>>(ranks.size());
    auto parts_kept = std::make_shared<std::vector<std::string>>(ranks.size());
    try {
        for (int step = 0; step < 2; ++step) {
            std::vector<Outgoing> out;
            std::vector<Incoming> in;
            for (size_t i = 0; i < ranks.size(); ++i) {
                if (ranks[i] == transport.rank())
                    continue;
                if (step == 0) {
                    out.push_back({ranks[i], &own, sizeof own});
                    in.push_back({ranks[i], &(*sizes_kept)[i], sizeof(uint64_t)});
                } else {
                    (*parts_kept)[i].resize((*sizes_kept)[i]);
                    out.push_back({ranks[i], part.data(), part.size()});
                    in.push_back({ranks[i], (*parts_kept)[i].data(), (*parts_kept)[i].size()});
                }
            }
            transport.exchange(out, in, what);
        }
    } catch (...) {
        transport.keep(sizes_kept);
        transport.keep(parts_kept);
        throw;
    }
    for (size_t i = 0; i < ranks.size(); ++i)
        parts[i] = ranks[i] == transport.rank() ? part : std::move((*parts_kept)[i]);
    return parts;
}

ProcessCommunicator::ProcessCommunicator(std::shared_ptr<Transport> transport, MeshAxes mesh, std::vector<int64_t> ranks)
    : transport_(std::move(transport)), mesh_(std::move(mesh)), ranks_(std::move(ranks)), rank_(-1) {
    if (static_cast<int64_t>(ranks_.size()) != mesh_.devices())
        core::fail(Code::Argument, "the mesh has %lld devices, but %zu processes are given", Number(mesh_.devices()),
                   ranks_.size());
    std::set<int64_t> seen;
    for (size_t i = 0; i < ranks_.size(); ++i) {
        if (ranks_[i] < 0 || ranks_[i] >= transport_->size())
            core::fail(Code::Device, "the mesh has a device on rank %lld, but there are %lld processes; start as many as the "
                       "mesh has devices", Number(ranks_[i]), Number(transport_->size()));
        if (!seen.insert(ranks_[i]).second)
            core::fail(Code::Argument, "rank %lld is given for two devices of the mesh", Number(ranks_[i]));
        if (ranks_[i] == transport_->rank())
            rank_ = static_cast<int64_t>(i);
    }
    if (rank_ < 0)
        core::fail(Code::Device, "this process, rank %lld, has no device of the mesh", Number(transport_->rank()));
}

ProcessCommunicator::~ProcessCommunicator() {
    transport_->keep(std::move(received_data_)); // what was under way may still arrive
}

std::vector<char *> ProcessCommunicator::room(const std::vector<size_t> &bytes) {
    constexpr size_t alignment = 64;
    size_t total = alignment;
    for (size_t b : bytes)
        total += (b + alignment - 1) / alignment * alignment;
    if (total > received_size_) {
        transport_->keep(std::move(received_data_));
        received_data_.reset(new char[total]);
        received_size_ = total;
    }
    auto address = (reinterpret_cast<uintptr_t>(received_data_.get()) + alignment - 1) / alignment * alignment;
    std::vector<char *> out;
    for (size_t b : bytes) {
        out.push_back(reinterpret_cast<char *>(address));
        address += (b + alignment - 1) / alignment * alignment;
    }
    return out;
}

void ProcessCommunicator::exchange(const Team &team, const std::vector<Outgoing> &out, const std::vector<Incoming> &in) {
    transport_->exchange(out, in, team.collective.name);
}

template <class Give, class Take>
uint64_t ProcessCommunicator::swap(const Team &team, const Give &give, const Take &take) {
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    uint64_t received = 0;
    for (size_t m = 0; m < team.size(); ++m) {
        if (m == team.member)
            continue;
        out.push_back(give(m));
        in.push_back(take(m));
        out.back().to = in.back().from = team.ranks[m];
        received += in.back().bytes;
    }
    exchange(team, out, in);
    return received;
}

std::vector<ProcessCommunicator::Post> ProcessCommunicator::posts(const Team &team, const Collective &collective,
                                                                  const TensorView &operand, const TensorView &result) {
    Post mine;
    std::memset(static_cast<void *>(&mine), 0, sizeof mine);
    mine.kind = collective.kind;
    mine.combine = collective.combine;
    mine.dtype = operand.dtype;
    mine.dim = collective.dim;
    mine.split_dim = collective.split_dim;
    mine.members = collective.members;
    mine.pairs = hash64(collective.pairs.data(), collective.pairs.size() * sizeof collective.pairs[0]);
    mine.rank = static_cast<int64_t>(operand.shape.size());
    if (operand.shape.size() != result.shape.size() || operand.dtype != result.dtype)
        misfit(collective, result);
    std::copy(operand.shape.begin(), operand.shape.end(), mine.operand);
    std::copy(result.shape.begin(), result.shape.end(), mine.result);
    std::memcpy(mine.name, collective.name.data(), std::min(collective.name.size(), sizeof mine.name - 1));
    std::vector<size_t> sizes(team.size(), sizeof(Post));
    std::vector<char *> places = room(sizes);
    swap(team, [&](size_t) { return Outgoing{0, &mine, sizeof mine}; },
         [&](size_t m) { return Incoming{0, places[m], sizeof(Post)}; });
    std::vector<Post> found(team.size());
    for (size_t m = 0; m < team.size(); ++m) {
        found[m] = mine;
        if (m == team.member)
            continue;
        std::memcpy(static_cast<void *>(&found[m]), places[m], sizeof(Post));
        Post &other = found[m];
        other.name[sizeof other.name - 1] = 0;
        if (other.kind != mine.kind || other.combine != mine.combine || other.dtype != mine.dtype ||
            other.dim != mine.dim || other.split_dim != mine.split_dim || other.rank != mine.rank ||
            other.members != mine.members || other.pairs != mine.pairs)
            core::fail(Code::Device, "[%s] rank %lld is at %s %s, here it is %s", collective.name.c_str(),
                       Number(team.ranks[m]), other.name,
                       other.rank >= 0 && other.rank <= max_rank
                           ? type_text(other.dtype, other.operand_shape()).c_str() : "",
                       type_text(operand.dtype, operand.shape).c_str());
    }
    return found;
}

void ProcessCommunicator::run(const Collective &collective, const TensorView &operand, const TensorView &result) {
    Team team{collective, mesh_.team(collective.axes, rank_), 0, {}};
    if (static_cast<int64_t>(team.size()) != collective.members)
        core::fail(Code::Device, "[%s] the program is for groups of %lld devices; here are %zu", collective.name.c_str(),
                   Number(collective.members), team.size());
    for (size_t m = 0; m < team.size(); ++m) {
        if (team.ranks[m] == rank_)
            team.member = m;
        team.ranks[m] = ranks_[static_cast<size_t>(team.ranks[m])];
    }
    team.posts = posts(team, collective, operand, result);
    switch (collective.kind) {
    case CollectiveKind::AllReduce: all_reduce(team, operand, result); break;
    case CollectiveKind::AllGather: all_gather(team, operand, result); break;
    case CollectiveKind::ReduceScatter: reduce_scatter(team, operand, result); break;
    case CollectiveKind::AllToAll: all_to_all(team, operand, result); break;
    case CollectiveKind::Permute: permute(team, operand, result); break;
    }
    ++calls_;
}

void ProcessCommunicator::all_reduce(const Team &team, const TensorView &operand, const TensorView &result) {
    const int64_t n = operand.size(), size = static_cast<int64_t>(item_size(operand.dtype));
    for (const Post &post : team.posts)
        if (post.operand_shape() != operand.shape || post.result_shape() != operand.shape)
            misfit(team.collective, operand);
    auto bytes = [&](size_t m) {
        const auto [begin, end] = chunk_of(n, team.size(), m);
        return static_cast<size_t>((end - begin) * size);
    };
    auto start = [&](size_t m) { return chunk_of(n, team.size(), m).first * size; };
    const size_t own = bytes(team.member);
    std::vector<char *> places = room(std::vector<size_t>(team.size(), own));
    std::vector<const char *> parts(places.begin(), places.end());
    parts[team.member] = operand.as<char>() + start(team.member);
    received_ += swap(team, [&](size_t m) { return Outgoing{0, operand.as<char>() + start(m), bytes(m)}; },
                      [&](size_t m) { return Incoming{0, places[m], own}; });
    if (own)
        combine_parts(parts, result.as<char>() + start(team.member), static_cast<int64_t>(own) / size, operand.dtype,
                      team.collective.combine);
    std::vector<size_t> sizes(team.size());
    for (size_t m = 0; m < team.size(); ++m)
        sizes[m] = m == team.member ? 0 : bytes(m);
    places = room(sizes);
    received_ += swap(team, [&](size_t) { return Outgoing{0, result.as<char>() + start(team.member), own}; },
                      [&](size_t m) { return Incoming{0, places[m], sizes[m]}; });
    for (size_t m = 0; m < team.size(); ++m)
        if (sizes[m])
            std::memcpy(result.as<char>() + start(m), places[m], sizes[m]);
}

void ProcessCommunicator::all_gather(const Team &team, const TensorView &operand, const TensorView &result) {
    const Along to(result, team.collective.dim);
    std::vector<size_t> sizes(team.size());
    std::vector<TensorView> views;
    int64_t total = 0;
    for (size_t m = 0; m < team.size(); ++m) {
        views.push_back({operand.dtype, team.posts[m].operand_shape(), nullptr});
        if (!same_but(views[m].shape, result.shape, team.collective.dim, -1))
            misfit(team.collective, result);
        total += views[m].shape[static_cast<size_t>(team.collective.dim)];
        sizes[m] = m == team.member ? 0 : bytes_of(views[m]);
    }
    if (total != to.size)
        misfit(team.collective, result);
    std::vector<char *> places = room(sizes);
    received_ += swap(team, [&](size_t) { return Outgoing{0, operand.data, bytes_of(operand)}; },
                      [&](size_t m) { return Incoming{0, places[m], sizes[m]}; });
    places[team.member] = operand.as<char>();
    int64_t at = 0;
    for (size_t m = 0; m < team.size(); ++m) {
        const Along from(views[m], team.collective.dim);
        copy_along(places[m], from, 0, result.as<char>(), to, at, from.size);
        at += from.size;
    }
}

namespace {

// Where each member's part begins along a dimension, and the end of the last.
std::vector<int64_t> starts(const std::vector<std::vector<int64_t>> &shapes, int64_t dim) {
    std::vector<int64_t> out{0};
    for (const std::vector<int64_t> &shape : shapes)
        out.push_back(out.back() + shape[static_cast<size_t>(dim)]);
    return out;
}

} // namespace

void ProcessCommunicator::reduce_scatter(const Team &team, const TensorView &operand, const TensorView &result) {
    const int64_t dim = team.collective.dim;
    const Along from(operand, dim), to(result, dim);
    std::vector<std::vector<int64_t>> shapes;
    for (const Post &post : team.posts) {
        shapes.push_back(post.result_shape());
        if (post.operand_shape() != operand.shape || !same_but(operand.shape, shapes.back(), dim, -1))
            misfit(team.collective, result);
    }
    const std::vector<int64_t> first = starts(shapes, dim);
    if (first.back() != from.size)
        misfit(team.collective, result);
    // Each member's part, row after row, as it will have it.
    std::vector<size_t> sizes(team.size());
    for (size_t m = 0; m < team.size(); ++m)
        sizes[m] = static_cast<size_t>(from.outer * (first[m + 1] - first[m]) * from.inner);
    const size_t own = sizes[team.member], all = std::accumulate(sizes.begin(), sizes.end(), size_t{0});
    std::unique_ptr<char[]> packed(new char[std::max<size_t>(all, 1)]);
    std::vector<char *> places = room(std::vector<size_t>(team.size(), own));
    std::vector<const char *> parts(places.begin(), places.end()), given;
    char *next = packed.get();
    for (size_t m = 0; m < team.size(); ++m) {
        const TensorView view{operand.dtype, shapes[m], next};
        copy_along(operand.as<char>(), from, first[m], next, Along(view, dim), 0, first[m + 1] - first[m]);
        given.push_back(next);
        next += sizes[m];
    }
    parts[team.member] = given[team.member];
    received_ += swap(team, [&](size_t m) { return Outgoing{0, given[m], sizes[m]}; },
                      [&](size_t m) { return Incoming{0, places[m], own}; });
    if (own)
        combine_parts(parts, result.as<char>(), result.size(), operand.dtype, team.collective.combine);
}

void ProcessCommunicator::permute(const Team &team, const TensorView &operand, const TensorView &result) {
    const size_t own = bytes_of(result);
    for (const Post &post : team.posts)
        if (post.operand_shape() != operand.shape || post.result_shape() != operand.shape)
            misfit(team.collective, operand);
    const int64_t source = team.collective.source(team.member), here = static_cast<int64_t>(team.member);
    const bool arrives = source >= 0 && source != here;
    std::vector<char *> places = room({arrives ? own : 0});
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    for (size_t m = 0; m < team.size(); ++m)
        if (m != team.member && team.collective.source(m) == here)
            out.push_back({team.ranks[m], operand.data, own});
    if (arrives) {
        in.push_back({team.ranks[static_cast<size_t>(source)], places[0], own});
        received_ += own;
    }
    exchange(team, out, in);
    if (own && source < 0)
        std::memset(result.data, 0, own);
    else if (own)
        std::memcpy(result.data, arrives ? places[0] : operand.data, own);
}

void ProcessCommunicator::all_to_all(const Team &team, const TensorView &operand, const TensorView &result) {
    const int64_t dim = team.collective.dim, split = team.collective.split_dim;
    std::vector<std::vector<int64_t>> results, operands;
    for (const Post &post : team.posts) {
        results.push_back(post.result_shape());
        operands.push_back(post.operand_shape());
        if (!same_but(operands.back(), result.shape, dim, split) ||
            operands.back()[static_cast<size_t>(split)] != operand.shape[static_cast<size_t>(split)])
            misfit(team.collective, result);
    }
    const std::vector<int64_t> first = starts(results, split), at = starts(operands, dim);
    if (first.back() != operand.shape[static_cast<size_t>(split)] || at.back() != result.shape[static_cast<size_t>(dim)])
        misfit(team.collective, result);
    // The box that goes from member `a` to member `b`.
    auto box = [&](size_t a, size_t b) {
        std::vector<int64_t> shape = operands[a];
        shape[static_cast<size_t>(split)] = results[b][static_cast<size_t>(split)];
        return TensorView{operand.dtype, std::move(shape), nullptr};
    };
    std::vector<size_t> sizes(team.size());
    for (size_t m = 0; m < team.size(); ++m)
        sizes[m] = m == team.member ? 0 : bytes_of(box(m, team.member));
    std::unique_ptr<char[]> packed(new char[std::max<size_t>(bytes_of(operand), 1)]);
    std::vector<char *> places = room(sizes);
    std::vector<TensorView> given;
    char *next = packed.get();
    const Along from(operand, split);
    for (size_t m = 0; m < team.size(); ++m) {
        TensorView &view = given.emplace_back(box(team.member, m));
        view.data = next;
        copy_along(operand.as<char>(), from, first[m], next, Along(view, split), 0, first[m + 1] - first[m]);
        next += bytes_of(view);
    }
    places[team.member] = given[team.member].as<char>();
    received_ += swap(team, [&](size_t m) { return Outgoing{0, given[m].data, bytes_of(given[m])}; },
                      [&](size_t m) { return Incoming{0, places[m], sizes[m]}; });
    const Along to(result, dim);
    for (size_t m = 0; m < team.size(); ++m) {
        const TensorView view = box(m, team.member);
        copy_along(places[m], Along(view, dim), 0, result.as<char>(), to, at[m], at[m + 1] - at[m]);
    }
}

void ProcessCommunicator::agree() { core::all_gather(*transport_, ranks_, "", "before state is changed"); }

void ProcessCommunicator::compare(const Describe &describe) {
    const std::vector<std::string> parts = describe();
    uint64_t hash = parts.size();
    std::string all;
    for (const std::string &part : parts) {
        hash = hash64(part.data(), part.size(), hash);
        all += part + '\0';
    }
    const std::string what = "before the first run";
    const std::string own(reinterpret_cast<const char *>(&hash), sizeof hash);
    const std::vector<std::string> hashes = core::all_gather(*transport_, ranks_, own, what);
    if (std::all_of(hashes.begin(), hashes.end(), [&](const std::string &h) { return h == own; }))
        return;
    // Everybody is here now: all say the same about the first that differs from the first device.
    const std::vector<std::string> texts = core::all_gather(*transport_, ranks_, all, what);
    auto pieces = [](const std::string &text) {
        std::vector<std::string> out;
        for (size_t begin = 0, end; (end = text.find('\0', begin)) != std::string::npos; begin = end + 1)
            out.push_back(text.substr(begin, end - begin));
        return out;
    };
    const std::vector<std::string> first = pieces(texts[0]);
    for (size_t m = 1; m < texts.size(); ++m) {
        if (texts[m] == texts[0])
            continue;
        const std::vector<std::string> other = pieces(texts[m]);
        size_t i = 0;
        while (i < first.size() && i < other.size() && first[i] == other[i])
            ++i;
        core::fail(Code::Device, "the processes have different programs: rank %lld has %s, rank %lld has %s; run the same "
                   "artefact on all", Number(ranks_[0]), i < first.size() ? first[i].c_str() : "nothing there",
                   Number(ranks_[m]), i < other.size() ? other[i].c_str() : "nothing there");
    }
}

} // namespace tessera::core
