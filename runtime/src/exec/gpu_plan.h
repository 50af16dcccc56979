// What the plan of a GPU target has beyond the CPU's: modules of code, and the arguments of kernels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace tessera::core {

enum class CodeFormat : uint8_t { Cubin, Ptx, Hsaco };

struct GpuModule {
    int64_t offset = 0, bytes = 0; // in the kernel image
    CodeFormat format = CodeFormat::Ptx;
    bool alternative = false; // for the module before it, where the driver does not take that
};

// A number that is part of the kernel, or one of the sizes of the instruction times a constant.
struct GpuNumber {
    int64_t constant = 0;
    int32_t size = -1; // index of the size, of which `constant` is the factor; -1: the constant alone
};

// A tensor map: how a block of threads reads boxes of a tensor.
struct GpuTensorMap {
    DType dtype = DType::F32;
    std::vector<GpuNumber> shape, strides; // strides in elements, outermost first; the last is 1
    std::vector<int64_t> box;
    int64_t swizzle = 0; // bytes
    GpuNumber start;     // the element of the operand with which the tensor begins
};

enum class GpuArgumentKind : uint8_t {
    Buffer,         // address of operand `index`
    SizeI32,        // value of size `index`
    SizeI64,
    ConstantI32,
    ConstantI64,
    TensorMap,      // of operand `index`
    GlobalScratch,  // address of the run's scratch; null when the kernel has none
    ProfileScratch, // null
    StatusFlag,     // address of the word that is not 0 when a check of this run has failed
    StatusCheck,    // address of this check's own word: the least position that failed
};

struct GpuArgument {
    GpuArgumentKind kind = GpuArgumentKind::Buffer;
    uint32_t index = 0;
    int64_t constant = 0;
    GpuTensorMap map;
};

struct GpuKernel {
    size_t module = 0;
    std::string symbol;
    uint32_t threads = 1, shared = 0;
    uint32_t cluster[3] = {1, 1, 1};
    bool early = false;  // waits by itself until the kernels before it have ended
    int64_t scratch = 0; // bytes of global scratch of one block
    std::vector<GpuArgument> arguments;
    uint32_t buffers = 0, sizes = 0; // how many operands and sizes the arguments refer to
};

} // namespace tessera::core
