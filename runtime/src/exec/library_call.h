// The call of a vendor library for given sizes: descriptors are made and the library's kernel is chosen once.
#pragma once

#include <memory>
#include <vector>

#include "core/dtype.h"
#include "device/cuda/cublaslt.h"
#include "exec/library_plan.h"
#include "exec/plan.h"

namespace tessera::core {

// The vendor libraries that runs on a device may call.
struct Libraries {
    const gpu::Cublaslt *cublaslt = nullptr; // null: not there
    int device = 0;
};

class LibraryCall {
  public:
    // The call that an instruction makes; its operands have `elements` elements each, then its results. Null when the
    // library has nothing for it; FormatError when it would touch what lies outside of the operands.
    static std::shared_ptr<LibraryCall> prepare(const Libraries &libraries, const Instruction &in,
                                                const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements);
    ~LibraryCall();
    LibraryCall(const LibraryCall &) = delete;
    LibraryCall &operator=(const LibraryCall &) = delete;

    // Bytes of scratch memory that a call needs.
    size_t scratch() const { return choice_.workspace; }
    // Puts the call on a stream; `addresses` are those of operands and results. One thread at a time. DeviceError.
    void run(void *const *addresses, void *scratch, gpu::Handle stream);

  private:
    struct Matrix; // of known sizes
    LibraryCall(const Libraries &libraries, const LibraryMatmul &matmul);
    bool describe(const Instruction &in, const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements);
    bool choose(int64_t wanted, size_t most_scratch);
    gpu::Handle layout(const Matrix &m, int type) const;
    template <class T> void set(int attribute, const T &value) const;

    const gpu::Cublaslt &library_;
    gpu::Handle handle_;
    gpu::Handle product_ = nullptr;
    gpu::Handle a_ = nullptr, b_ = nullptr, c_ = nullptr, d_ = nullptr; // layouts
    // Which of the addresses, and how many bytes behind them; -1: there is none
    struct Place {
        int position = -1;
        int64_t bytes = 0;
    } left_, right_, added_, result_;
    int bias_ = -1, scales_[2] = {-1, -1}; // positions
    bool wide_ = false; // alpha and beta are f64
    double alpha_ = 1, beta_ = 0;
    gpu::CublasltChoice choice_{};
};

// Whether the product has no elements.
bool is_empty(const LibraryMatmul &matmul, const std::vector<int64_t> &sizes);

} // namespace tessera::core
