// A graph of primitives and custom operators, executed operator by operator: the "portable" target.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "collective/communicator.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
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

    // Runs once. Tensors are in the order of the signature, of the dtypes and shapes that it gives for `sizes` (from
    // Signature::solve); inputs may be strided, state is contiguous. An output that is an empty Tensor receives a new
    // one; another is written. State is updated in place after everything else has succeeded. Several threads may run
    // one program at a time, on different state.
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
    std::vector<core::Tensor> compute(const Step &step, const std::vector<int64_t> &sizes,
                                      const std::vector<core::Tensor> &values, ThreadPool *pool,
                                      core::Communicator *communicator) const;

    graph::Graph graph_;
    core::Signature signature_;
    std::vector<graph::ValueId> inputs_, state_, constants_; // the leaves' values, in the signature's order
    std::vector<Step> steps_;
};

} // namespace tessera::portable
