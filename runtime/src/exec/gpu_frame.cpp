#include "exec/gpu_frame.h"

#include <algorithm>

#include "core/error.h"

namespace tessera::core {

namespace {

constexpr size_t max_bound = 16; // size tuples whose tables a frame keeps

// "12.5 MiB"
std::string bytes_text(int64_t bytes) {
    constexpr const char *units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = static_cast<double>(bytes);
    int unit = 0;
    for (; value >= 1024 && unit < 4; ++unit)
        value /= 1024;
    return format(unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

// The line of the first instruction that uses a buffer.
std::string line_of(const Plan &plan, int buffer) {
    for (const Instruction &in : plan.instructions)
        if (!in.loc.empty() && std::find(in.buffers.begin(), in.buffers.end(), buffer) != in.buffers.end())
            return in.loc;
    return "";
}

} // namespace

std::string largest_buffers(const Plan &plan, const GpuPrepared &prepared) {
    std::vector<int> order;
    for (size_t i = 0; i < plan.buffers.size(); ++i)
        if (prepared.buffer_bytes[i] > 0 && plan.buffers[i].within < 0)
            order.push_back(static_cast<int>(i));
    auto bytes = [&](int i) { return prepared.buffer_bytes[static_cast<size_t>(i)]; };
    const size_t shown_count = std::min<size_t>(order.size(), 5);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown_count), order.end(),
                      [&](int a, int b) { return bytes(a) != bytes(b) ? bytes(a) > bytes(b) : a < b; });
    std::string out = format("a run needs %s of temporary memory; the largest buffers are", bytes_text(prepared.arena_bytes).c_str());
    constexpr const char *kinds[] = {"input", "output", "state", "constant", "temporary"};
    for (size_t i = 0; i < shown_count; ++i) {
        const PlanBuffer &b = plan.buffers[static_cast<size_t>(order[i])];
        const std::string line = line_of(plan, order[i]);
        out += format("\n  %s %s '%s'%s%s", bytes_text(bytes(order[i])).c_str(), kinds[static_cast<int>(b.kind)],
                      shown(b.label).c_str(), line.empty() ? "" : " at ", line.c_str());
    }
    return out;
}

void *DeviceBlock::reserve(const std::shared_ptr<Allocator> &allocator, DeviceId device, size_t bytes) {
    if (bytes <= bytes_)
        return data_;
    release();
    data_ = allocator->allocate(device, bytes, 256, nullptr);
    allocator_ = allocator;
    device_ = device;
    bytes_ = bytes;
    return data_;
}

void DeviceBlock::release() noexcept {
    if (data_)
        allocator_->release(device_, data_, bytes_, nullptr);
    data_ = nullptr;
    bytes_ = 0;
    allocator_.reset();
}

GpuFrame::~GpuFrame() {
    if (last && !last->reached()) {
        try {
            last->finish();
        } catch (...) { // another device has failed, or this one
            try {
                last->event()->wait(); // before its memory goes
            } catch (...) {
            }
        }
    }
    if (last)
        last->settle();
    for (auto &b : bound_)
        release_graphs(*b);
}

void GpuFrame::release_graphs(BoundPlan &bound) noexcept {
    try {
        const gpu::Driver &driver = gpu::gpu_backend(device_).driver();
        gpu::Current current(driver, device_.index);
        for (CapturedGraph &g : bound.graphs)
            driver.call().graph_release(g.executable);
    } catch (...) { // the driver is at its end
    }
    bound.graphs.clear();
}

bool GpuFrame::needs_memory(const GpuPrepared &prepared) const {
    return static_cast<size_t>(prepared.arena_bytes) > arena_.bytes() ||
           static_cast<size_t>(prepared.scratch_bytes) > scratch_.bytes() || (checks_ && !status_.data());
}

void GpuFrame::grow(const GpuPrepared &prepared, const std::shared_ptr<Allocator> &allocator) {
    ++version_;
    try {
        arena_.reserve(allocator, device_, static_cast<size_t>(prepared.arena_bytes));
        scratch_.reserve(allocator, device_, static_cast<size_t>(prepared.scratch_bytes));
    } catch (const Error &e) {
        if (e.code() == Code::OutOfMemory)
            throw Error(e.code(), e.message() + "; " + largest_buffers(plan_, prepared));
        throw;
    }
    scratch_address_ = scratch_.data();
    if (!checks_ || status_.data())
        return;
    std::vector<int64_t> clean(checks_ + 1, no_position);
    clean[0] = 0;
    char *words = static_cast<char *>(status_.reserve(allocator, device_, 2 * status_bytes()));
    backend(device_).copy(words + status_bytes(), device_, clean.data(), {}, status_bytes(), nullptr);
    status_address_ = words;
    for (size_t i = 0; i < checks_; ++i)
        check_addresses_.push_back(words + (i + 1) * sizeof(int64_t));
}

BoundPlan &GpuFrame::bind(const std::shared_ptr<const GpuPrepared> &prepared, const StateTable &table) {
    auto place = std::find_if(bound_.begin(), bound_.end(), [&](auto &b) { return b->prepared == prepared; });
    if (place == bound_.end()) {
        if (bound_.size() >= max_bound) {
            if (last)
                last->finish(); // its graphs may be under way
            release_graphs(*bound_.back());
            bound_.pop_back();
        }
        bound_.insert(bound_.begin(), std::make_unique<BoundPlan>());
        bound_.front()->prepared = prepared;
    } else {
        std::rotate(bound_.begin(), place, place + 1);
    }
    BoundPlan &b = *bound_.front();
    if (b.table_version != table.version || b.frame_version != version_)
        fill(b, table);
    return b;
}

void GpuFrame::fill(BoundPlan &b, const StateTable &table) {
    const GpuPrepared &p = *b.prepared;
    const size_t tensors = plan_.signature.inputs.size() + plan_.signature.outputs.size();
    if (!b.graphs.empty() && last)
        last->finish();
    release_graphs(b);
    b.table_version = 0;
    b.addresses.assign(p.slot_buffers.size() + 1, nullptr);
    for (size_t slot = 0; slot < p.slot_buffers.size(); ++slot) {
        const auto index = static_cast<size_t>(p.slot_buffers[slot]);
        const PlanBuffer &buffer = plan_.buffers[index];
        if (buffer.kind == BufferKind::Arena)
            b.addresses[slot] = static_cast<char *>(arena_.data()) + p.arena_offsets[index];
        else if (buffer.kind == BufferKind::State)
            b.addresses[slot] = table.state[static_cast<size_t>(buffer.binding)].data();
        else if (buffer.kind == BufferKind::Constant)
            b.addresses[slot] = table.constants[static_cast<size_t>(buffer.binding)].data();
    }
    b.maps.resize(p.maps.size());
    b.mapped.assign(p.maps.size(), nullptr);
    b.arguments.clear();
    for (const GpuPreparedArgument &a : p.arguments)
        b.arguments.push_back(argument(b, a));
    b.staged.resize(tensors);
    b.bound.assign(tensors, nullptr);
    b.last_bound.assign(tensors, nullptr);
    b.table_version = table.version;
    b.frame_version = version_;
}

void *GpuFrame::argument(BoundPlan &b, const GpuPreparedArgument &a) {
    switch (a.kind) {
    case GpuArgumentKind::Buffer:
        return &b.addresses[a.index];
    case GpuArgumentKind::SizeI32:
    case GpuArgumentKind::SizeI64:
    case GpuArgumentKind::ConstantI32:
    case GpuArgumentKind::ConstantI64:
        return const_cast<GpuSize *>(&b.prepared->size_values[a.index]);
    case GpuArgumentKind::TensorMap:
        return &b.maps[a.index];
    case GpuArgumentKind::GlobalScratch:
        return &scratch_address_;
    case GpuArgumentKind::ProfileScratch:
        return &no_address_;
    case GpuArgumentKind::StatusFlag:
        return checks_ ? &status_address_ : &no_address_;
    case GpuArgumentKind::StatusCheck:
        return &check_addresses_[a.index];
    }
    return nullptr;
}

void *GpuFrame::stage(BoundPlan &b, size_t tensor, size_t bytes, const std::shared_ptr<Allocator> &allocator) {
    if (!b.staged[tensor])
        b.staged[tensor] = std::make_unique<DeviceBlock>();
    return b.staged[tensor]->reserve(allocator, device_, std::max<size_t>(bytes, 1));
}

} // namespace tessera::core
