// Attributes in the form of the C ABI.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "api/handles.h"
#include "graph/attribute.h"
#include "tessera/custom_op_abi.h"

namespace tessera::custom {

struct ReleaseDim {
    void operator()(tsr_dim *dim) const { tsr_dim_release(dim); }
};
using DimHandle = std::unique_ptr<tsr_dim, ReleaseDim>;

// Holds what it points to; addresses stay as they are as long as it lives.
class AttributeBlock {
  public:
    explicit AttributeBlock(const std::vector<graph::Attribute> &attributes);
    AttributeBlock(const AttributeBlock &) = delete;
    AttributeBlock &operator=(const AttributeBlock &) = delete;

    const tsr_attribute *const *data() const { return order_.data(); }
    int32_t count() const { return static_cast<int32_t>(order_.size()); }

  private:
    const tsr_attribute *add(const graph::Attribute &attribute);

    std::deque<tsr_attribute> values_;
    std::deque<std::string> texts_;
    std::deque<std::vector<const tsr_attribute *>> lists_;
    std::vector<DimHandle> dims_;
    std::vector<const tsr_attribute *> order_;
};

} // namespace tessera::custom
