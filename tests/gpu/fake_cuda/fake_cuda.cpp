// A CUDA driver library for tests on machines without a GPU: the entry points that the runtime uses, over the model.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>

#include "device_model.h"

using namespace fake;
using Handle = void *;

namespace {

thread_local std::vector<int> current; // devices whose primary contexts are current, the last on top
char contexts[16];                      // their addresses are the handles of the primary contexts

int device_of_context(Handle context) {
    auto offset = static_cast<char *>(context) - contexts;
    return offset >= 0 && offset < Model::get().devices ? static_cast<int>(offset) : -1;
}

// Counts a call, and gives the failure that a test wants or that spoils the device.
struct Call {
    explicit Call(const char *name) : model(Model::get()), hold(model.lock) {
        ++model.calls[name];
        auto wanted = model.failures.find(name);
        if (wanted != model.failures.end()) {
            result = wanted->second;
            model.failures.erase(wanted);
        } else if (!current.empty() && model.sticky.count(current.back())) {
            result = model.sticky[current.back()];
        }
    }
    Model &model;
    std::lock_guard<std::recursive_mutex> hold;
    int result = success;
};

#define BEGIN(name)                                                                                                      \
    Call call(name);                                                                                                     \
    if (call.result != success)                                                                                          \
        return call.result;                                                                                              \
    Model &model = call.model;                                                                                           \
    (void)model

// The stream of a call that needs its device to be current.
#define STREAM(variable, handle)                                                                                         \
    Stream *variable = model.stream(handle);                                                                             \
    if (!variable) {                                                                                                     \
        model.misuse("a stream that does not exist");                                                                    \
        return invalid_handle;                                                                                           \
    }                                                                                                                    \
    if (current.empty() || current.back() != (variable)->device) {                                                       \
        model.misuse("a call on a stream whose context is not current");                                                 \
        return invalid_context;                                                                                          \
    }

struct Function {
    const Kernel *kernel;
    int shared = 48 << 10;
};

struct Module {
    std::string text;
    std::list<Function> functions; // those that were asked for
};

struct Pool {
    int device;
};

struct Configuration {
    unsigned grid[3], block[3], shared;
    Handle stream;
    struct Attribute {
        unsigned id, padding;
        unsigned value[16];
    } *attributes;
    unsigned attribute_count;
};

size_t parameter_bytes(char kind) { return kind == 'i' ? 4 : kind == 'm' ? 128 : 8; }

int init(unsigned) {
    BEGIN("cuInit");
    return model.devices > 0 ? success : no_device;
}
int driver_version(int *version) {
    const char *wanted = std::getenv("FAKE_CUDA_VERSION");
    *version = wanted ? std::atoi(wanted) : 12080;
    return success;
}
int error_name(int error, const char **text) {
    *text = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR";
    return success;
}
int error_string(int error, const char **text) {
    *text = error == 2 ? "out of memory" : error == 700 ? "an illegal memory access was encountered" : "an error";
    return success;
}
int device_count(int *count) {
    *count = Model::get().devices;
    return success;
}
int device_get(int *device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < Model::get().devices ? success : invalid_device;
}
int device_name(char *name, int bytes, int device) {
    std::snprintf(name, static_cast<size_t>(bytes), "Model GPU %d", device);
    return success;
}
int total_memory(size_t *bytes, int) {
    *bytes = Model::get().memory;
    return success;
}
int device_attribute(int *value, int attribute, int) {
    switch (attribute) {
    case 75:
        *value = 9;
        return success;
    case 76:
        *value = 0;
        return success;
    case 16:
        *value = 132;
        return success;
    case 97:
        *value = 227 << 10;
        return success;
    case 1:
        *value = 1024;
        return success;
    }
    Model::get().misuse("an attribute that the model does not know");
    return invalid_value;
}
int can_access_peer(int *can, int, int) {
    *can = 1;
    return success;
}
int retain_context(Handle *context, int device) {
    BEGIN("cuDevicePrimaryCtxRetain");
    *context = contexts + device;
    return success;
}
int get_current(Handle *context) {
    *context = current.empty() ? nullptr : contexts + current.back();
    return success;
}
int push_current(Handle context) {
    int device = device_of_context(context);
    if (device < 0)
        return invalid_context;
    current.push_back(device);
    return success;
}
int pop_current(Handle *context) {
    if (current.empty()) {
        Model::get().misuse("a context is popped from an empty stack");
        return invalid_context;
    }
    *context = contexts + current.back();
    current.pop_back();
    return success;
}
int stream_context(Handle handle, Handle *context) {
    BEGIN("cuStreamGetCtx");
    Stream *stream = model.stream(handle);
    if (!stream)
        return invalid_handle;
    *context = contexts + stream->device;
    return success;
}

struct PoolProperties {
    int allocation, handles, place, device;
};
int pool_create(Handle *pool, const PoolProperties *properties) {
    BEGIN("cuMemPoolCreate");
    if (properties->allocation != 1 || properties->place != 1 || properties->device >= model.devices)
        return invalid_value;
    *pool = model.keep(new Pool{properties->device});
    return success;
}
int pool_set(Handle, int attribute, void *) { return attribute == 4 ? success : invalid_value; }
int pool_open(Handle pool, const int *access, size_t count) { // place, device, flags
    BEGIN("cuMemPoolSetAccess");
    if (!pool || count != 1 || access[0] != 1 || access[2] != 3)
        return invalid_value;
    return success;
}
int enable_peer(Handle context, unsigned flags) {
    BEGIN("cuCtxEnablePeerAccess");
    const int peer = device_of_context(context);
    if (peer < 0 || flags)
        return invalid_value;
    return success;
}
int pool_trim(Handle, size_t) {
    BEGIN("cuMemPoolTrimTo");
    return success;
}
int memory_info(size_t *free_bytes, size_t *total) {
    BEGIN("cuMemGetInfo");
    *total = model.memory;
    *free_bytes = model.memory - model.used;
    return success;
}
int allocate(uint64_t *address, size_t bytes, Handle pool, Handle handle) {
    BEGIN("cuMemAllocFromPoolAsync");
    STREAM(stream, handle);
    uintptr_t out = 0;
    int result = model.allocate(out, bytes, static_cast<Pool *>(pool)->device, *stream);
    *address = out;
    return result;
}
int allocate_plainly(uint64_t *address, size_t bytes, Handle handle) {
    BEGIN("cuMemAllocAsync");
    STREAM(stream, handle);
    uintptr_t out = 0;
    int result = model.allocate(out, bytes, stream->device, *stream);
    *address = out;
    return result;
}
int release(uint64_t address, Handle handle) {
    BEGIN("cuMemFreeAsync");
    STREAM(stream, handle);
    return model.release(address, *stream);
}
int allocate_host(void **address, size_t bytes, unsigned) {
    BEGIN("cuMemHostAlloc");
    *address = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    model.pinned[reinterpret_cast<uintptr_t>(*address)] = bytes;
    return success;
}
int release_host(void *address) {
    BEGIN("cuMemFreeHost");
    if (!model.pinned.erase(reinterpret_cast<uintptr_t>(address))) {
        model.misuse("release of host memory that is not pinned");
        return invalid_value;
    }
    std::free(address);
    return success;
}
int pointer_attribute(void *value, int attribute, uint64_t address) {
    BEGIN("cuPointerGetAttribute");
    const Block *block = model.block_of(address);
    if (!block && !model.is_pinned(address))
        return invalid_value;
    int out = attribute == 2 ? (block ? 2 : 1) : (block ? block->device : 0);
    std::memcpy(value, &out, sizeof out);
    return success;
}

int copy_in(uint64_t to, const void *from, size_t bytes, Handle handle) {
    BEGIN("cuMemcpyHtoDAsync");
    STREAM(stream, handle);
    int device = stream->device;
    auto write = [&model, to, bytes, device](const void *data) {
        if (model.access(to, bytes, device, "copy to the device"))
            std::memcpy(reinterpret_cast<void *>(to), data, bytes);
    };
    if (model.is_pinned(reinterpret_cast<uintptr_t>(from)) || stream->capture) {
        model.put(*stream, {"copy in " + std::to_string(bytes), [write, from] { write(from); }});
    } else { // pageable memory is staged before the call returns
        auto staged = std::make_shared<std::vector<char>>(static_cast<const char *>(from), static_cast<const char *>(from) + bytes);
        model.put(*stream, {"copy in", [write, staged] { write(staged->data()); }});
    }
    return success;
}
int copy_out(void *to, uint64_t from, size_t bytes, Handle handle) {
    BEGIN("cuMemcpyDtoHAsync");
    STREAM(stream, handle);
    int device = stream->device;
    model.put(*stream, {"copy out " + std::to_string(bytes), [&model, to, from, bytes, device] {
                            if (model.access(from, bytes, device, "copy to the host"))
                                std::memcpy(to, reinterpret_cast<void *>(from), bytes);
                        }});
    return success;
}
int copy_devices(uint64_t to, int to_device, uint64_t from, int from_device, size_t bytes, Stream &stream) {
    Model &model = Model::get();
    model.put(stream, {"copy " + std::to_string(bytes), [&model, to, from, bytes, to_device, from_device] {
                           if (model.access(from, bytes, from_device, "copy") && model.access(to, bytes, to_device, "copy"))
                               std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes);
                       }});
    return success;
}
int copy_within(uint64_t to, uint64_t from, size_t bytes, Handle handle) {
    BEGIN("cuMemcpyDtoDAsync");
    STREAM(stream, handle);
    return copy_devices(to, stream->device, from, stream->device, bytes, *stream);
}
int copy_peer(uint64_t to, Handle to_context, uint64_t from, Handle from_context, size_t bytes, Handle handle) {
    BEGIN("cuMemcpyPeerAsync");
    STREAM(stream, handle);
    return copy_devices(to, device_of_context(to_context), from, device_of_context(from_context), bytes, *stream);
}
int fill(uint64_t to, unsigned char value, size_t bytes, Handle handle) {
    BEGIN("cuMemsetD8Async");
    STREAM(stream, handle);
    int device = stream->device;
    model.put(*stream, {"fill " + std::to_string(bytes), [&model, to, value, bytes, device] {
                            if (model.access(to, bytes, device, "fill"))
                                std::memset(reinterpret_cast<void *>(to), value, bytes);
                        }});
    return success;
}

int stream_create(Handle *handle, unsigned flags) {
    BEGIN("cuStreamCreate");
    if (current.empty())
        return invalid_context;
    if (flags != 1)
        model.misuse("a stream that waits for the default stream");
    auto *stream = model.keep(new Stream);
    stream->device = current.back();
    model.streams.insert(stream);
    *handle = stream;
    return success;
}
int stream_destroy(Handle handle) {
    BEGIN("cuStreamDestroy");
    auto *stream = static_cast<Stream *>(handle);
    if (!model.streams.count(stream)) {
        model.misuse("a stream is destroyed that does not exist");
        return invalid_handle;
    }
    model.run(*stream);
    model.streams.erase(stream); // its memory stays: events may still name it
    return success;
}
int after_work(Model &model, int device) { return model.sticky.count(device) ? model.sticky[device] : success; }
int stream_wait(Handle handle) {
    BEGIN("cuStreamSynchronize");
    STREAM(stream, handle);
    if (stream->capture)
        return capture_unsupported;
    model.run(*stream);
    return after_work(model, stream->device);
}
int stream_query(Handle handle) {
    BEGIN("cuStreamQuery");
    STREAM(stream, handle);
    if (stream->capture)
        return capture_unsupported;
    model.step(*stream);
    int result = after_work(model, stream->device);
    return result ? result : stream->done < stream->put ? not_ready : success;
}
int stream_wait_event(Handle handle, Handle event_handle, unsigned) {
    BEGIN("cuStreamWaitEvent");
    STREAM(stream, handle);
    auto *event = static_cast<Event *>(event_handle);
    if (!event->point)
        return success;
    Point point = *event->point;
    if (stream->capture) {
        model.misuse("a capture waits for work outside it");
        return capture_unsupported;
    }
    if (point.stream != stream)
        model.put(*stream, {"wait", [&model, point] {
                                if (model.stream(point.stream)) // one that is destroyed has done its work
                                    model.run(*point.stream, point.sequence);
                            }});
    return success;
}
int stream_capturing(Handle handle, int *status) {
    BEGIN("cuStreamIsCapturing");
    Stream *stream = model.stream(handle);
    *status = stream && stream->capture ? 1 : 0;
    return success;
}
int host_call(Handle handle, void (*function)(void *), void *argument) {
    BEGIN("cuLaunchHostFunc");
    STREAM(stream, handle);
    model.put(*stream, {"host", [function, argument] { function(argument); }});
    return success;
}

int event_create(Handle *handle, unsigned flags) {
    BEGIN("cuEventCreate");
    if (current.empty())
        return invalid_context;
    auto *event = model.keep(new Event);
    event->device = current.back();
    event->timed = (flags & 2) == 0;
    *handle = event;
    ++model.calls["events alive"];
    return success;
}
int event_destroy(Handle handle) {
    BEGIN("cuEventDestroy");
    model.kept.erase(handle);
    --model.calls["events alive"];
    return success;
}
int event_record(Handle handle, Handle stream_handle) {
    BEGIN("cuEventRecord");
    STREAM(stream, stream_handle);
    auto *event = static_cast<Event *>(handle);
    if (event->device != stream->device)
        return invalid_handle;
    if (stream->capture) {
        model.misuse("an event recorded in a capture");
        return capture_unsupported;
    }
    event->point = std::make_unique<Point>(Point{stream, stream->put});
    return success;
}
int event_query(Handle handle) {
    BEGIN("cuEventQuery");
    auto *event = static_cast<Event *>(handle);
    if (!event->point)
        return success;
    Point point = *event->point;
    if (point.stream->done < point.sequence)
        model.step(*point.stream);
    int result = after_work(model, event->device);
    return result ? result : point.stream->done < point.sequence ? not_ready : success;
}
int event_wait(Handle handle) {
    BEGIN("cuEventSynchronize");
    auto *event = static_cast<Event *>(handle);
    if (!event->point)
        return success;
    Point point = *event->point;
    model.run(*point.stream, point.sequence);
    return after_work(model, event->device);
}
int event_elapsed(float *milliseconds, Handle start, Handle end) {
    BEGIN("cuEventElapsedTime");
    if (!static_cast<Event *>(start)->timed || !static_cast<Event *>(end)->timed)
        return invalid_handle;
    const auto *first = static_cast<Event *>(start), *last = static_cast<Event *>(end);
    if (!first->point || !last->point)
        return invalid_handle;
    *milliseconds = static_cast<float>(last->point->sequence - first->point->sequence);
    return success;
}

int module_load(Handle *module, const void *image) {
    BEGIN("cuModuleLoadData");
    const char *text = static_cast<const char *>(image);
    if (std::memcmp(text, "\x7f"
                          "ELF",
                    4) == 0)
        return no_binary;
    if (!std::strstr(text, ".version"))
        return invalid_ptx;
    *module = model.keep(new Module{text, {}});
    ++model.calls["modules alive"];
    return success;
}
int module_unload(Handle module) {
    BEGIN("cuModuleUnload");
    model.kept.erase(module);
    --model.calls["modules alive"];
    return success;
}
int module_function(Handle *function, Handle module, const char *name) {
    BEGIN("cuModuleGetFunction");
    auto *from = static_cast<Module *>(module);
    const Kernel *kernel = find_kernel(name);
    if (!kernel || from->text.find(std::string(".entry ") + name) == std::string::npos)
        return not_found;
    *function = &from->functions.emplace_back(Function{kernel});
    return success;
}
int function_attribute(int *value, int, Handle) {
    *value = 0;
    return success;
}
int set_function_attribute(Handle handle, int attribute, int value) {
    BEGIN("cuFuncSetAttribute");
    if (attribute == 8 && value > (227 << 10))
        return invalid_value;
    if (attribute == 8)
        static_cast<Function *>(handle)->shared = value;
    return success;
}
int launch(const Configuration *c, Handle handle, void **arguments, void **) {
    BEGIN("cuLaunchKernelEx");
    STREAM(stream, c->stream);
    auto *function = static_cast<Function *>(handle);
    const unsigned threads = c->block[0] * c->block[1] * c->block[2];
    if (threads == 0 || threads > 1024 || c->grid[0] == 0 || c->grid[1] == 0 || c->grid[2] == 0 || c->grid[1] > 65535 ||
        c->grid[2] > 65535 || c->shared > static_cast<unsigned>(function->shared))
        return invalid_value;
    for (unsigned i = 0; i < c->attribute_count; ++i) {
        model.calls["early launches"] += c->attributes[i].id == 6 && c->attributes[i].value[0] == 1;
        for (unsigned k = 0; k < 3 && c->attributes[i].id == 4; ++k)
            if (c->grid[k] % c->attributes[i].value[k])
                return invalid_value;
    }
    auto values = std::make_shared<Arguments>();
    for (const char *kind = function->kernel->parameters; *kind; ++kind) {
        const char *value = static_cast<const char *>(*arguments++);
        values->values.emplace_back(value, value + parameter_bytes(*kind));
    }
    values->device = stream->device;
    values->blocks = c->grid[0] * c->grid[1] * c->grid[2];
    values->threads = threads;
    // A graph update may change anything but the number and kinds of nodes.
    model.put(*stream, {std::string("launch ") + function->kernel->name, [values, kernel = function->kernel] { kernel->run(*values); }});
    return success;
}

int launch_plainly(Handle handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, Handle stream, void **arguments, void **more) {
    Configuration c = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, nullptr, 0};
    return launch(&c, handle, arguments, more);
}

int encode(void *map, int type, uint32_t rank, uint64_t base, const uint64_t *shape, const uint64_t *strides,
           const uint32_t *box, const uint32_t *steps, int, int, int, int) {
    BEGIN("cuTensorMapEncodeTiled");
    if (rank != 2 || base % 16 || strides[0] % 16 || box[0] == 0 || box[0] > 256 || box[1] == 0 || box[1] > 256 ||
        steps[0] != 1 || steps[1] != 1)
        return invalid_value;
    ModelTensorMap out{base, rank, {shape[0], shape[1]}, strides[0], {box[0], box[1]}, static_cast<uint64_t>(type)};
    std::memcpy(map, &out, sizeof out);
    return success;
}

int capture_mode(int *mode) {
    static thread_local int current_mode = 0;
    std::swap(current_mode, *mode);
    return success;
}
int capture_begin(Handle handle, int) {
    BEGIN("cuStreamBeginCapture");
    STREAM(stream, handle);
    if (stream->capture || handle == nullptr)
        return capture_unsupported;
    stream->capture = model.keep(new Graph);
    return success;
}
int capture_end(Handle handle, Handle *graph) {
    BEGIN("cuStreamEndCapture");
    STREAM(stream, handle);
    if (!stream->capture)
        return capture_unsupported;
    *graph = stream->capture;
    stream->capture = nullptr;
    return success;
}
int graph_destroy(Handle graph) {
    BEGIN("cuGraphDestroy");
    model.kept.erase(graph);
    return success;
}
int graph_instantiate(Handle *executable, Handle graph, unsigned long long) {
    BEGIN("cuGraphInstantiateWithFlags");
    *executable = model.keep(new Graph(*static_cast<Graph *>(graph)));
    ++model.calls["graphs alive"];
    return success;
}
int graph_update(Handle executable, Handle graph, void *) {
    BEGIN("cuGraphExecUpdate");
    auto *mine = static_cast<Graph *>(executable);
    const auto *given = static_cast<Graph *>(graph);
    bool same = std::equal(mine->operations.begin(), mine->operations.end(), given->operations.begin(), given->operations.end(),
                           [](const Operation &a, const Operation &b) { return a.kind == b.kind; });
    if (!same)
        return update_failure;
    mine->operations = given->operations;
    return success;
}
int graph_launch(Handle executable, Handle handle) {
    BEGIN("cuGraphLaunch");
    STREAM(stream, handle);
    for (const Operation &o : static_cast<Graph *>(executable)->operations)
        model.put(*stream, o);
    return success;
}
int graph_release(Handle executable) {
    BEGIN("cuGraphExecDestroy");
    model.kept.erase(executable);
    --model.calls["graphs alive"];
    return success;
}

const std::map<std::string, void *> &entry_points() {
    auto p = [](auto *function) { return reinterpret_cast<void *>(function); };
    static const std::map<std::string, void *> table = {
        {"cuInit", p(init)},
        {"cuDriverGetVersion", p(driver_version)},
        {"cuGetErrorName", p(error_name)},
        {"cuGetErrorString", p(error_string)},
        {"cuDeviceGetCount", p(device_count)},
        {"cuDeviceGet", p(device_get)},
        {"cuDeviceGetName", p(device_name)},
        {"cuDeviceTotalMem", p(total_memory)},
        {"cuDeviceGetAttribute", p(device_attribute)},
        {"cuDeviceCanAccessPeer", p(can_access_peer)},
        {"cuDevicePrimaryCtxRetain", p(retain_context)},
        {"cuCtxGetCurrent", p(get_current)},
        {"cuCtxPushCurrent", p(push_current)},
        {"cuCtxPopCurrent", p(pop_current)},
        {"cuStreamGetCtx", p(stream_context)},
        {"cuMemPoolCreate", p(pool_create)},
        {"cuMemPoolSetAttribute", p(pool_set)},
        {"cuMemPoolSetAccess", p(pool_open)},
        {"cuCtxEnablePeerAccess", p(enable_peer)},
        {"cuMemPoolTrimTo", p(pool_trim)},
        {"cuMemGetInfo", p(memory_info)},
        {"cuMemAllocFromPoolAsync", p(allocate)},
        {"cuMemAllocAsync", p(allocate_plainly)},
        {"cuMemFreeAsync", p(release)},
        {"cuMemHostAlloc", p(allocate_host)},
        {"cuMemFreeHost", p(release_host)},
        {"cuPointerGetAttribute", p(pointer_attribute)},
        {"cuMemcpyHtoDAsync", p(copy_in)},
        {"cuMemcpyDtoHAsync", p(copy_out)},
        {"cuMemcpyDtoDAsync", p(copy_within)},
        {"cuMemcpyPeerAsync", p(copy_peer)},
        {"cuMemsetD8Async", p(fill)},
        {"cuStreamCreate", p(stream_create)},
        {"cuStreamDestroy", p(stream_destroy)},
        {"cuStreamSynchronize", p(stream_wait)},
        {"cuStreamQuery", p(stream_query)},
        {"cuStreamWaitEvent", p(stream_wait_event)},
        {"cuStreamIsCapturing", p(stream_capturing)},
        {"cuThreadExchangeStreamCaptureMode", p(capture_mode)},
        {"cuStreamBeginCapture", p(capture_begin)},
        {"cuStreamEndCapture", p(capture_end)},
        {"cuLaunchHostFunc", p(host_call)},
        {"cuGraphDestroy", p(graph_destroy)},
        {"cuGraphInstantiateWithFlags", p(graph_instantiate)},
        {"cuGraphExecUpdate", p(graph_update)},
        {"cuGraphLaunch", p(graph_launch)},
        {"cuGraphExecDestroy", p(graph_release)},
        {"cuEventCreate", p(event_create)},
        {"cuEventDestroy", p(event_destroy)},
        {"cuEventRecord", p(event_record)},
        {"cuEventQuery", p(event_query)},
        {"cuEventSynchronize", p(event_wait)},
        {"cuEventElapsedTime", p(event_elapsed)},
        {"cuModuleLoadData", p(module_load)},
        {"cuModuleUnload", p(module_unload)},
        {"cuModuleGetFunction", p(module_function)},
        {"cuFuncGetAttribute", p(function_attribute)},
        {"cuFuncSetAttribute", p(set_function_attribute)},
        {"cuLaunchKernelEx", p(launch)},
        {"cuLaunchKernel", p(launch_plainly)},
        {"cuTensorMapEncodeTiled", p(encode)},
    };
    return table;
}

} // namespace

Stream *Model::stream(void *handle) {
    if (handle)
        return streams.count(static_cast<Stream *>(handle)) ? static_cast<Stream *>(handle) : nullptr;
    return current.empty() ? nullptr : default_streams[current.back()].get();
}

extern "C" {

int cuDriverGetVersion(int *version) { return driver_version(version); }

int cuGetProcAddress_v2(const char *name, void **address, int version, uint64_t, int *status) {
    auto found = entry_points().find(name);
    *address = found == entry_points().end() || version < 11030 ? nullptr : found->second;
    *status = *address ? 0 : 1;
    return *address ? success : not_found;
}

// For tests: how often a function was called, or how many objects of a kind are alive.
int64_t fake_calls(const char *name) {
    std::lock_guard<std::recursive_mutex> hold(Model::get().lock);
    return Model::get().calls[name];
}
// The next call of a function fails with `result`.
void fake_fail_next(const char *name, int result) { Model::get().failures[name] = result; }
int64_t fake_live_blocks() { return static_cast<int64_t>(Model::get().live_blocks()); }
int64_t fake_used_bytes() { return static_cast<int64_t>(Model::get().used); }
// Operations that streams still have to do.
int64_t fake_pending() {
    Model &model = Model::get();
    std::lock_guard<std::recursive_mutex> hold(model.lock);
    int64_t count = 0;
    for (Stream *s : model.streams)
        count += static_cast<int64_t>(s->queue.size());
    return count;
}
// Misuses so far, one a line; "" when there was none. Valid until the next call.
const char *fake_misuses() {
    static std::string text;
    text.clear();
    for (const std::string &m : Model::get().misuses)
        text += m + "\n";
    return text.c_str();
}
// A device works again, as in a new process.
void fake_repair(int device) {
    Model::get().sticky.erase(device);
    Model::get().misuses.clear();
}
int fake_context_depth() { return static_cast<int>(current.size()); }
}
