// Where graphs begin: inputs, parameters, symbolic dimensions, and tensors made from nothing.
#ifndef TESSERA_OPS_CREATION_H
#define TESSERA_OPS_CREATION_H

#include "tessera/ops/operand.h"

namespace tessera {
namespace op {

// A size that is known only when the graph runs: at least min, at most max, a multiple of multiple_of. + - * and
// floordiv, mod, max, min give further ones.
inline Dim dim(const std::string &name, int64_t min = 1, std::optional<int64_t> max = std::nullopt,
               int64_t multiple_of = 1) {
    return Dim::symbol(name, min, max.value_or(-1), multiple_of);
}

// A named input of a graph: it has a dtype and a shape, whose sizes may be symbolic, and no elements.
inline Tensor input(const std::string &name, const Shape &shape, DType dtype = DType::F32) {
    std::vector<::tessera::detail::Handle<tsr_dim, tsr_dim_retain, tsr_dim_release>> owned;
    std::vector<tsr_dim *> sizes;
    for (const Dim &d : shape.sizes()) {
        owned.emplace_back(d.to_handle());
        sizes.push_back(owned.back().get());
    }
    tsr_tensor *out = nullptr;
    check(tsr_op_symbolic_input(name.c_str(), sizes.data(), static_cast<int32_t>(sizes.size()),
                                static_cast<tsr_dtype>(dtype), shape.site().file, shape.site().line, &out));
    return Tensor::adopt(out);
}
// The same with Python's order of arguments; give every input of a graph a name of its own.
inline Tensor tensor(const Shape &shape, DType dtype = DType::F32, const std::string &name = "input") {
    return input(name, shape, dtype);
}

// Named state of a graph that lives in `value`, which must be row-major and writable: runs read it, and the updates of
// a graph write it. A trainable one is a float.
inline Tensor parameter(const std::string &name, const Operand &value, bool trainable = true) {
    if (!value.is_tensor())
        throw Error(TSR_ARGUMENT_ERROR, "[parameter] the value of '" + name + "' must be a tensor");
    tsr_tensor *out = nullptr;
    check(tsr_op_parameter(name.c_str(), value.tensor().handle(), trainable ? 1 : 0, value.site().file,
                           value.site().line, &out));
    return Tensor::adopt(out);
}

// A tensor filled with one number, or with the value of a size. The dtype is by default that of the number: bool, i64,
// f32.
inline Tensor full(const Shape &shape, const Operand &value, std::optional<DType> dtype = std::nullopt) {
    return detail::Call("full", {value}).set("shape", shape).set("dtype", dtype).result();
}
inline Tensor zeros(const Shape &shape, DType dtype = DType::F32) {
    return detail::Call("full", {Operand(0, nullptr)}).set("shape", shape).set("dtype", dtype).result();
}
inline Tensor ones(const Shape &shape, DType dtype = DType::F32) {
    return detail::Call("full", {Operand(1, nullptr)}).set("shape", shape).set("dtype", dtype).result();
}
// Of x's shape, and dtype unless given.
inline Tensor full_like(const Operand &x, const Operand &value, std::optional<DType> dtype = std::nullopt) {
    return detail::Call("full_like", {x, value}).set("dtype", dtype).result();
}
inline Tensor zeros_like(const Operand &x, std::optional<DType> dtype = std::nullopt) {
    return detail::Call("full_like", {x, Operand(0, nullptr)}).set("dtype", dtype).result();
}
inline Tensor ones_like(const Operand &x, std::optional<DType> dtype = std::nullopt) {
    return detail::Call("full_like", {x, Operand(1, nullptr)}).set("dtype", dtype).result();
}
// 0, 1, 2, ... along an axis.
inline Tensor iota(const Shape &shape, int64_t axis = 0, DType dtype = DType::I64) {
    return detail::Call("iota").set("shape", shape).set("axis", axis).set("dtype", dtype).result();
}
// start, start + step, ... before stop; `arange(n)` counts from 0. A symbolic bound needs step 1.
inline Tensor arange(const Operand &start, const Operand &stop = std::nullopt, const Operand &step = 1,
                     std::optional<DType> dtype = std::nullopt) {
    return detail::Call("arange", {start, stop, step}).set("dtype", dtype).result();
}
// An n x m matrix (m: n by default) with ones where column - row = k.
inline Tensor eye(const Dim &n, const std::optional<Dim> &m = std::nullopt, int64_t k = 0, DType dtype = DType::F32) {
    return detail::Call("eye").set("n", n).set("m", m).set("k", k).set("dtype", dtype).result();
}

} // namespace op
} // namespace tessera

#endif
