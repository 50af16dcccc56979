// How a prepared run of a GPU engine is put on its stream: launch by launch, or as a captured graph; exchanges beside it.
#include <algorithm>

#include "core/error.h"
#include "exec/describe.h"
#include "exec/gpu_submission.h"

namespace tessera::core {

namespace {

constexpr size_t max_graphs = 8; // captured graphs of one size tuple
constexpr int64_t at_once = -1;  // the number of exchanges that are waited for where they are put

using gpu::address_of;

} // namespace

// The first run with new addresses is launched piece by piece; when they come again it is captured, and replayed from
// then on.
void GpuEngine::execute(Submission &s) {
    if (s.context.trace) {
        launch_traced(s);
        return;
    }
    BoundPlan &b = *s.bound;
    ++uses_;
    CapturedGraph *graph = find_graph(b);
    // What a library does is not known to be the same each time.
    if (!graph && !s.prepared->calls_custom && s.prepared->steps.size() > 1 && b.uses > 0 && b.bound == b.last_bound)
        graph = &capture(s);
    ++b.uses;
    b.last_bound = b.bound;
    if (!graph) {
        launch_all(s, s.stream);
        return;
    }
    graph->used = uses_;
    driver_.check(driver_.call().graph_launch(graph->executable, s.stream), "the run");
}

CapturedGraph *GpuEngine::find_graph(BoundPlan &b) const {
    for (CapturedGraph &g : b.graphs)
        if (g.addresses == b.bound)
            return &g;
    return nullptr;
}

CapturedGraph &GpuEngine::capture(Submission &s) {
    if (!capture_stream_)
        capture_stream_ = backend_.create_stream(device_.index);
    gpu::Handle stream = capture_stream_->native(), graph = nullptr;
    const gpu::Functions &call = driver_.call();
    driver_.check(call.capture_begin(stream, gpu::capture_relaxed), "a graph cannot be captured");
    try {
        launch_all(s, stream);
    } catch (...) {
        call.capture_end(stream, &graph);
        if (graph)
            call.graph_destroy(graph);
        throw;
    }
    driver_.check(call.capture_end(stream, &graph), "a graph cannot be captured");
    BoundPlan &b = *s.bound;
    CapturedGraph *target = nullptr;
    gpu::Result result = gpu::success;
    if (b.graphs.size() < max_graphs) {
        b.graphs.emplace_back();
        target = &b.graphs.back();
        result = call.graph_instantiate(&target->executable, graph, 0);
    } else { // the one that was not used for longest takes the new addresses
        target = &*std::min_element(b.graphs.begin(), b.graphs.end(), [](auto &x, auto &y) { return x.used < y.used; });
        if (driver_.graph_update(target->executable, graph) != gpu::success) {
            call.graph_release(target->executable);
            target->executable = nullptr;
            result = call.graph_instantiate(&target->executable, graph, 0);
        }
    }
    call.graph_destroy(graph);
    if (result != gpu::success) {
        b.graphs.erase(b.graphs.begin() + (target - b.graphs.data()));
        driver_.raise(result, "a graph cannot be made");
    }
    target->addresses = b.bound;
    return *target;
}

// Piece by piece with an event behind each, and waited for: who watches gets the times of the device. All events are made
// first: to make one can take longer than a kernel, which would then be seen to wait for it.
void GpuEngine::launch_traced(Submission &s) const {
    std::shared_ptr<Event> start = backend_.create_event(device_.index);
    std::vector<std::shared_ptr<Event>> marks(s.prepared->steps.size());
    for (std::shared_ptr<Event> &mark : marks)
        mark = backend_.create_event(device_.index);
    start->record(*s.context.stream);
    launch_all(s, s.stream, &marks);
    if (marks.empty())
        return;
    marks.back()->wait();
    const int64_t base = TraceSink::now() - marks.back()->nanoseconds_since(*start);
    int64_t before = 0;
    for (size_t i = 0; i < marks.size(); ++i) {
        TraceEvent event = describe(*plan_, *s.prepared->steps[i].source);
        event.device = device_;
        event.begin_ns = base + before;
        before = marks[i]->nanoseconds_since(*start);
        event.end_ns = base + before;
        s.context.trace->record(event);
    }
}

void GpuEngine::launch_all(Submission &s, gpu::Handle stream, const std::vector<std::shared_ptr<Event>> *marks) const {
    if (checks_)
        driver_.check(driver_.call().copy_within(address_of(s.frame->status()), address_of(s.frame->clean_status()),
                                       s.frame->status_bytes(), stream),
                      "status words");
    for (size_t i = 0; i < s.prepared->steps.size(); ++i) {
        const GpuStep &step = s.prepared->steps[i];
        const gpu::Result result = put(s, step, stream);
        if (result == gpu::success) {
            if (marks)
                (*marks)[i]->record(*s.context.stream);
            continue;
        }
        const Instruction &in = *step.source;
        const char *what = in.kernel >= 0 ? plan_->kernels[static_cast<size_t>(in.kernel)].name.c_str() : "a copy";
        driver_.raise(result, format("%s %s%s%s", what, gpu::Driver::is_sticky(result) ? "or a kernel before it failed" : "cannot be launched",
                                     in.loc.empty() ? "" : ", at ", in.loc.c_str()));
    }
}

gpu::Result GpuEngine::put(const Submission &s, const GpuStep &step, gpu::Handle stream) const {
    const gpu::Functions &call = driver_.call();
    if (step.agrees) {
        NcclCommunicator *group = devices(s.context);
        if (group && s.prepared->exchanges_beside)
            put_beside(s, stream, at_once, true, [&](gpu::Handle beside) { group->put_largest(s.frame->status(), beside); });
        else if (group)
            group->put_largest(s.frame->status(), stream);
        return gpu::success;
    }
    BoundPlan &b = *s.bound;
    void *const *addresses = b.addresses.data() + step.first_slot;
    switch (step.source->kind) {
    case InstructionKind::Copy:
        return call.copy_within(address_of(addresses[1]), address_of(addresses[0]), static_cast<size_t>(step.bytes), stream);
    case InstructionKind::Zero:
        return call.fill(address_of(addresses[0]), 0, static_cast<size_t>(step.bytes), stream);
    case InstructionKind::Custom:
        run_custom(s, step, stream);
        return gpu::success;
    case InstructionKind::Library:
        run_library(s, step, stream);
        return gpu::success;
    case InstructionKind::Collective:
        run_collective(s, step, stream);
        return gpu::success;
    case InstructionKind::Wait:
        wait_for_exchange(s, *step.source->exchange, stream);
        return gpu::success;
    default:
        return driver_.launch(code_.function(step.kernel), step.launch, stream, b.arguments.data() + step.first_argument);
    }
}

void GpuEngine::run_custom(const Submission &s, const GpuStep &step, gpu::Handle stream) const {
    custom::Place place;
    place.device_type = static_cast<int32_t>(device_.type);
    place.device_index = device_.index;
    place.stream = stream;
    place.scratch = s.frame->scratch();
    place.cancel = s.context.cancel;
    try {
        step.call->run(s.bound->addresses.data() + step.first_slot, place);
    } catch (const Error &e) {
        throw Error(e.code(), e.message() + at_line(*step.source));
    }
}

void GpuEngine::run_collective(const Submission &s, const GpuStep &step, gpu::Handle stream) const {
    const Collective &collective = *step.source->collective;
    TensorView operand = step.operand, result = step.result;
    operand.data = s.bound->addresses[step.first_slot];
    result.data = s.bound->addresses[step.first_slot + 1];
    NcclCommunicator *group = devices(s.context);
    if (!group) {
        check_alone(collective, operand, result);
        if (operand.size() && collective.kind == CollectiveKind::Permute && collective.source(0) < 0)
            driver_.check(driver_.call().fill(address_of(result.data), 0, static_cast<size_t>(operand.size()) * item_size(operand.dtype),
                                              stream),
                          collective.name.c_str());
        else if (operand.size())
            driver_.check(driver_.call().copy_within(address_of(result.data), address_of(operand.data),
                                                     static_cast<size_t>(operand.size()) * item_size(operand.dtype), stream),
                          collective.name.c_str());
        return;
    }
    if (!step.exchange->known)
        *step.exchange = group->exchange(collective, operand, result);
    if (!s.prepared->exchanges_beside) {
        group->put(collective, *step.exchange, operand, result, s.frame->scratch(), stream);
        return;
    }
    put_beside(s, stream, step.source->exchange.value_or(at_once), !step.beside, [&](gpu::Handle beside) {
        group->put(collective, *step.exchange, operand, result, s.frame->scratch(), beside);
    });
}

// All exchanges are put on one stream, so that they are done in the order in which all devices put them.
void GpuEngine::put_beside(const Submission &s, gpu::Handle stream, int64_t number, bool waits,
                           const std::function<void(gpu::Handle)> &put) const {
    const gpu::Functions &call = driver_.call();
    ExchangeLane &lane = s.frame->lane;
    if (!lane.stream) {
        lane.stream = backend_.create_stream(device_.index);
        lane.begin = backend_.create_plain_event(device_.index);
    }
    std::shared_ptr<gpu::GpuEvent> &end = lane.ends[number];
    if (!end)
        end = backend_.create_plain_event(device_.index);
    const gpu::Handle beside = lane.stream->native();
    driver_.check(call.event_record(lane.begin->handle(), stream), "an exchange");
    driver_.check(call.stream_wait_event(beside, lane.begin->handle(), 0), "an exchange");
    put(beside);
    driver_.check(call.event_record(end->handle(), beside), "an exchange");
    if (waits)
        driver_.check(call.stream_wait_event(stream, end->handle(), 0), "an exchange");
}

void GpuEngine::wait_for_exchange(const Submission &s, int64_t number, gpu::Handle stream) const {
    const auto found = s.frame->lane.ends.find(number);
    if (found != s.frame->lane.ends.end()) // without a communicator it was done at once
        driver_.check(driver_.call().stream_wait_event(stream, found->second->handle(), 0),
                      "an exchange");
}

void GpuEngine::run_library(const Submission &s, const GpuStep &step, gpu::Handle stream) const {
    try {
        step.library->run(s.bound->addresses.data() + step.first_slot, s.frame->scratch(), stream);
    } catch (const Error &e) {
        throw Error(e.code(), step.source->what + ": " + e.message() + at_line(*step.source));
    }
}

} // namespace tessera::core
