#include "exec/frame.h"

#include <algorithm>

namespace tessera::core {

namespace {
// Size tuples that a frame keeps; it asks for others again.
constexpr size_t max_known = 64;
} // namespace

const Prepared *Frame::find(const Signature &signature, const Tensor *const *inputs, size_t count) {
    for (size_t i = 0; i < count; ++i)
        if (!inputs[i]->device().is_cpu())
            return nullptr; // the checks of a first call tell why not
    for (size_t i = 0; i < known_.size(); ++i)
        if (known_[i]->matches(signature, inputs, count)) {
            if (i > 0)
                std::rotate(known_.begin(), known_.begin() + static_cast<std::ptrdiff_t>(i),
                            known_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
            return known_.front().get();
        }
    return nullptr;
}

const Prepared *Frame::remember(std::shared_ptr<const Prepared> prepared) {
    if (known_.size() == max_known) {
        if (known_.back().get() == current_)
            current_ = nullptr;
        known_.pop_back();
    }
    known_.insert(known_.begin(), std::move(prepared));
    return known_.front().get();
}

void Frame::set_up(const Plan &plan, const Prepared &p, const StateTable &table, char *memory) {
    if (current_ == &p && version_ == table.version && memory_ == memory)
        return;
    current_ = nullptr; // stays so if memory runs out
    scratch_stride_ = static_cast<size_t>(p.scratch_bytes);
    scratch_base_ = memory + p.arena_bytes;
    addresses_.assign(p.slot_buffers.size() + 1, nullptr);
    for (size_t slot = 0; slot < p.slot_buffers.size(); ++slot) {
        auto index = static_cast<size_t>(p.slot_buffers[slot]);
        const PlanBuffer &b = plan.buffers[index];
        if (b.kind == BufferKind::Arena)
            addresses_[slot] = memory + p.arena_offsets[index];
        else if (b.kind == BufferKind::State)
            addresses_[slot] = table.state[static_cast<size_t>(b.binding)].data();
        else if (b.kind == BufferKind::Constant)
            addresses_[slot] = table.constants[static_cast<size_t>(b.binding)].data();
    }
    current_ = &p;
    version_ = table.version;
    memory_ = memory;
}

} // namespace tessera::core
