#include "device/cuda/cublaslt.h"

#include "core/error.h"

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

LibrarySlot<Cublaslt> &slot() {
    static auto *one = new LibrarySlot<Cublaslt>("cuBLASLt"); // it may still be at work when the process ends
    return *one;
}

} // namespace

Cublaslt::Cublaslt(const std::vector<std::string> &files) {
    const LibrarySymbols symbols("cuBLASLt", files, usual_files);
    file_ = symbols.file();
#define TSR_CUBLASLT_LOAD(member, parameters, symbol) symbols.load(member, symbol);
    TSR_CUBLASLT_FUNCTIONS(TSR_CUBLASLT_LOAD)
#undef TSR_CUBLASLT_LOAD
    size_t (*version)() = nullptr;
    symbols.load(version, "cublasLtGetVersion");
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
    return handles_.get(device, [&](Handle *made) {
        Current current(cuda_driver(), device);
        check(create(made), "cuBLASLt cannot be initialised");
    });
}

const Cublaslt *cublaslt(std::string *why) { return slot().get(why); }

void add_cublaslt_file(const std::string &file) { slot().add_file(file); }

} // namespace tessera::core::gpu
