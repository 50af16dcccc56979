// Programs on a mesh of processes, one device each: header-only C++17 over the C ABI.
//
//   tessera::World world = tessera::World::mpi();               // under mpiexec
//   tessera::ShardedGraph g = tessera::ShardedGraph::load("sharded.tsr", world);
//   tessera::Runtime rt;
//   std::vector<tessera::ShardedTensor> out = g.run(rt, {{"x", x}});   // whole inputs; each process takes its part
//   tessera::Tensor y = g.gather(out[0]);                       // or out[0].local, from out[0].shard.start on
#ifndef TESSERA_DIST_SHARDED_GRAPH_H
#define TESSERA_DIST_SHARDED_GRAPH_H

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tessera/dist/world.h"
#include "tessera/runtime.h"

namespace tessera {

// The part of a whole tensor that a device holds: [start, stop) of each dimension.
struct Shard {
    std::vector<int64_t> whole, start, stop;

    std::vector<int64_t> shape() const {
        std::vector<int64_t> out;
        for (size_t i = 0; i < start.size(); ++i)
            out.push_back(stop[i] - start[i]);
        return out;
    }
    bool is_whole() const { return shape() == whole; }
};

namespace detail {

// Calls run(offset in the whole, offset in the part, bytes) for the stretches of memory that a shard is made of.
template <class Run> void for_stretches(const Shard &shard, size_t item_size, const Run &run) {
    const std::vector<int64_t> shape = shard.shape();
    const size_t rank = shape.size();
    for (int64_t d : shape)
        if (d == 0)
            return;
    const size_t bytes = (rank ? static_cast<size_t>(shape[rank - 1]) : 1) * item_size;
    std::vector<int64_t> index(rank, 0);
    for (size_t part = 0, i = 1; i > 0; part += bytes) {
        int64_t at = 0;
        for (size_t d = 0; d < rank; ++d)
            at = at * shard.whole[d] + shard.start[d] + index[d];
        run(static_cast<size_t>(at) * item_size, part, bytes);
        for (i = rank ? rank - 1 : 0; i > 0 && ++index[i - 1] == shape[i - 1]; --i)
            index[i - 1] = 0;
    }
}

} // namespace detail

// What this process has of a tensor, and where that lies in the whole.
struct ShardedTensor {
    std::string name;
    Tensor local;
    Shard shard;
};

// One device's program of a mesh, with this process's shards of its weights. Copies share both.
class ShardedGraph {
  public:
    // Loads a .tsr file of a graph that was compiled for a mesh. `ranks`: the process of each device of the mesh, row-major;
    // empty: 0, 1, … Only this process's shards of the weights are read. All processes load the same file: the first run
    // fails everywhere when they have not.
    static ShardedGraph load(const std::string &path, const World &world, const LoadOptions &options = {},
                             std::vector<int64_t> ranks = {}) {
        tsr_load_options c = detail::read(options);
        tsr_graph *handle = nullptr;
        check(tsr_graph_load_sharded(path.c_str(), &c, world.handle(), ranks.empty() ? nullptr : ranks.data(),
                                     static_cast<int32_t>(ranks.size()), &handle));
        return ShardedGraph(Graph::adopt(handle), world, std::move(ranks));
    }

    // This device's program by itself: inputs, outputs and state are parts.
    const Graph &local() const { return graph_; }
    // This process's device: its place in the mesh, row-major.
    int64_t device() const { return place().first; }
    int64_t devices() const { return place().second; }
    // Bytes that this process has received in collectives.
    uint64_t received_bytes() const {
        uint64_t bytes = 0;
        check(tsr_communicator_traffic(communicator_.get(), &bytes, nullptr));
        return bytes;
    }
    // The size of a symbolic dimension, which runs need to know before the parts of inputs are taken.
    void set_size(const std::string &symbol, int64_t size) {
        check(tsr_graph_set_size(graph_.handle(), symbol.c_str(), size));
        sizes_[symbol] = size;
    }

    Shard input_shard(const std::string &name) const { return shard(TSR_INPUT, name, graph_.inputs(), device()); }
    Shard output_shard(const std::string &name) const { return shard(TSR_OUTPUT, name, graph_.outputs(), device()); }
    Shard state_shard(const std::string &name) const { return shard(TSR_STATE, name, graph_.state(), device()); }

    // This process's part of a whole input, as a tensor of its own.
    Tensor slice(const std::string &input, const Tensor &whole) const {
        const Shard place = input_shard(input);
        const Tensor from = whole.contiguous();
        const SizeView given = from.shape();
        if (std::vector<int64_t>(given.begin(), given.end()) != place.whole)
            throw Error(TSR_SHAPE_ERROR, "input '" + input + "' has another shape than the whole that the graph takes; give " +
                                             text(place.whole));
        if (place.is_whole())
            return from;
        Tensor out = Tensor::create(place.shape(), from.dtype());
        const char *source = static_cast<const char *>(from.data<const void>());
        char *target = static_cast<char *>(out.data<void>());
        detail::for_stretches(place, item_size(from.dtype()), [&](size_t in_whole, size_t in_part, size_t bytes) {
            std::memcpy(target + in_part, source + in_whole, bytes);
        });
        return out;
    }

    // Runs on whole inputs by name, of which this process uses its parts; gives its parts of all outputs. All processes run
    // it together, with the same inputs.
    std::vector<ShardedTensor> run(Runtime &runtime, const NamedTensors &inputs) const {
        std::vector<Tensor> parts(graph_.inputs().size());
        for (const auto &entry : inputs)
            parts[static_cast<size_t>(graph_.input_index(entry.first))] = slice(entry.first, entry.second);
        return run_local(runtime, parts);
    }
    // The same on this process's parts, in the graph's order.
    std::vector<ShardedTensor> run_local(Runtime &runtime, const std::vector<Tensor> &parts) const {
        const std::vector<ValueInfo> inputs = graph_.inputs(), outputs = graph_.outputs();
        for (size_t i = 0; i < inputs.size(); ++i)
            if (i >= parts.size() || !parts[i])
                throw Error(TSR_NAME_MISSING_ERROR, "input '" + inputs[i].name + "' is missing");
        const std::vector<Tensor> results = runtime.run(graph_, parts);
        std::vector<ShardedTensor> out;
        for (size_t i = 0; i < results.size(); ++i)
            out.push_back({outputs[i].name, results[i], output_shard(outputs[i].name)});
        return out;
    }

    // An output, whole, on every process; all of them call this.
    Tensor gather(const ShardedTensor &part) const {
        Tensor out = Tensor::create(part.shard.whole, part.local.dtype());
        const std::vector<std::string> parts =
            world_.all_gather(part.local.data<const void>(), part.local.bytes(), ranks_of_mesh());
        char *target = static_cast<char *>(out.data<void>());
        for (size_t device = 0; device < parts.size(); ++device) {
            const Shard place = shard(TSR_OUTPUT, part.name, graph_.outputs(), static_cast<int64_t>(device));
            detail::for_stretches(place, item_size(out.dtype()), [&](size_t in_whole, size_t in_part, size_t bytes) {
                std::memcpy(target + in_whole, parts[device].data() + in_part, bytes);
            });
        }
        return out;
    }

  private:
    ShardedGraph(Graph graph, World world, std::vector<int64_t> ranks)
        : graph_(std::move(graph)), world_(std::move(world)), ranks_(std::move(ranks)) {
        tsr_communicator *handle = nullptr;
        check(tsr_graph_communicator(graph_.handle(), &handle));
        communicator_ = detail::Handle<tsr_communicator, tsr_communicator_retain, tsr_communicator_release>(handle);
    }

    std::pair<int64_t, int64_t> place() const {
        int64_t rank = 0, count = 0;
        check(tsr_communicator_place(communicator_.get(), &rank, &count));
        return {rank, count};
    }

    std::vector<int64_t> ranks_of_mesh() const {
        std::vector<int64_t> out = ranks_;
        for (int64_t i = 0; ranks_.empty() && i < devices(); ++i)
            out.push_back(i);
        return out;
    }

    Shard shard(int32_t kind, const std::string &name, const std::vector<ValueInfo> &values, int64_t device) const {
        int32_t index = 0;
        check(tsr_graph_find(graph_.handle(), kind, name.c_str(), &index));
        const size_t rank = values[static_cast<size_t>(index)].shape.size();
        std::vector<const char *> names;
        std::vector<int64_t> sizes;
        for (const auto &entry : sizes_) {
            names.push_back(entry.first.c_str());
            sizes.push_back(entry.second);
        }
        Shard out{std::vector<int64_t>(rank), std::vector<int64_t>(rank), std::vector<int64_t>(rank)};
        int64_t none = 0; // a scalar has no sizes, but the function wants a place for them
        check(tsr_graph_shard(graph_.handle(), kind, name.c_str(), device, names.data(), sizes.data(),
                              static_cast<int32_t>(names.size()), rank ? out.whole.data() : &none,
                              rank ? out.start.data() : &none, rank ? out.stop.data() : &none));
        return out;
    }

    static std::string text(const std::vector<int64_t> &shape) {
        std::string out = "[";
        for (size_t i = 0; i < shape.size(); ++i)
            out += (i ? ", " : "") + std::to_string(shape[i]);
        return out + "]";
    }

    Graph graph_;
    World world_;
    std::vector<int64_t> ranks_;
    std::map<std::string, int64_t> sizes_;
    detail::Handle<tsr_communicator, tsr_communicator_retain, tsr_communicator_release> communicator_;
};

} // namespace tessera

#endif
