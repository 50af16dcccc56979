#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "array.h"
#include "handles.h"
#include "mesh.h"

namespace tessera::python {

namespace {

struct Group {
    Group(const std::vector<std::string> &axes, const std::vector<int64_t> &sizes, int64_t timeout_ms) {
        if (axes.size() != sizes.size())
            raise_error(TSR_ARGUMENT_ERROR, "as many axes as sizes are needed");
        std::vector<const char *> names;
        for (const std::string &axis : axes)
            names.push_back(axis.c_str());
        check(tsr_group_create_local(names.data(), sizes.data(), static_cast<int32_t>(sizes.size()), timeout_ms,
                                     group.out()));
    }
    Owner<tsr_group, tsr_group_release> group;
};

struct World {
    Owner<tsr_world, release_unlocked<tsr_world, tsr_world_release>> world;
};

std::pair<int64_t, int64_t> place(const World &w) {
    int64_t rank = 0, size = 0;
    check(tsr_world_place(w.world.get(), &rank, &size));
    return {rank, size};
}

nb::list all_gather(World &w, nb::object buffer, std::optional<std::vector<int64_t>> ranks) {
    Bytes bytes(buffer);
    std::vector<uint64_t> sizes(ranks ? ranks->size() : static_cast<size_t>(place(w).second));
    tsr_text *joined = nullptr;
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_world_all_gather(w.world.get(), ranks ? ranks->data() : nullptr, static_cast<int32_t>(sizes.size()),
                                      bytes.data(), bytes.size(), sizes.data(), &joined);
    }
    check(status);
    nb::list out;
    const char *at = tsr_text_data(joined);
    for (uint64_t size : sizes) {
        out.append(nb::bytes(at, static_cast<size_t>(size)));
        at += size;
    }
    tsr_text_release(joined);
    return out;
}

Communicator communicator(World &w, const std::vector<std::string> &axes, const std::vector<int64_t> &sizes,
                          const std::vector<int64_t> &ranks) {
    std::vector<const char *> names;
    int64_t devices = 1;
    for (const std::string &axis : axes)
        names.push_back(axis.c_str());
    for (int64_t size : sizes)
        devices *= size;
    if (axes.size() != sizes.size() || static_cast<int64_t>(ranks.size()) != devices)
        raise_error(TSR_ARGUMENT_ERROR, "as many axes as sizes are needed, and as many ranks as devices");
    Communicator out;
    check(tsr_world_communicator(w.world.get(), names.data(), sizes.data(), static_cast<int32_t>(sizes.size()), ranks.data(),
                                 out.handle.out()));
    return out;
}

} // namespace

void bind_mesh(nb::module_ &m) {
    nb::class_<Communicator>(m, "Communicator", "One device's end of the connections of a mesh.")
        .def("traffic",
             [](const Communicator &c) {
                 uint64_t bytes = 0, calls = 0;
                 check(tsr_communicator_traffic(c.handle.get(), &bytes, &calls));
                 return std::make_pair(bytes, calls);
             },
             "(bytes received from other devices, collectives done) since the last reset.")
        .def("on_gpu",
             [](const Communicator &c, const std::string &kind, int32_t index, int64_t timeout_ms) {
                 Communicator out;
                 check(tsr_communicator_create_gpu(c.handle.get(), kind == "cuda" ? TSR_CUDA : TSR_ROCM, index, nullptr,
                                                   timeout_ms, out.handle.out()));
                 return out;
             },
             nb::arg("kind"), nb::arg("index"), nb::arg("timeout_ms"),
             "The end of a GPU (kind cuda or hip), whose host meets the others by this one.")
        .def("reset_traffic", [](Communicator &c) { check(tsr_communicator_reset_traffic(c.handle.get())); },
             "Counts from zero again.")
        .def("run",
             [](Communicator &c, const std::string &op, const std::string &attributes, const Array &operand,
                const Array &result) {
                 tsr_status status;
                 {
                     nb::gil_scoped_release unlocked;
                     status = tsr_communicator_run(c.handle.get(), op.c_str(), attributes.c_str(), operand.tensor.get(),
                                                   result.tensor.get());
                 }
                 check(status);
             },
             nb::arg("op"), nb::arg("attributes"), nb::arg("operand"), nb::arg("result"),
             "Takes part in one collective; the result is overwritten.");
    nb::class_<World>(m, "World", nb::is_weak_referenceable(), "The processes of a job.")
        .def_static("mpi",
                    [](std::optional<std::string> library, uintptr_t handle, int64_t timeout_ms) {
                        World out;
                        check(tsr_world_create_mpi(library ? library->c_str() : nullptr, reinterpret_cast<void *>(handle),
                                                   timeout_ms, out.world.out()));
                        return out;
                    },
                    nb::arg("library").none(), nb::arg("communicator"), nb::arg("timeout_ms"),
                    "The processes of an MPI communicator (its handle as a number; 0: MPI_COMM_WORLD).")
        .def_static("tcp",
                    [](int64_t rank, int64_t size, const std::string &host, int64_t port, int64_t timeout_ms) {
                        World out;
                        tsr_status status;
                        {
                            nb::gil_scoped_release unlocked;
                            status = tsr_world_create_tcp(rank, size, host.c_str(), port, timeout_ms, out.world.out());
                        }
                        check(status);
                        return out;
                    },
                    nb::arg("rank"), nb::arg("size"), nb::arg("host"), nb::arg("port"), nb::arg("timeout_ms"),
                    "Processes that meet at a port of rank 0's host.")
        .def_prop_ro("rank", [](const World &w) { return place(w).first; })
        .def_prop_ro("size", [](const World &w) { return place(w).second; })
        .def("communicator", &communicator, nb::arg("axes"), nb::arg("sizes"), nb::arg("ranks"),
             "This process's end of a mesh; ranks: the process of each device.")
        .def("all_gather", &all_gather, nb::arg("data"), nb::arg("ranks").none() = nb::none(),
             "The bytes of every process, or of some in their order, which all call this.")
        .def("fail",
             [](World &w, const std::string &message) {
                 nb::gil_scoped_release unlocked;
                 tsr_world_fail(w.world.get(), message.c_str());
             },
             nb::arg("message"), "All processes that wait for this one fail.")
        .def("close",
             [](World &w) {
                 nb::gil_scoped_release unlocked;
                 tsr_world_close(w.world.get());
             },
             "The end of this process's part.");
    nb::class_<Group>(m, "LocalGroup", "The devices of a mesh that are threads of this process.")
        .def(nb::init<const std::vector<std::string> &, const std::vector<int64_t> &, int64_t>(), nb::arg("axes"),
             nb::arg("sizes"), nb::arg("timeout_ms"))
        .def("communicator",
             [](Group &g, int64_t rank) {
                 Communicator out;
                 check(tsr_group_communicator(g.group.get(), rank, out.handle.out()));
                 return out;
             },
             nb::arg("rank"), "The end of a device.")
        .def("fail", [](Group &g, const std::string &message) { check(tsr_group_fail(g.group.get(), message.c_str())); },
             nb::arg("message"), "All devices that wait fail, and all that come later, until reset.")
        .def("reset", [](Group &g) { check(tsr_group_reset(g.group.get())); }, "Ready for the next run.");
}

} // namespace tessera::python
