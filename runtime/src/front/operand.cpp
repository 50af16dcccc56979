#include "front/operand.h"

#include <algorithm>
#include <cmath>

#include "graph/printer.h"

namespace tessera::front {

DType Number::beside(DType tensor) const {
    if (kind == Integer)
        return tensor == DType::Bool ? DType::I64 : tensor;
    if (kind == Real)
        return core::is_float(tensor) ? tensor : DType::F32;
    return tensor;
}

std::string Number::text() const {
    if (kind == Bool)
        return integer ? "true" : "false";
    return kind == Integer ? std::to_string(integer) : graph::real_text(real);
}

Operand::Operand(const Dim &size) {
    if (size.is_constant())
        *this = Operand(size.constant());
    else
        value_ = build("full", {}, {{"shape", dims({})}, {"value", Attribute::dim(size)}, {"dtype", kind(DType::I64)}});
}

Attribute ints(const std::vector<int64_t> &values) {
    Attribute::List items;
    for (int64_t v : values)
        items.push_back(Attribute::integer(v));
    return Attribute::list(std::move(items));
}

DType promote(DType a, DType b) {
    const auto are = [&](DType x, DType y) { return (a == x && b == y) || (a == y && b == x); };
    if (a == b)
        return a;
    if (are(DType::BF16, DType::F16))
        return DType::F32;
    if (are(DType::F8E4M3, DType::F8E5M2))
        return DType::BF16;
    if (are(DType::U8, DType::I8))
        return DType::I16;
    if (core::is_float(a) != core::is_float(b))
        return core::is_float(a) ? a : b;
    // The numbers of dtypes fall with their width among floats and among signed integers; then come u8 and bool.
    return static_cast<int>(a) < static_cast<int>(b) ? a : b;
}

Attribute number_attribute(const Number &number, DType dtype) {
    if (dtype == DType::Bool)
        return flag(number.kind == Number::Real ? number.real != 0 : number.integer != 0);
    if (core::is_float(dtype))
        return real(number.real);
    if (number.kind == Number::Real && number.real != std::trunc(number.real))
        core::fail(Code::Argument, "the value %s is not a %s; use a floating-point dtype", number.text().c_str(),
                   core::name(dtype));
    const int bits = static_cast<int>(core::item_size(dtype)) * 8;
    const bool is_signed = dtype != DType::U8;
    const double low = is_signed ? -std::ldexp(1.0, bits - 1) : 0, end = std::ldexp(1.0, bits - is_signed);
    const bool fits = number.kind == Number::Real || bits < 64 ? number.real >= low && number.real < end : true;
    if (!fits)
        core::fail(Code::Argument, "the value %s does not fit %s; use a wider dtype", number.text().c_str(),
                   core::name(dtype));
    return integer(number.kind == Number::Real ? static_cast<int64_t>(number.real) : number.integer);
}

Value scalar(const Number &number, DType dtype) {
    return build("full", {},
                 {{"shape", dims({})}, {"value", number_attribute(number, dtype)}, {"dtype", kind(dtype)}});
}

Value as_tensor(const Operand &x) {
    if (x.is_none())
        core::fail(Code::Argument,
                   "an operand is missing: an empty Tensor, or nothing where a tensor or a number is needed");
    return x.is_number() ? scalar(x.number(), x.number().dtype()) : x.value();
}

Value as_tensor(const Operand &x, DType like) {
    return x.is_number() ? scalar(x.number(), x.number().beside(like)) : as_tensor(x);
}

Value cast_to(const Value &x, DType dtype) {
    return x.dtype() == dtype ? x : build("cast", {x}, {{"dtype", kind(dtype)}});
}

Value as_floating(const Operand &x) {
    const Value tensor = as_tensor(x);
    return core::is_float(tensor.dtype()) ? tensor : cast_to(tensor, DType::F32);
}

Value as_index(const char *op, const char *what, const Operand &x) {
    const Value tensor = as_tensor(x);
    if (!core::is_integer(tensor.dtype()))
        fail_op(Code::DType, op,
                std::string(what) + " have dtype " + core::name(tensor.dtype()) + "; expected an integer dtype");
    const bool fits = tensor.dtype() == DType::I32 || tensor.dtype() == DType::I64;
    return fits ? tensor : cast_to(tensor, DType::I64);
}

Values promote_operands(const char *op, const std::vector<Operand> &operands) {
    std::optional<DType> common;
    for (const Operand &x : operands)
        if (!x.is_number()) {
            const DType dtype = as_tensor(x).dtype();
            common = common ? promote(*common, dtype) : dtype;
        }
    if (!common)
        for (const Operand &x : operands)
            common = common ? promote(*common, x.number().dtype()) : x.number().dtype();
    for (const Operand &x : operands)
        if (x.is_number())
            common = x.number().beside(*common);
    if (is_small_float(*common))
        fail_op(Code::DType, op,
                std::string("operands have dtype ") + core::name(*common) +
                    ", which only stores numbers; cast them to bf16 or f32 first");
    Values out;
    for (const Operand &x : operands)
        out.push_back(x.is_number() ? scalar(x.number(), *common) : cast_to(x.value(), *common));
    return out;
}

Values promote_floats(const char *op, const std::vector<Operand> &operands) {
    Values out = promote_operands(op, operands);
    for (Value &v : out)
        if (!core::is_float(v.dtype()))
            v = cast_to(v, DType::F32);
    return out;
}

void fail_op(Code code, const char *op, const std::string &message) {
    throw core::Error(code, "[" + std::string(op) + "] " + message);
}

std::string shown_shape(const Shape &shape) {
    std::string out = "(";
    for (size_t i = 0; i < shape.size(); ++i)
        out += (i ? ", " : "") + shape[i].text();
    return out + (shape.size() == 1 ? ",)" : ")");
}

int64_t one_axis(const char *op, int64_t axis, int64_t rank, const char *argument) {
    if (axis < -rank || axis >= rank)
        fail_op(Code::Argument, op,
                std::string(argument) + " " + std::to_string(axis) + " is out of range for a tensor with " +
                    std::to_string(rank) + " dimensions" +
                    (rank ? "; use " + std::to_string(-rank) + " to " + std::to_string(rank - 1)
                          : " (a scalar has no axes)"));
    return axis < 0 ? axis + rank : axis;
}

std::vector<int64_t> several_axes(const char *op, const std::optional<std::vector<int64_t>> &axes, int64_t rank,
                                  const char *argument) {
    std::vector<bool> chosen(static_cast<size_t>(rank), !axes);
    if (axes)
        for (int64_t axis : *axes) {
            const size_t i = static_cast<size_t>(one_axis(op, axis, rank, argument));
            if (chosen[i])
                fail_op(Code::Argument, op,
                        std::string(argument) + " " + std::to_string(axis) + " is given twice: name it once");
            chosen[i] = true;
        }
    std::vector<int64_t> out;
    for (int64_t i = 0; i < rank; ++i)
        if (chosen[static_cast<size_t>(i)])
            out.push_back(i);
    return out;
}

const Shape &checked_shape(const char *op, const Shape &shape) {
    for (size_t i = 0; i < shape.size(); ++i)
        if (!shape[i].is_nonnegative())
            fail_op(Code::Shape, op,
                    "dimension " + std::to_string(i) + " of shape " + shown_shape(shape) +
                        " is or can be negative; sizes are at least 0");
    return shape;
}

Shape broadcast_shapes(const char *op, const std::vector<Shape> &shapes) {
    Shape out;                  // in reverse order
    std::vector<size_t> owners; // the operand that a size came from
    for (size_t k = 0; k < shapes.size(); ++k) {
        const Shape &shape = shapes[k];
        for (size_t i = 0; i < shape.size(); ++i) {
            const Dim &size = shape[shape.size() - 1 - i];
            if (i == out.size()) {
                out.push_back(size);
                owners.push_back(k);
            } else if (out[i] == Dim(1)) {
                out[i] = size;
                owners[i] = k;
            } else if (size != Dim(1) && size != out[i]) {
                fail_op(Code::Shape, op,
                        "operand " + std::to_string(owners[i]) + " with shape " + shown_shape(shapes[owners[i]]) +
                            " and operand " + std::to_string(k) + " with shape " + shown_shape(shape) +
                            " do not broadcast: dimension -" + std::to_string(i + 1) + " is " + out[i].text() +
                            " in one and " + size.text() + " in the other; they must be equal or one of them 1");
            }
        }
    }
    std::reverse(out.begin(), out.end());
    return out;
}

Value unbroadcast(const Value &gradient, const Shape &shape) {
    if (gradient.shape() == shape)
        return gradient;
    const size_t extra = gradient.shape().size() - shape.size();
    std::vector<int64_t> axes;
    for (size_t i = 0; i < extra; ++i)
        axes.push_back(static_cast<int64_t>(i));
    for (size_t i = 0; i < shape.size(); ++i)
        if (shape[i] == Dim(1) && gradient.shape()[i + extra] != Dim(1))
            axes.push_back(static_cast<int64_t>(i + extra));
    const Value summed =
        axes.empty() ? gradient : build("sum", {gradient}, {{"axes", ints(axes)}, {"keepdims", flag(false)}});
    return summed.shape() == shape ? summed : build("reshape", {summed}, {{"shape", dims(shape)}});
}

void require_floats(const char *op, const Values &operands) {
    for (size_t i = 0; i < operands.size(); ++i)
        if (!core::is_float(operands[i].dtype()) || is_small_float(operands[i].dtype()))
            fail_op(Code::DType, op,
                    "operand " + std::to_string(i) + " has dtype " + core::name(operands[i].dtype()) +
                        "; expected f64, f32, bf16 or f16: cast it first");
}

void require_equal_dtypes(const char *op, const Values &operands) {
    for (size_t i = 1; i < operands.size(); ++i)
        if (operands[i].dtype() != operands[0].dtype())
            fail_op(Code::DType, op,
                    "operand " + std::to_string(i) + " has dtype " + core::name(operands[i].dtype()) +
                        " but operand 0 has " + core::name(operands[0].dtype()) + "; cast one to the other's dtype");
}

} // namespace tessera::front
