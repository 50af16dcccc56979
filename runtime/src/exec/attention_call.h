// Attention by cuDNN for given sizes: its graph is built, and the library's plan is chosen, once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/cuda/cudnn_graph.h"
#include "exec/library_call.h"

namespace tessera::core {

class AttentionCall final : public LibraryCall {
  public:
    // As LibraryCall::prepare.
    static std::shared_ptr<LibraryCall> prepare(const Libraries &libraries, const Instruction &in,
                                                const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements,
                                                std::string &why);

    size_t scratch() const override { return own_bytes() + graph_.workspace(); }
    void run(void *const *addresses, void *scratch, gpu::Handle stream) override;

  private:
    using Graph = gpu::CudnnGraph;
    using Tensor = Graph::Tensor;
    struct Shape { // of known sizes
        int64_t batch = 0, heads = 0, shared = 0, length = 0, keys = 0, size = 0;
    };

    AttentionCall(const Libraries &libraries, const Instruction &in, const Shape &shape);
    size_t own_bytes() const;
    void describe_forward();
    void describe_gradient();
    Tensor rows(int64_t heads, int64_t length) { return graph_.memory(type_, {shape_.batch, heads, length, shape_.size}); }
    Tensor columns(int64_t heads);
    Tensor row_values() { return graph_.inside(gpu::CudnnType::F32, {shape_.batch, shape_.heads, shape_.length, 1}); }
    Tensor scores(gpu::CudnnType type = gpu::CudnnType::F32);
    Tensor applied(gpu::CudnnFunction function, std::initializer_list<Tensor> operands);
    Tensor product(const Tensor &a, const Tensor &b);
    Tensor turned(const Tensor &x);
    Tensor masked(const Tensor &x);
    void multiply_to_keys(const Tensor &weights, const Tensor &values, const Tensor &out);

    const LibraryAttention &attention_;
    const Shape shape_;
    const gpu::CudnnType type_;
    std::vector<size_t> own_; // bytes of what lies in the scratch memory before the library's workspace
    Graph graph_;
};

} // namespace tessera::core
