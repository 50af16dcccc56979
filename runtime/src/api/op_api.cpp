// The C ABI of operators: lazy application, tracing, text of Graph IR.
#include "api/graph_handle.h"
#include "api/handles.h"
#include "graph/infer.h"
#include "graph/parser.h"
#include "graph/printer.h"
#include "ops/lazy_op.h"

using namespace tessera;
using core::Code;
using core::fail;
using core::guarded;
using core::require;

struct tsr_text {
    std::string text;
};

namespace {

constexpr int32_t max_operands = 1 << 16;

portable::LazyOperand operand_of(const tsr_tensor *handle) {
    core::require(handle, "an operand");
    if (!handle->lazy)
        return {handle->tensor, nullptr};
    // A result that is there already is a tensor like any other.
    core::Tensor value = handle->lazy->value();
    return value ? portable::LazyOperand{value, nullptr} : portable::LazyOperand{{}, handle->lazy};
}

void require_count(int32_t count, const void *list, const char *what) {
    if (count < 0 || count > max_operands)
        fail(Code::Argument, "%s: a count of %d", what, count);
    if (count > 0)
        require(list, what);
}

} // namespace

extern "C" {

tsr_status tsr_op_apply(const char *op, const char *attributes, tsr_tensor *const *operands, int32_t operand_count,
                        tsr_tensor **results, int32_t result_count) {
    return guarded([&] {
        require(op, "the operator's name");
        require(results, "results");
        require_count(operand_count, operands, "operands");
        portable::Primitive primitive(op, attributes ? attributes : "", {});
        if (result_count != 1)
            fail(Code::Argument, "[%s] has one result, %d were asked for", op, result_count);
        std::vector<portable::LazyOperand> list;
        for (int32_t i = 0; i < operand_count; ++i)
            list.push_back(operand_of(operands[i]));
        results[0] = new tsr_tensor(portable::LazyOp::apply(std::move(primitive), std::move(list)));
    });
}

tsr_status tsr_op_input(const char *name, const tsr_tensor_info *info, tsr_tensor **tensor) {
    return guarded([&] {
        require(name, "the input's name");
        require(info, "info");
        require(tensor, "tensor");
        if (!core::is_dtype_code(info->dtype))
            fail(Code::DType, "input '%s': there is no dtype %d", core::shown(name).c_str(), info->dtype);
        if (info->rank < 0 || info->rank > core::max_rank || (info->rank > 0 && !info->shape))
            fail(Code::Shape, "input '%s': a rank of %d", core::shown(name).c_str(), info->rank);
        std::vector<int64_t> shape;
        if (info->rank > 0)
            shape.assign(info->shape, info->shape + info->rank);
        core::element_count(shape);
        *tensor = new tsr_tensor(
            std::make_shared<portable::LazyInput>(name, static_cast<core::DType>(info->dtype), std::move(shape)));
    });
}

tsr_status tsr_graph_trace(const char *graph_name, const char *const *names, tsr_tensor *const *outputs, int32_t count,
                           tsr_graph **graph) {
    return guarded([&] {
        require(graph_name, "the graph's name");
        require(graph, "graph");
        require_count(count, names, "names");
        require_count(count, outputs, "outputs");
        std::vector<std::pair<std::string, portable::LazyOperand>> list;
        for (int32_t i = 0; i < count; ++i) {
            require(names[i], "an output's name");
            list.emplace_back(names[i], operand_of(outputs[i]));
        }
        portable::Traced traced = portable::trace(graph_name, list);
        *graph = new tsr_graph(core::Program::from_graph(std::move(traced.graph), std::move(traced.constants)));
    });
}

tsr_status tsr_graph_text_normalize(const char *text, size_t bytes, tsr_text **normalized) {
    return guarded([&] {
        require(text, "text");
        require(normalized, "normalized");
        *normalized = new tsr_text{graph::to_text(graph::parse_graph({text, bytes}))};
    });
}

const char *tsr_op_name(int32_t index) {
    const std::vector<std::string_view> &names = graph::primitive_names();
    return index >= 0 && static_cast<size_t>(index) < names.size() ? names[static_cast<size_t>(index)].data() : nullptr;
}

const char *tsr_text_data(const tsr_text *text) { return text ? text->text.c_str() : ""; }
size_t tsr_text_size(const tsr_text *text) { return text ? text->text.size() : 0; }
void tsr_text_release(tsr_text *text) { delete text; }

} // extern "C"
