// The CUDA driver, loaded from libcuda.so.1. Declared here is what is used, so that no CUDA header is needed to build.
#include <dlfcn.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "device/gpu/library.h"

namespace tessera::core::gpu {

namespace {

// Entry points are asked for by the version of the interface they belong to; any driver of CUDA 12.0 or later has them.
constexpr int interface_version = 12000;
constexpr int oldest_driver = 12000;
constexpr int attribute_max_threads = 1, attribute_multiprocessors = 16, attribute_major = 75, attribute_minor = 76,
              attribute_shared = 97;
constexpr int function_dynamic_shared = 8, function_large_clusters = 14;
constexpr unsigned launch_cluster = 4; // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
constexpr unsigned launch_early = 6;   // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
constexpr unsigned portable_cluster = 8;
constexpr int first_with_early_in_graphs = 12030;

struct LaunchAttribute {
    unsigned id;
    unsigned padding;
    union {
        unsigned dimensions[3];
        int allowed;
        char bytes[64];
    } value;
};
static_assert(sizeof(LaunchAttribute) == 72, "CUlaunchAttribute");

struct LaunchConfiguration {
    unsigned grid[3], block[3], shared;
    Handle stream;
    LaunchAttribute *attributes;
    unsigned attribute_count;
};
static_assert(sizeof(LaunchConfiguration) == 56, "CUlaunchConfig");

struct GraphUpdateResult {
    int result;
    Handle error_node, from_node;
};

using GetAddress = Result (*)(const char *name, void **address, int version, uint64_t flags, int *status);
using GetAddressOld = Result (*)(const char *name, void **address, int version, uint64_t flags);

class CudaDriver final : public Driver {
  public:
    explicit CudaDriver(const std::string &file) : Driver("CUDA", file) {
        const char *usual[] = {"libcuda.so.1", "libcuda.so"};
        const char *given = file.c_str();
        library_handle_ = file.empty() ? open_library("CUDA driver", usual, 2, library_) : open_library("CUDA driver", &given, 1, library_);
        check_version();
#define TSR_GPU_LOAD(member, parameters, cuda, hip) load(functions_.member, cuda);
        TSR_GPU_FUNCTIONS(TSR_GPU_LOAD)
#undef TSR_GPU_LOAD
        load(retain_context_, "cuDevicePrimaryCtxRetain");
        load(current_, "cuCtxGetCurrent");
        load(push_, "cuCtxPushCurrent");
        load(pop_, "cuCtxPopCurrent");
        load(stream_context_, "cuStreamGetCtx");
        load(set_function_attribute_, "cuFuncSetAttribute");
        load(launch_, "cuLaunchKernelEx");
        load(copy_peer_, "cuMemcpyPeerAsync");
        load(enable_peer_, "cuCtxEnablePeerAccess");
        load(graph_update_, "cuGraphExecUpdate");
        load(encode_tiled_, "cuTensorMapEncodeTiled");
        read_version_and_count();
        contexts_.resize(static_cast<size_t>(devices_));
    }

    DeviceProperties properties(int device) const override {
        char name[256] = {};
        DeviceProperties out;
        check(functions_.device_name(name, sizeof name - 1, device), "the device's name");
        check(functions_.device_memory(&out.memory, device), "the device's memory");
        out.name = name;
        out.major = attribute(attribute_major, device);
        out.minor = attribute(attribute_minor, device);
        out.multiprocessors = attribute(attribute_multiprocessors, device);
        out.shared_bytes = attribute(attribute_shared, device);
        out.max_threads = attribute(attribute_max_threads, device);
        out.level = format("sm_%d%d", out.major, out.minor);
        return out;
    }

    Handle context(int device) const override {
        std::lock_guard<std::mutex> hold(lock_);
        Handle &context = contexts_[static_cast<size_t>(device)];
        if (!context)
            check(retain_context_(&context, device), "the device's primary context");
        return context;
    }

    Handle enter(int device) const override {
        Handle mine = contexts_[static_cast<size_t>(device)], before = nullptr;
        if (!mine)
            mine = context(device);
        if (current_(&before) == success && before == mine)
            return nullptr;
        check(push_(mine), "the device's primary context cannot be made current");
        return mine;
    }

    void leave(Handle pushed) const override {
        if (pushed)
            pop_(&pushed);
    }

    int device_of_stream(Handle stream) const override {
        Handle context = nullptr;
        check(stream_context_(stream, &context), "the stream's context");
        std::lock_guard<std::mutex> hold(lock_);
        for (size_t i = 0; i < contexts_.size(); ++i)
            if (contexts_[i] == context)
                return static_cast<int>(i);
        return -1;
    }

    Result allow_shared(Handle function, int bytes) const override {
        return set_function_attribute_(function, function_dynamic_shared, bytes);
    }

    Result launch(Handle function, const Launch &l, Handle stream, void **arguments) const override {
        LaunchConfiguration c{};
        std::memcpy(c.grid, l.grid, sizeof c.grid);
        c.block[0] = l.threads;
        c.block[1] = c.block[2] = 1;
        c.shared = l.shared;
        c.stream = stream;
        LaunchAttribute attributes[2] = {};
        c.attributes = attributes;
        unsigned blocks = l.cluster[0] * l.cluster[1] * l.cluster[2];
        if (blocks > 1) {
            LaunchAttribute &cluster = attributes[c.attribute_count++];
            cluster.id = launch_cluster;
            std::memcpy(cluster.value.dimensions, l.cluster, sizeof l.cluster);
            if (blocks > portable_cluster)
                set_function_attribute_(function, function_large_clusters, 1);
        }
        if (l.early && version_ >= first_with_early_in_graphs) {
            LaunchAttribute &early = attributes[c.attribute_count++];
            early.id = launch_early;
            early.value.allowed = 1;
        }
        return launch_(&c, function, arguments, nullptr);
    }

    Result copy_peer(Address to, int to_device, Address from, int from_device, size_t bytes, Handle stream) const override {
        return copy_peer_(to, context(to_device), from, context(from_device), bytes, stream);
    }

    Result enable_peer(int peer) const override { return enable_peer_(context(peer), 0); }

    Result graph_update(Handle executable, Handle graph) const override {
        GraphUpdateResult result{};
        return graph_update_(executable, graph, &result);
    }

    Result encode(TensorMap &map, const TensorMapLayout &m, Address base) const override {
        static constexpr uint32_t ones[5] = {1, 1, 1, 1, 1};
        return encode_tiled_(&map, m.type, m.rank, base, m.shape, m.strides, m.box, ones, m.interleave, m.swizzle,
                             m.l2_promotion, m.fill);
    }

  private:
    void *symbol(const char *name) const { return ::dlsym(library_handle_, name); }

    // Before anything else is asked for: an old driver lacks entry points, and the reason must not be their names.
    void check_version() {
        auto version_of = reinterpret_cast<Result (*)(int *)>(symbol("cuDriverGetVersion"));
        if (!version_of)
            fail(Code::Device, "%s is no CUDA driver: it has no cuDriverGetVersion", library_.c_str());
        version_of(&version_);
        get_address_ = reinterpret_cast<GetAddress>(symbol("cuGetProcAddress_v2"));
        get_address_old_ = reinterpret_cast<GetAddressOld>(symbol("cuGetProcAddress"));
        if (version_ < oldest_driver || (!get_address_ && !get_address_old_))
            fail(Code::Device,
                 "the NVIDIA driver (%s) supports CUDA %d.%d, Tessera needs %d.%d or later; install driver 525 or later",
                 library_.c_str(), version_ / 1000, version_ % 1000 / 10, oldest_driver / 1000, oldest_driver % 1000 / 10);
    }

    template <class Function> void load(Function &function, const char *name) {
        void *address = nullptr;
        int status = 0;
        Result result = get_address_ ? get_address_(name, &address, interface_version, 0, &status)
                                     : get_address_old_(name, &address, interface_version, 0);
        if (result != success || !address)
            fail(Code::Device, "the CUDA driver %s (CUDA %d.%d) has no function %s; install a newer driver", library_.c_str(),
                 version_ / 1000, version_ % 1000 / 10, name);
        function = reinterpret_cast<Function>(address);
    }

    int attribute(int which, int device) const {
        int value = 0;
        check(functions_.device_attribute(&value, which, device), "the device's properties");
        return value;
    }

    void *library_handle_ = nullptr;
    GetAddress get_address_ = nullptr;
    GetAddressOld get_address_old_ = nullptr;
    Result (*retain_context_)(Handle *context, int device) = nullptr;
    Result (*current_)(Handle *context) = nullptr;
    Result (*push_)(Handle context) = nullptr;
    Result (*pop_)(Handle *context) = nullptr;
    Result (*stream_context_)(Handle stream, Handle *context) = nullptr;
    Result (*set_function_attribute_)(Handle function, int attribute, int value) = nullptr;
    Result (*launch_)(const LaunchConfiguration *, Handle function, void **arguments, void **extra) = nullptr;
    Result (*copy_peer_)(Address, Handle to, Address, Handle from, size_t, Handle stream) = nullptr;
    Result (*enable_peer_)(Handle context, unsigned flags) = nullptr;
    Result (*graph_update_)(Handle executable, Handle graph, GraphUpdateResult *) = nullptr;
    Result (*encode_tiled_)(TensorMap *, int type, uint32_t rank, Address base, const uint64_t *shape,
                            const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides, int interleave,
                            int swizzle, int l2_promotion, int fill) = nullptr;
    mutable std::mutex lock_; // of the list
    mutable std::vector<Handle> contexts_; // primary contexts, retained at the first use and kept
};

DriverSlot &slot() {
    static DriverSlot *one =
        new DriverSlot("CUDA", [](const std::string &file) -> std::unique_ptr<Driver> { return std::make_unique<CudaDriver>(file); });
    return *one;
}

} // namespace

const Driver &cuda_driver() { return slot().get(); }
void set_cuda_library(const std::string &file) { slot().set_file(file); }

} // namespace tessera::core::gpu
