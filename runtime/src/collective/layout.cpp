#include "collective/layout.h"

#include <algorithm>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/json.h"
#include "core/tensor.h"

namespace tessera::core {

namespace {

constexpr int64_t most_devices = int64_t{1} << 24;

// "all_reduce over dp of f32[3, 8], 96 bytes, at train.py:12", as far as the fields are there.
std::string collective_text(const Json &c) {
    auto text = [&](const char *name) {
        const Json *j = c.find(name);
        return !j ? std::string("?") : j->is_string() ? j->as_string() : j->dump();
    };
    std::string axes;
    if (const Json *list = c.find("axes"))
        for (const Json &axis : list->items())
            axes += (axes.empty() ? "" : " and ") + (axis.is_string() ? axis.as_string() : axis.dump());
    return text("kind") + " over " + axes + " of " + text("tensor") + ", " + text("bytes") + " bytes, at " + text("line");
}

class Reader {
  public:
    explicit Reader(const std::string &where) : where_(where) {}

    const Json &field(const Json &object, const char *name, Json::Kind kind) const {
        const Json *found = object.find(name);
        if (!found || found->kind() != kind)
            fail(Code::Format, "%s: 'tessera.mesh' has no field '%s' as it must be", where_.c_str(), name);
        return *found;
    }

    void expect(bool condition, const char *what) const {
        if (!condition)
            fail(Code::Format, "%s: 'tessera.mesh': %s", where_.c_str(), what);
    }

    Dim dim(const Json &j, const SymbolTable &symbols) const {
        if (j.is_integer())
            return Dim::parse(std::to_string(j.as_integer()), symbols);
        expect(j.kind() == Json::Kind::String, "a size is an integer or text");
        try {
            return Dim::parse(j.as_string(), symbols);
        } catch (const Error &error) {
            fail(Code::Format, "%s: 'tessera.mesh': %s", where_.c_str(), error.message().c_str());
        }
    }

  private:
    const std::string &where_;
};

} // namespace

std::vector<int64_t> Shard::shape() const {
    std::vector<int64_t> out;
    for (size_t i = 0; i < start.size(); ++i)
        out.push_back(stop[i] - start[i]);
    return out;
}

MeshLayout MeshLayout::parse(const std::string &text, const SymbolTable &symbols, const std::string &where) {
    const Json all = Json::parse(text, where + ": tessera.mesh");
    const Reader read(where);
    read.expect(all.kind() == Json::Kind::Object, "it is no object");
    MeshLayout out;
    for (const Json &axis : read.field(all, "axes", Json::Kind::Array).items()) {
        read.expect(axis.kind() == Json::Kind::Array && axis.items().size() == 2 &&
                        axis.items()[0].kind() == Json::Kind::String && axis.items()[1].is_integer() &&
                        axis.items()[1].as_integer() >= 1 && axis.items()[1].as_integer() <= most_devices,
                    "an axis is a name and a size");
        out.mesh_.axes.emplace_back(axis.items()[0].as_string(), axis.items()[1].as_integer());
        read.expect(out.mesh_.devices() <= most_devices, "the mesh is too large");
    }
    for (const Json &c : read.field(all, "collectives", Json::Kind::Array).items()) {
        read.expect(c.kind() == Json::Kind::Object, "a collective is an object");
        out.collectives_.push_back(collective_text(c));
    }
    const Json *places = all.find("places");
    if (!places)
        return out;
    read.expect(places->kind() == Json::Kind::Object, "'places' is no object");
    for (const auto &[key, value] : places->members()) {
        read.expect(value.kind() == Json::Kind::Object, "a place is an object");
        Place place;
        place.key = key;
        for (const Json &d : read.field(value, "shape", Json::Kind::Array).items())
            place.shape.push_back(read.dim(d, symbols));
        for (const Json &d : read.field(value, "dims", Json::Kind::Array).items()) {
            Split split;
            if (d.kind() != Json::Kind::Null) {
                read.expect(d.kind() == Json::Kind::Object, "a split is an object or null");
                for (const Json &axis : read.field(d, "axes", Json::Kind::Array).items()) {
                    read.expect(axis.kind() == Json::Kind::String &&
                                    std::any_of(out.mesh_.axes.begin(), out.mesh_.axes.end(),
                                                [&](const auto &a) { return a.first == axis.as_string(); }),
                                "a split is over an axis that the mesh has not");
                    split.axes.push_back(axis.as_string());
                }
                const Json *block = d.find("block");
                read.expect(block && !split.axes.empty(), "a split has axes and a block");
                split.block = read.dim(*block, symbols);
            }
            place.dims.push_back(std::move(split));
        }
        read.expect(place.dims.size() == place.shape.size(), "a place has as many splits as dimensions");
        out.places_.push_back(std::move(place));
    }
    return out;
}

Shard MeshLayout::shard(std::string_view kind, std::string_view name, int64_t rank, const Sizes &sizes) const {
    const std::string key = std::string(kind) + " " + std::string(name);
    const auto place = std::find_if(places_.begin(), places_.end(), [&](const Place &p) { return p.key == key; });
    if (place == places_.end())
        fail(Code::NameMissing, "the artefact does not say how %s lies on the mesh; write it anew", shown(key).c_str());
    if (rank < 0 || rank >= mesh_.devices())
        fail(Code::Argument, "there is no device %lld in a mesh of %lld", static_cast<long long>(rank),
             static_cast<long long>(mesh_.devices()));
    const std::vector<int64_t> coordinates = mesh_.coordinates(rank);
    Shard out;
    for (size_t i = 0; i < place->shape.size(); ++i) {
        const int64_t size = place->shape[i].evaluate(sizes);
        out.whole.push_back(size);
        int64_t start = 0, stop = size;
        if (!place->dims[i].axes.empty()) {
            int64_t number = 0;
            for (const std::string &axis : place->dims[i].axes) {
                const size_t a = mesh_.index(axis);
                number = number * mesh_.axes[a].second + coordinates[a];
            }
            const int64_t block = place->dims[i].block.evaluate(sizes);
            if (size < 0 || block < 0)
                fail(Code::Format, "the layout of %s has a negative size", shown(key).c_str());
            start = std::min(checked_mul(number, block), size);
            stop = std::min(checked_mul(number + 1, block), size);
        }
        out.start.push_back(start);
        out.stop.push_back(stop);
    }
    return out;
}

void copy_shard(const char *whole, const Shard &shard, char *block, const std::vector<int64_t> &block_shape,
                size_t item_size) {
    const std::vector<int64_t> shape = shard.shape();
    if (element_count(shape) == 0)
        return;
    const size_t rank = shape.size();
    const size_t run = (rank ? static_cast<size_t>(shape[rank - 1]) : 1) * item_size;
    std::vector<int64_t> index(rank, 0);
    for (;;) {
        int64_t from = 0, to = 0;
        for (size_t i = 0; i < rank; ++i) {
            from = from * shard.whole[i] + shard.start[i] + index[i];
            to = to * block_shape[i] + index[i];
        }
        std::memcpy(block + static_cast<size_t>(to) * item_size, whole + static_cast<size_t>(from) * item_size, run);
        size_t i = rank > 0 ? rank - 1 : 0;
        while (i > 0 && ++index[i - 1] == shape[i - 1])
            index[--i] = 0;
        if (i == 0)
            return;
    }
}

} // namespace tessera::core
