#include "device/gpu/library.h"

#include <dlfcn.h>

namespace tessera::core::gpu {

void *open_library(const char *what, const char *const *files, size_t count, std::string &opened) {
    std::string reasons;
    for (size_t i = 0; i < count; ++i) {
        if (void *handle = ::dlopen(files[i], RTLD_NOW | RTLD_LOCAL)) {
            opened = files[i];
            return handle;
        }
        const char *why = ::dlerror();
        reasons += std::string(i ? "; " : "") + (why ? why : files[i]);
    }
    fail(Code::Device, "there is no %s on this machine: %s", what, reasons.c_str());
}

const Driver &DriverSlot::get() {
    std::lock_guard<std::mutex> hold(lock_);
    if (failure_)
        throw *failure_;
    if (!driver_) {
        try {
            driver_ = make_(file_).release();
        } catch (const Error &e) {
            failure_ = std::make_unique<Error>(e);
            throw;
        }
    }
    return *driver_;
}

void DriverSlot::set_file(const std::string &file) {
    std::lock_guard<std::mutex> hold(lock_);
    if (driver_ && file != file_)
        fail(Code::Argument, "the %s driver library is loaded already (%s); name another one before the first use", name_,
             driver_->library().c_str());
    if (file != file_)
        failure_.reset();
    file_ = file;
}

} // namespace tessera::core::gpu
