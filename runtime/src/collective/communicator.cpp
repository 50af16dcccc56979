#include "collective/communicator.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace tessera::core {

namespace {

constexpr const char *kind_names[] = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "collective_permute"};
constexpr const char *combine_names[] = {"sum", "prod", "max", "min"};

int64_t dimension(std::string_view op, const graph::Attributes &attrs, const char *name) {
    int64_t dim = attrs.integer(op, name);
    if (dim < 0 || dim >= max_rank)
        fail(Code::Graph, "[%s] %s is %lld", std::string(op).c_str(), name, static_cast<long long>(dim));
    return dim;
}

Combine combine_named(std::string_view op, const std::string &name) {
    for (int i = 0; i < 4; ++i)
        if (name == combine_names[i])
            return static_cast<Combine>(i);
    fail(Code::Graph, "[%s] combine is '%s'", std::string(op).c_str(), shown(name).c_str());
}

std::vector<std::string> axis_names(std::string_view op, const graph::Attributes &attrs) {
    std::vector<std::string> out;
    const graph::Attribute *axes = attrs.find("axes");
    const auto *list = axes ? axes->get_if<graph::Attribute::List>() : nullptr;
    if (!list)
        fail(Code::Graph, "[%s] the attribute axes is no list", std::string(op).c_str());
    for (const graph::Attribute &item : *list) {
        const std::string *name = item.get_if<std::string>();
        if (!name || std::count(out.begin(), out.end(), *name))
            fail(Code::Graph, "[%s] the attribute axes must hold different names", std::string(op).c_str());
        out.push_back(*name);
    }
    return out;
}

// From pairs (source, target) of members, none of them twice on either side: by target.
std::vector<std::pair<int64_t, int64_t>> permuted(std::string_view op, const graph::Attributes &attrs, int64_t members) {
    const std::string name(op);
    const graph::Attribute *pairs = attrs.find("pairs");
    const auto *list = pairs ? pairs->get_if<graph::Attribute::List>() : nullptr;
    if (!list)
        fail(Code::Graph, "[%s] the attribute pairs is no list", name.c_str());
    std::vector<std::pair<int64_t, int64_t>> out;
    std::vector<int64_t> sources;
    for (const graph::Attribute &item : *list) {
        const auto *pair = item.get_if<graph::Attribute::List>();
        const int64_t *source = pair && pair->size() == 2 ? (*pair)[0].get_if<int64_t>() : nullptr;
        const int64_t *target = source ? (*pair)[1].get_if<int64_t>() : nullptr;
        if (!target || *source < 0 || *target < 0 || *source >= members || *target >= members)
            fail(Code::Graph, "[%s] pairs must hold two members each, from 0 to %lld", name.c_str(),
                 static_cast<long long>(members - 1));
        out.emplace_back(*target, *source);
        sources.push_back(*source);
    }
    std::sort(out.begin(), out.end());
    std::sort(sources.begin(), sources.end());
    const auto same = [](const auto &a, const auto &b) { return a.first == b.first; };
    if (std::adjacent_find(out.begin(), out.end(), same) != out.end() ||
        std::adjacent_find(sources.begin(), sources.end()) != sources.end())
        fail(Code::Graph, "[%s] pairs name a member twice as source or as target", name.c_str());
    return out;
}

} // namespace

int64_t Collective::source(size_t member) const {
    const auto target = static_cast<int64_t>(member);
    auto found = std::lower_bound(pairs.begin(), pairs.end(), std::pair<int64_t, int64_t>{target, -1});
    return found != pairs.end() && found->first == target ? found->second : -1;
}

bool Collective::is_collective(std::string_view op) {
    return std::find(std::begin(kind_names), std::end(kind_names), op) != std::end(kind_names);
}

Collective Collective::read(std::string_view op, const graph::Attributes &attrs, const std::string &loc) {
    Collective out;
    out.kind = static_cast<CollectiveKind>(std::find(std::begin(kind_names), std::end(kind_names), op) - kind_names);
    out.axes = axis_names(op, attrs);
    std::vector<int64_t> sizes = attrs.integers(op, "sizes");
    if (sizes.size() != out.axes.size())
        core::fail(Code::Graph, "[%s] %zu axes but %zu sizes", std::string(op).c_str(), out.axes.size(), sizes.size());
    for (int64_t size : sizes) {
        if (size < 1)
            core::fail(Code::Graph, "[%s] an axis has size %lld", std::string(op).c_str(), static_cast<long long>(size));
        out.members = checked_mul(out.members, size);
    }
    if (out.kind == CollectiveKind::AllReduce || out.kind == CollectiveKind::ReduceScatter)
        out.combine = combine_named(op, attrs.string(op, "combine"));
    if (out.kind == CollectiveKind::Permute)
        out.pairs = permuted(op, attrs, out.members);
    else if (out.kind != CollectiveKind::AllReduce)
        out.dim = dimension(op, attrs, "dim");
    if (out.kind == CollectiveKind::AllToAll)
        out.split_dim = dimension(op, attrs, "split_dim");
    out.name = std::string(op) + (loc.empty() ? "" : " at " + loc);
    return out;
}

int64_t MeshAxes::devices() const {
    int64_t out = 1;
    for (const auto &[name, size] : axes)
        out = checked_mul(out, size);
    return out;
}

std::vector<int64_t> MeshAxes::coordinates(int64_t rank) const {
    std::vector<int64_t> out(axes.size());
    for (size_t i = axes.size(); i-- > 0; rank /= axes[i].second)
        out[i] = rank % axes[i].second;
    return out;
}

size_t MeshAxes::index(std::string_view axis) const {
    for (size_t i = 0; i < axes.size(); ++i)
        if (axes[i].first == axis)
            return i;
    fail(Code::NameMissing, "the mesh has no axis '%s'", shown(std::string(axis)).c_str());
}

std::vector<int64_t> MeshAxes::team(const std::vector<std::string> &names, int64_t rank) const {
    std::vector<int64_t> place = coordinates(rank), strides(axes.size(), 1);
    for (size_t i = axes.size(); i-- > 1;)
        strides[i - 1] = strides[i] * axes[i].second;
    int64_t first = rank;
    std::vector<int64_t> out{0};
    for (const std::string &name : names) {
        const size_t i = index(name);
        first -= place[i] * strides[i];
        std::vector<int64_t> longer;
        for (int64_t member : out)
            for (int64_t c = 0; c < axes[i].second; ++c)
                longer.push_back(member + c * strides[i]);
        out = std::move(longer);
    }
    for (int64_t &member : out)
        member += first;
    return out;
}

std::string MeshAxes::text() const {
    std::string out;
    for (const auto &[name, size] : axes)
        out += (out.empty() ? "" : ", ") + name + "=" + std::to_string(size);
    return out;
}

std::string MeshAxes::place_text(int64_t rank) const {
    std::string out;
    const std::vector<int64_t> place = coordinates(rank);
    for (size_t i = 0; i < axes.size(); ++i)
        out += (i ? ", " : "") + axes[i].first + "=" + std::to_string(place[i]);
    return out;
}

void check_alone(const Collective &collective, const TensorView &operand, const TensorView &result) {
    if (collective.members != 1)
        fail(Code::Device,
             "[%s] this program is one device's part of a mesh, in groups of %lld devices here; run it with a "
             "communicator on all of them",
             collective.name.c_str(), static_cast<long long>(collective.members));
    if (operand.shape != result.shape)
        fail(Code::Shape, "[%s] the operand has shape %s and the result %s", collective.name.c_str(),
             shape_text(operand.shape).c_str(), shape_text(result.shape).c_str());
}

void run_alone(const Collective &collective, const TensorView &operand, const TensorView &result) {
    check_alone(collective, operand, result);
    const size_t bytes = static_cast<size_t>(operand.size()) * item_size(operand.dtype);
    if (bytes && collective.kind == CollectiveKind::Permute && collective.source(0) < 0)
        std::memset(result.data, 0, bytes);
    else if (bytes)
        std::memcpy(result.data, operand.data, bytes);
}

} // namespace tessera::core
