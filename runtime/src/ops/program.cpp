#include "ops/program.h"

#include <cstring>

#include "graph/parser.h"
#include "graph/verify.h"

namespace tessera::portable {

using core::Tensor;
using graph::ValueId;

namespace {

Tensor copy_of(const Tensor &x) {
    Tensor out = Tensor::empty(x.dtype(), x.shape());
    x.copy_to(out.data());
    return out;
}

} // namespace

Program Program::parse(std::string_view text) {
    graph::Graph graph = graph::parse_graph(text);
    graph::verify(graph);
    return Program(std::move(graph));
}

Program::Program(graph::Graph graph) : graph_(std::move(graph)) {
    describe();
    plan();
}

void Program::describe() {
    signature_.symbols = graph_.symbols;
    for (const graph::Node &node : graph_.nodes) {
        if (!node.is_leaf())
            continue;
        core::TensorSpec spec;
        spec.name = node.attrs.string(node.op, "name");
        spec.dtype = node.types[0].dtype;
        spec.shape = node.types[0].shape;
        if (node.op == "input") {
            signature_.inputs.push_back(std::move(spec));
            inputs_.push_back(node.first);
        } else if (node.op == "constant") {
            signature_.constants.push_back(std::move(spec));
            constants_.push_back(node.first);
        } else {
            spec.trainable = node.attrs.boolean(node.op, "trainable");
            for (const auto &[param, value] : graph_.updates)
                spec.mutated = spec.mutated || param == node.first;
            signature_.state.push_back(std::move(spec));
            state_.push_back(node.first);
        }
    }
    for (const auto &[name, value] : graph_.outputs) {
        core::TensorSpec spec;
        spec.name = name;
        spec.dtype = graph_.type(value).dtype;
        spec.shape = graph_.type(value).shape;
        signature_.outputs.push_back(std::move(spec));
    }
}

void Program::plan() {
    std::vector<size_t> last_use(graph_.value_count(), SIZE_MAX); // SIZE_MAX: unused, or needed to the end
    std::vector<bool> kept(graph_.value_count(), false);
    for (const auto &[name, value] : graph_.outputs)
        kept[value] = true;
    for (const auto &[param, value] : graph_.updates)
        kept[param] = kept[value] = true;
    for (const graph::Node &node : graph_.nodes) {
        if (node.is_leaf())
            continue;
        std::shared_ptr<const core::Collective> collective;
        if (core::Collective::is_collective(node.op)) {
            std::string loc = node.loc ? node.loc->text() : "";
            collective = std::make_shared<core::Collective>(core::Collective::read(node.op, node.attrs, loc));
        }
        steps_.push_back({Primitive(node.op, node.attrs, node.loc), collective, node.operands, node.first, node.types.size(), {}});
        for (size_t i = 0; i < node.types.size(); ++i)
            last_use[node.first + i] = steps_.size() - 1; // of no use at all: dropped at once
        for (ValueId operand : node.operands)
            last_use[operand] = steps_.size() - 1;
    }
    for (ValueId value = 0; value < last_use.size(); ++value)
        if (last_use[value] != SIZE_MAX && !kept[value])
            steps_[last_use[value]].last_uses.push_back(value);
}

std::vector<Tensor> Program::compute(const Step &step, const std::vector<int64_t> &sizes,
                                     const std::vector<Tensor> &values, ThreadPool *pool,
                                     core::Communicator *communicator) const {
    std::vector<TensorView> operands;
    operands.reserve(step.operands.size());
    for (ValueId operand : step.operands)
        operands.push_back(values[operand].view());
    std::vector<Tensor> results;
    std::vector<TensorView> views;
    for (size_t i = 0; i < step.result_count; ++i) {
        const graph::TensorType &type = graph_.type(step.result + static_cast<ValueId>(i));
        std::vector<int64_t> shape;
        shape.reserve(type.rank());
        for (const core::Dim &d : type.shape)
            shape.push_back(d.evaluate(sizes));
        results.push_back(Tensor::empty(type.dtype, std::move(shape)));
        views.push_back(results.back().view());
    }
    if (step.collective && communicator)
        communicator->run(*step.collective, operands[0], views[0]);
    else if (step.collective)
        core::run_alone(*step.collective, operands[0], views[0]);
    else
        step.primitive.run(operands, views, pool, sizes);
    return results;
}

void Program::run(const std::vector<int64_t> &sizes, const std::vector<Tensor> &inputs,
                  const std::vector<Tensor> &state, const std::vector<Tensor> &constants, std::vector<Tensor> &outputs,
                  ThreadPool *pool, core::Communicator *communicator) const {
    std::vector<Tensor> values(graph_.value_count());
    const auto set = [&](const std::vector<ValueId> &ids, const std::vector<Tensor> &tensors) {
        for (size_t i = 0; i < ids.size(); ++i)
            values[ids[i]] = tensors[i].contiguous();
    };
    set(inputs_, inputs);
    set(state_, state);
    set(constants_, constants);
    for (const Step &step : steps_) {
        std::vector<Tensor> results = compute(step, sizes, values, pool, communicator);
        std::move(results.begin(), results.end(), values.begin() + step.result);
        for (ValueId value : step.last_uses)
            values[value] = Tensor();
    }
    // A leaf, or a value given twice, is copied: outputs share memory with nothing else. New state is complete before
    // any is written, as one update may read what another replaces.
    std::vector<bool> given(values.size(), false);
    std::vector<Tensor> results, updates;
    for (const auto &[name, value] : graph_.outputs) {
        const bool own = !graph_.producer(value).is_leaf() && !given[value];
        given[value] = true;
        results.push_back(own ? values[value] : copy_of(values[value]));
    }
    for (const auto &[param, value] : graph_.updates)
        updates.push_back(graph_.producer(value).is_leaf() ? copy_of(values[value]) : values[value]);
    if (communicator && !updates.empty())
        communicator->agree();
    outputs.resize(results.size());
    for (size_t i = 0; i < results.size(); ++i) {
        if (!outputs[i])
            outputs[i] = std::move(results[i]);
        else
            std::memcpy(outputs[i].data(), results[i].data(), results[i].bytes());
    }
    for (size_t i = 0; i < updates.size(); ++i)
        std::memcpy(values[graph_.updates[i].first].data(), updates[i].data(), updates[i].bytes());
}

} // namespace tessera::portable
