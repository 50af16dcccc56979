#include "device/cuda/cublaslt.h"

#include <dlfcn.h>

#include <memory>

#include "core/error.h"
#include "device/gpu/library.h"

namespace tessera::core::gpu {

namespace {

constexpr const char *usual_files[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
constexpr size_t oldest = 120000;

const char *status_text(int status) {
    switch (status) {
    case 1:
        return "not initialized";
    case 3:
        return "allocation failed";
    case 7:
        return "invalid value";
    case 8:
        return "architecture mismatch";
    case 13:
        return "execution failed";
    case 14:
        return "internal error";
    case 15:
        return "not supported";
    default:
        return "an error";
    }
}

// The library of the process: looked for once.
struct Slot {
    std::mutex lock;
    std::vector<std::string> files;
    bool tried = false;
    std::unique_ptr<Cublaslt> library;
    std::string why;
};

Slot &slot() {
    static Slot *one = new Slot; // the library is never closed: it may still be at work when the process ends
    return *one;
}

} // namespace

Cublaslt::Cublaslt(const std::vector<std::string> &files) {
    std::vector<const char *> names;
    for (auto file = files.rbegin(); file != files.rend(); ++file)
        names.push_back(file->c_str());
    names.insert(names.end(), std::begin(usual_files), std::end(usual_files));
    void *library = open_library("cuBLASLt", names.data(), names.size(), file_);
    auto load = [&](auto &function, const char *symbol) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
        if (!function)
            fail(Code::Device, "%s is no cuBLASLt: it has no %s", file_.c_str(), symbol);
    };
#define TSR_CUBLASLT_LOAD(member, parameters, symbol) load(member, symbol);
    TSR_CUBLASLT_FUNCTIONS(TSR_CUBLASLT_LOAD)
#undef TSR_CUBLASLT_LOAD
    size_t (*version)() = nullptr;
    load(version, "cublasLtGetVersion");
    version_ = version();
    if (version_ < oldest)
        fail(Code::Device, "%s is cuBLASLt %zu.%zu, Tessera needs 12.0 or later", file_.c_str(), version_ / 10000,
             version_ % 10000 / 100);
}

void Cublaslt::check(int status, const char *what) const {
    if (status)
        fail(Code::Device, "%s: cuBLASLt (%s) says %s (%d)", what, file_.c_str(), status_text(status), status);
}

Handle Cublaslt::handle(int device) const {
    std::lock_guard<std::mutex> hold(lock_);
    const auto index = static_cast<size_t>(device);
    if (handles_.size() <= index)
        handles_.resize(index + 1);
    if (!handles_[index]) {
        Current current(cuda_driver(), device);
        check(create(&handles_[index]), "cuBLASLt cannot be initialised");
    }
    return handles_[index];
}

const Cublaslt *cublaslt(std::string *why) {
    Slot &s = slot();
    std::lock_guard<std::mutex> hold(s.lock);
    if (!s.tried) {
        s.tried = true;
        try {
            s.library = std::make_unique<Cublaslt>(s.files);
        } catch (const Error &e) {
            s.why = e.message();
        }
    }
    if (why)
        *why = s.why;
    return s.library.get();
}

void add_cublaslt_file(const std::string &file) {
    Slot &s = slot();
    std::lock_guard<std::mutex> hold(s.lock);
    if (s.library)
        fail(Code::Argument, "cuBLASLt is loaded already (%s); name another file before the first use", s.library->file().c_str());
    if (file.empty())
        s.files.clear();
    else
        s.files.push_back(file);
    s.tried = false;
}

} // namespace tessera::core::gpu
