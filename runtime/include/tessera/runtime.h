// Tessera's C++ interface: tensors, operators, graphs and the runtime that executes them.
//
//   tessera::Graph g = tessera::Graph::load("mlp.tsr");
//   tessera::Runtime rt;
//   tessera::Run run = rt.submit(g, {{"x", x}});
//   tessera::Tensor y = run.output("y");
#ifndef TESSERA_RUNTIME_H
#define TESSERA_RUNTIME_H

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/graph.h"
#include "tessera/ops.h"
#include "tessera/stream.h"
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

// Stops the runs that were given it: those that have not begun, and those under way between two kernels, with the error
// code TSR_CANCELLED_ERROR. A run that has begun to write state goes on to its end, so that a cancelled run has changed no
// state. Copies are the same token.
class CancelToken {
  public:
    CancelToken() {
        tsr_cancel *handle = nullptr;
        check(tsr_cancel_create(&handle));
        handle_ = detail::Handle<tsr_cancel, tsr_cancel_retain, tsr_cancel_release>(handle);
    }
    void cancel() { check(tsr_cancel_request(handle())); }
    tsr_cancel *handle() const noexcept { return handle_.get(); }

  private:
    detail::Handle<tsr_cancel, tsr_cancel_retain, tsr_cancel_release> handle_;
};

// What runs did, kernel by kernel: kept and saved as a file for chrome://tracing or ui.perfetto.dev, or told to a
// function. Copies are the same trace.
class Trace {
  public:
    // Keeps the events.
    Trace() { create(nullptr); }
    // Calls a function, which must not throw, for each event, on the thread that did the work.
    explicit Trace(std::function<void(const tsr_trace_event &)> function) {
        using Function = std::function<void(const tsr_trace_event &)>;
        auto context = std::make_unique<Function>(std::move(function));
        tsr_trace_options options{};
        options.size = sizeof options;
        options.function = [](void *c, const tsr_trace_event *event) { (*static_cast<Function *>(c))(*event); };
        options.context = context.get();
        options.destroy = [](void *c) { delete static_cast<Function *>(c); };
        create(&options);
        context.release();
    }
    // Events kept.
    int64_t count() const { return tsr_trace_count(handle()); }
    void clear() { check(tsr_trace_clear(handle())); }
    std::string to_json() const {
        tsr_text *text = nullptr;
        check(tsr_trace_text(handle(), &text));
        std::unique_ptr<tsr_text, void (*)(tsr_text *)> owner(text, tsr_text_release);
        return std::string(tsr_text_data(text), tsr_text_size(text));
    }
    void save(const std::string &path) const { check(tsr_trace_save(handle(), path.c_str())); }
    tsr_trace *handle() const noexcept { return handle_.get(); }

  private:
    void create(const tsr_trace_options *options) {
        tsr_trace *handle = nullptr;
        check(tsr_trace_create(options, &handle));
        handle_ = detail::Handle<tsr_trace, tsr_trace_retain, tsr_trace_release>(handle);
    }
    detail::Handle<tsr_trace, tsr_trace_retain, tsr_trace_release> handle_;
};

enum class LogLevel : int32_t { Debug = TSR_LOG_DEBUG, Info = TSR_LOG_INFO, Warning = TSR_LOG_WARNING, Error = TSR_LOG_ERROR };

// The caller's threads, for a runtime to use instead of its own.
class ParallelFor {
  public:
    virtual ~ParallelFor() = default;
    // Calls body(begin, end) on disjoint ranges that cover [0, units), none smaller than `grain` except the last, on any
    // threads; returns when all calls have.
    virtual void run(int64_t units, int64_t grain, const std::function<void(int64_t, int64_t)> &body) noexcept = 0;
};

// How a runtime works; what is left out is its own.
struct RuntimeOptions {
    int32_t threads = 0;                 // that take part in a run, the calling one included; 0: one per available core
    std::optional<Allocator> allocator;  // for all memory of runs
    std::shared_ptr<ParallelFor> pool;   // of `threads` threads
    std::optional<Trace> trace;          // is told of all runs
    std::function<void(LogLevel, const char *)> log; // must not throw; called from any thread
    LogLevel log_level = LogLevel::Warning;          // the least that is of interest
};

// How one run is done; what is left out is the runtime's.
struct RunOptions {
    // The run is done in the order of this stream: of the CPU, or of the GPU that the graph is compiled for, where its
    // work is put and not waited for.
    std::optional<Stream> stream;
    std::optional<Workspace> workspace;
    std::optional<CancelToken> cancel;
    std::optional<Trace> trace;
    // Of a run on a GPU: outputs that it makes lie there also when all inputs are in host memory. Without it they then lie
    // there too, and Runtime::run waits for them.
    bool outputs_on_device = false;
};

namespace detail {

inline tsr_run_options read(const RunOptions &options) {
    tsr_run_options c{};
    c.size = sizeof c;
    c.stream = options.stream ? options.stream->handle() : nullptr;
    c.workspace = options.workspace ? options.workspace->handle() : nullptr;
    c.cancel = options.cancel ? options.cancel->handle() : nullptr;
    c.trace = options.trace ? options.trace->handle() : nullptr;
    c.flags = options.outputs_on_device ? TSR_RUN_OUTPUTS_ON_DEVICE : 0;
    return c;
}

// The caller's objects that a runtime calls.
struct RuntimeCallbacks {
    std::shared_ptr<ParallelFor> pool;
    std::function<void(LogLevel, const char *)> log;

    static void parallel_for(void *context, int64_t units, int64_t grain, void (*function)(void *, int64_t, int64_t),
                             void *argument) {
        static_cast<RuntimeCallbacks *>(context)->pool->run(
            units, grain, [=](int64_t begin, int64_t end) { function(argument, begin, end); });
    }
    static void write(void *context, int32_t level, const char *message) {
        static_cast<RuntimeCallbacks *>(context)->log(static_cast<LogLevel>(level), message);
    }
    static void destroy(void *context) { delete static_cast<RuntimeCallbacks *>(context); }
};

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
    friend class Binding;
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
// One thread at a time uses a binding, as its runs write the same outputs.
class Binding {
  public:
    void operator()() const {
        check(tsr_runtime_run(runtime_.get(), graph_.handle(), inputs_.data(), static_cast<int32_t>(inputs_.size()),
                              outputs_.data(), static_cast<int32_t>(outputs_.size())));
    }
    // Submits a run and returns at once; allocates nothing either, when the runs before it are no longer held.
    Run submit() const {
        tsr_run *run = nullptr;
        check(tsr_runtime_submit(runtime_.get(), graph_.handle(), inputs_.data(), static_cast<int32_t>(inputs_.size()),
                                 outputs_.data(), static_cast<int32_t>(outputs_.size()), &run));
        return Run(run, graph_);
    }

  private:
    friend class Runtime;
    detail::Handle<tsr_runtime, tsr_runtime_retain, tsr_runtime_release> runtime_;
    Graph graph_;
    std::vector<Tensor> kept_;
    std::vector<tsr_tensor *> inputs_;
    mutable std::vector<tsr_tensor *> outputs_;
};

// Runs graphs and lazy tensors. May be used from several threads at once, without a lock between them; copies are the
// same runtime. Runs that one thread submits are done in their order, those of different threads side by side, except that
// a graph whose runs change state does one at a time.
class Runtime {
  public:
    // `threads` take part in a run, the calling one included; 0: one per available core.
    explicit Runtime(int32_t threads = 0) {
        tsr_runtime_options options{};
        options.size = sizeof options;
        options.threads = threads;
        create(options);
    }
    explicit Runtime(const RuntimeOptions &given) {
        tsr_runtime_options options{};
        options.size = sizeof options;
        options.threads = given.threads;
        options.allocator = given.allocator ? given.allocator->handle() : nullptr;
        options.trace = given.trace ? given.trace->handle() : nullptr;
        auto callbacks = std::make_unique<detail::RuntimeCallbacks>();
        callbacks->pool = given.pool;
        callbacks->log = given.log;
        options.parallel_for = given.pool ? detail::RuntimeCallbacks::parallel_for : nullptr;
        options.log = given.log ? detail::RuntimeCallbacks::write : nullptr;
        options.parallel_context = options.log_context = options.destroy_context = callbacks.get();
        options.log_level = static_cast<int32_t>(given.log_level);
        options.destroy = detail::RuntimeCallbacks::destroy;
        create(options);
        callbacks.release();
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
    Run submit(const Graph &graph, const NamedTensors &inputs, const NamedTensors &outputs = {},
               const RunOptions &options = {}) {
        std::vector<tsr_tensor *> in = detail::all_inputs(graph, inputs), out = detail::in_order(graph, TSR_OUTPUT, outputs);
        tsr_run_options c = detail::read(options);
        tsr_run *run = nullptr;
        check(tsr_runtime_submit_with(handle_.get(), graph.handle(), &c, in.data(), static_cast<int32_t>(in.size()),
                                      out.data(), static_cast<int32_t>(out.size()), &run));
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
    std::vector<Tensor> run(const Graph &graph, const std::vector<Tensor> &inputs, const RunOptions &options = {}) {
        std::vector<tsr_tensor *> in;
        for (const Tensor &t : inputs)
            in.push_back(t.handle());
        if (in.empty() && tsr_graph_value_count(graph.handle(), TSR_INPUT) > 0)
            throw Error(TSR_NAME_MISSING_ERROR, "run: no inputs are given");
        std::vector<tsr_tensor *> out(static_cast<size_t>(tsr_graph_value_count(graph.handle(), TSR_OUTPUT)), nullptr);
        tsr_run_options c = detail::read(options);
        check(tsr_runtime_run_with(handle_.get(), graph.handle(), &c, in.data(), static_cast<int32_t>(in.size()),
                                   out.data(), static_cast<int32_t>(out.size())));
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
    void create(const tsr_runtime_options &options) {
        tsr_runtime *handle = nullptr;
        check(tsr_runtime_create(&options, &handle));
        handle_ = detail::Handle<tsr_runtime, tsr_runtime_retain, tsr_runtime_release>(handle);
    }
    detail::Handle<tsr_runtime, tsr_runtime_retain, tsr_runtime_release> handle_;
};

} // namespace tessera

#endif
