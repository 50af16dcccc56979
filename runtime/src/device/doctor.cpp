#include "device/doctor.h"

#include <dlfcn.h>

#include "core/json.h"
#include "core/thread_pool.h"
#include "device/cpu/cpu_level.h"
#include "device/cuda/cublaslt.h"
#include "device/cuda/cudnn.h"
#include "device/gpu/gpu_backend.h"

namespace tessera::core {

namespace {

struct Library {
    const char *name;
    const char *purpose;
    const char *file;
};

constexpr Library libraries[] = {
    {"NCCL", "collectives between GPUs", "libnccl.so.2"},
    {"MPI", "collectives between processes", "libmpi_abi.so.1"},
};

Json probe(const Library &library) {
    Json out = Json::object();
    out.set("name", Json::string(library.name));
    out.set("purpose", Json::string(library.purpose));
    out.set("file", Json::string(library.file));
    void *handle = ::dlopen(library.file, RTLD_LAZY | RTLD_LOCAL);
    const char *why = handle ? "" : ::dlerror();
    out.set("found", Json::boolean(handle != nullptr));
    out.set("why", Json::string(why ? why : ""));
    if (handle)
        ::dlclose(handle);
    return out;
}

// A vendor library as runs would load it, from where the settings say too.
template <class Vendor>
Json probe_vendor(const Vendor *(*load)(std::string *), const char *name, const char *purpose, const char *file) {
    std::string why;
    const Vendor *library = load(&why);
    Json out = Json::object();
    out.set("name", Json::string(name));
    out.set("purpose", Json::string(purpose));
    out.set("file", Json::string(library ? library->file() : file));
    out.set("found", Json::boolean(library != nullptr));
    out.set("why", Json::string(why));
    if (library)
        out.set("version", Json::integer(static_cast<int64_t>(library->version())));
    return out;
}

// The GPUs that can be used, or why there are none.
Json gpus(DeviceType type) {
    Json out = Json::object();
    Json devices = Json::array();
    std::string why;
    try {
        auto &b = static_cast<gpu::GpuBackend &>(backend(type));
        const gpu::Driver &driver = b.driver();
        out.set("driver", Json::string(format("%s %d.%d", driver.name(), driver.version() / 1000, driver.version() % 1000 / 10)));
        out.set("library", Json::string(driver.library()));
        for (int32_t i = 0; i < b.count(); ++i) {
            const gpu::DeviceProperties &p = b.properties(i);
            Json device = Json::object();
            device.set("name", Json::string(p.name));
            device.set("level", Json::string(p.level));
            device.set("memory", Json::integer(static_cast<int64_t>(p.memory)));
            device.set("multiprocessors", Json::integer(p.multiprocessors));
            devices.push(std::move(device));
        }
    } catch (const Error &e) {
        why = e.message();
    }
    out.set("type", Json::string(name(type)));
    out.set("devices", std::move(devices));
    out.set("why", Json::string(why));
    return out;
}

} // namespace

std::string doctor_report() {
    Json cpu = Json::object();
    cpu.set("level", Json::string(level_name(cpu_level())));
    cpu.set("cores", Json::integer(available_cores()));
    Json found = Json::array();
    for (const Library &library : libraries)
        found.push(probe(library));
    found.push(probe_vendor(gpu::cublaslt, "cuBLASLt", "products on NVIDIA devices, where an artefact calls it",
                            "libcublasLt.so.13"));
    found.push(probe_vendor(gpu::cudnn, "cuDNN", "attention on NVIDIA devices, where an artefact calls it", "libcudnn.so.9"));
    Json out = Json::object();
    out.set("version", Json::string(TESSERA_VERSION));
    out.set("cpu", std::move(cpu));
    out.set("libraries", std::move(found));
    Json devices = Json::array();
    for (DeviceType type : {DeviceType::CUDA, DeviceType::ROCM})
        devices.push(gpus(type));
    out.set("gpus", std::move(devices));
    return out.dump();
}

} // namespace tessera::core
