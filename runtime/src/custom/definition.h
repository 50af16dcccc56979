// A custom operator as the runtime knows it: what its library declared, checked and copied.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "custom/schema.h"
#include "graph/graph.h"
#include "tessera/custom_op_abi.h"

namespace tessera::custom {

// Result types of a call, and the bytes of scratch memory that its kernel needs.
struct Inferred {
    std::vector<graph::TensorType> results;
    core::Dim scratch = 0;
};

class Definition {
  public:
    // Copies what `op` says; FormatError when it is malformed. `op.context` is released at the end, also of a failure.
    Definition(const tsr_custom_op &op, std::string library);
    ~Definition();
    Definition(const Definition &) = delete;
    Definition &operator=(const Definition &) = delete;

    const std::string &name() const { return name_; }
    const std::string &library() const { return library_; }
    const Schema &schema() const { return schema_; }
    const std::string &schema_text() const { return schema_text_; }
    const std::string &doc() const { return doc_; }
    const std::string &version() const { return version_; }
    const std::string &shard() const { return shard_; }
    const std::string &samples() const { return samples_; }
    const std::string &gradient_op() const { return gradient_op_; }
    const std::string &no_gradient() const { return no_gradient_; }
    // Equal for operators that an artefact may exchange.
    uint64_t hash() const { return hash_; }

    bool has_kernel(int32_t device_type) const { return kernel(device_type) != nullptr; }
    bool has_gradient() const { return op_.gradient || !gradient_op_.empty(); }
    const tsr_custom_op &functions() const { return op_; }
    tsr_status (*kernel(int32_t device_type) const)(void *, const tsr_custom_call *);

    // What the shape function says, checked. ArgumentError, DTypeError, ShapeError and whatever it fails with.
    Inferred infer(const std::vector<graph::TensorType> &operands, const graph::Attributes &attrs) const;
    // Throws unless a function of the library returned TSR_OK; the message begins with the operator's name.
    void require_ok(tsr_status status) const;

  private:
    void read();
    void check_results(const std::vector<graph::TensorType> &operands, const graph::Attributes &attrs,
                       const Inferred &inferred) const;

    tsr_custom_op op_{}; // as far as the library knows it; its strings are not used
    std::string name_, library_, schema_text_, doc_, version_, shard_, samples_, gradient_op_, no_gradient_;
    Schema schema_;
    uint64_t hash_ = 0;
};

} // namespace tessera::custom
