// The Python class Array: a concrete tensor.
#pragma once

#include "handles.h"

namespace tessera::python {

struct Array {
    explicit Array(TensorOwner owner) : tensor(std::move(owner)) {
        info.size = sizeof info;
        check(tsr_tensor_describe(tensor.get(), &info));
    }
    bool has(uint32_t flag) const { return (info.flags & flag) != 0; }

    TensorOwner tensor;
    tsr_tensor_info info{};
};

} // namespace tessera::python
