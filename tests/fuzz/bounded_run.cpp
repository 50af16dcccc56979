#include "bounded_run.h"

#include <algorithm>

#include "target.h"

using namespace tessera::core;
namespace graph = tessera::graph;

namespace {

constexpr int64_t max_elements = 2048; // of one tensor
constexpr int64_t max_work = 100'000;  // elements read, written or multiplied in one run
constexpr size_t max_nodes = 128;

std::optional<std::vector<int64_t>> small_shape(const std::vector<Dim> &shape, const std::vector<int64_t> &sizes) {
    std::vector<int64_t> out;
    for (const Dim &d : shape)
        out.push_back(d.evaluate(sizes));
    if (element_count(out) > max_elements)
        return std::nullopt;
    return out;
}

// What the run of a graph costs, about; none when a tensor is large.
std::optional<int64_t> work_of(const graph::Graph &g, const std::vector<int64_t> &sizes) {
    int64_t work = 0;
    for (const graph::Node &node : g.nodes) {
        int64_t depth = 1;
        for (graph::ValueId operand : node.operands) {
            auto shape = small_shape(g.type(operand).shape, sizes);
            if (!shape)
                return std::nullopt;
            work += element_count(*shape);
            if (node.op == "matmul" && !shape->empty())
                depth = std::max<int64_t>(1, shape->back());
        }
        for (const graph::TensorType &type : node.types) {
            auto shape = small_shape(type.shape, sizes);
            if (!shape)
                return std::nullopt;
            work += element_count(*shape) * depth;
        }
        if (work > max_work)
            return std::nullopt;
    }
    return work;
}

} // namespace

std::optional<std::vector<int64_t>> small_sizes(const SymbolTable &symbols, int64_t wanted) {
    std::vector<int64_t> out;
    for (const SymbolPtr &s : symbols) {
        if (s->min > max_elements || s->multiple_of > max_elements)
            return std::nullopt;
        int64_t least = std::max(s->min, s->max ? std::min(wanted, *s->max) : wanted);
        int64_t size = (least + s->multiple_of - 1) / s->multiple_of * s->multiple_of;
        if (s->max && size > *s->max)
            size = (s->min + s->multiple_of - 1) / s->multiple_of * s->multiple_of;
        if (s->max && size > *s->max)
            return std::nullopt;
        out.push_back(size);
    }
    return out;
}

std::optional<Tensor> small_tensor(const TensorSpec &spec, const std::vector<int64_t> &sizes) {
    auto shape = small_shape(spec.shape, sizes);
    if (!shape)
        return std::nullopt;
    Tensor t = Tensor::empty(spec.dtype, *shape);
    // Small numbers, that serve as indices too; floats of every kind, NaN included.
    auto *bytes = static_cast<unsigned char *>(t.data());
    size_t item = item_size(spec.dtype);
    for (size_t i = 0; i < t.bytes(); ++i)
        bytes[i] = is_float(spec.dtype)      ? static_cast<unsigned char>(i * 37 + 11)
                   : i % item == 0           ? static_cast<unsigned char>(i / item % 3)
                                             : 0;
    if (spec.dtype == DType::Bool)
        for (size_t i = 0; i < t.bytes(); ++i)
            bytes[i] &= 1;
    return t;
}

void run_if_small(const tessera::portable::Program &program, int64_t wanted_size) {
    const Signature &signature = program.signature();
    if (program.graph().nodes.size() > max_nodes)
        return;
    auto sizes = small_sizes(signature.symbols, wanted_size);
    if (!sizes || !work_of(program.graph(), *sizes))
        return;
    std::vector<Tensor> lists[3];
    const std::vector<TensorSpec> *specs[] = {&signature.inputs, &signature.state, &signature.constants};
    for (int kind = 0; kind < 3; ++kind)
        for (const TensorSpec &spec : *specs[kind]) {
            auto t = small_tensor(spec, *sizes);
            if (!t)
                return;
            lists[kind].push_back(std::move(*t));
        }
    std::vector<const Tensor *> given;
    for (const Tensor &t : lists[0])
        given.push_back(&t);
    std::vector<int64_t> solved = signature.solve(given.data(), given.size());
    must(solved == *sizes, "the sizes of a program's symbols follow from its inputs");
    std::vector<Tensor> outputs;
    program.run(solved, lists[0], lists[1], lists[2], outputs, nullptr);
    must(outputs.size() == signature.outputs.size(), "a run gives every output");
    for (size_t i = 0; i < outputs.size(); ++i)
        must(outputs[i].dtype() == signature.outputs[i].dtype &&
                 outputs[i].shape() == signature.outputs[i].concrete_shape(solved),
             "an output has its signature's type");
}
