// The C ABI of meshes: groups of devices and their communicators.
#include "api/graph_handle.h"
#include "api/handles.h"
#include "collective/local/group.h"

using namespace tessera::core;

struct tsr_group : Counted {
    explicit tsr_group(std::shared_ptr<LocalGroup> g) : group(std::move(g)) {}
    const std::shared_ptr<LocalGroup> group;
};

struct tsr_communicator : Counted {
    explicit tsr_communicator(std::shared_ptr<Communicator> c) : communicator(std::move(c)) {}
    const std::shared_ptr<Communicator> communicator;
};

namespace {

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
            fail(Code::Argument, "a mesh in one process has at most %lld devices", static_cast<long long>(most_devices));
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
        if (timeout_ms < 1)
            fail(Code::Argument, "the timeout is %lld ms; it must be at least 1", static_cast<long long>(timeout_ms));
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
