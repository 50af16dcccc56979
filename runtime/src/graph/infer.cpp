#include "graph/infer.h"

#include <algorithm>
#include <map>

#include "custom/registry.h"
#include "graph/infer_rules.h"

namespace tessera::graph {

namespace {

const std::map<std::string_view, Primitive> &primitives() {
    static const std::map<std::string_view, Primitive> table = [] {
        std::map<std::string_view, Primitive> out;
        for (const PrimitiveTable *rules : {&pointwise_rules(), &reduction_rules(), &shape_rules(), &index_rules(),
                                            &collective_rules()})
            for (const Primitive &primitive : *rules)
                out.emplace(primitive.name, primitive);
        return out;
    }();
    return table;
}

bool accepted(DType dtype, Accepts accepts) {
    const bool small = dtype == DType::F8E4M3 || dtype == DType::F8E5M2;
    const bool real = core::is_float(dtype) && !small;
    const bool integer = core::is_integer(dtype);
    const bool boolean = dtype == DType::Bool;
    switch (accepts) {
    case Accepts::Floats: return real;
    case Accepts::Numbers: return real || integer;
    case Accepts::Integers: return integer;
    case Accepts::IntegersAndBool: return integer || boolean;
    case Accepts::Bool: return boolean;
    case Accepts::NumbersAndBool: return !small;
    case Accepts::All: return true;
    }
    return false;
}

const char *accepted_names(Accepts accepts) {
    switch (accepts) {
    case Accepts::Floats: return "f64, f32, bf16 or f16";
    case Accepts::Numbers: return "f64, f32, bf16, f16, i64, i32, i16, i8 or u8";
    case Accepts::Integers: return "i64, i32, i16, i8 or u8";
    case Accepts::IntegersAndBool: return "i64, i32, i16, i8, u8 or bool";
    case Accepts::Bool: return "bool";
    case Accepts::NumbersAndBool: return "f64, f32, bf16, f16, i64, i32, i16, i8, u8 or bool";
    case Accepts::All: return "any dtype";
    }
    return "";
}

} // namespace

void Call::fail(Code code, const std::string &message) const {
    throw core::Error(code, "[" + std::string(op) + "] " + message);
}

size_t Call::axis(std::string_view name, size_t rank) const {
    const int64_t axis = attrs.integer(op, name);
    if (axis < 0 || axis >= static_cast<int64_t>(rank))
        fail(Code::Argument, std::string(name) + " is " + std::to_string(axis) + " but the tensor has " +
                                 std::to_string(rank) + " dimensions");
    return static_cast<size_t>(axis);
}

std::vector<size_t> Call::axes(std::string_view name, size_t rank) const {
    std::vector<size_t> out;
    for (int64_t axis : attrs.integers(op, name)) {
        if (axis < 0 || axis >= static_cast<int64_t>(rank))
            fail(Code::Argument, std::string(name) + " has " + std::to_string(axis) + " but the tensor has " +
                                     std::to_string(rank) + " dimensions");
        if (std::find(out.begin(), out.end(), static_cast<size_t>(axis)) != out.end())
            fail(Code::Argument, std::string(name) + " has " + std::to_string(axis) + " twice");
        out.push_back(static_cast<size_t>(axis));
    }
    return out;
}

std::vector<size_t> Call::sorted_axes(size_t rank) const {
    std::vector<size_t> out = axes("axes", rank);
    if (!std::is_sorted(out.begin(), out.end()))
        fail(Code::Argument, "axes must be in ascending order");
    return out;
}

std::vector<Dim> Call::sizes(std::string_view name) const {
    std::vector<Dim> out = attrs.dims(op, name);
    for (const Dim &size : out)
        if (!size.is_nonnegative())
            fail(Code::Shape, "a size in " + core::shape_text(out) + " is or can be negative");
    return out;
}

void require_dtype(const Call &call, size_t i, Accepts accepts) {
    if (!accepted(call.operand(i).dtype, accepts))
        call.fail(Code::DType, "operand " + std::to_string(i) + " has dtype " + core::name(call.operand(i).dtype) +
                                   "; expected " + accepted_names(accepts) + ": cast it first");
}

void require_equal_dtypes(const Call &call, size_t first) {
    for (size_t i = first + 1; i < call.operands.size(); ++i)
        if (call.operand(i).dtype != call.operand(first).dtype)
            call.fail(Code::DType, "operand " + std::to_string(i) + " has dtype " +
                                       core::name(call.operand(i).dtype) + " but operand " + std::to_string(first) +
                                       " has " + core::name(call.operand(first).dtype) +
                                       "; cast one to the other's dtype");
}

void require_index(const Call &call, size_t i) {
    const DType dtype = call.operand(i).dtype;
    if (dtype != DType::I64 && dtype != DType::I32)
        call.fail(Code::DType, "operand " + std::to_string(i) + " (the index) has dtype " + core::name(dtype) +
                                   "; expected i64 or i32: cast it first");
}

std::vector<Dim> broadcast_operands(const Call &call, size_t drop_last) {
    std::vector<Dim> out;       // in reverse order
    std::vector<size_t> owners; // the operand that a size came from
    for (size_t k = 0; k < call.operands.size(); ++k) {
        const std::vector<Dim> &shape = call.operand(k).shape;
        const size_t count = shape.size() - drop_last;
        for (size_t i = 0; i < count; ++i) {
            const Dim &size = shape[count - 1 - i];
            if (i == out.size()) {
                out.push_back(size);
                owners.push_back(k);
            } else if (out[i] == Dim(1)) {
                out[i] = size;
                owners[i] = k;
            } else if (size != Dim(1) && size != out[i]) {
                call.fail(Code::Shape, "operand " + std::to_string(owners[i]) + " with shape " +
                                           core::shape_text(call.operand(owners[i]).shape) + " and operand " +
                                           std::to_string(k) + " with shape " + core::shape_text(shape) +
                                           " do not broadcast: dimension -" + std::to_string(i + 1 + drop_last) +
                                           " is " + out[i].text() + " in one and " + size.text() +
                                           " in the other; they must be equal or one of them 1");
            }
        }
    }
    std::reverse(out.begin(), out.end());
    return out;
}

DType accumulated(DType dtype) {
    return core::is_float(dtype) ? dtype : DType::I64;
}

TensorType infer(std::string_view op, const std::vector<TensorType> &operands, const Attributes &attrs) {
    const auto found = primitives().find(op);
    if (found == primitives().end())
        fail(Code::NameMissing, "unknown operator '%s': it is not a primitive of this version",
             core::shown(std::string(op)).c_str());
    const Call call{op, operands, attrs};
    const size_t expected = found->second.operands;
    if (expected == any_count ? operands.empty() : operands.size() != expected)
        call.fail(Code::Argument, "takes " +
                                      (expected == any_count ? std::string("one operand or more")
                                                             : std::to_string(expected) + " operands") +
                                      ", got " + std::to_string(operands.size()));
    return found->second.rule(call);
}

std::vector<TensorType> infer_results(std::string_view op, const std::vector<TensorType> &operands,
                                      const Attributes &attrs) {
    if (custom::is_custom(op))
        return custom::get(op).infer(operands, attrs).results;
    return {infer(op, operands, attrs)};
}

bool is_primitive(std::string_view op) { return primitives().count(op) != 0; }

const std::vector<std::string_view> &primitive_names() {
    static const std::vector<std::string_view> names = [] {
        std::vector<std::string_view> out;
        for (const auto &[name, primitive] : primitives())
            out.push_back(name);
        return out;
    }();
    return names;
}

} // namespace tessera::graph
