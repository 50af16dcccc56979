// The tensors of a program's state and constants: immutable snapshots, replaced as a whole.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/slot_cache.h"
#include "core/tensor.h"

namespace tessera::core {

// In the signature's order.
struct StateTable {
    std::vector<Tensor> state, constants;
    uint64_t version = 1; // increased when a tensor is replaced
};

// The current snapshot. Runs read it without a lock: each borrows a reference that a run before it left behind, and asks
// for another only when the snapshot has been replaced since.
class StateTables {
  public:
    using Snapshot = std::shared_ptr<const StateTable>;
    struct Borrowed {
        Snapshot table;
    };

    Snapshot current() const {
        std::lock_guard<std::mutex> hold(lock_);
        return current_;
    }
    // Publishes a table, whose version is set here; gives the one before. No idle reference to that is left.
    Snapshot publish(StateTable table);

    std::unique_ptr<Borrowed> borrow();
    void give_back(std::unique_ptr<Borrowed> borrowed) noexcept;

  private:
    void drop_old() noexcept;

    mutable std::mutex lock_;
    Snapshot current_ = std::make_shared<const StateTable>();
    std::atomic<uint64_t> version_{1};
    SlotCache<Borrowed> idle_;
};

} // namespace tessera::core
