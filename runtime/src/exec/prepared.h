// A plan for given sizes: every expression evaluated, every bound checked, once per size tuple.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/tensor.h"
#include "custom/call.h"
#include "exec/kernel_image.h"
#include "exec/plan.h"

namespace tessera::core {

struct PreparedInstruction {
    const Instruction *source = nullptr;
    KernelEntry entry = nullptr;
    size_t first_slot = 0;        // its operands' addresses begin here in the frame's table
    const int64_t *sizes = nullptr;
    int64_t grid = 0, grain = 1;
    int64_t count = 0, low = 0, high = 0; // check_range; `count` is the bytes of copy and zero
    std::vector<TensorView> operands, results; // portable; their addresses are in the table
    std::shared_ptr<const custom::Call> call;  // custom
};

// Where an input's or output's address goes in the table.
struct Patch {
    size_t slot;
    int binding;
};

// A plan's tensors and buffers for given sizes.
struct SizedBuffers {
    // FormatError when something does not fit.
    SizedBuffers(const Plan &plan, std::vector<int64_t> sizes);

    // Whether inputs of these shapes and dtypes have this size tuple.
    bool matches(const Signature &signature, const Tensor *const *inputs, size_t count) const;
    // FormatError unless `bytes` fit in the buffer that the instruction uses.
    void check_fits(const Plan &plan, int buffer, int64_t bytes, const Instruction &in) const;
    // Operands without their addresses.
    std::vector<TensorView> views(const Plan &plan, const std::vector<PlanOperand> &operands, const Instruction &in) const;
    // The call that a custom instruction makes, and whose errors name its line.
    std::shared_ptr<const custom::Call> custom_call(const Instruction &in, const std::vector<TensorView> &operands,
                                                    const std::vector<TensorView> &results) const;

    std::vector<int64_t> sizes;
    std::vector<std::vector<int64_t>> input_shapes;
    std::vector<Tensor> output_prototypes; // dtype and shape, no memory
    std::vector<int64_t> buffer_bytes;
    std::vector<int64_t> arena_offsets; // by buffer; 0 for others
    int64_t arena_bytes = 0;            // a multiple of 64
};

// The buffers of operands, then of results.
std::vector<int> buffers_of(const Instruction &in);

// The value of an expression of the plan; FormatError when it is negative.
int64_t not_negative(const Dim &d, const std::vector<int64_t> &sizes, const char *what);

struct Prepared : SizedBuffers {
    // Evaluates `plan` for sizes by Symbol::index; ShapeError or FormatError when something does not fit.
    Prepared(const Plan &plan, const KernelImage &image, std::vector<int64_t> sizes);
    Prepared(const Prepared &) = delete;
    Prepared &operator=(const Prepared &) = delete;

    std::vector<PreparedInstruction> instructions;
    std::vector<int> slot_buffers; // the buffer of each slot
    std::vector<Patch> input_patches, output_patches;
    int64_t scratch_bytes = 0; // of one thread
    size_t first_state_write = 0; // the first instruction that writes state that outlives the run; else their number
    // The arena, and behind it the scratch of every thread.
    size_t workspace_bytes(int threads) const;

  private:
    void prepare_instruction(const Plan &plan, const KernelImage &image, const Instruction &in);
    size_t add_slots(const std::vector<int> &buffers);

    std::vector<std::unique_ptr<int64_t[]>> size_arrays_;
};

} // namespace tessera::core
