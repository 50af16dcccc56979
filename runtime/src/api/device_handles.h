// The objects behind the handles for devices, memory, weights and the options of runs.
#pragma once

#include <memory>

#include "api/handles.h"
#include "core/cancel.h"
#include "device/backend.h"
#include "exec/trace.h"
#include "exec/weights.h"
#include "exec/workspace.h"

namespace tessera::core {

// A handle that shares an object.
template <class T> struct SharedHandle : Counted {
    explicit SharedHandle(std::shared_ptr<T> o) : object(std::move(o)) {}
    const std::shared_ptr<T> object;
};

// The object of a handle; null for none.
template <class Handle> auto object_of(Handle *handle) -> std::decay_t<decltype(handle->object)> {
    if (handle)
        return handle->object;
    return nullptr;
}

template <class Handle> void retain_handle(Handle *handle) {
    if (handle)
        handle->retain();
}

template <class Handle> void release_handle(Handle *handle) {
    if (handle && handle->release())
        delete handle;
}

// Fails with ArgumentError when a struct of the caller's is older than `least` bytes.
void check_struct(size_t size, size_t least, const char *name);

} // namespace tessera::core

struct tsr_allocator : tessera::core::SharedHandle<tessera::core::Allocator> {
    using SharedHandle::SharedHandle;
};
struct tsr_stream : tessera::core::SharedHandle<tessera::core::Stream> {
    using SharedHandle::SharedHandle;
};
struct tsr_event : tessera::core::SharedHandle<tessera::core::Event> {
    using SharedHandle::SharedHandle;
};
struct tsr_workspace : tessera::core::SharedHandle<tessera::core::Workspace> {
    using SharedHandle::SharedHandle;
};
struct tsr_weights : tessera::core::SharedHandle<tessera::core::Weights> {
    using SharedHandle::SharedHandle;
};
struct tsr_cancel : tessera::core::SharedHandle<tessera::core::CancelFlag> {
    using SharedHandle::SharedHandle;
};
struct tsr_trace : tessera::core::SharedHandle<tessera::core::TraceSink> {
    using SharedHandle::SharedHandle;
    std::shared_ptr<tessera::core::RecordedTrace> recorded; // null when events go to a function
};
