#include "collective/local/group.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "collective/combine.h"
#include "collective/parts.h"
#include "core/error.h"

namespace tessera::core {

namespace {

using Number = long long;

} // namespace

LocalGroup::LocalGroup(MeshAxes mesh, int64_t timeout_ms) : mesh_(std::move(mesh)), timeout_ms_(timeout_ms) {}

LocalGroup::Team &LocalGroup::team(const std::vector<std::string> &axes, int64_t rank, size_t &member) {
    std::vector<int64_t> place = mesh_.coordinates(rank), others = place;
    size_t members = 1;
    member = 0;
    for (const std::string &axis : axes) {
        const size_t i = mesh_.index(axis);
        auto size = static_cast<size_t>(mesh_.axes[i].second);
        members *= size;
        member = member * size + static_cast<size_t>(place[i]);
        others[i] = -1;
    }
    std::lock_guard<std::mutex> hold(lock_);
    std::unique_ptr<Team> &found = teams_[{axes, others}];
    if (!found)
        found = std::make_unique<Team>(members);
    return *found;
}

void LocalGroup::meet(Team &team, const std::string &what, bool opens) {
    std::unique_lock<std::mutex> hold(lock_);
    const uint64_t round = team.round;
    if (!failed_ && ++team.arrived == team.posts.size()) {
        team.arrived = 0;
        team.reading = opens ? team.posts.size() : team.reading;
        ++team.round;
        team.changed.notify_all();
        return;
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms_);
    while (!failed_ && team.round == round)
        if (team.changed.wait_until(hold, deadline) == std::cv_status::timeout && !failed_ && team.round == round) {
            failed_ = true;
            message_ = format("%s: after %.1f s, %zu of %zu devices have come", what.c_str(),
                              static_cast<double>(timeout_ms_) / 1000, team.arrived, team.posts.size());
            for (auto &[key, other] : teams_)
                other->changed.notify_all();
        }
    if (team.round == round)
        core::fail(Code::Device, "another device failed: %s", message_.c_str());
}

void LocalGroup::leave(Team &team) noexcept {
    std::unique_lock<std::mutex> hold(lock_);
    if (--team.reading == 0)
        team.changed.notify_all();
    while (team.reading != 0)
        team.changed.wait(hold);
}

void LocalGroup::fail(const std::string &message) noexcept {
    try {
        std::lock_guard<std::mutex> hold(lock_);
        if (!failed_)
            message_ = message;
        failed_ = true;
        for (auto &[key, team] : teams_)
            team->changed.notify_all();
    } catch (...) { // out of memory for the text: the others fail without it
        failed_ = true;
    }
}

void LocalGroup::check() {
    std::lock_guard<std::mutex> hold(lock_);
    if (failed_)
        core::fail(Code::Device, "another device failed: %s", message_.c_str());
}

void LocalGroup::reset() {
    std::lock_guard<std::mutex> hold(lock_);
    failed_ = false;
    ++epoch_;
    message_.clear();
    for (auto &[key, team] : teams_)
        team->arrived = team->reading = 0;
}

uint64_t LocalGroup::epoch() {
    std::lock_guard<std::mutex> hold(lock_);
    return epoch_;
}

class LocalCommunicator : public Communicator {
  public:
    LocalCommunicator(std::shared_ptr<LocalGroup> group, int64_t rank) : group_(std::move(group)), rank_(rank) {
        for (const auto &[name, size] : group_->mesh().axes)
            all_axes_.push_back(name);
    }

    const MeshAxes &mesh() const override { return group_->mesh(); }
    int64_t rank() const override { return rank_; }
    void fail(const std::string &message) noexcept override { group_->fail(message); }
    void check() override { group_->check(); }
    uint64_t epoch() override { return group_->epoch(); }
    std::pair<uint64_t, uint64_t> traffic() const override { return {received_, calls_}; }
    void reset_traffic() override { received_ = calls_ = 0; }

    void agree() override {
        size_t member;
        group_->meet(group_->team(all_axes_, rank_, member), "before state is changed");
    }

    void run(const Collective &collective, const TensorView &operand, const TensorView &result) override {
        size_t member;
        LocalGroup::Team &team = group_->team(collective.axes, rank_, member);
        if (static_cast<int64_t>(team.posts.size()) != collective.members)
            core::fail(Code::Device, "[%s] the program is for groups of %lld devices; here are %zu",
                       collective.name.c_str(), Number(collective.members), team.posts.size());
        team.posts[member] = {&collective, &operand, &result, nullptr, 0, &collective.name};
        group_->meet(team, collective.name, true);
        try {
            check(team, collective, operand);
            exchange(team, member, collective, operand, result);
        } catch (const std::exception &error) {
            group_->fail(error.what());
            group_->leave(team);
            throw;
        }
        group_->leave(team);
        ++calls_;
    }

    bool tell(const std::vector<std::string> &axes, const std::string &what, void *all, size_t bytes) override {
        size_t member;
        LocalGroup::Team &team = group_->team(axes, rank_, member);
        team.posts[member] = {nullptr, nullptr, nullptr, static_cast<char *>(all) + member * bytes, bytes, &what};
        group_->meet(team, what, true);
        try {
            for (const LocalGroup::Post &post : team.posts)
                if (post.collective || post.bytes != bytes || *post.what != what)
                    elsewhere(post, what);
        } catch (const std::exception &error) {
            group_->fail(error.what());
            group_->leave(team);
            throw;
        }
        for (size_t m = 0; m < team.posts.size() && bytes; ++m)
            if (m != member)
                std::memcpy(static_cast<char *>(all) + m * bytes, team.posts[m].told, bytes);
        group_->leave(team);
        return true;
    }

  private:
    using Team = LocalGroup::Team;

    void exchange(Team &team, size_t member, const Collective &collective, const TensorView &operand,
                  const TensorView &result) {
        switch (collective.kind) {
        case CollectiveKind::AllReduce: return all_reduce(team, member, collective, operand, result);
        case CollectiveKind::AllGather: return all_gather(team, member, collective, result);
        case CollectiveKind::ReduceScatter: return reduce_scatter(team, member, collective, operand, result);
        case CollectiveKind::AllToAll: return all_to_all(team, member, collective, result);
        case CollectiveKind::Permute: return permute(team, member, collective, result);
        }
    }

    // All members must have posted the same collective.
    void check(const Team &team, const Collective &mine, const TensorView &operand) const {
        for (const LocalGroup::Post &post : team.posts)
            if (!post.collective)
                elsewhere(post, mine.name);
        for (const LocalGroup::Post &post : team.posts)
            if (post.collective->kind != mine.kind || post.collective->combine != mine.combine ||
                post.collective->dim != mine.dim || post.collective->pairs != mine.pairs || post.operand->dtype != operand.dtype ||
                post.operand->shape.size() != operand.shape.size())
                core::fail(Code::Device, "[%s] another device is at %s %s, here it is %s", mine.name.c_str(),
                           post.collective->name.c_str(), type_text(post.operand->dtype, post.operand->shape).c_str(),
                           type_text(operand.dtype, operand.shape).c_str());
    }

    [[noreturn]] static void elsewhere(const LocalGroup::Post &post, const std::string &what) {
        core::fail(Code::Device, "[%s] another device is at %s; they have fallen out of step", what.c_str(), post.what->c_str());
    }

    void count(size_t member, size_t from, int64_t bytes) {
        if (from != member)
            received_ += static_cast<uint64_t>(bytes);
    }

    void all_reduce(Team &team, size_t member, const Collective &collective, const TensorView &operand,
                    const TensorView &result) {
        const auto members = static_cast<int64_t>(team.posts.size());
        const int64_t n = operand.size(), chunk = (n + members - 1) / members;
        const auto size = static_cast<int64_t>(item_size(operand.dtype));
        auto range = [&](size_t m) {
            int64_t begin = std::min(static_cast<int64_t>(m) * chunk, n);
            return std::pair<int64_t, int64_t>{begin, std::min(begin + chunk, n)};
        };
        std::vector<const char *> parts;
        const auto [begin, end] = range(member);
        for (size_t m = 0; m < team.posts.size(); ++m) {
            if (team.posts[m].operand->shape != operand.shape)
                misfit(collective, operand);
            parts.push_back(team.posts[m].operand->as<char>() + begin * size);
            count(member, m, (end - begin) * size);
        }
        if (end > begin)
            combine_parts(parts, result.as<char>() + begin * size, end - begin, operand.dtype, collective.combine);
        group_->meet(team, collective.name);
        for (size_t m = 0; m < team.posts.size(); ++m) {
            const auto [from, to] = range(m);
            if (m != member && to > from)
                std::memcpy(result.as<char>() + from * size, team.posts[m].result->as<char>() + from * size,
                            static_cast<size_t>((to - from) * size));
            count(member, m, (to - from) * size);
        }
    }

    void all_gather(Team &team, size_t member, const Collective &collective, const TensorView &result) {
        const Along to(result, collective.dim);
        int64_t at = 0;
        for (size_t m = 0; m < team.posts.size(); ++m) {
            const TensorView &part = *team.posts[m].operand;
            const Along from(part, collective.dim);
            if (!same_but(part.shape, result.shape, collective.dim, -1) || at + from.size > to.size)
                misfit(collective, result);
            copy_along(part.as<char>(), from, 0, result.as<char>(), to, at, from.size);
            count(member, m, from.outer * from.size * from.inner);
            at += from.size;
        }
        if (at != to.size)
            misfit(collective, result);
    }

    // Where this member's part begins along `dim`; all parts together must have `total` elements.
    int64_t own_start(const Team &team, size_t member, const Collective &collective, int64_t dim, int64_t total) const {
        int64_t sum = 0, own = 0;
        for (size_t m = 0; m < team.posts.size(); ++m) {
            own = m == member ? sum : own;
            sum += team.posts[m].result->shape[static_cast<size_t>(dim)];
        }
        if (sum != total)
            misfit(collective, *team.posts[member].result);
        return own;
    }

    void reduce_scatter(Team &team, size_t member, const Collective &collective, const TensorView &operand,
                        const TensorView &result) {
        const Along from(operand, collective.dim), to(result, collective.dim);
        const int64_t first = own_start(team, member, collective, collective.dim, from.size);
        if (!same_but(operand.shape, result.shape, collective.dim, -1))
            misfit(collective, result);
        const int64_t run = to.size * to.inner;
        for (const LocalGroup::Post &post : team.posts)
            if (post.operand->shape != operand.shape)
                misfit(collective, operand);
        std::vector<const char *> parts(team.posts.size());
        for (int64_t o = 0; o < from.outer && run > 0; ++o) {
            for (size_t m = 0; m < team.posts.size(); ++m) {
                parts[m] = team.posts[m].operand->as<char>() + (o * from.size + first) * from.inner;
                count(member, m, run);
            }
            combine_parts(parts, result.as<char>() + o * run, run / static_cast<int64_t>(item_size(operand.dtype)),
                          operand.dtype, collective.combine);
        }
    }

    // Each part of the operands along split_dim is copied for every index before it; it joins the others along dim.
    void all_to_all(Team &team, size_t member, const Collective &collective, const TensorView &result) {
        const int64_t dim = collective.dim, split = collective.split_dim;
        const int64_t whole = team.posts[member].operand->shape[static_cast<size_t>(split)];
        const int64_t first = own_start(team, member, collective, split, whole);
        int64_t at = 0;
        for (size_t m = 0; m < team.posts.size(); ++m) {
            const TensorView &part = *team.posts[m].operand;
            if (!same_but(part.shape, result.shape, dim, split) || part.shape[static_cast<size_t>(split)] != whole)
                misfit(collective, result);
            copy_box(part, result, dim, split, first, at);
            int64_t bytes = static_cast<int64_t>(item_size(part.dtype));
            for (size_t i = 0; i < part.shape.size(); ++i)
                bytes *= static_cast<int64_t>(i) == split ? result.shape[i] : part.shape[i];
            count(member, m, bytes);
            at += part.shape[static_cast<size_t>(dim)];
        }
        if (at != result.shape[static_cast<size_t>(dim)])
            misfit(collective, result);
    }

    void permute(Team &team, size_t member, const Collective &collective, const TensorView &result) {
        const size_t bytes = static_cast<size_t>(result.size()) * item_size(result.dtype);
        const int64_t source = collective.source(member);
        if (source < 0) {
            if (bytes)
                std::memset(result.data, 0, bytes);
            return;
        }
        const TensorView &part = *team.posts[static_cast<size_t>(source)].operand;
        if (part.shape != result.shape)
            misfit(collective, result);
        if (bytes)
            std::memcpy(result.data, part.data, bytes);
        count(member, static_cast<size_t>(source), static_cast<int64_t>(bytes));
    }

    std::shared_ptr<LocalGroup> group_;
    int64_t rank_;
    std::vector<std::string> all_axes_;
    uint64_t received_ = 0, calls_ = 0;
};

std::shared_ptr<Communicator> LocalGroup::communicator(int64_t rank) {
    if (rank < 0 || rank >= mesh_.devices())
        core::fail(Code::Argument, "there is no device %lld in a mesh of %lld", Number(rank), Number(mesh_.devices()));
    return std::make_shared<LocalCommunicator>(shared_from_this(), rank);
}

} // namespace tessera::core
