// The HIP runtime, loaded from libamdhip64. Declared here is what is used, so that no HIP header is needed to build.
#include <dlfcn.h>

#include <cstring>

#include "device/gpu/library.h"

namespace tessera::core::gpu {

namespace {

constexpr int attribute_max_threads = 56, attribute_multiprocessors = 63, attribute_shared = 74;
// hipDeviceProp_tR0600: its size and where the name of the architecture stands in it.
constexpr size_t properties_bytes = 1472, architecture_offset = 1160, architecture_bytes = 256;

class HipDriver final : public Driver {
  public:
    explicit HipDriver(const std::string &file) : Driver("HIP", file) {
        const char *usual[] = {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"};
        const char *given = file.c_str();
        library_handle_ = file.empty() ? open_library("HIP driver", usual, 3, library_) : open_library("HIP driver", &given, 1, library_);
#define TSR_GPU_LOAD(member, parameters, cuda, hip) load(functions_.member, hip);
        TSR_GPU_FUNCTIONS(TSR_GPU_LOAD)
#undef TSR_GPU_LOAD
        load(get_properties_, "hipGetDevicePropertiesR0600");
        load(get_device_, "hipGetDevice");
        load(set_device_, "hipSetDevice");
        load(stream_device_, "hipStreamGetDevice");
        load(launch_, "hipModuleLaunchKernel");
        load(copy_peer_, "hipMemcpyPeerAsync");
        load(enable_peer_, "hipDeviceEnablePeerAccess");
        load(graph_update_, "hipGraphExecUpdate");
        read_version_and_count();
    }

    DeviceProperties properties(int device) const override {
        char name[256] = {};
        DeviceProperties out;
        check(functions_.device_name(name, sizeof name - 1, device), "the device's name");
        check(functions_.device_memory(&out.memory, device), "the device's memory");
        out.name = name;
        alignas(16) char properties[properties_bytes + 4096] = {}; // room for fields that later versions append
        check(get_properties_(properties, device), "the device's properties");
        // "gfx90a:sramecc+:xnack-": code for the architecture runs with either setting.
        const char *architecture = properties + architecture_offset;
        std::string level(architecture, ::strnlen(architecture, architecture_bytes));
        out.level = level.substr(0, level.find(':'));
        out.multiprocessors = attribute(attribute_multiprocessors, device);
        out.shared_bytes = attribute(attribute_shared, device);
        out.max_threads = attribute(attribute_max_threads, device);
        return out;
    }

    // HIP has a current device in place of a current context.
    Handle context(int device) const override { return as_handle(device); }

    Handle enter(int device) const override {
        int before = -1;
        check(get_device_(&before), "the current device");
        if (before == device)
            return nullptr;
        check(set_device_(device), "the device cannot be made current");
        return as_handle(before);
    }

    void leave(Handle before) const override {
        if (before)
            set_device_(static_cast<int>(reinterpret_cast<intptr_t>(before)) - 1);
    }

    int device_of_stream(Handle stream) const override {
        int device = -1;
        check(stream_device_(stream, &device), "the stream's device");
        return device;
    }

    // All of the local memory can be had without asking.
    Result allow_shared(Handle, int) const override { return success; }

    Result launch(Handle function, const Launch &l, Handle stream, void **arguments) const override {
        if (l.cluster[0] * l.cluster[1] * l.cluster[2] > 1)
            return invalid_value; // no clusters on AMD devices
        return launch_(function, l.grid[0], l.grid[1], l.grid[2], l.threads, 1, 1, l.shared, stream, arguments, nullptr);
    }

    Result copy_peer(Address to, int to_device, Address from, int from_device, size_t bytes, Handle stream) const override {
        return copy_peer_(to, to_device, from, from_device, bytes, stream);
    }

    Result enable_peer(int peer) const override { return enable_peer_(peer, 0); }

    Result graph_update(Handle executable, Handle graph) const override {
        Handle node = nullptr;
        int result = 0;
        return graph_update_(executable, graph, &node, &result);
    }

    Result encode(TensorMap &, const TensorMapLayout &, Address) const override { return invalid_value; }

  private:
    static Handle as_handle(int device) { return reinterpret_cast<Handle>(static_cast<intptr_t>(device) + 1); }

    template <class Function> void load(Function &function, const char *name) {
        void *address = ::dlsym(library_handle_, name);
        if (!address)
            fail(Code::Device, "the HIP runtime %s has no function %s; install ROCm 6.0 or later", library_.c_str(), name);
        function = reinterpret_cast<Function>(address);
    }

    int attribute(int which, int device) const {
        int value = 0;
        check(functions_.device_attribute(&value, which, device), "the device's properties");
        return value;
    }

    void *library_handle_ = nullptr;
    Result (*get_properties_)(void *properties, int device) = nullptr;
    Result (*get_device_)(int *device) = nullptr;
    Result (*set_device_)(int device) = nullptr;
    Result (*stream_device_)(Handle stream, int *device) = nullptr;
    Result (*launch_)(Handle function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared,
                      Handle stream, void **arguments, void **extra) = nullptr;
    Result (*copy_peer_)(Address to, int to_device, Address from, int from_device, size_t bytes, Handle stream) = nullptr;
    Result (*enable_peer_)(int peer, unsigned flags) = nullptr;
    Result (*graph_update_)(Handle executable, Handle graph, Handle *node, int *result) = nullptr;
};

DriverSlot &slot() {
    static DriverSlot *one =
        new DriverSlot("HIP", [](const std::string &file) -> std::unique_ptr<Driver> { return std::make_unique<HipDriver>(file); });
    return *one;
}

} // namespace

const Driver &hip_driver() { return slot().get(); }
void set_hip_library(const std::string &file) { slot().set_file(file); }

} // namespace tessera::core::gpu
