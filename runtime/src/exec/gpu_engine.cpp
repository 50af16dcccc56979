#include "exec/gpu_engine.h"

#include <algorithm>

#include "core/error.h"
#include "core/transfer.h"
#include "exec/describe.h"

namespace tessera::core {

namespace {

constexpr size_t max_prepared = 64; // size tuples whose evaluation is kept
constexpr size_t max_graphs = 8;    // captured graphs of one size tuple
constexpr size_t max_under_way = 256; // runs that were put on streams; the next one waits for the device
constexpr int64_t at_once = -1; // the number of exchanges that are waited for where they are put
constexpr uintptr_t alignment = 16; // that kernels count on

size_t count_checks(const Plan &plan) {
    return static_cast<size_t>(std::count_if(plan.instructions.begin(), plan.instructions.end(), [](const Instruction &in) {
        return in.kind == InstructionKind::CheckRange;
    }));
}

// What a run on a mesh waits for, for messages.
std::string exchanges_text(const Plan &plan) {
    std::string out = "a run on GPUs";
    size_t count = 0;
    for (const Instruction &in : plan.instructions)
        if (in.kind == InstructionKind::Collective && ++count <= 3)
            out += (count == 1 ? " with " : ", ") + in.collective->name;
    return count > 3 ? out + format(" and %zu more exchanges", count - 3) : out;
}

bool is_aligned(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % alignment == 0; }
gpu::Address address_of(const void *pointer) { return reinterpret_cast<gpu::Address>(pointer); }

} // namespace

struct GpuEngine::Submission {
    RunContext &context;
    const StateTable &table;
    const Tensor *const *inputs;
    size_t input_count;
    Tensor *outputs;
    gpu::Handle stream;
    std::shared_ptr<const GpuPrepared> prepared;
    std::shared_ptr<GpuRun> run;
    GpuFrame *frame = nullptr;
    BoundPlan *bound = nullptr;
};

GpuEngine::GpuEngine(Plan plan, std::string_view image, DeviceId device, const std::string &where)
    : changing_(std::make_shared<Plan>(std::move(plan))), plan_(changing_), device_(device), backend_(gpu::gpu_backend(device)),
      driver_(backend_.driver()), code_(*plan_, image, device, where),
      libraries_(find_libraries(*plan_, device.index, where)), checks_(count_checks(*plan_)), exchanges_(exchanges_text(*plan_)) {}

void GpuEngine::give(std::string_view symbol, int64_t size) {
    std::lock_guard<std::mutex> hold(lock_);
    changing_->signature.give(symbol, size);
}

GpuEngine::~GpuEngine() = default; // each frame waits for its last run

void GpuEngine::check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs) {
    std::shared_ptr<const GpuPrepared> prepared;
    {
        std::lock_guard<std::mutex> hold(lock_);
        prepared = prepare(inputs, input_count);
    }
    for (size_t i = 0; i < signature().outputs.size(); ++i)
        if (outputs[i])
            check_output(signature().outputs[i], prepared->output_prototypes[i].shape(), outputs[i], device_);
    check_devices(inputs, input_count);
}

void GpuEngine::check_devices(const Tensor *const *inputs, size_t input_count) const {
    for (size_t i = 0; i < input_count; ++i)
        if (const DeviceId there = inputs[i]->device(); !there.is_cpu() && there != device_)
            fail(Code::Device, "input '%s' is on %s, the program runs on %s; copy it there, or load the program for that device",
                 signature().inputs[i].name.c_str(), text(there).c_str(), text(device_).c_str());
}

std::shared_ptr<const GpuPrepared> GpuEngine::prepare(const Tensor *const *inputs, size_t input_count) {
    for (size_t i = 0; i < prepared_.size(); ++i)
        if (prepared_[i]->matches(signature(), inputs, input_count)) {
            std::rotate(prepared_.begin(), prepared_.begin() + static_cast<std::ptrdiff_t>(i),
                        prepared_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
            return prepared_.front();
        }
    return prepare(signature().solve(inputs, input_count));
}

std::shared_ptr<const GpuPrepared> GpuEngine::prepare(const std::vector<int64_t> &sizes) {
    for (const auto &p : prepared_)
        if (p->sizes == sizes)
            return p;
    prepared_.insert(prepared_.begin(), std::make_shared<const GpuPrepared>(*plan_, sizes, libraries_));
    if (prepared_.size() > max_prepared)
        prepared_.pop_back();
    return prepared_.front();
}

Requirements GpuEngine::requirements(const std::vector<int64_t> &sizes) {
    std::lock_guard<std::mutex> hold(lock_);
    std::shared_ptr<const GpuPrepared> p = prepare(sizes);
    Requirements out;
    out.arena = checked_add(p->arena_bytes, p->scratch_bytes);
    return out;
}

Tensor GpuEngine::place(const Tensor &tensor) const { return tensor.device() == device_ ? tensor : to_device(tensor, device_); }

// A frame that the stream's order protects, else one that is idle, else another one.
GpuFrame &GpuEngine::take_frame(void *native_stream, const GpuPrepared *prepared) {
    (void)prepared;
    for (auto &f : frames_)
        if (!f->last || f->last->native_stream() == native_stream || f->last->reached())
            return *f;
    frames_.push_back(std::make_unique<GpuFrame>(*plan_, device_, checks_));
    return *frames_.back();
}

// A run that has ended and that nobody looks at any more, or another one. The oldest are looked at first, a few each time;
// those that have ended let go of what they held.
std::shared_ptr<GpuRun> GpuEngine::take_run() {
    constexpr int tries = 3;
    for (int i = 0; i < tries && !runs_.empty(); ++i) {
        std::shared_ptr<GpuRun> &oldest = runs_[oldest_];
        if (!oldest->settle())
            break;
        const bool free = oldest.use_count() == 1;
        std::shared_ptr<GpuRun> out = oldest;
        oldest_ = (oldest_ + 1) % runs_.size();
        if (free)
            return out;
    }
    auto fresh = std::make_shared<GpuRun>(plan_, device_, checks_);
    if (runs_.size() < max_under_way) {
        runs_.insert(runs_.begin() + static_cast<std::ptrdiff_t>(oldest_), fresh); // the newest is the last to be looked at
        oldest_ = (oldest_ + 1) % runs_.size();
        return fresh;
    }
    runs_[oldest_]->finish();
    runs_[oldest_]->settle();
    runs_[oldest_] = fresh; // the one before belongs to those who keep its outputs
    oldest_ = (oldest_ + 1) % runs_.size();
    return fresh;
}

void GpuEngine::run(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                    Tensor *outputs) {
    context.check_cancelled();
    std::lock_guard<std::mutex> hold(lock_);
    Submission s{context, table, inputs, input_count, outputs, context.stream->native(), {}, {}};
    s.prepared = prepare(inputs, input_count);
    bool given = false;
    for (size_t i = 0; i < signature().outputs.size(); ++i)
        if (outputs[i]) {
            check_output(signature().outputs[i], s.prepared->output_prototypes[i].shape(), outputs[i], device_);
            given = true;
        }
    if (given)
        check_overlap(signature(), table, inputs, input_count, outputs);
    check_devices(inputs, input_count);
    gpu::Current current(driver_, device_.index);
    if (is_captured(context)) {
        run_in_capture(s);
        return;
    }
    s.frame = &take_frame(s.stream, s.prepared.get());
    s.bound = &s.frame->set_up(s.prepared, table, context.allocator, [&] {
        if (s.frame->last)
            s.frame->last->finish();
    });
    s.run = take_run();
    s.run->begin(s.prepared, s.stream);
    make_outputs(s);
    order(s);
    bind_inputs(s);
    bind_outputs(s);
    fill_in_addresses(s);
    try {
        execute(s);
        copy_back(s);
    } catch (...) { // what is on the stream already still uses the memory
        try {
            mark(s);
        } catch (const Error &) { // of a device that has failed; the first error says why
        }
        throw;
    }
    mark(s);
    s.context.pending = s.run;
    if (plan_->has_collectives())
        if (NcclCommunicator *group = devices(context))
            watch(*group, s.run);
}

// A device that fails would leave the others waiting for ever. One run may be under way when the next is submitted, so that
// the device need not wait for the host in between.
void GpuEngine::watch(NcclCommunicator &group, const std::shared_ptr<GpuRun> &run) {
    run->watch([watch = group.watch(), self = run.get(), what = exchanges_] {
        watch->await([self] { return self->reached(); }, what);
    });
    const std::shared_ptr<GpuRun> before = std::exchange(watched_, run);
    if (before && before != run)
        before->finish();
}

// The communicator of a run on several devices; null: there is one.
NcclCommunicator *GpuEngine::devices(const RunContext &context) const {
    if (!context.communicator || context.communicator->mesh().devices() == 1)
        return nullptr;
    auto *found = dynamic_cast<NcclCommunicator *>(context.communicator);
    if (!found)
        fail(Code::Device, "the program runs on %s and its communicator is between hosts; give it one between GPUs "
                           "(tsr_communicator_create_gpu)",
             text(device_).c_str());
    if (found->device() != device_)
        fail(Code::Device, "the program runs on %s and its communicator is that of %s", text(device_).c_str(),
             text(found->device()).c_str());
    return found;
}

void GpuEngine::fill_in_addresses(Submission &s) const {
    BoundPlan &b = *s.bound;
    for (const Patch &p : s.prepared->input_patches)
        b.addresses[p.slot] = b.bound[static_cast<size_t>(p.binding)];
    for (const Patch &p : s.prepared->output_patches)
        b.addresses[p.slot] = b.bound[s.input_count + static_cast<size_t>(p.binding)];
    encode_maps(b);
}

// Whether the caller is capturing a graph on its stream.
bool GpuEngine::is_captured(const RunContext &context) const {
    int status = 0;
    if (!context.own_stream)
        driver_.check(driver_.call().stream_capturing(context.stream->native(), &status), "the caller's stream");
    return status != 0;
}

// The launches become part of the caller's graph, and with them the memory of a frame. Nothing tells when the graph runs,
// so nothing can be copied, made or reported.
void GpuEngine::run_in_capture(Submission &s) {
    if (checks_)
        fail(Code::Unsupported, "a run that is captured in a graph cannot report a failed range check, and this program has "
                                "checks; run it outside the capture");
    struct Relaxed { // memory is made while the capture is under way, which is no part of it
        const gpu::Driver &driver;
        int mode = gpu::capture_relaxed;
        explicit Relaxed(const gpu::Driver &d) : driver(d) { driver.call().capture_mode(&mode); }
        ~Relaxed() { driver.call().capture_mode(&mode); }
    } relaxed(driver_);
    captured_frames_.push_back(std::make_unique<GpuFrame>(*plan_, device_, checks_));
    s.frame = captured_frames_.back().get();
    s.bound = &s.frame->set_up(s.prepared, s.table, s.context.allocator, [] {});
    auto bind = [&](const Tensor &t, const char *kind, const std::string &name, size_t place) {
        if (!t || t.device() != device_ || !t.is_contiguous() || !is_aligned(t.data()) ||
            shares_mutated_state(signature(), s.table, t))
            fail(Code::Argument, "%s '%s': a run that is captured in a graph takes tensors on %s, row-major, at multiples of %d "
                                 "bytes, for all inputs and outputs",
                 kind, name.c_str(), text(device_).c_str(), static_cast<int>(alignment));
        std::shared_ptr<Completion> writer = t.storage()->completion();
        if (writer && writer->native_stream() != s.stream && !writer->reached())
            fail(Code::Argument, "%s '%s' is still being written; wait for it before the capture", kind, name.c_str());
        s.bound->bound[place] = t.data();
    };
    for (size_t i = 0; i < s.input_count; ++i)
        bind(*s.inputs[i], "input", signature().inputs[i].name, i);
    for (size_t i = 0; i < signature().outputs.size(); ++i)
        bind(s.outputs[i], "output", signature().outputs[i].name, s.input_count + i);
    fill_in_addresses(s);
    launch_all(s, s.stream);
}

// New outputs are made in the order of the runtime's own stream; for a stream of the caller's, which may be gone when they
// are released, in that of the device's.
void GpuEngine::make_outputs(Submission &s) const {
    std::shared_ptr<Stream> order = s.context.own_stream;
    std::shared_ptr<Event> made;
    bool on_host = s.context.outputs_follow_inputs && s.input_count > 0;
    for (size_t i = 0; i < s.input_count; ++i)
        on_host = on_host && s.inputs[i]->device().is_cpu();
    for (size_t i = 0; i < signature().outputs.size(); ++i) {
        if (s.outputs[i])
            continue;
        if (!order)
            order = backend_.home(device_.index);
        const TensorSpec &spec = signature().outputs[i];
        if (on_host) {
            s.outputs[i] = Tensor::empty(spec.dtype, s.prepared->output_prototypes[i].shape());
            continue;
        }
        try {
            s.outputs[i] = Tensor::empty(spec.dtype, s.prepared->output_prototypes[i].shape(), device_, s.context.allocator, order);
        } catch (const Error &e) {
            if (e.code() == Code::OutOfMemory)
                throw Error(e.code(), "output '" + spec.name + "': " + e.message() + "; " + largest_buffers(*plan_, *s.prepared));
            throw;
        }
        if (order->native() != s.stream && !made)
            made = backend_.create_plain_event(device_.index);
    }
    if (made) {
        made->record(*order);
        backend_.wait(*s.context.stream, made);
    }
}

void GpuEngine::order_after(Submission &s, const Tensor &tensor) const {
    std::shared_ptr<Completion> writer = tensor.storage()->completion();
    if (writer && writer->native_stream() != s.stream && !writer->reached())
        backend_.wait(*s.context.stream, writer->event());
}

// The run comes after all that writes what it reads, and after the frame's last run.
void GpuEngine::order(Submission &s) const {
    for (size_t i = 0; i < s.input_count; ++i)
        order_after(s, *s.inputs[i]);
    for (size_t i = 0; i < signature().outputs.size(); ++i)
        order_after(s, s.outputs[i]);
    for (const Tensor &t : s.table.state)
        order_after(s, t);
    if (s.frame->last && s.frame->last->native_stream() != s.stream)
        backend_.wait(*s.context.stream, s.frame->last->event());
}

void GpuEngine::bind_inputs(Submission &s) const {
    for (size_t i = 0; i < s.input_count; ++i) {
        const Tensor *t = s.inputs[i];
        Tensor whole;
        if (!t->is_contiguous()) {
            whole = t->device().is_cpu() ? t->contiguous() : to_device(*t, {}); // row-major, on the host
            t = &whole;
        }
        const bool shares = t->device() == device_ && shares_mutated_state(signature(), s.table, *t);
        if (t->device() == device_ && is_aligned(t->data()) && !shares) {
            s.bound->bound[i] = t->data();
        } else {
            void *staged = s.frame->stage(*s.bound, i, t->bytes(), s.context.allocator);
            backend_.copy(staged, device_, t->data(), t->device(), t->bytes(), s.context.stream);
            s.bound->bound[i] = staged;
        }
        const Stream *made_on = t->storage()->stream();
        if (!made_on || made_on->native() != s.stream)
            s.run->hold(*t);
    }
}

void GpuEngine::bind_outputs(Submission &s) const {
    for (size_t i = 0; i < signature().outputs.size(); ++i) {
        const Tensor &t = s.outputs[i];
        const size_t place = s.input_count + i;
        const bool direct = t.device() == device_ && is_aligned(t.data());
        s.bound->bound[place] = direct ? t.data() : s.frame->stage(*s.bound, place, t.bytes(), s.context.allocator);
    }
}

void GpuEngine::encode_maps(BoundPlan &b) const {
    for (size_t i = 0; i < b.maps.size(); ++i) {
        const GpuPreparedMap &map = b.prepared->maps[i];
        void *address = b.addresses[map.slot];
        if (b.mapped[i] == address)
            continue;
        bool empty = false;
        for (uint32_t d = 0; d < map.layout.rank; ++d)
            empty = empty || map.layout.shape[d] == 0;
        if (!empty)
            driver_.check(driver_.encode(b.maps[i], map.layout, address_of(address) + static_cast<gpu::Address>(map.start)),
                          "a tensor map");
        b.mapped[i] = address;
    }
}

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

// Piece by piece with an event behind each, and waited for: who watches gets the times of the device.
void GpuEngine::launch_traced(Submission &s) const {
    std::shared_ptr<Event> start = backend_.create_event(device_.index);
    std::vector<std::shared_ptr<Event>> marks;
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

void GpuEngine::launch_all(Submission &s, gpu::Handle stream, std::vector<std::shared_ptr<Event>> *marks) const {
    if (checks_)
        driver_.check(driver_.call().copy_within(address_of(s.frame->status()), address_of(s.frame->clean_status()),
                                       s.frame->status_bytes(), stream),
                      "status words");
    for (const GpuStep &step : s.prepared->steps) {
        const gpu::Result result = put(s, step, stream);
        if (result == gpu::success && marks) {
            marks->push_back(backend_.create_event(device_.index));
            marks->back()->record(*s.context.stream);
        }
        if (result == gpu::success)
            continue;
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

// Results to where the caller wants them.
void GpuEngine::copy_back(Submission &s) const {
    for (size_t i = 0; i < signature().outputs.size(); ++i) {
        const Tensor &t = s.outputs[i];
        void *there = s.bound->bound[s.input_count + i];
        if (there != t.data())
            backend_.copy(t.data(), t.device(), there, device_, t.bytes(), s.context.stream);
    }
    if (checks_)
        driver_.check(driver_.call().copy_out(s.run->status(), address_of(s.frame->status()), s.frame->status_bytes(), s.stream),
                      "status words");
}

// From here on all that the run uses belongs to it until it has ended.
void GpuEngine::mark(Submission &s) const {
    for (size_t i = 0; i < signature().outputs.size(); ++i) {
        const Tensor &t = s.outputs[i];
        const Stream *made_on = t.storage()->stream();
        if (!made_on)
            s.run->hold(t);
    }
    s.run->event()->record(*s.context.stream);
    s.frame->last = s.run;
    for (size_t i = 0; i < signature().outputs.size(); ++i)
        s.outputs[i].storage()->set_completion(s.run);
    for (size_t i = 0; i < signature().state.size(); ++i)
        if (signature().state[i].mutated)
            s.table.state[i].storage()->set_completion(GpuRun::state_writes(s.run));
}

} // namespace tessera::core
