#include "custom/definition.h"

#include <algorithm>
#include <cstring>

#include "core/hash.h"
#include "custom/attribute_block.h"

namespace tessera::custom {

using core::Code;
using core::fail;
using core::shown;
using graph::TensorType;

namespace {

std::string text_of(const char *text) { return text ? text : ""; }

bool is_operator_name(const std::string &name) {
    const size_t colons = name.find("::");
    const auto word = [](std::string_view w) {
        const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
        return !w.empty() && letter(w[0]) &&
               std::all_of(w.begin(), w.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
    };
    return colons != std::string::npos && word(std::string_view(name).substr(0, colons)) &&
           word(std::string_view(name).substr(colons + 2));
}

// One evaluation of a shape function.
struct Evaluation {
    Inferred inferred;

    static Evaluation &of(const tsr_custom_types *call) {
        core::require(call, "call");
        return *static_cast<Evaluation *>(call->runtime);
    }

    static tsr_status give_result(const tsr_custom_types *call, tsr_dtype dtype, int32_t rank,
                                  const tsr_dim *const *shape) {
        return core::guarded([&] {
            if (!core::is_dtype_code(dtype))
                fail(Code::DType, "the shape function gives a result of dtype %d, which does not exist", dtype);
            if (rank < 0 || rank > core::max_rank)
                fail(Code::Shape, "the shape function gives a result with %d dimensions", rank);
            TensorType type;
            type.dtype = static_cast<core::DType>(dtype);
            for (int32_t i = 0; i < rank; ++i) {
                core::require(shape ? shape[i] : nullptr, "a size of a result");
                type.shape.push_back(shape[i]->dim);
            }
            of(call).inferred.results.push_back(std::move(type));
        });
    }

    static tsr_status give_scratch(const tsr_custom_types *call, const tsr_dim *bytes) {
        return core::guarded([&] {
            core::require(bytes, "bytes");
            of(call).inferred.scratch = bytes->dim;
        });
    }
};

} // namespace

Definition::Definition(const tsr_custom_op &op, std::string library) : library_(std::move(library)) {
    if (op.size < offsetof(tsr_custom_op, gradient) + sizeof op.gradient)
        fail(Code::Format, "%s: an operator's description has %zu bytes, expected at least %zu", library_.c_str(), op.size,
             sizeof op);
    std::memcpy(&op_, &op, std::min(op.size, sizeof op_));
    try {
        read();
    } catch (...) {
        if (op_.release)
            op_.release(op_.context);
        throw;
    }
}

void Definition::read() {
    name_ = text_of(op_.name);
    const char *where = library_.c_str();
    if (!is_operator_name(name_))
        fail(Code::Format, "%s: an operator is called '%s'; expected library::name", where, shown(name_).c_str());
    try {
        schema_ = Schema::parse(text_of(op_.schema));
    } catch (const core::Error &e) {
        fail(Code::Format, "%s: %s: %s", where, name_.c_str(), e.message().c_str());
    }
    schema_text_ = schema_.text();
    doc_ = text_of(op_.doc);
    version_ = op_.version ? op_.version : "1";
    shard_ = text_of(op_.shard);
    samples_ = text_of(op_.samples);
    gradient_op_ = text_of(op_.gradient_op);
    no_gradient_ = text_of(op_.no_gradient);
    if (!op_.infer)
        fail(Code::Format, "%s: %s has no shape function", where, name_.c_str());
    if (!op_.cpu && !op_.cuda && !op_.hip)
        fail(Code::Format, "%s: %s has no kernel", where, name_.c_str());
    if (op_.gradient && !gradient_op_.empty())
        fail(Code::Format, "%s: %s has two gradients, a function and the operator %s", where, name_.c_str(),
             shown(gradient_op_).c_str());
    if (!has_gradient() && no_gradient_.empty())
        no_gradient_ = "the operator declares none";
    const std::string hashed = name_ + '\n' + schema_text_ + '\n' + shard_ + '\n' + version_;
    hash_ = core::hash64(hashed.data(), hashed.size());
}

Definition::~Definition() {
    if (op_.release)
        op_.release(op_.context);
}

tsr_status (*Definition::kernel(int32_t device_type) const)(void *, const tsr_custom_call *) {
    return device_type == TSR_CPU    ? op_.cpu
           : device_type == TSR_CUDA ? op_.cuda
           : device_type == TSR_ROCM ? op_.hip
                                     : nullptr;
}

void Definition::require_ok(tsr_status status) const {
    if (status == TSR_OK)
        return;
    std::string message = tsr_last_error();
    if (message.empty())
        message = "failed with status " + std::to_string(status);
    const std::string prefix = "[" + name_ + "] ";
    if (message.compare(0, prefix.size(), prefix) != 0)
        message = prefix + message;
    const bool known = (status >= TSR_ERROR && status <= TSR_CANCELLED_ERROR) || status == TSR_INTERNAL_ERROR;
    throw core::Error(known ? static_cast<Code>(status) : Code::Generic, std::move(message));
}

Inferred Definition::infer(const std::vector<TensorType> &operands, const graph::Attributes &attrs) const {
    schema_.check_operands(name_, operands);
    const AttributeBlock block(schema_.complete(name_, attrs));
    std::vector<DimHandle> dims;
    std::vector<std::vector<const tsr_dim *>> shapes;
    std::vector<tsr_custom_type> types;
    for (const TensorType &operand : operands) {
        std::vector<const tsr_dim *> shape;
        for (const core::Dim &d : operand.shape)
            shape.push_back(dims.emplace_back(new tsr_dim(d)).get());
        shapes.push_back(std::move(shape));
        types.push_back({sizeof(tsr_custom_type), static_cast<tsr_dtype>(operand.dtype),
                         static_cast<int32_t>(operand.shape.size()), shapes.back().data()});
    }
    std::vector<const tsr_custom_type *> pointers;
    for (const tsr_custom_type &type : types)
        pointers.push_back(&type);
    Evaluation evaluation;
    tsr_custom_types call{};
    call.size = sizeof call;
    call.operands = pointers.data();
    call.attributes = block.data();
    call.operand_count = static_cast<int32_t>(pointers.size());
    call.attribute_count = block.count();
    call.give_result = Evaluation::give_result;
    call.give_scratch = Evaluation::give_scratch;
    call.runtime = &evaluation;
    tsr_set_error(TSR_OK, "");
    require_ok(op_.infer(op_.context, &call));
    check_results(operands, attrs, evaluation.inferred);
    return std::move(evaluation.inferred);
}

void Definition::check_results(const std::vector<TensorType> &operands, const graph::Attributes &attrs,
                               const Inferred &inferred) const {
    const char *op = name_.c_str();
    if (inferred.results.size() != schema_.results.size())
        fail(Code::Shape, "[%s] the shape function gives %zu results; the schema has %zu", op, inferred.results.size(),
             schema_.results.size());
    core::SymbolTable known;
    const auto know = [&](const core::Dim &d) {
        const core::SymbolTable symbols = d.symbols();
        known.insert(known.end(), symbols.begin(), symbols.end());
    };
    for (const TensorType &operand : operands)
        std::for_each(operand.shape.begin(), operand.shape.end(), know);
    for (const auto &[name, value] : attrs.items()) {
        if (const core::Dim *d = value.get_if<core::Dim>())
            know(*d);
        if (const graph::Attribute::List *list = value.get_if<graph::Attribute::List>())
            for (const graph::Attribute &item : *list)
                if (const core::Dim *d = item.get_if<core::Dim>())
                    know(*d);
    }
    const auto check = [&](const core::Dim &d, const char *what) {
        if (!d.is_nonnegative())
            fail(Code::Shape, "[%s] the shape function gives %s of %s, which is or can be negative", op, what,
                 d.text().c_str());
        for (const core::SymbolPtr &symbol : d.symbols())
            if (!core::find_symbol(known, symbol->name))
                fail(Code::Shape, "[%s] the shape function gives %s of %s, but no operand has the size %s", op, what,
                     d.text().c_str(), symbol->name.c_str());
    };
    for (const TensorType &type : inferred.results)
        for (const core::Dim &d : type.shape)
            check(d, "a size");
    check(inferred.scratch, "scratch memory");
}

} // namespace tessera::custom
