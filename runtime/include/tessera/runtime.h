// Tessera's C++ interface: tensors, operators, graphs and the runtime that executes them.
//
//   tessera::Graph g = tessera::Graph::load("mlp.tsr");
//   tessera::Runtime rt;
//   tessera::Run run = rt.submit(g, {{"x", x}});
//   tessera::Tensor y = run.output("y");
#ifndef TESSERA_RUNTIME_H
#define TESSERA_RUNTIME_H

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "tessera/graph.h"
#include "tessera/ops.h"
#include "tessera/tensor.h"

namespace tessera {

namespace detail {

// Tensors given by name, in the graph's order. The graph's places that are not given stay null.
inline std::vector<tsr_tensor *> in_order(const Graph &graph, int32_t kind, const NamedTensors &given) {
    std::vector<tsr_tensor *> out(static_cast<size_t>(tsr_graph_value_count(graph.handle(), kind)), nullptr);
    for (const auto &entry : given) {
        int32_t index = kind == TSR_INPUT ? graph.input_index(entry.first) : graph.output_index(entry.first);
        if (out[static_cast<size_t>(index)])
            throw Error(TSR_ARGUMENT_ERROR, "'" + entry.first + "' is given twice");
        if (!entry.second)
            throw Error(TSR_ARGUMENT_ERROR, "'" + entry.first + "' is an empty Tensor");
        out[static_cast<size_t>(index)] = entry.second.handle();
    }
    return out;
}

inline std::vector<tsr_tensor *> all_inputs(const Graph &graph, const NamedTensors &given) {
    std::vector<tsr_tensor *> out = in_order(graph, TSR_INPUT, given);
    for (size_t i = 0; i < out.size(); ++i)
        if (!out[i])
            throw Error(TSR_NAME_MISSING_ERROR, "input '" + graph.inputs()[i].name + "' is missing");
    return out;
}

} // namespace detail

// A submitted run. Copies are the same run.
class Run {
  public:
    Run() = default;

    // Waits until the run has finished; throws its error if it failed.
    void wait() const { check(tsr_run_wait(handle_.get())); }
    bool finished() const { return info().finished != 0; }
    // From start to end, when finished.
    double seconds() const { return static_cast<double>(info().run_ns) * 1e-9; }

    // Waits, and gives an output.
    Tensor output(int32_t index = 0) const {
        wait();
        tsr_tensor *out = nullptr;
        check(tsr_run_output(handle_.get(), index, &out));
        return Tensor::adopt(out);
    }
    Tensor output(const std::string &name) const { return output(graph_.output_index(name)); }

  private:
    friend class Runtime;
    Run(tsr_run *handle, Graph graph) : handle_(handle), graph_(std::move(graph)) {}
    tsr_run_info info() const {
        tsr_run_info info{};
        info.size = sizeof info;
        check(tsr_run_describe(handle_.get(), &info));
        return info;
    }

    detail::Handle<tsr_run, tsr_run_retain, tsr_run_release> handle_;
    Graph graph_;
};

// A graph with its input and output tensors fixed, for the least overhead: each call runs it on the calling thread, and
// allocates nothing after the first. Inputs that are not row-major, or lie in state that the run changes, are copied.
class Binding {
  public:
    void operator()() const {
        check(tsr_runtime_run(runtime_.get(), graph_.handle(), inputs_.data(), static_cast<int32_t>(inputs_.size()),
                              outputs_.data(), static_cast<int32_t>(outputs_.size())));
    }

  private:
    friend class Runtime;
    detail::Handle<tsr_runtime, tsr_runtime_retain, tsr_runtime_release> runtime_;
    Graph graph_;
    std::vector<Tensor> kept_;
    std::vector<tsr_tensor *> inputs_;
    mutable std::vector<tsr_tensor *> outputs_;
};

// Runs graphs and lazy tensors. May be used from several threads at once; copies are the same runtime.
class Runtime {
  public:
    // `threads` take part in a run, the calling one included; 0: one per available core.
    explicit Runtime(int32_t threads = 0) {
        tsr_runtime_options options{};
        options.size = sizeof options;
        options.threads = threads;
        tsr_runtime *handle = nullptr;
        check(tsr_runtime_create(&options, &handle));
        handle_ = detail::Handle<tsr_runtime, tsr_runtime_retain, tsr_runtime_release>(handle);
    }

    int32_t threads() const { return tsr_runtime_threads(handle_.get()); }
    tsr_runtime *handle() const noexcept { return handle_.get(); }

    // Submits a run on the graph's own tensors (Graph::input, Graph::output) and returns at once.
    Run submit(const Graph &graph) {
        tsr_run *run = nullptr;
        check(tsr_runtime_submit(handle_.get(), graph.handle(), nullptr, 0, nullptr, 0, &run));
        return Run(run, graph);
    }

    // Submits a run on inputs by name and returns at once. Outputs that are not given are made by the run. Wrong names,
    // dtypes and shapes throw here, before anything runs.
    Run submit(const Graph &graph, const NamedTensors &inputs, const NamedTensors &outputs = {}) {
        std::vector<tsr_tensor *> in = detail::all_inputs(graph, inputs), out = detail::in_order(graph, TSR_OUTPUT, outputs);
        tsr_run *run = nullptr;
        check(tsr_runtime_submit(handle_.get(), graph.handle(), in.data(), static_cast<int32_t>(in.size()), out.data(),
                                 static_cast<int32_t>(out.size()), &run));
        return Run(run, graph);
    }

    // Submits the evaluation of a lazy tensor and returns at once.
    Run submit(const Tensor &tensor) {
        tsr_tensor *handle = tensor.handle();
        tsr_run *run = nullptr;
        check(tsr_runtime_submit_tensors(handle_.get(), &handle, 1, &run));
        return Run(run, Graph());
    }

    // Runs on the calling thread; inputs are in the graph's order. Gives all outputs.
    std::vector<Tensor> run(const Graph &graph, const std::vector<Tensor> &inputs) {
        std::vector<tsr_tensor *> in;
        for (const Tensor &t : inputs)
            in.push_back(t.handle());
        if (in.empty() && tsr_graph_value_count(graph.handle(), TSR_INPUT) > 0)
            throw Error(TSR_NAME_MISSING_ERROR, "run: no inputs are given");
        std::vector<tsr_tensor *> out(static_cast<size_t>(tsr_graph_value_count(graph.handle(), TSR_OUTPUT)), nullptr);
        check(tsr_runtime_run(handle_.get(), graph.handle(), in.data(), static_cast<int32_t>(in.size()), out.data(),
                              static_cast<int32_t>(out.size())));
        std::vector<Tensor> results;
        for (tsr_tensor *t : out)
            results.push_back(Tensor::adopt(t));
        return results;
    }

    // Fixes a graph's inputs and all its outputs, for calls that read and write the same tensors every time.
    Binding bind(const Graph &graph, const NamedTensors &inputs, const NamedTensors &outputs) {
        Binding b;
        b.runtime_ = handle_;
        b.graph_ = graph;
        b.inputs_ = detail::all_inputs(graph, inputs);
        b.outputs_ = detail::in_order(graph, TSR_OUTPUT, outputs);
        for (size_t i = 0; i < b.outputs_.size(); ++i)
            if (!b.outputs_[i])
                throw Error(TSR_NAME_MISSING_ERROR, "output '" + graph.outputs()[i].name + "' is missing");
        for (const auto &entry : inputs)
            b.kept_.push_back(entry.second);
        for (const auto &entry : outputs)
            b.kept_.push_back(entry.second);
        return b;
    }

    // Waits for all submitted work; throws the first error that no Run::wait has thrown.
    void wait() { check(tsr_runtime_wait(handle_.get())); }

  private:
    detail::Handle<tsr_runtime, tsr_runtime_retain, tsr_runtime_release> handle_;
};

} // namespace tessera

#endif
