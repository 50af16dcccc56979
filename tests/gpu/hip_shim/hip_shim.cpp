// A HIP runtime for tests on machines without an AMD GPU: answers the HIP calls that the runtime makes with calls of a
// CUDA driver, the machine's own or the one that HIP_SHIM_CUDA names. Devices call themselves gfx90a, and a code object
// is whatever the CUDA driver loads.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

using Handle = void *;

void *library() {
    static void *handle = [] {
        const char *file = std::getenv("HIP_SHIM_CUDA");
        return ::dlopen(file && *file ? file : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    }();
    return handle;
}

void *entry(const char *name) {
    using GetAddress = int (*)(const char *, void **, int, uint64_t, int *);
    static auto get = library() ? reinterpret_cast<GetAddress>(::dlsym(library(), "cuGetProcAddress_v2")) : nullptr;
    void *address = nullptr;
    int status = 0;
    if (get)
        get(name, &address, 12000, 0, &status);
    return address;
}

// The CUDA function of that name.
template <class... Parameters> int cuda(const char *name, Parameters... parameters) {
    auto function = reinterpret_cast<int (*)(Parameters...)>(entry(name));
    return function ? function(parameters...) : 100; // no device
}

thread_local int current_device = -1;

// HIP's current device is the first until one is chosen; CUDA then needs its primary context on this thread.
int make_current(int device) {
    Handle context = nullptr, before = nullptr;
    if (int result = cuda("cuDevicePrimaryCtxRetain", &context, device))
        return result;
    if (current_device >= 0)
        cuda("cuCtxPopCurrent", &before);
    current_device = device;
    return cuda("cuCtxPushCurrent", context);
}

struct Current {
    Current() {
        if (current_device < 0)
            make_current(0);
    }
};

} // namespace

#define HIP(name, parameters, call)                                                                                      \
    extern "C" __attribute__((visibility("default"))) int name parameters {                                             \
        Current current;                                                                                                 \
        return call;                                                                                                     \
    }
#define HIP_PLAIN(name, parameters, call)                                                                                \
    extern "C" __attribute__((visibility("default"))) int name parameters { return call; }

HIP_PLAIN(hipInit, (unsigned flags), cuda("cuInit", flags))
HIP_PLAIN(hipDriverGetVersion, (int *version), cuda("cuDriverGetVersion", version))
HIP_PLAIN(hipDrvGetErrorName, (int error, const char **text), cuda("cuGetErrorName", error, text))
HIP_PLAIN(hipDrvGetErrorString, (int error, const char **text), cuda("cuGetErrorString", error, text))
HIP_PLAIN(hipGetDeviceCount, (int *count), cuda("cuDeviceGetCount", count))
HIP_PLAIN(hipDeviceGetName, (char *name, int bytes, int device), cuda("cuDeviceGetName", name, bytes, device))
HIP_PLAIN(hipDeviceTotalMem, (size_t *bytes, int device), cuda("cuDeviceTotalMem", bytes, device))
HIP_PLAIN(hipDeviceCanAccessPeer, (int *can, int device, int peer), cuda("cuDeviceCanAccessPeer", can, device, peer))

extern "C" __attribute__((visibility("default"))) int hipDeviceGetAttribute(int *value, int attribute, int device) {
    // hipDeviceAttributeMaxThreadsPerBlock, MultiprocessorCount, MaxSharedMemoryPerBlock
    const int in_cuda = attribute == 56 ? 1 : attribute == 63 ? 16 : attribute == 74 ? 97 : -1;
    return in_cuda < 0 ? 1 : cuda("cuDeviceGetAttribute", value, in_cuda, device);
}

extern "C" __attribute__((visibility("default"))) int hipGetDevicePropertiesR0600(char *properties, int) {
    std::memset(properties, 0, 1472);
    std::strcpy(properties + 1160, "gfx90a:sramecc+:xnack-");
    return 0;
}

extern "C" __attribute__((visibility("default"))) int hipGetDevice(int *device) {
    Current current;
    *device = current_device;
    return 0;
}

HIP_PLAIN(hipSetDevice, (int device), make_current(device))

extern "C" __attribute__((visibility("default"))) int hipStreamGetDevice(Handle stream, int *device) {
    Current current;
    Handle context = nullptr, one = nullptr;
    int count = 0;
    if (int result = cuda("cuStreamGetCtx", stream, &context))
        return result;
    cuda("cuDeviceGetCount", &count);
    for (int i = 0; i < count; ++i)
        if (!cuda("cuDevicePrimaryCtxRetain", &one, i) && one == context) {
            *device = i;
            return 0;
        }
    return 1;
}

HIP(hipMemPoolCreate, (Handle * pool, const void *properties), cuda("cuMemPoolCreate", pool, properties))
HIP(hipMemPoolSetAttribute, (Handle pool, int attribute, void *value), cuda("cuMemPoolSetAttribute", pool, attribute, value))
HIP(hipMemPoolSetAccess, (Handle pool, const void *access, size_t count), cuda("cuMemPoolSetAccess", pool, access, count))
HIP(hipMemPoolTrimTo, (Handle pool, size_t keep), cuda("cuMemPoolTrimTo", pool, keep))
HIP(hipMemGetInfo, (size_t * free_bytes, size_t *total), cuda("cuMemGetInfo", free_bytes, total))
HIP(hipMallocFromPoolAsync, (uint64_t * address, size_t bytes, Handle pool, Handle stream),
    cuda("cuMemAllocFromPoolAsync", address, bytes, pool, stream))
HIP(hipFreeAsync, (uint64_t address, Handle stream), cuda("cuMemFreeAsync", address, stream))
HIP(hipHostMalloc, (void **address, size_t bytes, unsigned flags), cuda("cuMemHostAlloc", address, bytes, flags))
HIP(hipHostFree, (void *address), cuda("cuMemFreeHost", address))
HIP(hipPointerGetAttribute, (void *value, int attribute, uint64_t address),
    cuda("cuPointerGetAttribute", value, attribute, address))
HIP(hipMemcpyHtoDAsync, (uint64_t to, const void *from, size_t bytes, Handle stream),
    cuda("cuMemcpyHtoDAsync", to, from, bytes, stream))
HIP(hipMemcpyDtoHAsync, (void *to, uint64_t from, size_t bytes, Handle stream),
    cuda("cuMemcpyDtoHAsync", to, from, bytes, stream))
HIP(hipMemcpyDtoDAsync, (uint64_t to, uint64_t from, size_t bytes, Handle stream),
    cuda("cuMemcpyDtoDAsync", to, from, bytes, stream))
HIP(hipMemsetD8Async, (uint64_t to, unsigned char value, size_t bytes, Handle stream),
    cuda("cuMemsetD8Async", to, value, bytes, stream))
HIP(hipStreamCreateWithFlags, (Handle * stream, unsigned flags), cuda("cuStreamCreate", stream, flags))
HIP(hipStreamDestroy, (Handle stream), cuda("cuStreamDestroy", stream))
HIP(hipStreamSynchronize, (Handle stream), cuda("cuStreamSynchronize", stream))
HIP(hipStreamQuery, (Handle stream), cuda("cuStreamQuery", stream))
HIP(hipStreamWaitEvent, (Handle stream, Handle event, unsigned flags), cuda("cuStreamWaitEvent", stream, event, flags))
HIP(hipStreamIsCapturing, (Handle stream, int *status), cuda("cuStreamIsCapturing", stream, status))
HIP(hipLaunchHostFunc, (Handle stream, void (*function)(void *), void *argument),
    cuda("cuLaunchHostFunc", stream, function, argument))
HIP_PLAIN(hipThreadExchangeStreamCaptureMode, (int *mode), cuda("cuThreadExchangeStreamCaptureMode", mode))
HIP(hipStreamBeginCapture, (Handle stream, int mode), cuda("cuStreamBeginCapture", stream, mode))
HIP(hipStreamEndCapture, (Handle stream, Handle *graph), cuda("cuStreamEndCapture", stream, graph))
HIP(hipGraphDestroy, (Handle graph), cuda("cuGraphDestroy", graph))
HIP(hipGraphInstantiateWithFlags, (Handle * executable, Handle graph, unsigned long long flags),
    cuda("cuGraphInstantiateWithFlags", executable, graph, flags))
HIP(hipGraphLaunch, (Handle executable, Handle stream), cuda("cuGraphLaunch", executable, stream))
HIP(hipGraphExecDestroy, (Handle executable), cuda("cuGraphExecDestroy", executable))
HIP(hipEventCreateWithFlags, (Handle * event, unsigned flags), cuda("cuEventCreate", event, flags))
HIP(hipEventDestroy, (Handle event), cuda("cuEventDestroy", event))
HIP(hipEventRecord, (Handle event, Handle stream), cuda("cuEventRecord", event, stream))
HIP(hipEventQuery, (Handle event), cuda("cuEventQuery", event))
HIP(hipEventSynchronize, (Handle event), cuda("cuEventSynchronize", event))
HIP(hipEventElapsedTime, (float *milliseconds, Handle start, Handle end), cuda("cuEventElapsedTime", milliseconds, start, end))
HIP(hipModuleLoadData, (Handle * module, const void *image), cuda("cuModuleLoadData", module, image))
HIP(hipModuleUnload, (Handle module), cuda("cuModuleUnload", module))
HIP(hipModuleGetFunction, (Handle * function, Handle module, const char *name),
    cuda("cuModuleGetFunction", function, module, name))
HIP(hipFuncGetAttribute, (int *value, int attribute, Handle function), cuda("cuFuncGetAttribute", value, attribute, function))

extern "C" __attribute__((visibility("default"))) int hipMemcpyPeerAsync(uint64_t to, int to_device, uint64_t from,
                                                                         int from_device, size_t bytes, Handle stream) {
    Current current;
    Handle to_context = nullptr, from_context = nullptr;
    cuda("cuDevicePrimaryCtxRetain", &to_context, to_device);
    cuda("cuDevicePrimaryCtxRetain", &from_context, from_device);
    return cuda("cuMemcpyPeerAsync", to, to_context, from, from_context, bytes, stream);
}

extern "C" __attribute__((visibility("default"))) int hipDeviceEnablePeerAccess(int peer, unsigned flags) {
    Current current;
    Handle context = nullptr;
    cuda("cuDevicePrimaryCtxRetain", &context, peer);
    return cuda("cuCtxEnablePeerAccess", context, flags);
}

extern "C" __attribute__((visibility("default"))) int hipGraphExecUpdate(Handle executable, Handle graph, Handle *node,
                                                                         int *result) {
    Current current;
    struct {
        int result;
        Handle node, from;
    } info{};
    int status = cuda("cuGraphExecUpdate", executable, graph, static_cast<void *>(&info));
    *node = info.node;
    *result = info.result;
    return status;
}

extern "C" __attribute__((visibility("default"))) int hipModuleLaunchKernel(Handle function, unsigned grid_x, unsigned grid_y,
                                                                            unsigned grid_z, unsigned block_x,
                                                                            unsigned block_y, unsigned block_z,
                                                                            unsigned shared, Handle stream,
                                                                            void **arguments, void **extra) {
    Current current;
    // HIP gives local memory up to the device's limit without asking, CUDA wants to be told.
    cuda("cuFuncSetAttribute", function, 8, static_cast<int>(shared));
    struct {
        unsigned grid[3], block[3], shared;
        Handle stream;
        void *attributes;
        unsigned count;
    } configuration{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, nullptr, 0};
    return cuda("cuLaunchKernelEx", static_cast<void *>(&configuration), function, arguments, extra);
}
