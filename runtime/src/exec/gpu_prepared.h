// A GPU's plan for given sizes: every expression evaluated, every bound checked, once per size tuple.
#pragma once

#include <cstdint>
#include <vector>

#include "collective/nccl/communicator.h"
#include "device/gpu/driver.h"
#include "exec/library_call.h"
#include "exec/prepared.h"

namespace tessera::core {

// The value of an argument that is a size; lies in a list that launches point into.
union GpuSize {
    int32_t i32;
    int64_t i64;
};

// An argument of a launch: where its value is to be found.
struct GpuPreparedArgument {
    GpuArgumentKind kind = GpuArgumentKind::Buffer;
    size_t index = 0; // buffer: slot; size: place in `size_values`; tensor map: place in `maps`; check: its number
};

struct GpuPreparedMap {
    size_t slot = 0;
    int64_t start = 0; // bytes behind the operand's address
    gpu::TensorMapLayout layout;
};

struct GpuStep {
    const Instruction *source = nullptr;
    size_t kernel = 0;
    gpu::Launch launch;
    size_t first_slot = 0;                        // of copy, zero and custom
    size_t first_argument = 0, argument_count = 0; // in `arguments`
    int64_t bytes = 0;                            // copy and zero
    size_t check = 0;                             // check_range: its number
    std::shared_ptr<const custom::Call> call;     // custom
    std::shared_ptr<LibraryCall> library;         // library; used by one thread at a time
    TensorView operand, result;                   // collective: without addresses
    std::shared_ptr<GpuExchange> exchange;        // collective: made at the first run
    bool beside = false;                          // collective: the plan goes on while it is under way
    bool agrees = false;                          // no instruction: devices of a mesh tell each other of failed checks
};

struct GpuPrepared : SizedBuffers {
    // ShapeError or FormatError when something does not fit.
    GpuPrepared(const Plan &plan, std::vector<int64_t> sizes, const Libraries &libraries = {});
    GpuPrepared(const GpuPrepared &) = delete;
    GpuPrepared &operator=(const GpuPrepared &) = delete;

    std::vector<GpuStep> steps;
    std::vector<GpuPreparedArgument> arguments;
    std::vector<GpuSize> size_values;
    std::vector<GpuPreparedMap> maps;
    std::vector<int> slot_buffers; // the buffer of each slot
    std::vector<Patch> input_patches, output_patches;
    std::vector<GpuSize> check_limits; // low and high of each check
    bool exchanges_beside = false; // whether there is a stream of exchanges
    int64_t scratch_bytes = 0;
    bool calls_custom = false; // some step runs what a library does, or what other devices take part in

  private:
    void add_step(const Plan &plan, const Instruction &in, size_t &checks, const Libraries &libraries);
    void add_launch(const Plan &plan, const Instruction &in, GpuStep &step);
    void add_collective(const Plan &plan, const Instruction &in, GpuStep &step);
    void add_custom(const Plan &plan, const Instruction &in, GpuStep &step);
    void add_library(const Plan &plan, const Instruction &in, GpuStep &step, const Libraries &libraries);
    void add_launches(const Plan &plan, const std::vector<Instruction> &launches);
    GpuPreparedArgument argument(const Instruction &in, const GpuArgument &a, const GpuStep &step);
    GpuPreparedMap prepared_map(const GpuTensorMap &map, size_t slot, int buffer, const Instruction &in) const;
};

} // namespace tessera::core
