// Cancellation, traces, weights that graphs share.
#include "api/device_handles.h"
#include "api/graph_handle.h"

using namespace tessera::core;

namespace {

class CallerTrace final : public TraceSink {
  public:
    explicit CallerTrace(const tsr_trace_options &options) : options_(options) {}
    ~CallerTrace() override {
        if (options_.destroy)
            options_.destroy(options_.context);
    }
    void record(const TraceEvent &e) noexcept override {
        tsr_trace_event event{};
        event.size = sizeof event;
        event.category = e.category;
        event.name = e.name;
        event.location = e.location;
        event.begin_ns = e.begin_ns;
        event.end_ns = e.end_ns;
        event.thread = thread_number();
        event.device_type = static_cast<int32_t>(e.device.type);
        event.device_index = e.device.index;
        options_.function(options_.context, &event);
    }

    void set_destroy(tsr_deleter destroy) { options_.destroy = destroy; }

  private:
    tsr_trace_options options_;
};

const RecordedTrace &recorded(const tsr_trace *trace) {
    require(trace, "trace");
    if (!trace->recorded)
        fail(Code::Argument, "this trace gives its events to a function and keeps none");
    return *trace->recorded;
}

NamedTensorList named(const char *const *names, tsr_tensor *const *tensors, int32_t count) {
    if (count < 0)
        fail(Code::Argument, "a negative number of tensors");
    NamedTensorList out;
    for (int32_t i = 0; i < count; ++i) {
        require(names, "names");
        require(tensors, "tensors");
        require(names[i], "a name");
        require(tensors[i], "a tensor");
        out.emplace_back(names[i], tensors[i]->concrete());
    }
    return out;
}

} // namespace

tsr_status tsr_cancel_create(tsr_cancel **cancel) {
    return guarded([&] {
        require(cancel, "cancel");
        *cancel = new tsr_cancel(std::make_shared<CancelFlag>());
    });
}

tsr_status tsr_cancel_request(tsr_cancel *cancel) {
    return guarded([&] {
        require(cancel, "cancel");
        cancel->object->cancel();
    });
}

void tsr_cancel_retain(tsr_cancel *cancel) { retain_handle(cancel); }
void tsr_cancel_release(tsr_cancel *cancel) { release_handle(cancel); }

tsr_status tsr_trace_create(const tsr_trace_options *options, tsr_trace **trace) {
    return guarded([&] {
        require(trace, "trace");
        if (options)
            check_struct(options->size, sizeof(tsr_trace_options), "tsr_trace_options");
        if (options && options->function) {
            tsr_trace_options silent = *options;
            silent.destroy = nullptr; // until nothing can fail any more
            auto sink = std::make_shared<CallerTrace>(silent);
            *trace = new tsr_trace(sink);
            sink->set_destroy(options->destroy);
            return;
        }
        auto events = std::make_shared<RecordedTrace>();
        *trace = new tsr_trace(events);
        (*trace)->recorded = std::move(events);
    });
}

int64_t tsr_trace_count(const tsr_trace *trace) {
    return trace && trace->recorded ? static_cast<int64_t>(trace->recorded->count()) : 0;
}

tsr_status tsr_trace_clear(tsr_trace *trace) {
    return guarded([&] {
        recorded(trace);
        trace->recorded->clear();
    });
}

tsr_status tsr_trace_text(const tsr_trace *trace, tsr_text **json) {
    return guarded([&] {
        require(json, "json");
        *json = new tsr_text{recorded(trace).text()};
    });
}

tsr_status tsr_trace_save(const tsr_trace *trace, const char *path) {
    return guarded([&] {
        require(path, "path");
        recorded(trace).save(path);
    });
}

void tsr_trace_retain(tsr_trace *trace) { retain_handle(trace); }
void tsr_trace_release(tsr_trace *trace) { release_handle(trace); }

tsr_status tsr_weights_create(const char *const *names, tsr_tensor *const *tensors, int32_t count, tsr_weights **weights) {
    return guarded([&] {
        require(weights, "weights");
        *weights = new tsr_weights(std::make_shared<Weights>(named(names, tensors, count)));
    });
}

tsr_status tsr_weights_load_file(const char *path, uint32_t flags, tsr_weights **weights) {
    return guarded([&] {
        require(path, "path");
        require(weights, "weights");
        *weights = new tsr_weights(Weights::load_file(path, !(flags & TSR_LOAD_SKIP_HASHES)));
    });
}

tsr_status tsr_weights_bind(tsr_weights *weights, tsr_graph *graph) {
    return guarded([&] {
        require(weights, "weights");
        require(graph, "graph");
        weights->object->bind(graph->program);
    });
}

tsr_status tsr_weights_swap(tsr_weights *weights, const char *const *names, tsr_tensor *const *tensors, int32_t count) {
    return guarded([&] {
        require(weights, "weights");
        weights->object->swap(named(names, tensors, count));
    });
}

tsr_status tsr_weights_swap_file(tsr_weights *weights, const char *path, uint32_t flags) {
    return guarded([&] {
        require(weights, "weights");
        require(path, "path");
        weights->object->swap_file(path, !(flags & TSR_LOAD_SKIP_HASHES));
    });
}

void tsr_weights_retain(tsr_weights *weights) { retain_handle(weights); }
void tsr_weights_release(tsr_weights *weights) { release_handle(weights); }
