// NCCL and RCCL, the vendors' libraries of collectives between GPUs: loaded at run time. Both have one binary interface;
// declared here is what is used, so that no header of theirs is needed to build.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/device_id.h"
#include "device/gpu/driver.h"

namespace tessera::core {

// What the members of a communicator meet by.
struct NcclId {
    char bytes[128];
};

#define TSR_NCCL_FUNCTIONS(X)                                                                                            \
    X(get_id, (NcclId *id), "ncclGetUniqueId")                                                                           \
    X(connect, (gpu::Handle *communicator, int members, NcclId id, int member), "ncclCommInitRank")                      \
    X(destroy, (gpu::Handle communicator), "ncclCommDestroy")                                                            \
    X(abort, (gpu::Handle communicator), "ncclCommAbort")                                                                \
    X(async_error, (gpu::Handle communicator, int *error), "ncclCommGetAsyncError")                                      \
    X(count, (gpu::Handle communicator, int *members), "ncclCommCount")                                                  \
    X(member, (gpu::Handle communicator, int *member), "ncclCommUserRank")                                               \
    X(group_begin, (), "ncclGroupStart")                                                                                 \
    X(group_end, (), "ncclGroupEnd")                                                                                     \
    X(all_reduce, (const void *from, void *to, size_t count, int type, int combine, gpu::Handle communicator,            \
                   gpu::Handle stream), "ncclAllReduce")                                                                 \
    X(all_gather, (const void *from, void *to, size_t count, int type, gpu::Handle communicator, gpu::Handle stream),    \
      "ncclAllGather")                                                                                                   \
    X(reduce_scatter, (const void *from, void *to, size_t count, int type, int combine, gpu::Handle communicator,        \
                       gpu::Handle stream), "ncclReduceScatter")                                                         \
    X(reduce, (const void *from, void *to, size_t count, int type, int combine, int root, gpu::Handle communicator,      \
               gpu::Handle stream), "ncclReduce")                                                                        \
    X(send, (const void *from, size_t count, int type, int to, gpu::Handle communicator, gpu::Handle stream), "ncclSend") \
    X(receive, (void *to, size_t count, int type, int from, gpu::Handle communicator, gpu::Handle stream), "ncclRecv")

// The library of a kind of device; lives as long as the process.
class Nccl {
  public:
    Nccl(DeviceType type, const std::vector<std::string> &files);
    Nccl(const Nccl &) = delete;
    Nccl &operator=(const Nccl &) = delete;

#define TSR_NCCL_MEMBER(member, parameters, symbol) int(*member) parameters = nullptr;
    TSR_NCCL_FUNCTIONS(TSR_NCCL_MEMBER)
#undef TSR_NCCL_MEMBER

    const char *name() const { return name_; }
    const std::string &file() const { return file_; }
    int version() const { return version_; } // 22804: 2.28.4
    // DeviceError for a status unless it is success; `what` was being done.
    void check(int status, const std::string &what) const;

  private:
    const char *name_;
    std::string file_;
    int version_ = 0;
    const char *(*error_text_)(int) = nullptr;
};

// Looked for at the first call; DeviceError that says why there is none.
const Nccl &nccl(DeviceType type);
// A file to look in before those named earlier; none: forget them. ArgumentError when the library is loaded already.
void add_nccl_file(DeviceType type, const std::string &file);

} // namespace tessera::core
