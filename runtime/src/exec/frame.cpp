#include "exec/frame.h"

#include <cstdlib>
#include <sys/mman.h>

#include "core/error.h"

namespace tessera::core {

namespace {
constexpr size_t huge_page = size_t{2} << 20;
}

Block::~Block() { std::free(data_); }

char *Block::reserve(size_t bytes) {
    if (bytes <= bytes_)
        return data_;
    std::free(data_);
    data_ = nullptr;
    bytes_ = 0;
    size_t alignment = bytes >= 2 * huge_page ? huge_page : tensor_alignment;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    data_ = rounded < bytes ? nullptr : static_cast<char *>(std::aligned_alloc(alignment, rounded));
    if (!data_)
        fail(Code::OutOfMemory, "%zu bytes of temporary memory could not be allocated", bytes);
    if (alignment == huge_page)
        ::madvise(data_, rounded, MADV_HUGEPAGE);
    bytes_ = rounded;
    return data_;
}

void Frame::set_up(const Plan &plan, const std::shared_ptr<const Prepared> &prepared, const StateTable &table,
                       int threads) {
    if (prepared_ == prepared && version_ == table.version && threads_ == threads)
        return;
    prepared_ = nullptr; // stays so if memory runs out
    const Prepared &p = *prepared;
    char *arena = arena_.reserve(static_cast<size_t>(p.arena_bytes));
    scratch_stride_ = static_cast<size_t>(p.scratch_bytes);
    scratch_base_ = scratch_.reserve(static_cast<size_t>(checked_mul(p.scratch_bytes, threads)));
    addresses_.assign(p.slot_buffers.size() + 1, nullptr);
    for (size_t slot = 0; slot < p.slot_buffers.size(); ++slot) {
        auto index = static_cast<size_t>(p.slot_buffers[slot]);
        const PlanBuffer &b = plan.buffers[index];
        if (b.kind == BufferKind::Arena)
            addresses_[slot] = arena + p.arena_offsets[index];
        else if (b.kind == BufferKind::State)
            addresses_[slot] = table.state[static_cast<size_t>(b.binding)].data();
        else if (b.kind == BufferKind::Constant)
            addresses_[slot] = table.constants[static_cast<size_t>(b.binding)].data();
    }
    prepared_ = prepared;
    version_ = table.version;
    threads_ = threads;
}

} // namespace tessera::core
