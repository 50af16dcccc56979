#include "device/cuda/cudnn.h"

#include "core/error.h"

namespace tessera::core::gpu {

namespace {

constexpr const char *usual_files[] = {"libcudnn.so.9", "libcudnn.so"};
constexpr size_t oldest = 91002; // earlier ones have errors in attention

LibrarySlot<Cudnn> &slot() {
    static auto *one = new LibrarySlot<Cudnn>("cuDNN"); // it may still be at work when the process ends
    return *one;
}

} // namespace

Cudnn::Cudnn(const std::vector<std::string> &files) {
    const LibrarySymbols symbols("cuDNN", files, usual_files);
    file_ = symbols.file();
#define TSR_CUDNN_LOAD(member, parameters, symbol) symbols.load(member, symbol);
    TSR_CUDNN_FUNCTIONS(TSR_CUDNN_LOAD)
#undef TSR_CUDNN_LOAD
    symbols.load(status_text_, "cudnnGetErrorString");
    symbols.load(last_error_, "cudnnGetLastErrorString");
    size_t (*version)() = nullptr;
    symbols.load(version, "cudnnGetVersion");
    version_ = version();
    if (version_ < oldest)
        fail(Code::Device, "%s is cuDNN %zu.%zu.%zu, Tessera needs 9.10.2 or later", file_.c_str(), version_ / 10000,
             version_ % 10000 / 100, version_ % 100);
}

void Cudnn::check(int status, const char *what) const {
    if (!status)
        return;
    char more[512] = "";
    last_error_(more, sizeof more);
    const char *text = status_text_(status);
    fail(Code::Device, "%s: cuDNN %zu (%s) says %s (%d)%s%s", what, version_, file_.c_str(), text ? text : "an error", status,
         more[0] ? ": " : "", more);
}

Handle Cudnn::handle(int device) const {
    return handles_.get(device, [&](Handle *made) {
        Current current(cuda_driver(), device);
        check(create(made), "cuDNN cannot be initialised");
    });
}

void Cudnn::run(int device, Handle stream, Handle plan, Handle addresses) const {
    const Handle context = handle(device);
    const auto hold = alone();
    check(set_stream(context, stream), "a stream");
    check(execute(context, plan, addresses), "a call");
}

const Cudnn *cudnn(std::string *why) { return slot().get(why); }

void add_cudnn_file(const std::string &file) { slot().add_file(file); }

} // namespace tessera::core::gpu
