#include "ops/program.h"

#include <cstring>

#include "core/checked.h"
#include "device/allocators.h"
#include "exec/trace_sink.h"
#include "exec/workspace.h"
#include "graph/parser.h"
#include "graph/verify.h"
#include "ops/memory_plan.h"

namespace tessera::portable {

using core::RunContext;
using core::Tensor;
using graph::ValueId;

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
    output_of_.assign(graph_.value_count(), -1);
    for (size_t i = 0; i < graph_.outputs.size(); ++i)
        if (ValueId value = graph_.outputs[i].second; !graph_.producer(value).is_leaf() && output_of_[value] < 0)
            output_of_[value] = static_cast<int>(i);
}

namespace {

// The address of values without elements: null always means "none".
alignas(core::tensor_alignment) char no_elements[core::tensor_alignment];

int64_t bytes_of(const TensorView &v) { return core::checked_mul(v.size(), static_cast<int64_t>(core::item_size(v.dtype))); }

} // namespace

// The value's type for these sizes, without an address.
TensorView Program::view_of(ValueId value, const std::vector<int64_t> &sizes) const {
    const graph::TensorType &type = graph_.type(value);
    TensorView out;
    out.dtype = type.dtype;
    out.shape.reserve(type.rank());
    for (const core::Dim &d : type.shape)
        out.shape.push_back(d.evaluate(sizes));
    return out;
}

// What is computed lies in one block, by lifetimes, except for what is computed into an output.
Program::Layout Program::lay_out(const std::vector<int64_t> &sizes) const {
    Layout out;
    out.values.resize(graph_.value_count());
    out.offsets.assign(graph_.value_count(), -1);
    MemoryPlan plan;
    for (const Step &step : steps_) {
        for (size_t value = step.result; value < step.result + step.result_count; ++value) {
            out.values[value] = view_of(static_cast<ValueId>(value), sizes);
            if (output_of_[value] < 0)
                out.offsets[value] = plan.take(bytes_of(out.values[value]));
        }
        for (ValueId value : step.last_uses)
            if (out.offsets[value] >= 0)
                plan.release(out.offsets[value], bytes_of(out.values[value]));
    }
    for (const auto &[param, value] : graph_.updates) // of a leaf: a copy, made before any state is written
        out.update_offsets.push_back(graph_.producer(value).is_leaf() ? plan.take(bytes_of(view_of(value, sizes))) : -1);
    out.bytes = plan.bytes();
    return out;
}

int64_t Program::memory(const std::vector<int64_t> &sizes) const { return lay_out(sizes).bytes; }

void Program::compute(RunContext &context, const Step &step, const std::vector<int64_t> &sizes,
                      const std::vector<TensorView> &values) const {
    std::vector<TensorView> operands;
    operands.reserve(step.operands.size());
    for (ValueId operand : step.operands)
        operands.push_back(values[operand]);
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(step.result);
    const std::vector<TensorView> results(first, first + static_cast<std::ptrdiff_t>(step.result_count));
    const auto execute = [&] {
        if (step.collective && context.communicator)
            context.communicator->run(*step.collective, operands[0], results[0]);
        else if (step.collective)
            core::run_alone(*step.collective, operands[0], results[0]);
        else
            step.primitive.run(operands, results, &context.pool, sizes);
    };
    if (!context.trace) {
        execute();
        return;
    }
    const std::optional<graph::Location> &loc = step.primitive.loc();
    const std::string line = loc ? loc->file + ":" + std::to_string(loc->line) : std::string();
    core::TraceEvent event;
    event.category = step.collective ? "collective" : "operator";
    event.name = step.primitive.op().c_str();
    event.location = line.c_str();
    event.begin_ns = core::TraceSink::now();
    execute();
    event.end_ns = core::TraceSink::now();
    context.trace->record(event);
}

void Program::run(RunContext &context, const std::vector<int64_t> &sizes, const std::vector<Tensor> &inputs,
                  const std::vector<Tensor> &state, const std::vector<Tensor> &constants,
                  std::vector<Tensor> &outputs) const {
    Layout layout = lay_out(sizes);
    std::vector<TensorView> &values = layout.values;
    std::vector<Tensor> copies; // of strided leaves
    const auto set = [&](const std::vector<ValueId> &ids, const std::vector<Tensor> &tensors) {
        for (size_t i = 0; i < ids.size(); ++i) {
            Tensor row_major = tensors[i];
            if (!row_major.is_contiguous()) {
                row_major = Tensor::empty(tensors[i].dtype(), tensors[i].shape(), {}, context.allocator);
                tensors[i].copy_to(row_major.data());
                copies.push_back(row_major);
            }
            values[ids[i]] = row_major.view();
        }
    };
    set(inputs_, inputs);
    set(state_, state);
    set(constants_, constants);
    std::vector<Tensor> results = outputs; // handed out when all has succeeded
    results.resize(graph_.outputs.size());
    for (size_t i = 0; i < results.size(); ++i)
        if (!results[i]) {
            TensorView like = view_of(graph_.outputs[i].second, sizes);
            results[i] = Tensor::empty(like.dtype, std::move(like.shape), {}, context.allocator);
        }
    core::WorkspaceLease memory(context, static_cast<size_t>(layout.bytes));
    for (const Step &step : steps_)
        for (size_t value = step.result; value < step.result + step.result_count; ++value) {
            const int output = output_of_[value];
            const int64_t offset = layout.offsets[value];
            values[value].data = output >= 0   ? results[static_cast<size_t>(output)].data()
                                 : offset >= 0 ? memory.data() + offset
                                               : no_elements;
        }
    for (const Step &step : steps_) {
        context.check_cancelled();
        compute(context, step, sizes, values);
    }
    // A leaf, or a value given twice, is copied: outputs share memory with nothing else. New state is complete before
    // any is written, as one update may read what another replaces.
    for (size_t i = 0; i < results.size(); ++i)
        if (const TensorView &value = values[graph_.outputs[i].second]; value.data != results[i].data())
            std::memcpy(results[i].data(), value.data, results[i].bytes());
    context.check_cancelled();
    std::vector<const void *> updates;
    for (size_t i = 0; i < graph_.updates.size(); ++i) {
        const TensorView &value = values[graph_.updates[i].second];
        const int64_t offset = layout.update_offsets[i];
        updates.push_back(offset < 0 ? value.data
                                     : std::memcpy(memory.data() + offset, value.data, static_cast<size_t>(bytes_of(value))));
    }
    if (context.communicator && !updates.empty())
        context.communicator->agree();
    for (size_t i = 0; i < updates.size(); ++i) {
        const TensorView &target = values[graph_.updates[i].first];
        std::memcpy(target.data, updates[i], static_cast<size_t>(bytes_of(target)));
    }
    outputs = std::move(results);
}

void Program::run(const std::vector<int64_t> &sizes, const std::vector<Tensor> &inputs, const std::vector<Tensor> &state,
                  const std::vector<Tensor> &constants, std::vector<Tensor> &outputs, ThreadPool *pool,
                  core::Communicator *communicator) const {
    ThreadPool alone(1);
    RunContext context{pool ? *pool : alone, core::make_backend_allocator()};
    context.communicator = communicator;
    run(context, sizes, inputs, state, constants, outputs);
}

} // namespace tessera::portable
