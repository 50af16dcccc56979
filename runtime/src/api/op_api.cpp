// The C ABI of operators and of graphs that are built: application, tracing, gradients, text of Graph IR.
#include "api/op_api.h"

#include <algorithm>

#include "api/graph_handle.h"
#include "custom/registry.h"
#include "front/call.h"
#include "front/gradient.h"
#include "front/trace.h"
#include "graph/infer.h"
#include "graph/parser.h"
#include "graph/printer.h"

using namespace tessera;
using core::Code;
using core::fail;
using core::guarded;
using core::require;
using front::Value;
using front::Values;

namespace tessera::front {

tsr_tensor *to_handle(const Value &value) {
    if (value.node->op == "constant")
        return new tsr_tensor(value.node->data);
    return new tsr_tensor(std::make_shared<LazyValue>(value));
}

Value from_handle(const tsr_tensor *handle) {
    core::require(handle, "an operand");
    if (!handle->lazy)
        return constant(handle->tensor);
    if (const auto *lazy = dynamic_cast<const LazyValue *>(handle->lazy.get()))
        return lazy->graph_value();
    return constant(handle->concrete());
}

} // namespace tessera::front

namespace {

constexpr int32_t max_operands = 1 << 16;

void require_count(int32_t count, const void *list, const char *what) {
    if (count < 0 || count > max_operands)
        fail(Code::Argument, "%s: a count of %d", what, count);
    if (count > 0)
        require(list, what);
}

Values values_of(tsr_tensor *const *handles, int32_t count, const char *what) {
    require_count(count, handles, what);
    Values out;
    for (int32_t i = 0; i < count; ++i)
        out.push_back(front::from_handle(handles[i]));
    return out;
}

std::optional<graph::Location> location_of(const char *file, int32_t line) {
    if (!file || line < 1)
        return std::nullopt;
    return graph::Location{file, line};
}

// Handles for values, all or none.
void give(const Values &values, tsr_tensor **results) {
    std::vector<tsr_tensor *> made;
    try {
        for (const Value &v : values)
            made.push_back(front::to_handle(v));
    } catch (...) {
        for (tsr_tensor *handle : made)
            tsr_tensor_release(handle);
        throw;
    }
    std::copy(made.begin(), made.end(), results);
}

// The operands of a custom operator, which are tensors.
Values tensors_of(const tsr_call &call) {
    Values out;
    for (int32_t i = 0; i < call.operand_count; ++i) {
        if (call.operands[i].kind != TSR_OPERAND_TENSOR)
            fail(Code::Argument, "[%s] operand %d is no tensor", call.function, i);
        out.push_back(front::from_handle(call.operands[i].tensor));
    }
    return out;
}

core::SymbolTable symbols_of(tsr_dim *const *dims, int32_t count) {
    require_count(count, dims, "dims");
    core::SymbolTable table;
    for (int32_t i = 0; i < count; ++i) {
        require(dims[i], "a dimension");
        for (const core::SymbolPtr &symbol : dims[i]->dim.symbols()) {
            const core::SymbolPtr known = core::find_symbol(table, symbol->name);
            if (known && !(*known == *symbol))
                fail(Code::Argument,
                     "there are two dimensions named '%s' with different ranges: create the dimension once",
                     symbol->name.c_str());
            if (!known)
                table.push_back(symbol);
        }
    }
    return table;
}

front::Given given_of(const tsr_operand &operand) {
    switch (operand.kind) {
    case TSR_OPERAND_NONE:
        return {};
    case TSR_OPERAND_TENSOR:
        return {front::from_handle(operand.tensor), std::nullopt};
    case TSR_OPERAND_BOOL:
        return {front::Operand(operand.integer != 0), std::nullopt};
    case TSR_OPERAND_INTEGER:
        return {front::Operand(operand.integer), std::nullopt};
    case TSR_OPERAND_REAL:
        return {front::Operand(operand.real), std::nullopt};
    case TSR_OPERAND_DIM:
        require(operand.dim, "a dimension");
        return {front::Operand(operand.dim->dim), operand.dim->dim};
    default:
        fail(Code::Argument, "an operand of kind %d", operand.kind);
    }
}

graph::TensorType type_of(const char *name, const tsr_tensor_info *info) {
    if (!core::is_dtype_code(info->dtype))
        fail(Code::DType, "input '%s': there is no dtype %d", core::shown(name).c_str(), info->dtype);
    if (info->rank < 0 || info->rank > core::max_rank || (info->rank > 0 && !info->shape))
        fail(Code::Shape, "input '%s': a rank of %d", core::shown(name).c_str(), info->rank);
    std::vector<int64_t> shape;
    if (info->rank > 0)
        shape.assign(info->shape, info->shape + info->rank);
    core::element_count(shape);
    return {static_cast<core::DType>(info->dtype), front::Shape(shape.begin(), shape.end())};
}

tsr_graph *traced_graph(const std::string &name, const front::NamedValues &outputs, const front::Updates &updates) {
    front::Program traced = front::trace(name, outputs, updates);
    front::Traced &form = traced.primitives;
    return new tsr_graph(core::Program::from_graph(graph::to_text(traced.whole.graph), std::move(form.graph),
                                                   std::move(form.state), std::move(form.constants)));
}

front::NamedValues named(const char *const *names, tsr_tensor *const *values, int32_t count) {
    require_count(count, names, "names");
    require_count(count, values, "outputs");
    front::NamedValues out;
    for (int32_t i = 0; i < count; ++i) {
        require(names[i], "an output's name");
        out.emplace_back(names[i], front::from_handle(values[i]));
    }
    return out;
}

} // namespace

extern "C" {

tsr_status tsr_op_apply(const char *op, const char *attributes, tsr_tensor *const *operands, int32_t operand_count,
                        tsr_tensor **results, int32_t result_count) {
    return guarded([&] {
        require(op, "the operator's name");
        require(results, "results");
        const Values of = values_of(operands, operand_count, "operands");
        const Values made = front::apply(op, of, graph::parse_attributes(attributes ? attributes : ""));
        if (result_count != static_cast<int32_t>(made.size()))
            fail(Code::Argument, "[%s] has %s, %d were asked for", op,
                 made.size() == 1 ? "one result" : (std::to_string(made.size()) + " results").c_str(), result_count);
        give(made, results);
    });
}

tsr_status tsr_op_call(const tsr_call *call, tsr_tensor **results, int32_t capacity, int32_t *count) {
    return guarded([&] {
        require(call, "call");
        require(results, "results");
        require(count, "count");
        if (call->size < sizeof(tsr_call))
            fail(Code::Argument, "tsr_call.size is %zu, expected at least %zu", call->size, sizeof(tsr_call));
        require(call->function, "the function's name");
        require_count(call->operand_count, call->operands, "operands");
        const front::LocationScope here(location_of(call->file, call->line));
        std::vector<front::Given> operands;
        for (int32_t i = 0; i < call->operand_count; ++i)
            operands.push_back(given_of(call->operands[i]));
        front::Attributes arguments = graph::parse_attributes(call->arguments ? call->arguments : "",
                                                              symbols_of(call->dims, call->dim_count));
        const Values made = custom::is_custom(call->function)
                                ? front::apply(call->function, tensors_of(*call), std::move(arguments))
                                : front::call({call->function, std::move(operands), std::move(arguments)});
        if (capacity < static_cast<int32_t>(made.size()))
            fail(Code::Argument, "[%s] has %zu results, there is room for %d", call->function, made.size(), capacity);
        give(made, results);
        *count = static_cast<int32_t>(made.size());
    });
}

tsr_status tsr_op_input(const char *name, const tsr_tensor_info *info, tsr_tensor **tensor) {
    return guarded([&] {
        require(name, "the input's name");
        require(info, "info");
        require(tensor, "tensor");
        *tensor = front::to_handle(front::input(name, type_of(name, info)));
    });
}

tsr_status tsr_op_symbolic_input(const char *name, tsr_dim *const *shape, int32_t rank, tsr_dtype dtype,
                                 const char *file,
                                 int32_t line, tsr_tensor **tensor) {
    return guarded([&] {
        require(name, "the input's name");
        require(tensor, "tensor");
        if (rank < 0 || rank > core::max_rank)
            fail(Code::Shape, "input '%s': a rank of %d", core::shown(name).c_str(), rank);
        if (!core::is_dtype_code(dtype))
            fail(Code::DType, "input '%s': there is no dtype %d", core::shown(name).c_str(), dtype);
        symbols_of(shape, rank);
        front::Shape sizes;
        for (int32_t i = 0; i < rank; ++i)
            sizes.push_back(shape[i]->dim);
        front::checked_shape("input", sizes);
        *tensor = front::to_handle(
            front::input(name, {static_cast<core::DType>(dtype), std::move(sizes)}, location_of(file, line)));
    });
}

tsr_status tsr_op_parameter(const char *name, tsr_tensor *value, int32_t trainable, const char *file, int32_t line,
                            tsr_tensor **parameter) {
    return guarded([&] {
        require(name, "the parameter's name");
        require(value, "value");
        require(parameter, "parameter");
        const core::Tensor data = value->concrete();
        if (!data.is_contiguous() || data.readonly())
            fail(Code::Argument, "[parameter] the tensor of '%s' is %s; give a row-major one that can be written",
                 core::shown(name).c_str(), data.readonly() ? "read-only" : "not contiguous");
        *parameter = front::to_handle(front::parameter(name, data, trainable != 0, location_of(file, line)));
    });
}

tsr_status tsr_tensor_dim(const tsr_tensor *tensor, int32_t axis, tsr_dim **dim) {
    return guarded([&] {
        require(tensor, "tensor");
        require(dim, "dim");
        const auto *lazy = dynamic_cast<const front::LazyValue *>(tensor->lazy.get());
        const int64_t rank = static_cast<int64_t>(tensor->shape().size());
        if (axis < -rank || axis >= rank)
            fail(Code::Argument, "dimension %d of a tensor with %lld", axis, static_cast<long long>(rank));
        const size_t i = static_cast<size_t>(axis < 0 ? axis + rank : axis);
        *dim = new tsr_dim(lazy ? lazy->graph_value().shape()[i] : core::Dim(tensor->shape()[i]));
    });
}

tsr_status tsr_op_gradient(tsr_tensor *const *outputs, tsr_tensor *const *seeds, int32_t output_count,
                           tsr_tensor *const *wrt, int32_t wrt_count, tsr_tensor **gradients) {
    return guarded([&] {
        require(gradients, "gradients");
        const Values of = values_of(outputs, output_count, "outputs"), targets = values_of(wrt, wrt_count, "wrt");
        Values given;
        if (seeds)
            for (int32_t i = 0; i < output_count; ++i)
                given.push_back(seeds[i] ? front::from_handle(seeds[i]) : Value());
        give(front::gradients(of, targets, given), gradients);
    });
}

tsr_status tsr_graph_trace(const char *graph_name, const char *const *names, tsr_tensor *const *outputs, int32_t count,
                           tsr_graph **graph) {
    return guarded([&] {
        require(graph_name, "the graph's name");
        require(graph, "graph");
        *graph = traced_graph(graph_name, named(names, outputs, count), {});
    });
}

tsr_status tsr_graph_trace_with(const tsr_graph_trace_options *options, tsr_graph **graph) {
    return guarded([&] {
        require(options, "trace");
        require(graph, "graph");
        if (options->size < sizeof(tsr_graph_trace_options))
            fail(Code::Argument, "tsr_graph_trace_options.size is %zu, expected at least %zu", options->size, sizeof(tsr_graph_trace_options));
        require(options->name, "the graph's name");
        const Values parameters = values_of(options->parameters, options->update_count, "parameters"),
                     updates = values_of(options->updates, options->update_count, "updates");
        front::Updates list;
        for (size_t i = 0; i < parameters.size(); ++i)
            list.emplace_back(parameters[i], updates[i]);
        *graph = traced_graph(options->name, named(options->output_names, options->outputs, options->output_count),
                              list);
    });
}

tsr_status tsr_graph_text_normalize(const char *text, size_t bytes, tsr_text **normalized) {
    return guarded([&] {
        require(text, "text");
        require(normalized, "normalized");
        *normalized = new tsr_text{graph::to_text(graph::parse_graph({text, bytes}))};
    });
}

tsr_status tsr_graph_text_decompose(const char *text, size_t bytes, int32_t merge, tsr_text **decomposed) {
    return guarded([&] {
        require(text, "text");
        require(decomposed, "decomposed");
        *decomposed = new tsr_text{front::decompose_text({text, bytes}, merge != 0)};
    });
}

tsr_status tsr_graph_text_gradient(const char *text, size_t bytes, const char *const *wrt, int32_t count,
                                   tsr_text **gradient) {
    return guarded([&] {
        require(text, "text");
        require(gradient, "gradient");
        require_count(count, wrt, "wrt");
        std::vector<std::string> names;
        for (int32_t i = 0; i < count; ++i) {
            require(wrt[i], "a name");
            names.emplace_back(wrt[i]);
        }
        *gradient = new tsr_text{front::gradient_text({text, bytes}, names)};
    });
}

const char *tsr_op_name(int32_t index) {
    const std::vector<std::string_view> &names = graph::primitive_names();
    return index >= 0 && static_cast<size_t>(index) < names.size() ? names[static_cast<size_t>(index)].data() : nullptr;
}

const char *tsr_op_function_name(int32_t index) {
    const std::vector<std::string> &names = front::function_names();
    const size_t i = static_cast<size_t>(index);
    return index >= 0 && i < names.size() ? names[i].c_str() : nullptr;
}

const char *tsr_text_data(const tsr_text *text) { return text ? text->text.c_str() : ""; }
size_t tsr_text_size(const tsr_text *text) { return text ? text->text.size() : 0; }
void tsr_text_release(tsr_text *text) { delete text; }

} // extern "C"
