// What executes a loaded program: a plan with kernels, or the portable interpreter.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "exec/run_context.h"
#include "exec/signature.h"
#include "exec/state_table.h"

namespace tessera::core {

// Bytes that one run needs.
struct Requirements {
    int64_t arena = 0, scratch_per_thread = 0, inputs = 0, outputs = 0, state = 0;
};

class Engine {
  public:
    virtual ~Engine() = default;
    virtual const Signature &signature() const = 0;
    // From now on a symbolic dimension has this size, which no input has to say. UnsupportedError where an engine has
    // no such sizes.
    virtual void give(std::string_view symbol, int64_t size);
    // Where runs take place; inputs and state are expected there.
    virtual DeviceId device() const { return {}; }
    // Checks inputs and the outputs that are given (an empty Tensor: none) against the signature.
    virtual void check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs) = 0;
    // Runs once, or puts the run on context.stream when device() is not the CPU; outputs that are empty receive new tensors. `outputs` has one entry per output.
    virtual void run(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                     Tensor *outputs) = 0;
    // The tensor itself where runs can use it as state or constant, else a copy there.
    virtual Tensor place(const Tensor &tensor) const { return tensor; }
    // For sizes by Symbol::index.
    virtual Requirements requirements(const std::vector<int64_t> &sizes) = 0;
};

// Checks an output tensor that the caller gave: in memory of the CPU or of the program's device, dtype, shape, contiguous,
// writable.
void check_output(const TensorSpec &spec, const std::vector<int64_t> &shape, const Tensor &given, DeviceId device = {});
// Fails when an output that the caller gave overlaps an input, a state, a constant or another output.
void check_overlap(const Signature &signature, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                   const Tensor *outputs);

// DeviceError when an input is not in memory of the CPU.
void check_on_cpu(const Signature &signature, const Tensor *const *inputs, size_t input_count);
// A row-major copy of an input, which the log hears of.
Tensor copied_input(const RunContext &context, const TensorSpec &spec, const Tensor &input);

// Whether an input lies in memory of a state that runs change.
bool shares_mutated_state(const Signature &signature, const StateTable &table, const Tensor &input);

} // namespace tessera::core
