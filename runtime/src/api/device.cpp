// Devices, allocators, streams, events, copies, workspaces.
#include "api/device_handles.h"
#include "device/allocators.h"
#include "exec/copy.h"

using namespace tessera::core;

namespace tessera::core {

void check_struct(size_t size, size_t least, const char *name) {
    if (size < least)
        fail(Code::Argument, "%s.size is %zu, expected at least %zu", name, size, least);
}

} // namespace tessera::core

namespace {

DeviceId device_of(int32_t type, int32_t index) { return {static_cast<DeviceType>(type), index}; }

// The caller's functions of the C ABI, as the runtime calls them.
struct CallerFunctions {
    tsr_allocator_options options;

    static void *allocate(void *context, DeviceId device, size_t bytes, size_t alignment, void *stream) {
        const tsr_allocator_options &o = static_cast<CallerFunctions *>(context)->options;
        return o.allocate(o.context, static_cast<int32_t>(device.type), device.index, bytes, alignment, stream);
    }
    static void release(void *context, DeviceId device, void *pointer, size_t bytes, void *stream) {
        const tsr_allocator_options &o = static_cast<CallerFunctions *>(context)->options;
        o.release(o.context, static_cast<int32_t>(device.type), device.index, pointer, bytes, stream);
    }
    static void destroy(void *context) {
        std::unique_ptr<CallerFunctions> functions(static_cast<CallerFunctions *>(context));
        if (functions->options.destroy)
            functions->options.destroy(functions->options.context);
    }
};

} // namespace

tsr_status tsr_device_count(int32_t device_type, int32_t *count) {
    return guarded([&] {
        require(count, "count");
        *count = backend(static_cast<DeviceType>(device_type)).count();
    });
}

tsr_status tsr_device_name(int32_t device_type, int32_t device_index, tsr_text **out) {
    return guarded([&] {
        require(out, "name");
        *out = new tsr_text{backend(device_of(device_type, device_index)).name(device_index)};
    });
}

tsr_status tsr_allocator_create(const tsr_allocator_options *options, tsr_allocator **allocator) {
    return guarded([&] {
        require(allocator, "allocator");
        if (!options) {
            *allocator = new tsr_allocator(make_backend_allocator());
            return;
        }
        check_struct(options->size, sizeof(tsr_allocator_options), "tsr_allocator_options");
        require(reinterpret_cast<const void *>(options->allocate), "allocate");
        require(reinterpret_cast<const void *>(options->release), "release");
        auto functions = std::make_unique<CallerFunctions>(CallerFunctions{*options});
        auto handle = std::make_unique<tsr_allocator>(make_allocator(
            {functions.get(), CallerFunctions::allocate, CallerFunctions::release, CallerFunctions::destroy}));
        functions.release();
        *allocator = handle.release();
    });
}

tsr_status tsr_allocator_describe(const tsr_allocator *allocator, tsr_allocator_statistics *statistics) {
    return guarded([&] {
        require(allocator, "allocator");
        require(statistics, "statistics");
        check_struct(statistics->size, sizeof(tsr_allocator_statistics), "tsr_allocator_statistics");
        AllocatorStatistics s = allocator->object->statistics();
        statistics->bytes_in_use = static_cast<uint64_t>(s.bytes_in_use);
        statistics->peak_bytes = static_cast<uint64_t>(s.peak_bytes);
        statistics->allocations = static_cast<uint64_t>(s.allocations);
        statistics->releases = static_cast<uint64_t>(s.releases);
    });
}

tsr_status tsr_allocator_reset_peak(tsr_allocator *allocator) {
    return guarded([&] {
        require(allocator, "allocator");
        allocator->object->reset_peak();
    });
}

void tsr_allocator_retain(tsr_allocator *allocator) { retain_handle(allocator); }
void tsr_allocator_release(tsr_allocator *allocator) { release_handle(allocator); }

tsr_status tsr_tensor_copy(tsr_tensor *source, tsr_tensor *target, tsr_stream *stream) {
    return guarded([&] {
        require(source, "source");
        require(target, "target");
        copy_tensor(source->concrete(), target->concrete(), object_of(stream));
    });
}

tsr_status tsr_stream_create(int32_t device_type, int32_t device_index, tsr_stream **stream) {
    return guarded([&] {
        require(stream, "stream");
        *stream = new tsr_stream(backend(device_of(device_type, device_index)).create_stream(device_index));
    });
}

tsr_status tsr_stream_wrap(int32_t device_type, int32_t device_index, void *native, tsr_stream **stream) {
    return guarded([&] {
        require(stream, "stream");
        *stream = new tsr_stream(backend(device_of(device_type, device_index)).wrap_stream(device_index, native));
    });
}

void *tsr_stream_native(const tsr_stream *stream) { return stream ? stream->object->native() : nullptr; }

tsr_status tsr_stream_device(const tsr_stream *stream, int32_t *device_type, int32_t *device_index) {
    return guarded([&] {
        require(stream, "stream");
        require(device_type, "device_type");
        require(device_index, "device_index");
        *device_type = static_cast<int32_t>(stream->object->device().type);
        *device_index = stream->object->device().index;
    });
}

tsr_status tsr_stream_wait(tsr_stream *stream) {
    return guarded([&] {
        require(stream, "stream");
        stream->object->wait();
    });
}

tsr_status tsr_stream_query(tsr_stream *stream, int32_t *idle) {
    return guarded([&] {
        require(stream, "stream");
        require(idle, "idle");
        *idle = stream->object->idle();
    });
}

tsr_status tsr_stream_call(tsr_stream *stream, void (*function)(void *context), void *context) {
    return guarded([&] {
        require(stream, "stream");
        require(reinterpret_cast<const void *>(function), "function");
        stream->object->call([=] { function(context); });
    });
}

tsr_status tsr_stream_wait_event(tsr_stream *stream, tsr_event *event) {
    return guarded([&] {
        require(stream, "stream");
        require(event, "event");
        backend(stream->object->device().type).wait(*stream->object, event->object);
    });
}

void tsr_stream_retain(tsr_stream *stream) { retain_handle(stream); }
void tsr_stream_release(tsr_stream *stream) { release_handle(stream); }

tsr_status tsr_event_create(int32_t device_type, int32_t device_index, tsr_event **event) {
    return guarded([&] {
        require(event, "event");
        *event = new tsr_event(backend(device_of(device_type, device_index)).create_event(device_index));
    });
}

tsr_status tsr_event_record(tsr_event *event, tsr_stream *stream) {
    return guarded([&] {
        require(event, "event");
        require(stream, "stream");
        event->object->record(*stream->object);
    });
}

tsr_status tsr_event_wait(tsr_event *event) {
    return guarded([&] {
        require(event, "event");
        event->object->wait();
    });
}

tsr_status tsr_event_query(tsr_event *event, int32_t *reached) {
    return guarded([&] {
        require(event, "event");
        require(reached, "reached");
        *reached = event->object->reached();
    });
}

tsr_status tsr_event_elapsed(tsr_event *start, tsr_event *end, int64_t *nanoseconds) {
    return guarded([&] {
        require(start, "start");
        require(end, "end");
        require(nanoseconds, "nanoseconds");
        *nanoseconds = end->object->nanoseconds_since(*start->object);
    });
}

void tsr_event_retain(tsr_event *event) { retain_handle(event); }
void tsr_event_release(tsr_event *event) { release_handle(event); }

tsr_status tsr_workspace_create(tsr_allocator *allocator, size_t bytes, tsr_workspace **workspace) {
    return guarded([&] {
        require(workspace, "workspace");
        *workspace = new tsr_workspace(
            std::make_shared<Workspace>(allocator ? allocator->object : make_backend_allocator(), bytes));
    });
}

tsr_status tsr_workspace_wrap(void *data, size_t bytes, tsr_deleter deleter, void *context, tsr_workspace **workspace) {
    return guarded([&] {
        require(data, "data");
        require(workspace, "workspace");
        struct Owner {
            Workspace workspace;
            tsr_deleter deleter = nullptr; // set when nothing can fail any more
            void *context = nullptr;
            Owner(void *memory, size_t size) : workspace(memory, size) {}
            ~Owner() {
                if (deleter)
                    deleter(context);
            }
        };
        auto owner = std::make_shared<Owner>(data, bytes);
        *workspace = new tsr_workspace(std::shared_ptr<Workspace>(owner, &owner->workspace));
        owner->context = context;
        owner->deleter = deleter;
    });
}

size_t tsr_workspace_bytes(const tsr_workspace *workspace) { return workspace ? workspace->object->bytes() : 0; }
void tsr_workspace_retain(tsr_workspace *workspace) { retain_handle(workspace); }
void tsr_workspace_release(tsr_workspace *workspace) { release_handle(workspace); }
