// The memory of one run at a time on a GPU: arena, scratch, status words; and, for each size tuple met, the table of
// addresses, the arguments that launches point to and the graphs that were captured.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/allocator.h"
#include "device/gpu/gpu_backend.h"
#include "device/gpu/stream.h"
#include "exec/engine.h"
#include "exec/gpu_code.h"
#include "exec/gpu_run.h"

namespace tessera::core {

// Uninitialised memory of a device that only grows. What waits for the device is the caller's concern.
class DeviceBlock {
  public:
    DeviceBlock() = default;
    ~DeviceBlock() { release(); }
    DeviceBlock(const DeviceBlock &) = delete;
    DeviceBlock &operator=(const DeviceBlock &) = delete;
    void *reserve(const std::shared_ptr<Allocator> &allocator, DeviceId device, size_t bytes);
    void release() noexcept;
    void *data() const { return data_; }
    size_t bytes() const { return bytes_; }

  private:
    std::shared_ptr<Allocator> allocator_;
    DeviceId device_;
    void *data_ = nullptr;
    size_t bytes_ = 0;
};

// A captured graph and the addresses that are in it.
struct CapturedGraph {
    std::vector<void *> addresses; // of inputs and outputs
    gpu::Handle executable = nullptr;
    uint64_t used = 0;
};

// Exchanges beside computation: their stream, in the order of the plan, and where the other one waits for them.
struct ExchangeLane {
    std::shared_ptr<Stream> stream;
    std::shared_ptr<gpu::GpuEvent> begin;
    std::unordered_map<int64_t, std::shared_ptr<gpu::GpuEvent>> ends; // by the number of the exchange
};

// What launches of one size tuple need, in a frame.
struct BoundPlan {
    std::shared_ptr<const GpuPrepared> prepared;
    uint64_t table_version = 0, frame_version = 0;
    std::vector<void *> addresses;            // by slot
    std::vector<void *> arguments;            // pointers to the arguments of launches
    std::vector<gpu::TensorMap> maps;
    std::vector<void *> mapped;               // the address that each map was made for
    std::vector<std::unique_ptr<DeviceBlock>> staged; // by input, then output: memory for tensors that launches cannot use
    std::vector<void *> bound, last_bound;    // addresses of inputs, then outputs, of this run and the one before
    std::vector<CapturedGraph> graphs;
    uint64_t uses = 0;
};

class GpuFrame {
  public:
    GpuFrame(const Plan &plan, DeviceId device, size_t checks) : plan_(plan), device_(device), checks_(checks) {}
    ~GpuFrame();
    GpuFrame(const GpuFrame &) = delete;
    GpuFrame &operator=(const GpuFrame &) = delete;

    // Ready for a run of `prepared`; cheap when the last one was of the same. Nothing of the frame may be in use on the
    // device when its memory has to grow: `idle` waits for that. OutOfMemoryError names the largest buffers.
    template <class Idle>
    BoundPlan &set_up(const std::shared_ptr<const GpuPrepared> &prepared, const StateTable &table,
                      const std::shared_ptr<Allocator> &allocator, Idle &&idle) {
        if (needs_memory(*prepared)) {
            idle();
            grow(*prepared, allocator);
        }
        return bind(prepared, table);
    }
    // Memory in place of the caller's for an input (or, after the inputs, an output).
    void *stage(BoundPlan &bound, size_t tensor, size_t bytes, const std::shared_ptr<Allocator> &allocator);

    // The device's words: the flag and one of each check; and what they are at the start of a run.
    void *status() const { return status_.data(); }
    size_t status_bytes() const { return checks_ ? (checks_ + 1) * sizeof(int64_t) : 0; }
    void *scratch() const { return scratch_.data(); }
    const void *clean_status() const { return static_cast<char *>(status_.data()) + status_bytes(); }

    ExchangeLane lane;
    std::shared_ptr<GpuRun> last; // the last run put on a stream; null: none yet

  private:
    bool needs_memory(const GpuPrepared &prepared) const;
    void grow(const GpuPrepared &prepared, const std::shared_ptr<Allocator> &allocator);
    BoundPlan &bind(const std::shared_ptr<const GpuPrepared> &prepared, const StateTable &table);
    void fill(BoundPlan &bound, const StateTable &table);
    void *argument(BoundPlan &bound, const GpuPreparedArgument &a);
    void release_graphs(BoundPlan &bound) noexcept;

    const Plan &plan_;
    DeviceId device_;
    size_t checks_;
    DeviceBlock arena_, scratch_, status_;
    uint64_t version_ = 1; // of the memory
    void *scratch_address_ = nullptr, *no_address_ = nullptr, *status_address_ = nullptr;
    std::vector<void *> check_addresses_;
    std::vector<std::unique_ptr<BoundPlan>> bound_; // the latest used first
};

// "the largest buffers are …", with the users' lines, of what a run of `prepared` needs.
std::string largest_buffers(const Plan &plan, const GpuPrepared &prepared);

} // namespace tessera::core
