// What the portable kernels share: the call, parallel loops, the tables that each family fills.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"
#include "graph/graph.h"
#include "ops/element.h"

namespace tessera::portable {

using core::Code;
using core::TensorView;
using core::ThreadPool;

// One application of a primitive to concrete tensors. Attributes hold no symbols; the shapes and dtypes of operands and
// results are those of the type rule.
struct KernelCall {
    std::string_view op;
    const graph::Attributes &attrs;
    const TensorView *operands;
    size_t operand_count;
    const TensorView &result;
    ThreadPool *pool;
    const graph::Location *loc; // may be null

    const TensorView &operand(size_t i) const { return operands[i]; }
    size_t axis() const { return static_cast<size_t>(attrs.integer(op, "axis")); }
    // Throws with "[op] " in front and the user's line behind.
    [[noreturn]] void fail(Code code, const std::string &message) const;
    // fn(begin, end) over ranges that cover [0, units), on the pool when that many `work` units of about a nanosecond
    // each are worth it. What is computed must not depend on how the ranges are cut.
    template <class F> void parallel(int64_t units, int64_t work_per_unit, F &&fn) const {
        const int64_t grain = std::max<int64_t>(1, parallel_work / std::max<int64_t>(1, work_per_unit));
        if (!pool || units <= grain)
            return units > 0 ? fn(int64_t{0}, units) : void();
        pool->parallel_for(units, grain, [&](int64_t begin, int64_t end, int) { fn(begin, end); });
    }

    static constexpr int64_t parallel_work = 32768;
};

using Kernel = void (*)(const KernelCall &);

struct KernelEntry {
    std::string_view name;
    Kernel kernel;
};

using KernelTable = std::vector<KernelEntry>;
const KernelTable &pointwise_kernels();
const KernelTable &reduction_kernels();
const KernelTable &matmul_kernels();
const KernelTable &shape_kernels();
const KernelTable &creation_kernels();
const KernelTable &collective_kernels();
const KernelTable &index_kernels();

// Fills the result with one value, converted as `cast` does.
void fill_scalar(const KernelCall &call, const graph::Scalar &value);

// The product of sizes [begin, end) of a shape.
int64_t size_product(const std::vector<int64_t> &shape, size_t begin, size_t end);

} // namespace tessera::portable
