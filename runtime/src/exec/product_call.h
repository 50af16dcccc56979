// A product by cuBLASLt for given sizes: descriptors are made and the library's kernel is chosen once.
#pragma once

#include <memory>
#include <vector>

#include "core/dtype.h"
#include "exec/library_call.h"

namespace tessera::core {

class ProductCall final : public LibraryCall {
  public:
    // As LibraryCall::prepare.
    static std::shared_ptr<LibraryCall> prepare(const Libraries &libraries, const Instruction &in,
                                                const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements);
    ~ProductCall() override;

    size_t scratch() const override { return choice_.workspace; }
    void run(void *const *addresses, void *scratch, gpu::Handle stream) override;

  private:
    struct Matrix; // of known sizes
    ProductCall(const Libraries &libraries, const LibraryMatmul &matmul);
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

} // namespace tessera::core
