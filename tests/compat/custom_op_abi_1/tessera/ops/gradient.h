// Automatic differentiation of graphs that are built in C++.
#ifndef TESSERA_OPS_GRADIENT_H
#define TESSERA_OPS_GRADIENT_H

#include <vector>

#include "tessera/tensor.h"

namespace tessera {

namespace detail {

inline std::vector<tsr_tensor *> handles_of(const std::vector<Tensor> &tensors) {
    std::vector<tsr_tensor *> out;
    for (const Tensor &t : tensors)
        out.push_back(t.handle());
    return out;
}

} // namespace detail

// The gradient of the sum of outputs weighted by `seeds`, with respect to each of `wrt`: parameters, inputs or results
// in between, all floating-point. Gradients are ordinary tensors and can be differentiated again. Zeros where no path
// leads. GradientError for an operator without gradient on the way, which it names with the reason and the user's line.
inline std::vector<Tensor> grad(const std::vector<Tensor> &outputs, const std::vector<Tensor> &wrt,
                                const std::vector<Tensor> &seeds) {
    if (seeds.size() != outputs.size())
        throw Error(TSR_ARGUMENT_ERROR, "grad: there must be one seed for each output");
    std::vector<tsr_tensor *> results(wrt.size());
    check(tsr_op_gradient(detail::handles_of(outputs).data(), detail::handles_of(seeds).data(),
                          static_cast<int32_t>(outputs.size()), detail::handles_of(wrt).data(),
                          static_cast<int32_t>(wrt.size()), results.data()));
    std::vector<Tensor> out;
    for (tsr_tensor *handle : results)
        out.push_back(Tensor::adopt(handle));
    return out;
}

// The gradients of a floating-point scalar.
inline std::vector<Tensor> grad(const Tensor &loss, const std::vector<Tensor> &wrt) {
    std::vector<tsr_tensor *> results(wrt.size());
    tsr_tensor *const output = loss.handle();
    check(tsr_op_gradient(&output, nullptr, 1, detail::handles_of(wrt).data(), static_cast<int32_t>(wrt.size()),
                          results.data()));
    std::vector<Tensor> out;
    for (tsr_tensor *handle : results)
        out.push_back(Tensor::adopt(handle));
    return out;
}

} // namespace tessera

#endif
