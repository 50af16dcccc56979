// The C ABI of custom operators: libraries, the registry, shape functions.
#include "api/handles.h"
#include "custom/gradient.h"
#include "custom/registry.h"
#include "graph/parser.h"
#include "tessera/custom_op_abi.h"

using namespace tessera;
using core::Code;
using core::fail;
using core::guarded;
using core::require;

namespace {

// A call as Python describes it: a graph whose inputs are the operands, and attributes over its symbols.
struct Call {
    Call(const char *name, const char *inputs, const char *attributes)
        : definition(custom::get(name)), graph(graph::parse_graph(inputs)),
          attrs(graph::parse_attributes(attributes ? attributes : "", graph.symbols)) {
        for (const graph::Node &node : graph.nodes)
            operands.insert(operands.end(), node.types.begin(), node.types.end());
    }
    const custom::Definition &definition;
    const graph::Graph graph;
    const graph::Attributes attrs;
    std::vector<graph::TensorType> operands;
};

} // namespace

tsr_status tsr_library_load(const char *path, tsr_text **names) {
    return guarded([&] {
        require(path, "path");
        std::string list;
        for (const std::string &name : custom::load_library(path))
            list += name + '\n';
        if (names)
            *names = new tsr_text{std::move(list)};
    });
}

tsr_status tsr_custom_op_register(const tsr_custom_op *op, const char *library) {
    return guarded([&] {
        require(op, "op");
        require(library, "library");
        std::vector<std::unique_ptr<const custom::Definition>> one;
        one.push_back(std::make_unique<const custom::Definition>(*op, library));
        custom::add(std::move(one));
    });
}

const char *tsr_custom_op_name(int32_t index) {
    const custom::Definition *found = index < 0 ? nullptr : custom::at(static_cast<size_t>(index));
    return found ? found->name().c_str() : nullptr;
}

tsr_status tsr_custom_op_describe(const char *name, tsr_custom_op_info *info) {
    return guarded([&] {
        require(name, "name");
        require(info, "info");
        if (info->size < sizeof(tsr_custom_op_info))
            fail(Code::Argument, "tsr_custom_op_info.size is %zu, expected at least %zu", info->size,
                 sizeof(tsr_custom_op_info));
        const custom::Definition &d = custom::get(name);
        info->name = d.name().c_str();
        info->schema = d.schema_text().c_str();
        info->doc = d.doc().c_str();
        info->version = d.version().c_str();
        info->shard = d.shard().c_str();
        info->samples = d.samples().c_str();
        info->gradient_op = d.gradient_op().c_str();
        info->no_gradient = d.no_gradient().c_str();
        info->library = d.library().c_str();
        info->hash = d.hash();
        info->result_count = static_cast<int32_t>(d.schema().results.size());
        info->flags = 0;
        if (d.has_kernel(TSR_CPU))
            info->flags |= TSR_CUSTOM_CPU;
        if (d.has_kernel(TSR_CUDA))
            info->flags |= TSR_CUSTOM_CUDA;
        if (d.has_kernel(TSR_ROCM))
            info->flags |= TSR_CUSTOM_HIP;
        if (d.has_gradient())
            info->flags |= TSR_CUSTOM_GRADIENT;
    });
}

tsr_status tsr_custom_op_infer(const char *name, const char *inputs, const char *attributes, tsr_text **types) {
    return guarded([&] {
        require(name, "name");
        require(inputs, "inputs");
        require(types, "types");
        const Call call(name, inputs, attributes);
        const custom::Inferred inferred = call.definition.infer(call.operands, call.attrs);
        std::string text;
        for (const graph::TensorType &type : inferred.results)
            text += type.text() + '\n';
        *types = new tsr_text{text + '\n' + inferred.scratch.text()};
    });
}

tsr_status tsr_custom_op_gradient(const char *name, const char *inputs, const char *attributes, const char *cotangents,
                                  tsr_text **graph) {
    return guarded([&] {
        require(name, "name");
        require(inputs, "inputs");
        require(cotangents, "cotangents");
        require(graph, "graph");
        const Call call(name, inputs, attributes);
        *graph = new tsr_text{custom::gradient_text(call.definition, call.operands, call.attrs, cotangents)};
    });
}
