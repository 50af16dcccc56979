// cuDNN, NVIDIA's library of network layers, through its graphs of operations: loaded at run time, where it is installed.
// Declared here is what is used, so that no header of it is needed to build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "device/cuda/library_slot.h"
#include "device/gpu/driver.h"

namespace tessera::core::gpu {

#define TSR_CUDNN_FUNCTIONS(X)                                                                                           \
    X(create, (Handle *handle), "cudnnCreate")                                                                           \
    X(set_stream, (Handle handle, Handle stream), "cudnnSetStream")                                                      \
    X(make, (int type, Handle *descriptor), "cudnnBackendCreateDescriptor")                                              \
    X(destroy, (Handle descriptor), "cudnnBackendDestroyDescriptor")                                                     \
    X(set, (Handle descriptor, int attribute, int type, int64_t count, const void *values), "cudnnBackendSetAttribute")  \
    X(get, (Handle descriptor, int attribute, int type, int64_t wanted, int64_t *found, void *values),                   \
      "cudnnBackendGetAttribute")                                                                                        \
    X(finalize, (Handle descriptor), "cudnnBackendFinalize")                                                             \
    X(execute, (Handle handle, Handle plan, Handle addresses), "cudnnBackendExecute")

// The library; lives as long as the process.
class Cudnn {
  public:
    explicit Cudnn(const std::vector<std::string> &files);
    Cudnn(const Cudnn &) = delete;
    Cudnn &operator=(const Cudnn &) = delete;

#define TSR_CUDNN_MEMBER(member, parameters, symbol) int(*member) parameters = nullptr;
    TSR_CUDNN_FUNCTIONS(TSR_CUDNN_MEMBER)
#undef TSR_CUDNN_MEMBER

    const std::string &file() const { return file_; }
    size_t version() const { return version_; } // 91900: 9.19
    // The library's context for a device, made at the first use and kept. DeviceError.
    Handle handle(int device) const;
    // While it is held no other thread uses a context, which knows of one thread at a time.
    std::unique_lock<std::mutex> alone() const { return std::unique_lock<std::mutex>(in_use_); }
    // Puts a plan on a stream of a device. DeviceError.
    void run(int device, Handle stream, Handle plan, Handle addresses) const;
    // Throws a DeviceError, with what the library says of it, for a status unless it is success.
    void check(int status, const char *what) const;

  private:
    const char *(*status_text_)(int status) = nullptr;
    void (*last_error_)(char *text, size_t size) = nullptr;
    std::string file_;
    size_t version_ = 0;
    LibraryHandles handles_;
    mutable std::mutex in_use_;
};

// The library, loaded at the first call; null where there is none, and `why` says so.
const Cudnn *cudnn(std::string *why = nullptr);

// A file to look for the library in, before those named earlier and before the system's places; "" forgets all that were
// named. ArgumentError when the library is loaded already.
void add_cudnn_file(const std::string &file);

} // namespace tessera::core::gpu
