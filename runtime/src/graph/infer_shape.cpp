// Type rules of the primitives that arrange or create elements.
#include <cmath>

#include "graph/infer_rules.h"
#include "graph/printer.h"

namespace tessera::graph {

namespace {

TensorType reshape(const Call &call) {
    const TensorType &x = call.operand(0);
    std::vector<Dim> shape = call.sizes("shape");
    const Dim have = core::product(x.shape), want = core::product(shape);
    if (have != want)
        call.fail(Code::Shape, "a tensor of shape " + core::shape_text(x.shape) + " with " + have.text() +
                                   " elements cannot take the shape " + core::shape_text(shape) + " with " +
                                   want.text());
    return {x.dtype, std::move(shape)};
}

TensorType transpose(const Call &call) {
    const TensorType &x = call.operand(0);
    const std::vector<size_t> perm = call.axes("perm", x.rank());
    if (perm.size() != x.rank())
        call.fail(Code::Argument, "perm has " + std::to_string(perm.size()) + " entries but the tensor has " +
                                      std::to_string(x.rank()) + " dimensions");
    std::vector<Dim> shape;
    for (size_t axis : perm)
        shape.push_back(x.shape[axis]);
    return {x.dtype, std::move(shape)};
}

TensorType broadcast_to(const Call &call) {
    const TensorType &x = call.operand(0);
    std::vector<Dim> shape = call.sizes("shape");
    bool fits = shape.size() >= x.rank();
    for (size_t i = 0; fits && i < x.rank(); ++i) {
        const Dim &have = x.shape[x.rank() - 1 - i];
        fits = have == Dim(1) || have == shape[shape.size() - 1 - i];
    }
    if (!fits)
        call.fail(Code::Shape, "a tensor of shape " + core::shape_text(x.shape) + " does not broadcast to " +
                                   core::shape_text(shape) + ": sizes must be equal, from the right, or 1");
    return {x.dtype, std::move(shape)};
}

// A list attribute with one entry per dimension.
std::vector<Dim> per_dimension(const Call &call, std::string_view name) {
    std::vector<Dim> out = call.attrs.dims(call.op, name);
    if (out.size() != call.operand(0).rank())
        call.fail(Code::Argument, std::string(name) + " has " + std::to_string(out.size()) +
                                      " entries but the tensor has " + std::to_string(call.operand(0).rank()) +
                                      " dimensions");
    return out;
}

TensorType slice(const Call &call) {
    const TensorType &x = call.operand(0);
    const std::vector<Dim> start = per_dimension(call, "start"), stop = per_dimension(call, "stop"),
                           step = per_dimension(call, "step");
    std::vector<Dim> shape;
    for (size_t i = 0; i < x.rank(); ++i) {
        const bool legal = start[i].is_nonnegative() && (stop[i] - start[i]).is_nonnegative() &&
                           (x.shape[i] - stop[i]).is_nonnegative();
        if (!legal)
            call.fail(Code::Shape, "dimension " + std::to_string(i) + " of shape " + core::shape_text(x.shape) +
                                       " is cut from " + start[i].text() + " to " + stop[i].text() +
                                       "; 0 <= start <= stop <= size must hold for all legal sizes");
        if (step[i].bounds().first < 1)
            call.fail(Code::Argument, "the step " + step[i].text() + " of dimension " + std::to_string(i) +
                                          " must be at least 1");
        shape.push_back(core::ceildiv(stop[i] - start[i], step[i]));
    }
    return {x.dtype, std::move(shape)};
}

TensorType flip(const Call &call) {
    call.sorted_axes(call.operand(0).rank());
    return call.operand(0);
}

// ArgumentError unless the scalar attribute `value` is a number of this dtype.
void require_value(const Call &call, DType dtype) {
    const Scalar value = call.attrs.scalar(call.op, "value");
    if (!core::is_integer(dtype))
        return;
    const int bits = static_cast<int>(core::item_size(dtype)) * 8;
    const bool is_signed = dtype != DType::U8;
    const double low = is_signed ? -std::ldexp(1.0, bits - 1) : 0, end = std::ldexp(1.0, bits - is_signed);
    // An integer attribute has at most 64 bits and may need no check against i64, where doubles are too coarse.
    const bool fits = value.is_real ? value.real == std::trunc(value.real) && value.real >= low && value.real < end
                                    : bits == 64 || (value.real >= low && value.real < end);
    if (!fits)
        call.fail(Code::Argument, "the value " + core::shown(to_text(*call.attrs.find("value"))) +
                                      " is not a number of dtype " + core::name(dtype) + "; use a wider dtype");
}

TensorType pad(const Call &call) {
    const TensorType &x = call.operand(0);
    const std::vector<Dim> low = per_dimension(call, "low"), high = per_dimension(call, "high");
    require_value(call, x.dtype);
    std::vector<Dim> shape;
    for (size_t i = 0; i < x.rank(); ++i) {
        if (!low[i].is_nonnegative() || !high[i].is_nonnegative())
            call.fail(Code::Argument, "dimension " + std::to_string(i) + " is padded by " + low[i].text() + " and " +
                                          high[i].text() + "; paddings are at least 0");
        shape.push_back(low[i] + x.shape[i] + high[i]);
    }
    return {x.dtype, std::move(shape)};
}

TensorType concat(const Call &call) {
    require_equal_dtypes(call);
    const TensorType &first = call.operand(0);
    const size_t axis = call.axis("axis", first.rank());
    std::vector<Dim> shape = first.shape;
    for (size_t k = 1; k < call.operands.size(); ++k) {
        const std::vector<Dim> &other = call.operand(k).shape;
        bool fits = other.size() == shape.size();
        for (size_t i = 0; fits && i < shape.size(); ++i)
            fits = i == axis || other[i] == shape[i];
        if (!fits)
            call.fail(Code::Shape, "operand " + std::to_string(k) + " has shape " + core::shape_text(other) +
                                       " but operand 0 has shape " + core::shape_text(first.shape) +
                                       ": all dimensions but " + std::to_string(axis) + " must be equal");
        shape[axis] = shape[axis] + other[axis];
    }
    return {first.dtype, std::move(shape)};
}

TensorType iota(const Call &call) {
    std::vector<Dim> shape = call.sizes("shape");
    call.axis("axis", shape.size());
    const DType dtype = call.attrs.dtype(call.op, "dtype");
    const bool small = dtype == DType::F8E4M3 || dtype == DType::F8E5M2;
    if (dtype == DType::Bool || small)
        call.fail(Code::DType, std::string("dtype ") + core::name(dtype) +
                                   " cannot count; use an integer or floating-point dtype");
    return {dtype, std::move(shape)};
}

TensorType full(const Call &call) {
    const DType dtype = call.attrs.dtype(call.op, "dtype");
    const Attribute *value = call.attrs.find("value");
    if (!value || !value->get_if<Dim>()) // a symbolic size is cast when it is known
        require_value(call, dtype);
    return {dtype, call.sizes("shape")};
}

TensorType random_uniform(const Call &call) {
    const TensorType &key = call.operand(0);
    if (key.dtype != DType::I64 || key.shape != std::vector<Dim>{2})
        call.fail(Code::Shape, "the key is " + key.text() + "; expected i64[2], a seed and a counter");
    const DType dtype = call.attrs.dtype(call.op, "dtype");
    if (dtype != DType::F32 && dtype != DType::F64)
        call.fail(Code::DType, std::string("dtype is ") + core::name(dtype) + "; expected f32 or f64");
    call.attrs.integer(call.op, "id");
    return {dtype, call.sizes("shape")};
}

} // namespace

const PrimitiveTable &shape_rules() {
    static const PrimitiveTable table = {
        {"reshape", 1, reshape},     {"transpose", 1, transpose}, {"broadcast_to", 1, broadcast_to},
        {"slice", 1, slice},         {"flip", 1, flip},           {"pad", 1, pad},
        {"concat", any_count, concat}, {"iota", 0, iota},         {"full", 0, full},
        {"random_uniform", 1, random_uniform},
    };
    return table;
}

} // namespace tessera::graph
