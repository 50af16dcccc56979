// Memory for the arena and the scratch of one run at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

#include "core/allocator.h"
#include "core/slot_cache.h"

namespace tessera::core {

class Workspace {
  public:
    // Memory of the CPU from `allocator` that grows with what runs need.
    explicit Workspace(std::shared_ptr<Allocator> allocator) : allocator_(std::move(allocator)) {}
    // `bytes` of memory, all at once, for runs that need no more.
    Workspace(std::shared_ptr<Allocator> allocator, size_t bytes);
    // The caller's memory, 64-byte aligned.
    Workspace(void *data, size_t bytes);
    ~Workspace();
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;

    // At least `bytes`, 64-byte aligned; what it held is lost when it has to grow. OutOfMemoryError when it may not.
    char *reserve(size_t bytes);
    size_t bytes() const { return bytes_; }

    // For a workspace that several graphs share: false when another run has it.
    bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
    void release() { busy_.store(false, std::memory_order_release); }

  private:
    std::shared_ptr<Allocator> allocator_; // null: the caller's memory
    bool grows_ = true;
    char *data_ = nullptr;
    size_t bytes_ = 0;
    std::atomic<bool> busy_{false};
};

using WorkspaceCache = SlotCache<Workspace>;

struct RunContext;

// `bytes` of memory for one run, from where its context says: the caller's workspace, else an idle one of the runtime.
class WorkspaceLease {
  public:
    // ArgumentError when the caller's workspace is in use; OutOfMemoryError when it is too small.
    WorkspaceLease(RunContext &context, size_t bytes);
    ~WorkspaceLease();
    WorkspaceLease(const WorkspaceLease &) = delete;
    WorkspaceLease &operator=(const WorkspaceLease &) = delete;
    char *data() const { return data_; }

  private:
    WorkspaceCache *cache_ = nullptr;
    std::unique_ptr<Workspace> own_;
    Workspace *shared_ = nullptr;
    char *data_ = nullptr;
};

} // namespace tessera::core
