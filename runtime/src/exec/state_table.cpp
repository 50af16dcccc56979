#include "exec/state_table.h"

namespace tessera::core {

StateTables::Snapshot StateTables::publish(StateTable table) {
    Snapshot before;
    {
        std::lock_guard<std::mutex> hold(lock_);
        table.version = current_->version + 1;
        before = std::make_shared<const StateTable>(std::move(table));
        current_.swap(before);
        version_.store(current_->version, std::memory_order_seq_cst);
    }
    drop_old();
    return before;
}

std::unique_ptr<StateTables::Borrowed> StateTables::borrow() {
    std::unique_ptr<Borrowed> out = idle_.take();
    if (!out)
        out = std::make_unique<Borrowed>();
    if (!out->table || out->table->version != version_.load(std::memory_order_acquire))
        out->table = current();
    return out;
}

void StateTables::give_back(std::unique_ptr<Borrowed> borrowed) noexcept {
    // First back, then the look at the version: either this sees the new one, or `publish` finds what is idle.
    const uint64_t mine = borrowed->table->version;
    idle_.put(std::move(borrowed));
    if (mine != version_.load(std::memory_order_seq_cst))
        drop_old();
}

// References to old snapshots would keep weights alive that nobody runs with.
void StateTables::drop_old() noexcept {
    idle_.visit_idle([this](Borrowed &b) {
        if (b.table && b.table->version != version_.load(std::memory_order_relaxed))
            b.table = nullptr;
    });
}

} // namespace tessera::core
