// A graph of primitives and custom operators, executed operator by operator: the "portable" target.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "collective/communicator.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "exec/run_context.h"
#include "exec/signature.h"
#include "graph/graph.h"
#include "ops/portable.h"

namespace tessera::portable {

class Program {
  public:
    // Parses and verifies text in which composites are decomposed. GraphError, NameMissingError, ShapeError, DTypeError
    // or VersionError when it is not such a graph.
    static Program parse(std::string_view text);
    // A graph that has been checked by graph::verify.
    explicit Program(graph::Graph graph);

    // Inputs, outputs, state and constants, in the order of the text.
    const core::Signature &signature() const { return signature_; }
    void give(std::string_view symbol, int64_t size) { signature_.give(symbol, size); }
    const graph::Graph &graph() const { return graph_; }

    // Bytes that a run needs for what it computes, besides outputs: exactly what it takes as its workspace.
    int64_t memory(const std::vector<int64_t> &sizes) const;

    // Runs once. Tensors are in the order of the signature, of the dtypes and shapes that it gives for `sizes` (from
    // Signature::solve); inputs may be strided, state is contiguous. An output that is an empty Tensor receives a new
    // one; another is written, and must overlap nothing else. State is updated in place after everything else has
    // succeeded. Several threads may run one program at a time, on different state.
    void run(core::RunContext &context, const std::vector<int64_t> &sizes, const std::vector<core::Tensor> &inputs,
             const std::vector<core::Tensor> &state, const std::vector<core::Tensor> &constants,
             std::vector<core::Tensor> &outputs) const;
    // The same with memory of its own, and no thread but the caller's when `pool` is null.
    void run(const std::vector<int64_t> &sizes, const std::vector<core::Tensor> &inputs,
             const std::vector<core::Tensor> &state, const std::vector<core::Tensor> &constants,
             std::vector<core::Tensor> &outputs, ThreadPool *pool, core::Communicator *communicator = nullptr) const;

  private:
    struct Step {
        Primitive primitive;
        std::shared_ptr<const core::Collective> collective; // null for all other operators
        std::vector<graph::ValueId> operands;
        graph::ValueId result; // the first
        size_t result_count;
        std::vector<graph::ValueId> last_uses; // values that nothing needs after this step
    };
    void describe();
    void plan();
    // Where the values are, for given sizes.
    struct Layout {
        std::vector<TensorView> values;   // by value; the address of what is computed is set by the run
        std::vector<int64_t> offsets;     // by value, in the workspace; -1: elsewhere
        std::vector<int64_t> update_offsets; // of copies that updates need; -1: none
        int64_t bytes = 0;
    };
    TensorView view_of(graph::ValueId value, const std::vector<int64_t> &sizes) const;
    Layout lay_out(const std::vector<int64_t> &sizes) const;
    void compute(core::RunContext &context, const Step &step, const std::vector<int64_t> &sizes,
                 const std::vector<TensorView> &values) const;

    graph::Graph graph_;
    core::Signature signature_;
    std::vector<graph::ValueId> inputs_, state_, constants_; // the leaves' values, in the signature's order
    std::vector<Step> steps_;
    std::vector<int> output_of_; // by value: the output that it is computed into; -1: none
};

} // namespace tessera::portable
