#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

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
        .def("reset_traffic", [](Communicator &c) { check(tsr_communicator_reset_traffic(c.handle.get())); },
             "Counts from zero again.");
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
