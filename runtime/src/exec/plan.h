// A plan: the flat list of instructions of one compiled program, read from its JSON form and validated.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collective/communicator.h"
#include "core/dims.h"
#include "core/dtype.h"
#include "custom/definition.h"
#include "exec/gpu_plan.h"
#include "exec/library_plan.h"
#include "exec/signature.h"
#include "ops/portable.h"

namespace tessera::core {

enum class BufferKind : uint8_t { Input, Output, State, Constant, Arena };

struct PlanBuffer {
    BufferKind kind = BufferKind::Arena;
    Dim bytes, offset;
    std::string label;
    int binding = -1; // index among inputs, outputs, state or constants
    int within = -1;  // the buffer of the arena of which this one is a part
};

struct PlanKernel {
    std::string name;
    int64_t entry = 0; // byte offset in the kernel image
    uint32_t buffers = 0, sizes = 0; // arguments, by the mark before the entry
    GpuKernel gpu;                   // of a GPU's plan, in place of all but the name
    std::optional<std::vector<bool>> writes; // by argument; none: the file does not tell
    bool may_write(size_t argument) const { return !writes || (*writes)[argument]; }
};

struct PlanOperand {
    int buffer = 0;
    DType dtype = DType::F32;
    std::vector<Dim> shape;
};

enum class InstructionKind : uint8_t { Kernel, CheckRange, Copy, Zero, Portable, Collective, Custom, Library, Wait };

struct Instruction {
    InstructionKind kind = InstructionKind::Kernel;
    std::string loc;
    std::vector<int> buffers; // kernel: operands; copy: source, target; zero and check_range: one
    // kernel; check_range on a GPU, where `buffers` are the kernel's
    int kernel = -1;
    std::vector<Dim> sizes;
    Dim grid, grain, scratch;
    Dim grid_y, grid_z; // GPU
    int checked = -1;   // check_range on a GPU: the buffer
    // check_range (count, low, high), copy and zero (bytes)
    Dim count, low, high, bytes;
    DType dtype = DType::I64;
    std::optional<int64_t> ignore;
    std::string what;
    // portable
    std::shared_ptr<const portable::Primitive> primitive;
    // custom
    const custom::Definition *definition = nullptr;
    graph::Attributes attributes;
    // both
    std::vector<PlanOperand> operands, results;
    // collective, with one operand and one result
    std::shared_ptr<const Collective> collective;
    // collective: the number of the wait that ends it, or none when it is done at once; wait: of what was started
    std::optional<int64_t> exchange;
    // library (and `scratch`): what it computes with `operands` and `results` (one of both), the launches that follow its
    // call, and those that take the place of both where it is missing
    std::shared_ptr<const LibraryMatmul> matmul;
    std::shared_ptr<const LibraryAttention> attention;
    std::vector<Instruction> then, otherwise;
};

// "\n  at train.py:12", or nothing.
std::string at_line(const Instruction &in);

struct Plan {
    std::string target, level; // "cpu", "ptx", "hsaco"
    std::vector<GpuModule> modules;
    Signature signature;
    std::vector<PlanBuffer> buffers;
    std::vector<PlanKernel> kernels;
    std::vector<Instruction> instructions;
    Dim arena;

    bool has_collectives() const;
    bool changes_state() const;
    // Reads and checks a plan: every index, name, dtype and expression. `where` names it in errors. Kernel entries must
    // be marked as such in the image, and be called with as many arguments. FormatError or VersionError.
    static Plan parse(std::string_view json, const std::string &where, std::string_view image,
                      const std::string &target = "cpu");
    bool is_gpu() const { return target != "cpu"; }
};

} // namespace tessera::core
