#include "collective/nccl/library.h"

#include <dlfcn.h>

#include <memory>
#include <mutex>

#include "core/error.h"
#include "device/gpu/library.h"

namespace tessera::core {

namespace {

constexpr const char *nvidia_files[] = {"libnccl.so.2", "libnccl.so"}, *amd_files[] = {"librccl.so.1", "librccl.so"};
constexpr int oldest = 20700; // sends and receives

struct Slot {
    std::mutex lock;
    std::vector<std::string> files;
    std::unique_ptr<Nccl> library;
    std::unique_ptr<Error> failure;
};

Slot &slot(DeviceType type) {
    static Slot *slots = new Slot[2]; // never closed: work may be under way when the process ends
    return slots[type == DeviceType::CUDA ? 0 : 1];
}

} // namespace

Nccl::Nccl(DeviceType type, const std::vector<std::string> &files) : name_(type == DeviceType::CUDA ? "NCCL" : "RCCL") {
    std::vector<const char *> names;
    for (auto file = files.rbegin(); file != files.rend(); ++file)
        names.push_back(file->c_str());
    for (const char *file : type == DeviceType::CUDA ? nvidia_files : amd_files)
        names.push_back(file);
    void *library = gpu::open_library(name_, names.data(), names.size(), file_);
    auto load = [&](auto &function, const char *symbol) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
        if (!function)
            fail(Code::Device, "%s is no %s: it has no %s", file_.c_str(), name_, symbol);
    };
#define TSR_NCCL_LOAD(member, parameters, symbol) load(member, symbol);
    TSR_NCCL_FUNCTIONS(TSR_NCCL_LOAD)
#undef TSR_NCCL_LOAD
    load(error_text_, "ncclGetErrorString");
    int (*version)(int *) = nullptr;
    load(version, "ncclGetVersion");
    check(version(&version_), "the version");
    if (version_ < oldest)
        fail(Code::Device, "%s is %s of version code %d, Tessera needs 2.7 (%d) or later", file_.c_str(), name_, version_, oldest);
}

void Nccl::check(int status, const std::string &what) const {
    if (status)
        fail(Code::Device, "%s: %s (%s) says: %s (%d)", what.c_str(), name_, file_.c_str(), error_text_(status), status);
}

const Nccl &nccl(DeviceType type) {
    Slot &s = slot(type);
    std::lock_guard<std::mutex> hold(s.lock);
    if (s.failure)
        throw Error(*s.failure);
    if (!s.library) {
        try {
            s.library = std::make_unique<Nccl>(type, s.files);
        } catch (const Error &e) {
            s.failure = std::make_unique<Error>(
                e.code(), "collectives between GPUs: " + e.message() + "; install it, or name its file in " +
                              (type == DeviceType::CUDA ? "TESSERA_NCCL_LIBRARY" : "TESSERA_RCCL_LIBRARY"));
            throw Error(*s.failure);
        }
    }
    return *s.library;
}

void add_nccl_file(DeviceType type, const std::string &file) {
    Slot &s = slot(type);
    std::lock_guard<std::mutex> hold(s.lock);
    if (s.library)
        fail(Code::Argument, "%s is loaded already, from %s", s.library->name(), s.library->file().c_str());
    s.failure.reset();
    if (file.empty())
        s.files.clear();
    else
        s.files.push_back(file);
}

} // namespace tessera::core
