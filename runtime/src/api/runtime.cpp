// Runtime handles: runs on the calling thread, submissions, waiting.
#include "exec/runtime.h"

#include "api/graph_handle.h"
#include "api/handles.h"

using namespace tessera::core;

struct tsr_runtime : Counted {
    explicit tsr_runtime(const RuntimeOptions &options) : runtime(std::make_shared<Runtime>(options)) {}
    const std::shared_ptr<Runtime> runtime;
};

struct tsr_run : Counted {
    std::shared_ptr<Runtime> runtime;
    std::shared_ptr<Run> run;
};

namespace {

constexpr int32_t max_threads = 4096;
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

// Queues the work; `run`, unless null, gets a handle to wait for it, made first so that nothing can fail afterwards.
void start(tsr_runtime *runtime, std::shared_ptr<Run> work, tsr_run **run) {
    std::unique_ptr<tsr_run> handle;
    if (run) {
        handle = std::make_unique<tsr_run>();
        handle->runtime = runtime->runtime;
        handle->run = work;
    }
    runtime->runtime->submit(std::move(work));
    if (run)
        *run = handle.release();
}

} // namespace

tsr_status tsr_runtime_create(const tsr_runtime_options *options, tsr_runtime **runtime) {
    return guarded([&] {
        require(runtime, "runtime");
        int32_t threads = 0;
        if (options) {
            if (options->size < sizeof(tsr_runtime_options))
                fail(Code::Argument, "tsr_runtime_options.size is %zu, expected at least %zu", options->size,
                     sizeof(tsr_runtime_options));
            threads = options->threads;
        }
        if (threads < 0 || threads > max_threads)
            fail(Code::Argument, "threads = %d; expected 0 (one per core) to %d", threads, max_threads);
        RuntimeOptions wanted;
        wanted.threads = threads;
        *runtime = new tsr_runtime(wanted);
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
    return guarded([&] {
        require(runtime, "runtime");
        require(graph, "graph");
        check_counts(inputs, input_count, outputs, output_count);
        runtime->runtime->drain();
        Arguments arguments(graph, inputs, input_count);
        bool own = !outputs && output_count == 0;
        size_t count = own ? graph->specs(TSR_OUTPUT).size() : static_cast<size_t>(output_count);
        TensorList results(count);
        read_outputs(graph, outputs, count, own, results.data());
        RunContext context = runtime->runtime->context();
        graph->program->run(context, arguments.pointers, arguments.count, results.data(), count);
        for (size_t i = 0; i < count; ++i)
            if (!own && !outputs[i])
                outputs[i] = new tsr_tensor(std::move(results[i]));
    });
}

tsr_status tsr_runtime_submit(tsr_runtime *runtime, tsr_graph *graph, tsr_tensor *const *inputs, int32_t input_count,
                              tsr_tensor *const *outputs, int32_t output_count, tsr_run **run) {
    return guarded([&] {
        require(runtime, "runtime");
        require(graph, "graph");
        check_counts(inputs, input_count, outputs, output_count);
        Arguments arguments(graph, inputs, input_count);
        bool own = !outputs && output_count == 0;
        size_t count = own ? graph->specs(TSR_OUTPUT).size() : static_cast<size_t>(output_count);
        auto work = std::make_shared<Run>();
        work->outputs.resize(count);
        read_outputs(graph, outputs, count, own, work->outputs.data());
        graph->program->check(arguments.pointers, arguments.count, work->outputs.data(), count);
        work->program = graph->program;
        for (size_t i = 0; i < arguments.count; ++i)
            work->inputs.push_back(*arguments.pointers[i]);
        start(runtime, std::move(work), run);
    });
}

tsr_status tsr_runtime_submit_tensors(tsr_runtime *runtime, tsr_tensor *const *tensors, int32_t count, tsr_run **run) {
    return guarded([&] {
        require(runtime, "runtime");
        check_counts(tensors, count, nullptr, 0);
        auto work = std::make_shared<Run>();
        for (int32_t i = 0; i < count; ++i) {
            require(tensors[i], "a tensor");
            if (tensors[i]->lazy)
                work->lazy.push_back(tensors[i]->lazy);
        }
        start(runtime, std::move(work), run);
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
        run->runtime->wait(run->run);
    });
}

tsr_status tsr_run_describe(const tsr_run *run, tsr_run_info *info) {
    return guarded([&] {
        require(run, "run");
        require(info, "info");
        if (info->size < sizeof(tsr_run_info))
            fail(Code::Argument, "tsr_run_info.size is %zu, expected at least %zu", info->size, sizeof(tsr_run_info));
        bool finished = run->run->finished();
        info->finished = finished;
        info->status = TSR_OK;
        info->queued_ns = finished ? run->run->queued_ns() : 0;
        info->run_ns = finished ? run->run->run_ns() : 0;
        if (!finished || !run->run->error())
            return;
        try {
            std::rethrow_exception(run->run->error());
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
        if (!run->run->finished())
            fail(Code::Argument, "the run has not finished; wait for it first");
        const std::vector<Tensor> &outputs = run->run->outputs;
        if (index < 0 || static_cast<size_t>(index) >= outputs.size() || !outputs[static_cast<size_t>(index)])
            fail(Code::Argument, "output %d does not exist or the run failed", index);
        *tensor = new tsr_tensor(outputs[static_cast<size_t>(index)]);
    });
}

void tsr_run_retain(tsr_run *run) {
    if (run)
        run->retain();
}

void tsr_run_release(tsr_run *run) {
    if (run && run->release())
        delete run;
}
