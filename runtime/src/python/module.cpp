// The Python module tessera._core.
#include <string>

#include <nanobind/stl/string.h>

#include "handles.h"

namespace tessera::python {

void raise_error(tsr_status status, const char *message) {
    nb::dict classes = nb::cast<nb::dict>(nb::module_::import_("tessera.errors").attr("ERROR_BY_CODE"));
    nb::object key = nb::int_(status);
    nb::object type = classes.contains(key) ? nb::object(classes[key]) : nb::object(classes[nb::int_(int(TSR_ERROR))]);
    PyErr_SetString(type.ptr(), message);
    throw nb::python_error();
}

void raise_status(tsr_status status) { raise_error(status, std::string(tsr_last_error()).c_str()); }

Bytes::Bytes(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0)
        throw nb::python_error();
}

namespace {

uint64_t hash64(nb::object buffer) {
    Bytes bytes(buffer);
    nb::gil_scoped_release unlocked;
    return tsr_hash64(bytes.data(), bytes.size());
}

nb::object doctor() {
    std::string report;
    {
        nb::gil_scoped_release unlocked;
        report = tsr_doctor();
    }
    return nb::module_::import_("json").attr("loads")(nb::str(report.c_str()));
}

void set_device_library(const std::string &kind, const std::string &file) {
    check(tsr_device_library(kind == "cuda" ? TSR_CUDA : TSR_ROCM, file.c_str()));
}

// The libraries that the environment names, and those of packages of this Python.
void read_settings() {
    nb::module_ config = nb::module_::import_("tessera.config");
    for (const char *kind : {"cuda", "rocm"}) {
        const char *variable = kind[0] == 'c' ? "CUDA_LIBRARY" : "HIP_LIBRARY";
        std::string file = nb::cast<std::string>(config.attr(variable).attr("text")());
        if (!file.empty())
            set_device_library(kind, file);
    }
    for (const char *library : {"cublaslt", "cudnn", "nccl", "rccl"})
        for (nb::handle file : config.attr("vendor_library_files")(library))
            check(tsr_vendor_library(library, nb::cast<std::string>(file).c_str()));
}

int64_t vendor_library_version(const std::string &library) {
    int64_t version = 0;
    nb::gil_scoped_release unlocked; // the first call loads it
    check(tsr_vendor_library_version(library.c_str(), &version));
    return version;
}

// The levels of plans that suit this machine's GPUs; none without a driver.
nb::list gpu_levels(const std::string &target) {
    nb::list out;
    const int32_t type = target == "ptx" ? TSR_CUDA : TSR_ROCM;
    int32_t count = 0;
    if (tsr_device_count(type, &count) != TSR_OK)
        return out;
    for (int32_t i = 0; i < count; ++i) {
        tsr_text *text = nullptr;
        check(tsr_device_architecture(type, i, &text));
        std::string level = tsr_text_data(text);
        tsr_text_release(text);
        if (level == "sm_90" || level.rfind("sm_1", 0) == 0)
            level += "a"; // with what this architecture alone has
        out.append(nb::str(level.c_str()));
    }
    return out;
}

} // namespace

} // namespace tessera::python

NB_MODULE(_core, m) {
    using namespace tessera::python;
    nb::set_leak_warnings(false);
    m.doc() = "The native runtime, as Python sees it.";
    m.attr("__version__") = tsr_version();
    bind_array(m);
    bind_mesh(m);
    bind_program(m);
    bind_portable(m);
    bind_custom(m);
    m.def("hash64", &hash64, nb::arg("buffer"), "XXH64 of a contiguous buffer.");
    m.def("cpu_level", [] { return nb::str(tsr_cpu_level()); }, "The code level of this CPU.");
    read_settings();
    m.def("gpu_levels", &gpu_levels, nb::arg("target"),
          "The code levels of this machine's GPUs for the target ``ptx`` or ``hsaco``; none without a driver.");
    m.def("vendor_library_version", &vendor_library_version, nb::arg("library"),
          "The version of a vendor library (``cublaslt``, ``cudnn``) as it numbers itself; 0 where there is none.");
    m.def("doctor", &doctor, "Devices and optional libraries found, and why not.");
}
