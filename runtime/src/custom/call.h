// One call of a custom operator on concrete shapes, ready to run any number of times.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cancel.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "custom/attribute_block.h"
#include "custom/definition.h"

namespace tessera::custom {

// Where and with what a call runs.
struct Place {
    int32_t device_type = TSR_CPU;
    int32_t device_index = 0;
    void *stream = nullptr;           // a GPU's native stream
    void *scratch = nullptr;          // 64-byte aligned, Call::scratch_bytes of it
    core::ThreadPool *pool = nullptr; // CPU; null: the calling thread alone
    const core::CancelFlag *cancel = nullptr;
};

class Call {
  public:
    // Attributes hold no symbols; the data pointers of the views are not used. Throws what the shape function throws,
    // and ShapeError when the result types are not those it gives.
    Call(const Definition &definition, const graph::Attributes &attrs, const std::vector<core::TensorView> &operands,
         const std::vector<core::TensorView> &results);
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;

    size_t scratch_bytes() const { return scratch_bytes_; }
    // The addresses of the operands, then of the results. Throws what the kernel fails with, its name in front.
    void run(void *const *addresses, const Place &place) const;

  private:
    const Definition &definition_;
    AttributeBlock attributes_;
    std::vector<core::TensorView> views_; // operands, then results
    size_t operand_count_;
    size_t scratch_bytes_ = 0;
};

} // namespace tessera::custom
