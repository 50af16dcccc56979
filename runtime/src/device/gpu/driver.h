// The functions of a GPU driver that the runtime calls: one table that CUDA and HIP both fill, for their programming
// interfaces match nearly one to one. What differs is virtual. The library is loaded at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"

namespace tessera::core::gpu {

using Result = int;       // 0: success; CUDA and HIP share the numbers that are told apart here
using Address = uint64_t; // in device memory
using Handle = void *;    // of a context, stream, event, module, function, graph or pool

inline Address address_of(const void *pointer) { return reinterpret_cast<Address>(pointer); }

enum : Result {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    deinitialized = 4,
    no_device = 100,
    invalid_image = 200,
    no_binary_for_device = 209,
    invalid_ptx = 218,
    unsupported_ptx = 222,
    not_found = 500,
    not_ready = 600,
    update_failure = 910,
    unknown = 999,
};

inline constexpr unsigned stream_non_blocking = 1, event_without_timing = 2, host_portable = 1;
inline constexpr int capture_relaxed = 2;
inline constexpr Result access_enabled = 704; // before
inline constexpr int pool_release_threshold = 4, pointer_memory_type = 2, pointer_ordinal = 9;

// A pool of memory that is pinned to a device.
struct PoolProperties {
    int allocation = 1, handles = 0; // pinned; not shared with other processes
    int place = 1, device = 0;       // a device's memory
    void *security = nullptr;
    size_t most = 0; // as much as there is
    char reserved[56] = {};
};
static_assert(sizeof(PoolProperties) == 88, "CUmemPoolProps, hipMemPoolProps");

// Which device may read and write the memory of a pool.
struct PoolAccess {
    int place = 1, device = 0; // a device
    int flags = 3;             // read and write
};
static_assert(sizeof(PoolAccess) == 12, "CUmemAccessDesc, hipMemAccessDesc");

// X(member, parameters, name in CUDA, name in HIP): all return a Result, with the same binary interface in both.
#define TSR_GPU_FUNCTIONS(X)                                                                                             \
    X(init, (unsigned flags), "cuInit", "hipInit")                                                                       \
    X(driver_version, (int *version), "cuDriverGetVersion", "hipDriverGetVersion")                                       \
    X(error_name, (Result error, const char **text), "cuGetErrorName", "hipDrvGetErrorName")                             \
    X(error_text, (Result error, const char **text), "cuGetErrorString", "hipDrvGetErrorString")                         \
    X(device_count, (int *count), "cuDeviceGetCount", "hipGetDeviceCount")                                               \
    X(device_name, (char *name, int bytes, int device), "cuDeviceGetName", "hipDeviceGetName")                           \
    X(device_memory, (size_t *bytes, int device), "cuDeviceTotalMem", "hipDeviceTotalMem")                               \
    X(device_attribute, (int *value, int attribute, int device), "cuDeviceGetAttribute", "hipDeviceGetAttribute")        \
    X(can_access_peer, (int *can, int device, int peer), "cuDeviceCanAccessPeer", "hipDeviceCanAccessPeer")              \
    X(pool_create, (Handle *pool, const PoolProperties *properties), "cuMemPoolCreate", "hipMemPoolCreate")              \
    X(pool_set, (Handle pool, int attribute, void *value), "cuMemPoolSetAttribute", "hipMemPoolSetAttribute")            \
    X(pool_open, (Handle pool, const PoolAccess *access, size_t count), "cuMemPoolSetAccess", "hipMemPoolSetAccess")     \
    X(pool_trim, (Handle pool, size_t keep), "cuMemPoolTrimTo", "hipMemPoolTrimTo")                                      \
    X(memory_info, (size_t *free_bytes, size_t *total), "cuMemGetInfo", "hipMemGetInfo")                                 \
    X(allocate, (Address *address, size_t bytes, Handle pool, Handle stream), "cuMemAllocFromPoolAsync",                 \
      "hipMallocFromPoolAsync")                                                                                          \
    X(release, (Address address, Handle stream), "cuMemFreeAsync", "hipFreeAsync")                                       \
    X(allocate_host, (void **address, size_t bytes, unsigned flags), "cuMemHostAlloc", "hipHostMalloc")                  \
    X(release_host, (void *address), "cuMemFreeHost", "hipHostFree")                                                     \
    X(pointer_attribute, (void *value, int attribute, Address address), "cuPointerGetAttribute", "hipPointerGetAttribute") \
    X(copy_in, (Address to, const void *from, size_t bytes, Handle stream), "cuMemcpyHtoDAsync", "hipMemcpyHtoDAsync")   \
    X(copy_out, (void *to, Address from, size_t bytes, Handle stream), "cuMemcpyDtoHAsync", "hipMemcpyDtoHAsync")        \
    X(copy_within, (Address to, Address from, size_t bytes, Handle stream), "cuMemcpyDtoDAsync", "hipMemcpyDtoDAsync")   \
    X(fill, (Address to, unsigned char value, size_t bytes, Handle stream), "cuMemsetD8Async", "hipMemsetD8Async")       \
    X(stream_create, (Handle *stream, unsigned flags), "cuStreamCreate", "hipStreamCreateWithFlags")                     \
    X(stream_destroy, (Handle stream), "cuStreamDestroy", "hipStreamDestroy")                                            \
    X(stream_wait, (Handle stream), "cuStreamSynchronize", "hipStreamSynchronize")                                       \
    X(stream_query, (Handle stream), "cuStreamQuery", "hipStreamQuery")                                                  \
    X(stream_wait_event, (Handle stream, Handle event, unsigned flags), "cuStreamWaitEvent", "hipStreamWaitEvent")       \
    X(stream_capturing, (Handle stream, int *status), "cuStreamIsCapturing", "hipStreamIsCapturing")                     \
    X(host_call, (Handle stream, void (*function)(void *), void *argument), "cuLaunchHostFunc", "hipLaunchHostFunc")     \
    X(capture_mode, (int *mode), "cuThreadExchangeStreamCaptureMode", "hipThreadExchangeStreamCaptureMode")              \
    X(capture_begin, (Handle stream, int mode), "cuStreamBeginCapture", "hipStreamBeginCapture")                         \
    X(capture_end, (Handle stream, Handle *graph), "cuStreamEndCapture", "hipStreamEndCapture")                          \
    X(graph_destroy, (Handle graph), "cuGraphDestroy", "hipGraphDestroy")                                                \
    X(graph_instantiate, (Handle *executable, Handle graph, unsigned long long flags), "cuGraphInstantiateWithFlags",    \
      "hipGraphInstantiateWithFlags")                                                                                    \
    X(graph_launch, (Handle executable, Handle stream), "cuGraphLaunch", "hipGraphLaunch")                               \
    X(graph_release, (Handle executable), "cuGraphExecDestroy", "hipGraphExecDestroy")                                   \
    X(event_create, (Handle *event, unsigned flags), "cuEventCreate", "hipEventCreateWithFlags")                         \
    X(event_destroy, (Handle event), "cuEventDestroy", "hipEventDestroy")                                                \
    X(event_record, (Handle event, Handle stream), "cuEventRecord", "hipEventRecord")                                    \
    X(event_query, (Handle event), "cuEventQuery", "hipEventQuery")                                                      \
    X(event_wait, (Handle event), "cuEventSynchronize", "hipEventSynchronize")                                           \
    X(event_elapsed, (float *milliseconds, Handle start, Handle end), "cuEventElapsedTime", "hipEventElapsedTime")       \
    X(module_load, (Handle *module, const void *image), "cuModuleLoadData", "hipModuleLoadData")                         \
    X(module_unload, (Handle module), "cuModuleUnload", "hipModuleUnload")                                               \
    X(module_function, (Handle *function, Handle module, const char *name), "cuModuleGetFunction", "hipModuleGetFunction") \
    X(function_attribute, (int *value, int attribute, Handle function), "cuFuncGetAttribute", "hipFuncGetAttribute")

struct Functions {
#define TSR_GPU_MEMBER(member, parameters, cuda, hip) Result(*member) parameters = nullptr;
    TSR_GPU_FUNCTIONS(TSR_GPU_MEMBER)
#undef TSR_GPU_MEMBER
};

struct Launch {
    unsigned grid[3] = {1, 1, 1};
    unsigned cluster[3] = {1, 1, 1};
    unsigned threads = 1; // of a block
    unsigned shared = 0;  // dynamic shared memory of a block, bytes
    bool early = false;   // may be started before the kernel before it has ended; it waits for that itself
};

struct DeviceProperties {
    std::string name;
    std::string level; // "sm_90", "gfx942"
    int major = 0, minor = 0;
    int multiprocessors = 0;
    int shared_bytes = 0; // the most that a block can have
    int max_threads = 0;  // of a block
    size_t memory = 0;
};

// What describes a tiled tensor map (CUDA, compute capability 9.0 and later).
struct TensorMapLayout {
    int type = 0; // CUtensorMapDataType
    uint32_t rank = 0;
    uint64_t shape[5] = {};   // innermost first
    uint64_t strides[4] = {}; // bytes, of all dimensions but the innermost
    uint32_t box[5] = {};
    int interleave = 0, swizzle = 0, l2_promotion = 0, fill = 0;
};

struct alignas(64) TensorMap {
    uint64_t words[16];
};

// A loaded driver; lives as long as the process. All calls need a device that is current (see Current) unless they
// name one.
class Driver {
  public:
    virtual ~Driver() = default;
    Driver(const Driver &) = delete;
    Driver &operator=(const Driver &) = delete;

    const char *name() const { return name_; }
    const std::string &library() const { return library_; }
    int version() const { return version_; }
    int devices() const { return devices_; }
    const Functions &call() const { return functions_; }

    virtual DeviceProperties properties(int device) const = 0;
    // The device's primary context, shared with every other library of the process.
    virtual Handle context(int device) const = 0;
    // Makes a device current on this thread and gives what was; `leave` brings it back.
    virtual Handle enter(int device) const = 0;
    virtual void leave(Handle before) const = 0;
    // The device that a stream belongs to; -1 when it is of a context other than a primary one.
    virtual int device_of_stream(Handle stream) const = 0;
    // The device that memory lies on; -1 when the driver does not know the address or it is the host's.
    virtual int device_of(Address address) const;
    virtual Result allow_shared(Handle function, int bytes) const = 0;
    virtual Result launch(Handle function, const Launch &launch, Handle stream, void **arguments) const = 0;
    virtual Result copy_peer(Address to, int to_device, Address from, int from_device, size_t bytes, Handle stream) const = 0;
    // The device that is current may use the memory of another.
    virtual Result enable_peer(int peer) const = 0;
    virtual Result graph_update(Handle executable, Handle graph) const = 0;
    virtual Result encode(TensorMap &map, const TensorMapLayout &layout, Address base) const = 0;

    // "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered"
    std::string describe(Result result) const;
    // Throws the typed error for a result unless it is success. `what` says what failed.
    void check(Result result, const char *what) const {
        if (result != success)
            raise(result, what);
    }
    [[noreturn]] void raise(Result result, const std::string &what) const;
    // Whether an error spoils the context for good: nothing runs on the device any more in this process.
    static bool is_sticky(Result result);

  protected:
    Driver(const char *name, std::string library) : name_(name), library_(std::move(library)) {}
    void read_version_and_count();

    const char *name_;
    std::string library_;
    int version_ = 0, devices_ = 0;
    Functions functions_;
};

// The drivers; loaded at the first call. DeviceError says why there is none.
const Driver &cuda_driver();
const Driver &hip_driver();

// The file that is loaded as the driver library in place of the system's; "" for that one. ArgumentError when a driver
// is loaded already. For tests and unusual installations.
void set_cuda_library(const std::string &file);
void set_hip_library(const std::string &file);

// A device is current on this thread as long as this lives.
class Current {
  public:
    Current(const Driver &driver, int device) : driver_(driver), before_(driver.enter(device)) {}
    ~Current() { driver_.leave(before_); }
    Current(const Current &) = delete;
    Current &operator=(const Current &) = delete;

  private:
    const Driver &driver_;
    Handle before_;
};

} // namespace tessera::core::gpu
