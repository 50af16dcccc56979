#include "ops/memory_plan.h"

#include <algorithm>

#include "core/checked.h"

namespace tessera::portable {

namespace {
int64_t rounded(int64_t bytes) { return core::checked_add(bytes, 63) & ~int64_t{63}; }
} // namespace

int64_t MemoryPlan::take(int64_t bytes) {
    if (bytes == 0)
        return -1;
    const int64_t need = rounded(bytes);
    auto best = gaps_.end();
    for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap)
        if (gap->bytes >= need && (best == gaps_.end() || gap->bytes < best->bytes))
            best = gap;
    if (best == gaps_.end()) { // at the end, of which a gap may be the last part
        int64_t offset = bytes_;
        if (!gaps_.empty() && gaps_.back().offset + gaps_.back().bytes == bytes_) {
            offset = gaps_.back().offset;
            gaps_.pop_back();
        }
        bytes_ = core::checked_add(offset, need);
        return offset;
    }
    const int64_t offset = best->offset;
    best->offset += need;
    best->bytes -= need;
    if (best->bytes == 0)
        gaps_.erase(best);
    return offset;
}

void MemoryPlan::release(int64_t offset, int64_t bytes) {
    if (bytes == 0)
        return;
    const int64_t size = rounded(bytes);
    auto next = std::lower_bound(gaps_.begin(), gaps_.end(), offset, [](const Gap &g, int64_t o) { return g.offset < o; });
    next = gaps_.insert(next, {offset, size});
    if (auto after = next + 1; after != gaps_.end() && next->offset + next->bytes == after->offset) {
        next->bytes += after->bytes;
        gaps_.erase(after);
    }
    if (next != gaps_.begin())
        if (auto before = next - 1; before->offset + before->bytes == next->offset) {
            before->bytes += next->bytes;
            gaps_.erase(next);
        }
}

} // namespace tessera::portable
