// The call of a vendor library for given sizes: descriptors are made and the library's kernel is chosen once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/cuda/cublaslt.h"
#include "device/cuda/cudnn.h"
#include "exec/library_plan.h"
#include "exec/plan.h"

namespace tessera::core {

// The vendor libraries that runs on a device may call; null: not there.
struct Libraries {
    const gpu::Cublaslt *cublaslt = nullptr;
    const gpu::Cudnn *cudnn = nullptr;
    int device = 0;
};

// The libraries that the plan calls, where they are; DeviceError when one is missing that nothing can take the place of.
Libraries find_libraries(const Plan &plan, int device, const std::string &where);

class LibraryCall {
  public:
    // The call that an instruction makes; its operands have `elements` elements each, then its results. Null when the
    // library is missing or has nothing for it, and `why` says so; FormatError when it would touch what lies outside of the
    // operands.
    static std::shared_ptr<LibraryCall> prepare(const Libraries &libraries, const Instruction &in,
                                                const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements,
                                                std::string &why);
    LibraryCall() = default;
    virtual ~LibraryCall() = default;
    LibraryCall(const LibraryCall &) = delete;
    LibraryCall &operator=(const LibraryCall &) = delete;

    // Bytes of scratch memory that a call needs.
    virtual size_t scratch() const = 0;
    // Puts the call on a stream; `addresses` are those of operands and results. One thread at a time. DeviceError.
    virtual void run(void *const *addresses, void *scratch, gpu::Handle stream) = 0;
};

// Whether the results of a library's instruction have no elements.
bool is_empty(const Instruction &in, const std::vector<int64_t> &sizes);

} // namespace tessera::core
