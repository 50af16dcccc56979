// Tensors from nothing: tessera/op/creation.py.
#include <cmath>

#include "front/functions.h"

namespace tessera::front {

namespace {

Value count_up(const Shape &shape, int64_t axis, DType dtype) {
    return build("iota", {}, {{"shape", dims(shape)}, {"axis", integer(axis)}, {"dtype", kind(dtype)}});
}

// The length of start, start + step, ... before stop.
int64_t steps_between(const Number &start, const Number &stop, const Number &step, bool whole) {
    if (!whole)
        return std::max<int64_t>(static_cast<int64_t>(std::ceil((stop.real - start.real) / step.real)), 0);
    const Dim length = core::ceildiv(Dim(stop.integer) - Dim(start.integer), Dim(step.integer));
    return std::max<int64_t>(length.constant(), 0);
}

} // namespace

Value full(const Shape &shape, const Operand &value, std::optional<DType> dtype) {
    if (!value.is_number())
        fail_op(Code::Argument, "full", "value must be a number; use broadcast_to for a tensor");
    const DType target = dtype.value_or(value.number().dtype());
    return build("full", {},
                 {{"shape", dims(checked_shape("full", shape))},
                  {"value", number_attribute(value.number(), target)},
                  {"dtype", kind(target)}});
}

Value full_size(const Shape &shape, const Dim &value, std::optional<DType> dtype) {
    if (value.is_constant())
        return full(shape, value.constant(), dtype);
    return build("full", {},
                 {{"shape", dims(checked_shape("full", shape))},
                  {"value", Attribute::dim(value)},
                  {"dtype", kind(dtype.value_or(DType::I64))}});
}

Value full_like(const Operand &x, const Operand &value, std::optional<DType> dtype) {
    const Value tensor = as_tensor(x);
    return full(tensor.shape(), value, dtype.value_or(tensor.dtype()));
}

Value iota(const Shape &shape, int64_t axis, DType dtype) {
    return count_up(checked_shape("iota", shape), one_axis("iota", axis, static_cast<int64_t>(shape.size())), dtype);
}

Value arange(const Number &start, const std::optional<Number> &stop, const Number &step, std::optional<DType> dtype) {
    const Number first = stop ? start : Number{}, last = stop ? *stop : start;
    if (step.real == 0)
        fail_op(Code::Argument, "arange", "step must not be 0");
    const bool whole =
        first.kind != Number::Real && last.kind != Number::Real && step.kind != Number::Real;
    const DType target = dtype.value_or(whole ? DType::I64 : DType::F32);
    Value values = count_up({steps_between(first, last, step, whole)}, 0, whole ? DType::I64 : target);
    values = step.real == 1 ? values : values * Operand(step);
    return cast_to(first.real == 0 ? values : values + Operand(first), target);
}

Value arange_sizes(const Dim &start, const Dim &stop, std::optional<DType> dtype) {
    const Dim count = stop - start;
    if (count.bounds().first < 0)
        fail_op(Code::Shape, "arange",
                "the length " + count.text() + " can be negative; give the dimension a larger min");
    const Value values = count_up({count}, 0, DType::I64);
    return cast_to(start == Dim(0) ? values : values + as_tensor(Operand(start), DType::I64),
                   dtype.value_or(DType::I64));
}

Value eye(const Dim &n, const std::optional<Dim> &m, int64_t k, DType dtype) {
    const Shape shape = checked_shape("eye", {n, m.value_or(n)});
    const Value rows = count_up(shape, 0, DType::I64), columns = count_up(shape, 1, DType::I64);
    return cast_to(eq(k == 0 ? rows : rows + k, columns), dtype);
}

} // namespace tessera::front
