// Runtime handles: runs on the calling thread, submissions, waiting.
#include "exec/runtime.h"

#include "api/device_handles.h"
#include "api/graph_handle.h"

using namespace tessera::core;

struct tsr_runtime : Counted {
    explicit tsr_runtime(const RuntimeOptions &options) : runtime(std::make_shared<Runtime>(options)) {}
    const std::shared_ptr<Runtime> runtime;
};

namespace {

constexpr int32_t max_threads = 4096;
constexpr size_t runtime_options_of_version_1 = 16;
constexpr size_t few = 16; // tensors for which a run needs no list on the heap

// Tensors by position, without allocation when they are few.
class TensorList {
  public:
    explicit TensorList(size_t count) : count_(count) {
        if (count > few)
            many_.resize(count);
    }
    Tensor &operator[](size_t i) { return data()[i]; }
    Tensor *data() { return count_ > few ? many_.data() : few_; }
    size_t size() const { return count_; }

  private:
    size_t count_;
    Tensor few_[few];
    std::vector<Tensor> many_;
};

// The arguments of a run. Lazy inputs give their computed value.
struct Arguments {
    const Tensor *few_pointers[few];
    std::vector<const Tensor *> many_pointers;
    std::vector<std::unique_ptr<Tensor>> computed;
    const Tensor **pointers = few_pointers;
    size_t count = 0;

    Arguments(tsr_graph *graph, tsr_tensor *const *inputs, int32_t input_count) {
        size_t needed = graph->specs(TSR_INPUT).size();
        bool own = input_count == 0 && needed > 0;
        count = own ? needed : static_cast<size_t>(input_count);
        if (count > few) {
            many_pointers.resize(count);
            pointers = many_pointers.data();
        }
        for (size_t i = 0; i < count; ++i) {
            tsr_tensor *t = own ? graph->own_tensor(TSR_INPUT, i) : inputs[i];
            require(t, "an input tensor");
            if (t->lazy) {
                computed.push_back(std::make_unique<Tensor>(t->concrete()));
                pointers[i] = computed.back().get();
            } else {
                pointers[i] = &t->tensor;
            }
        }
    }
};

void check_counts(const void *inputs, int32_t input_count, const void *outputs, int32_t output_count) {
    if (input_count < 0 || output_count < 0)
        fail(Code::Argument, "a negative number of tensors");
    if (input_count > 0)
        require(inputs, "inputs");
    if (output_count > 0)
        require(outputs, "outputs");
}

// The output tensors that are given; the graph's own when there is no list.
void read_outputs(tsr_graph *graph, tsr_tensor *const *outputs, size_t count, bool own, Tensor *to) {
    for (size_t i = 0; i < count; ++i) {
        tsr_tensor *t = own ? graph->own_tensor(TSR_OUTPUT, i) : outputs[i];
        if (t)
            to[i] = t->concrete();
    }
}

// A handle of a run is the run itself.
Run *run_of(tsr_run *handle) { return reinterpret_cast<Run *>(handle); }
const Run &run_of(const tsr_run *handle) { return *reinterpret_cast<const Run *>(handle); }

// A run that is to be filled in and submitted; goes back by itself when something fails.
class NewRun {
  public:
    explicit NewRun(tsr_runtime *runtime) : run_(runtime->runtime->new_run()) {}
    ~NewRun() {
        if (run_)
            run_->release();
    }
    NewRun(const NewRun &) = delete;
    NewRun &operator=(const NewRun &) = delete;
    Run *operator->() const { return run_; }
    Run &operator*() const { return *run_; }
    // `handle`, unless null, receives the reference.
    void submit(tsr_run **handle) {
        run_->runtime().submit(*run_);
        if (handle)
            *handle = reinterpret_cast<tsr_run *>(std::exchange(run_, nullptr));
    }

  private:
    Run *run_;
};

void fill_in(Run &run, tsr_graph *graph, const tsr_run_options *options, const Arguments &arguments) {
    run.program = graph->program;
    for (size_t i = 0; i < arguments.count; ++i)
        run.inputs.push_back(*arguments.pointers[i]);
    if (!options)
        return;
    run.stream = object_of(options->stream);
    run.workspace = object_of(options->workspace);
    run.cancel = object_of(options->cancel);
    run.trace = object_of(options->trace);
    run.outputs_on_device = (options->flags & TSR_RUN_OUTPUTS_ON_DEVICE) != 0;
}

// Puts a run on a GPU's stream, and waits for it when a result is in host memory.
void run_on_device(Runtime &runtime, tsr_graph *graph, const tsr_run_options *options, const Arguments &arguments,
                   TensorList &results) {
    RunContext context = runtime.context_on(graph->program->device(), options ? object_of(options->stream) : nullptr);
    context.outputs_follow_inputs = true;
    std::shared_ptr<const CancelFlag> cancel;
    if (options) {
        cancel = object_of(options->cancel);
        context.cancel = cancel.get();
        if (options->trace)
            context.trace = options->trace->object.get();
        context.outputs_follow_inputs = (options->flags & TSR_RUN_OUTPUTS_ON_DEVICE) == 0;
    }
    if (context.stream->device() != graph->program->device())
        fail(Code::Device, "the graph runs on %s, the stream is of %s", text(graph->program->device()).c_str(),
             text(context.stream->device()).c_str());
    graph->program->run(context, arguments.pointers, arguments.count, results.data(), results.size());
    if (!context.pending)
        return;
    bool on_host = false;
    for (size_t i = 0; i < results.size(); ++i)
        on_host = on_host || results[i].device().is_cpu();
    if (on_host)
        context.pending->wait();
    else
        runtime.note_pending(std::move(context.pending));
}

// A run that waits for its turn on a stream, and is waited for.
void run_in_order(tsr_runtime *runtime, tsr_graph *graph, const tsr_run_options *options, const Arguments &arguments,
                  TensorList &results) {
    NewRun work(runtime);
    work->outputs.assign(results.data(), results.data() + results.size());
    fill_in(*work, graph, options, arguments);
    work->runtime().submit(*work);
    work->wait();
    for (size_t i = 0; i < results.size(); ++i)
        results[i] = work->outputs[i];
}

void check_options(const tsr_run_options *options) {
    if (options)
        check_struct(options->size, sizeof(tsr_run_options), "tsr_run_options");
}

// The caller's objects that a runtime needs.
class Kept {
  public:
    ~Kept() {
        if (destroy_)
            destroy_(context_);
    }
    void set(tsr_deleter destroy, void *context) {
        destroy_ = destroy;
        context_ = context;
    }

  private:
    tsr_deleter destroy_ = nullptr;
    void *context_ = nullptr;
};

RuntimeOptions read_options(const tsr_runtime_options *options) {
    RuntimeOptions out;
    if (!options)
        return out;
    check_struct(options->size, runtime_options_of_version_1, "tsr_runtime_options");
    out.threads = options->threads;
    if (out.threads < 0 || out.threads > max_threads)
        fail(Code::Argument, "threads = %d; expected 0 (one per core) to %d", out.threads, max_threads);
    if (options->size < sizeof(tsr_runtime_options))
        return out;
    out.allocator = object_of(options->allocator);
    out.pool = {options->parallel_context, options->parallel_for};
    out.trace = object_of(options->trace);
    if (options->log_level < TSR_LOG_DEBUG || options->log_level > TSR_LOG_ERROR)
        fail(Code::Argument, "log_level %d is none of TSR_LOG_DEBUG to TSR_LOG_ERROR", options->log_level);
    out.log = Log(options->log, options->log_context, static_cast<LogLevel>(options->log_level));
    return out;
}

} // namespace

tsr_status tsr_runtime_create(const tsr_runtime_options *options, tsr_runtime **runtime) {
    return guarded([&] {
        require(runtime, "runtime");
        RuntimeOptions wanted = read_options(options);
        auto kept = std::make_shared<Kept>();
        wanted.kept = kept;
        *runtime = new tsr_runtime(wanted);
        if (options && options->size >= sizeof(tsr_runtime_options))
            kept->set(options->destroy, options->destroy_context); // nothing can fail any more
    });
}

void tsr_runtime_retain(tsr_runtime *runtime) {
    if (runtime)
        runtime->retain();
}

void tsr_runtime_release(tsr_runtime *runtime) {
    if (!runtime || !runtime->release())
        return;
    guarded([&] { runtime->runtime->drain(); }); // fails in a child of fork, where there is nothing to wait for
    delete runtime;
}

int32_t tsr_runtime_threads(const tsr_runtime *runtime) {
    return runtime ? static_cast<int32_t>(runtime->runtime->pool().threads()) : 0;
}

tsr_status tsr_runtime_run(tsr_runtime *runtime, tsr_graph *graph, tsr_tensor *const *inputs, int32_t input_count,
                           tsr_tensor **outputs, int32_t output_count) {
    return tsr_runtime_run_with(runtime, graph, nullptr, inputs, input_count, outputs, output_count);
}

tsr_status tsr_runtime_run_with(tsr_runtime *runtime, tsr_graph *graph, const tsr_run_options *options,
                                tsr_tensor *const *inputs, int32_t input_count, tsr_tensor **outputs,
                                int32_t output_count) {
    return guarded([&] {
        require(runtime, "runtime");
        require(graph, "graph");
        check_options(options);
        check_counts(inputs, input_count, outputs, output_count);
        Runtime &r = *runtime->runtime;
        Arguments arguments(graph, inputs, input_count);
        bool own = !outputs && output_count == 0;
        size_t count = own ? graph->specs(TSR_OUTPUT).size() : static_cast<size_t>(output_count);
        TensorList results(count);
        read_outputs(graph, outputs, count, own, results.data());
        if (!graph->program->device().is_cpu()) {
            r.drain_mine();
            run_on_device(r, graph, options, arguments, results);
        } else if (!(options && options->stream)) {
            r.drain_mine();
            RunContext context = r.context();
            if (options) {
                context.workspace = object_of(options->workspace).get();
                context.cancel = object_of(options->cancel).get();
                if (options->trace)
                    context.trace = options->trace->object.get();
            }
            graph->program->run(context, arguments.pointers, arguments.count, results.data(), count);
        } else {
            run_in_order(runtime, graph, options, arguments, results);
        }
        for (size_t i = 0; i < count; ++i)
            if (!own && !outputs[i])
                outputs[i] = new tsr_tensor(std::move(results[i]));
    });
}

tsr_status tsr_runtime_submit(tsr_runtime *runtime, tsr_graph *graph, tsr_tensor *const *inputs, int32_t input_count,
                              tsr_tensor *const *outputs, int32_t output_count, tsr_run **run) {
    return tsr_runtime_submit_with(runtime, graph, nullptr, inputs, input_count, outputs, output_count, run);
}

tsr_status tsr_runtime_submit_with(tsr_runtime *runtime, tsr_graph *graph, const tsr_run_options *options,
                                   tsr_tensor *const *inputs, int32_t input_count, tsr_tensor *const *outputs,
                                   int32_t output_count, tsr_run **run) {
    return guarded([&] {
        require(runtime, "runtime");
        require(graph, "graph");
        check_options(options);
        check_counts(inputs, input_count, outputs, output_count);
        Arguments arguments(graph, inputs, input_count);
        bool own = !outputs && output_count == 0;
        size_t count = own ? graph->specs(TSR_OUTPUT).size() : static_cast<size_t>(output_count);
        NewRun work(runtime);
        work->outputs.resize(count);
        read_outputs(graph, outputs, count, own, work->outputs.data());
        graph->program->check(arguments.pointers, arguments.count, work->outputs.data(), count);
        fill_in(*work, graph, options, arguments);
        work.submit(run);
    });
}

tsr_status tsr_runtime_submit_tensors(tsr_runtime *runtime, tsr_tensor *const *tensors, int32_t count, tsr_run **run) {
    return guarded([&] {
        require(runtime, "runtime");
        check_counts(tensors, count, nullptr, 0);
        NewRun work(runtime);
        for (int32_t i = 0; i < count; ++i) {
            require(tensors[i], "a tensor");
            if (tensors[i]->lazy)
                work->lazy.push_back(tensors[i]->lazy);
        }
        work.submit(run);
    });
}

tsr_status tsr_runtime_wait(tsr_runtime *runtime) {
    return guarded([&] {
        require(runtime, "runtime");
        runtime->runtime->wait();
    });
}

tsr_status tsr_run_wait(tsr_run *run) {
    return guarded([&] {
        require(run, "run");
        run_of(run)->wait();
    });
}

tsr_status tsr_run_describe(const tsr_run *run, tsr_run_info *info) {
    return guarded([&] {
        require(run, "run");
        require(info, "info");
        if (info->size < sizeof(tsr_run_info))
            fail(Code::Argument, "tsr_run_info.size is %zu, expected at least %zu", info->size, sizeof(tsr_run_info));
        const Run &r = run_of(run);
        const bool finished = r.finished();
        info->finished = finished;
        info->status = TSR_OK;
        info->queued_ns = finished ? r.queued_ns() : 0;
        info->run_ns = finished ? r.run_ns() : 0;
        if (!finished || !r.error())
            return;
        try {
            std::rethrow_exception(r.error());
        } catch (const Error &e) {
            info->status = static_cast<tsr_status>(e.code());
        } catch (...) {
            info->status = TSR_INTERNAL_ERROR;
        }
    });
}

tsr_status tsr_run_output(tsr_run *run, int32_t index, tsr_tensor **tensor) {
    return guarded([&] {
        require(run, "run");
        require(tensor, "tensor");
        if (!run_of(run)->is_done())
            fail(Code::Argument, "the run has not finished; wait for it first");
        const std::vector<Tensor> &outputs = run_of(run)->outputs;
        if (index < 0 || static_cast<size_t>(index) >= outputs.size() || !outputs[static_cast<size_t>(index)])
            fail(Code::Argument, "output %d does not exist or the run failed", index);
        *tensor = new tsr_tensor(outputs[static_cast<size_t>(index)]);
    });
}

void tsr_run_retain(tsr_run *run) {
    if (run)
        run_of(run)->retain();
}

void tsr_run_release(tsr_run *run) {
    if (run)
        run_of(run)->release();
}
