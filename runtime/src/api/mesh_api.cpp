// The C ABI of meshes: groups of devices and their communicators.
#include "api/graph_handle.h"
#include "api/handles.h"
#include "collective/local/group.h"
#include "collective/mpi/transport.h"
#include "collective/nccl/communicator.h"
#include "collective/process/communicator.h"
#include "collective/tcp/transport.h"
#include "graph/parser.h"

#include <algorithm>
#include <numeric>

using namespace tessera::core;

struct tsr_group : Counted {
    explicit tsr_group(std::shared_ptr<LocalGroup> g) : group(std::move(g)) {}
    const std::shared_ptr<LocalGroup> group;
};

struct tsr_communicator : Counted {
    explicit tsr_communicator(std::shared_ptr<Communicator> c) : communicator(std::move(c)) {}
    const std::shared_ptr<Communicator> communicator;
};

struct tsr_world : Counted {
    explicit tsr_world(std::shared_ptr<Transport> t) : transport(std::move(t)) {}
    ~tsr_world() { transport->close(); }
    const std::shared_ptr<Transport> transport;
};

namespace {

void check_timeout(int64_t timeout_ms) {
    if (timeout_ms < 1)
        fail(Code::Argument, "the timeout is %lld ms; it must be at least 1", static_cast<long long>(timeout_ms));
}

// The caller's list, or 0, 1, ...
std::vector<int64_t> ranks_of(const int64_t *ranks, size_t count) {
    std::vector<int64_t> out(count);
    if (ranks)
        std::copy(ranks, ranks + count, out.begin());
    else
        std::iota(out.begin(), out.end(), 0);
    return out;
}

// A contiguous tensor on the CPU as collectives see it.
TensorView view_of(tsr_tensor *handle, const char *what, bool written) {
    require(handle, what);
    const Tensor t = handle->concrete();
    if (!t.device().is_cpu() || !t.is_contiguous())
        fail(Code::Argument, "the %s must be contiguous and on the CPU", what);
    if (written && t.readonly())
        fail(Code::Argument, "the %s is read-only", what);
    return {t.dtype(), t.shape(), t.data()};
}

constexpr int64_t most_devices = 1 << 16;

MeshAxes mesh_of(const char *const *axes, const int64_t *sizes, int32_t count) {
    if (count < 1 || count > 64)
        fail(Code::Argument, "a mesh has 1 to 64 axes, not %d", count);
    MeshAxes mesh;
    for (int32_t i = 0; i < count; ++i) {
        require(axes[i], "the name of an axis");
        if (sizes[i] < 1 || sizes[i] > most_devices)
            fail(Code::Argument, "the mesh axis '%s' has size %lld", shown(axes[i]).c_str(),
                 static_cast<long long>(sizes[i]));
        for (const auto &[name, size] : mesh.axes)
            if (name == axes[i])
                fail(Code::Argument, "the mesh axis '%s' is given twice", shown(axes[i]).c_str());
        mesh.axes.emplace_back(axes[i], sizes[i]);
        if (mesh.devices() > most_devices)
            fail(Code::Argument, "a mesh has at most %lld devices", static_cast<long long>(most_devices));
    }
    return mesh;
}

} // namespace

tsr_status tsr_group_create_local(const char *const *axes, const int64_t *sizes, int32_t count, int64_t timeout_ms,
                                  tsr_group **group) {
    return guarded([&] {
        require(axes, "axes");
        require(sizes, "sizes");
        require(group, "group");
        check_timeout(timeout_ms);
        *group = new tsr_group(std::make_shared<LocalGroup>(mesh_of(axes, sizes, count), timeout_ms));
    });
}

tsr_status tsr_group_communicator(tsr_group *group, int64_t rank, tsr_communicator **communicator) {
    return guarded([&] {
        require(group, "group");
        require(communicator, "communicator");
        *communicator = new tsr_communicator(group->group->communicator(rank));
    });
}

tsr_status tsr_group_fail(tsr_group *group, const char *message) {
    return guarded([&] {
        require(group, "group");
        require(message, "message");
        group->group->fail(message);
    });
}

tsr_status tsr_group_reset(tsr_group *group) {
    return guarded([&] {
        require(group, "group");
        group->group->reset();
    });
}

void tsr_group_retain(tsr_group *group) {
    if (group)
        group->retain();
}

void tsr_group_release(tsr_group *group) {
    if (group && group->release())
        delete group;
}

tsr_status tsr_communicator_traffic(const tsr_communicator *communicator, uint64_t *bytes, uint64_t *calls) {
    return guarded([&] {
        require(communicator, "communicator");
        const auto [received, done] = communicator->communicator->traffic();
        if (bytes)
            *bytes = received;
        if (calls)
            *calls = done;
    });
}

tsr_status tsr_communicator_reset_traffic(tsr_communicator *communicator) {
    return guarded([&] {
        require(communicator, "communicator");
        communicator->communicator->reset_traffic();
    });
}

tsr_status tsr_communicator_run(tsr_communicator *communicator, const char *op, const char *attributes,
                                tsr_tensor *operand, tsr_tensor *result) {
    return guarded([&] {
        require(communicator, "communicator");
        require(op, "op");
        require(attributes, "attributes");
        if (!Collective::is_collective(op))
            fail(Code::Argument, "'%s' is no collective", shown(op).c_str());
        const TensorView in = view_of(operand, "operand", false), out = view_of(result, "result", true);
        const Collective collective = Collective::read(op, tessera::graph::parse_attributes(attributes), "");
        const auto rank = static_cast<int64_t>(in.shape.size());
        if (collective.kind != CollectiveKind::AllReduce && (collective.dim >= rank || collective.split_dim >= rank))
            fail(Code::Shape, "[%s] dim is out of range for %s", op, type_text(in.dtype, in.shape).c_str());
        if (in.dtype != out.dtype || in.shape.size() != out.shape.size())
            fail(Code::Shape, "[%s] the operand is %s, the result %s", op, type_text(in.dtype, in.shape).c_str(),
                 type_text(out.dtype, out.shape).c_str());
        try {
            communicator->communicator->run(collective, in, out);
        } catch (const std::exception &error) {
            communicator->communicator->fail(error.what());
            throw;
        }
    });
}

tsr_status tsr_communicator_create_gpu(tsr_communicator *host, int32_t device_type, int32_t device_index, void *nccl,
                                       int64_t timeout_ms, tsr_communicator **communicator) {
    return guarded([&] {
        require(host, "host");
        require(communicator, "communicator");
        check_timeout(timeout_ms);
        const DeviceId device{static_cast<DeviceType>(device_type), device_index};
        if (device.type != DeviceType::CUDA && device.type != DeviceType::ROCM)
            fail(Code::Argument, "device type %d is no GPU: use TSR_CUDA or TSR_ROCM", device_type);
        *communicator = new tsr_communicator(
            std::make_shared<NcclCommunicator>(host->communicator, device, nccl, timeout_ms));
    });
}

tsr_status tsr_communicator_place(const tsr_communicator *communicator, int64_t *rank, int64_t *devices) {
    return guarded([&] {
        require(communicator, "communicator");
        if (rank)
            *rank = communicator->communicator->rank();
        if (devices)
            *devices = communicator->communicator->mesh().devices();
    });
}

void tsr_communicator_retain(tsr_communicator *communicator) {
    if (communicator)
        communicator->retain();
}

void tsr_communicator_release(tsr_communicator *communicator) {
    if (communicator && communicator->release())
        delete communicator;
}

tsr_status tsr_graph_set_communicator(tsr_graph *graph, tsr_communicator *communicator) {
    return guarded([&] {
        require(graph, "graph");
        require(communicator, "communicator");
        graph->program->set_communicator(communicator->communicator);
    });
}

tsr_status tsr_graph_set_size(tsr_graph *graph, const char *symbol, int64_t size) {
    return guarded([&] {
        require(graph, "graph");
        require(symbol, "symbol");
        graph->program->set_size(symbol, size);
    });
}

tsr_status tsr_world_create_mpi(const char *library, void *communicator, int64_t timeout_ms, tsr_world **world) {
    return guarded([&] {
        require(world, "world");
        check_timeout(timeout_ms);
        MpiOptions options;
        options.library = library ? library : "";
        options.communicator = communicator;
        options.timeout_ms = timeout_ms;
        *world = new tsr_world(make_mpi_transport(options));
    });
}

tsr_status tsr_world_create_tcp(int64_t rank, int64_t size, const char *host, int64_t port, int64_t timeout_ms,
                                tsr_world **world) {
    return guarded([&] {
        require(world, "world");
        require(host, "host");
        check_timeout(timeout_ms);
        *world = new tsr_world(make_tcp_transport({rank, size, host, port, timeout_ms}));
    });
}

tsr_status tsr_world_place(const tsr_world *world, int64_t *rank, int64_t *size) {
    return guarded([&] {
        require(world, "world");
        if (rank)
            *rank = world->transport->rank();
        if (size)
            *size = world->transport->size();
    });
}

tsr_status tsr_world_communicator(tsr_world *world, const char *const *axes, const int64_t *sizes, int32_t count,
                                  const int64_t *ranks, tsr_communicator **communicator) {
    return guarded([&] {
        require(world, "world");
        require(axes, "axes");
        require(sizes, "sizes");
        require(communicator, "communicator");
        MeshAxes mesh = mesh_of(axes, sizes, count);
        std::vector<int64_t> list = ranks_of(ranks, static_cast<size_t>(mesh.devices()));
        *communicator = new tsr_communicator(
            std::make_shared<ProcessCommunicator>(world->transport, std::move(mesh), std::move(list)));
    });
}

tsr_status tsr_world_all_gather(tsr_world *world, const int64_t *ranks, int32_t count, const void *data, size_t bytes,
                                uint64_t *sizes, tsr_text **joined) {
    return guarded([&] {
        require(world, "world");
        require(sizes, "sizes");
        require(joined, "joined");
        if (bytes)
            require(data, "data");
        const std::vector<int64_t> list =
            ranks_of(ranks, static_cast<size_t>(ranks ? std::max(count, 0) : world->transport->size()));
        for (int64_t rank : list)
            if (rank < 0 || rank >= world->transport->size())
                fail(Code::Argument, "there is no rank %lld of %lld processes", static_cast<long long>(rank),
                     static_cast<long long>(world->transport->size()));
        if (!std::count(list.begin(), list.end(), world->transport->rank()))
            fail(Code::Argument, "all_gather: this process is none of those that take part");
        const std::string own = bytes ? std::string(static_cast<const char *>(data), bytes) : std::string();
        std::string all;
        try {
            const std::vector<std::string> parts = all_gather(*world->transport, list, own, "all_gather of the processes");
            for (size_t i = 0; i < parts.size(); ++i) {
                sizes[i] = parts[i].size();
                all += parts[i];
            }
        } catch (const std::exception &error) {
            world->transport->fail(error.what());
            throw;
        }
        *joined = new tsr_text{std::move(all)};
    });
}

tsr_status tsr_world_fail(tsr_world *world, const char *message) {
    return guarded([&] {
        require(world, "world");
        require(message, "message");
        world->transport->fail(message);
    });
}

tsr_status tsr_world_close(tsr_world *world) {
    return guarded([&] {
        require(world, "world");
        world->transport->close();
    });
}

void tsr_world_retain(tsr_world *world) {
    if (world)
        world->retain();
}

void tsr_world_release(tsr_world *world) {
    if (world && world->release())
        delete world;
}

tsr_status tsr_graph_load_sharded(const char *path, const tsr_load_options *options, tsr_world *world,
                                  const int64_t *ranks, int32_t rank_count, tsr_graph **graph) {
    return guarded([&] {
        require(path, "path");
        require(world, "world");
        require(graph, "graph");
        const LoadOptions load = read_load_options(options);
        auto connect = [&](const MeshAxes &mesh, DeviceId device) -> std::shared_ptr<Communicator> {
            const size_t devices = static_cast<size_t>(mesh.devices());
            if (ranks && static_cast<size_t>(std::max(rank_count, 0)) != devices)
                fail(Code::Argument, "the mesh (%s) has %zu devices, but %d ranks are given", mesh.text().c_str(), devices,
                     rank_count);
            auto host = std::make_shared<ProcessCommunicator>(world->transport, mesh, ranks_of(ranks, devices));
            if (device.is_cpu())
                return host;
            return std::make_shared<NcclCommunicator>(std::move(host), device, nullptr, world->transport->timeout_ms());
        };
        *graph = new tsr_graph(Program::load_sharded(load.map ? Mapping::map_file(path) : Mapping::read_file(path), path,
                                                     load, connect));
    });
}

tsr_status tsr_graph_communicator(const tsr_graph *graph, tsr_communicator **communicator) {
    return guarded([&] {
        require(graph, "graph");
        require(communicator, "communicator");
        std::shared_ptr<Communicator> found = graph->program->communicator();
        if (!found)
            fail(Code::Unsupported, "the graph has no communicator: it is no device's program of a mesh");
        *communicator = new tsr_communicator(std::move(found));
    });
}

tsr_status tsr_graph_shard(const tsr_graph *graph, int32_t kind, const char *name, int64_t rank,
                           const char *const *symbols, const int64_t *sizes, int32_t symbol_count, int64_t *whole,
                           int64_t *start, int64_t *stop) {
    return guarded([&] {
        require(graph, "graph");
        require(name, "name");
        require(whole, "whole");
        require(start, "start");
        require(stop, "stop");
        if (kind < TSR_INPUT || kind > TSR_STATE)
            fail(Code::Argument, "kind %d is none of TSR_INPUT, TSR_OUTPUT, TSR_STATE", kind);
        const MeshLayout *layout = graph->program->layout();
        if (!layout)
            fail(Code::Unsupported, "the program is of one device, of no mesh; it has no shards");
        Sizes by_name;
        for (int32_t i = 0; i < symbol_count; ++i) {
            require(symbols, "symbols");
            require(symbols[i], "symbol");
            require(sizes, "sizes");
            by_name[symbols[i]] = sizes[i];
        }
        const char *const kinds[] = {"input", "output", "state"};
        const Shard shard = layout->shard(kinds[kind], name, rank, by_name);
        std::copy(shard.whole.begin(), shard.whole.end(), whole);
        std::copy(shard.start.begin(), shard.start.end(), start);
        std::copy(shard.stop.begin(), shard.stop.end(), stop);
    });
}
