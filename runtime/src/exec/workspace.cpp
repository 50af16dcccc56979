#include "exec/workspace.h"

#include "core/error.h"
#include "core/tensor.h"
#include "exec/run_context.h"

namespace tessera::core {

Workspace::Workspace(std::shared_ptr<Allocator> allocator, size_t bytes) : allocator_(std::move(allocator)) {
    reserve(bytes);
    grows_ = false;
}

Workspace::Workspace(void *data, size_t bytes) : grows_(false), data_(static_cast<char *>(data)), bytes_(bytes) {
    if (reinterpret_cast<uintptr_t>(data) % tensor_alignment)
        fail(Code::Argument, "workspace: the address %p is not aligned to %zu bytes", data, tensor_alignment);
}

Workspace::~Workspace() {
    if (allocator_ && data_)
        allocator_->release({}, data_, bytes_, nullptr);
}

char *Workspace::reserve(size_t bytes) {
    if (bytes <= bytes_)
        return data_;
    if (!grows_)
        fail(Code::OutOfMemory, "the workspace has %zu bytes, the run needs %zu; Graph::requirements tells how many it will be",
             bytes_, bytes);
    if (data_)
        allocator_->release({}, data_, bytes_, nullptr);
    data_ = nullptr;
    bytes_ = 0;
    data_ = static_cast<char *>(allocator_->allocate({}, bytes, tensor_alignment, nullptr));
    bytes_ = bytes;
    return data_;
}

WorkspaceLease::WorkspaceLease(RunContext &context, size_t bytes) {
    if (context.workspace) {
        if (!context.workspace->try_acquire())
            fail(Code::Argument, "the workspace is in use by another run; runs that share one must follow each other");
        shared_ = context.workspace;
        try {
            data_ = shared_->reserve(bytes);
        } catch (...) {
            shared_->release();
            throw;
        }
        return;
    }
    if (bytes == 0)
        return;
    cache_ = context.workspaces;
    if (cache_)
        own_ = cache_->take();
    if (!own_)
        own_ = std::make_unique<Workspace>(context.allocator);
    try {
        data_ = own_->reserve(bytes);
    } catch (...) {
        if (cache_)
            cache_->put(std::move(own_));
        throw;
    }
}

WorkspaceLease::~WorkspaceLease() {
    if (shared_)
        shared_->release();
    else if (cache_ && own_)
        cache_->put(std::move(own_));
}

} // namespace tessera::core
