#include "exec/gpu_engine.h"

#include <algorithm>

#include "core/error.h"
#include "core/transfer.h"
#include "exec/describe.h"
#include "exec/gpu_submission.h"

namespace tessera::core {

namespace {

constexpr size_t max_prepared = 64; // size tuples whose evaluation is kept
constexpr size_t max_under_way = 256; // runs that were put on streams; the next one waits for the device
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
using gpu::address_of;

} // namespace

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
    // Not kept: all devices of a mesh keep those that they run, in the same order.
    const auto p = std::make_shared<const GpuPrepared>(*plan_, sizes, libraries_);
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
    NcclCommunicator *group = plan_->has_collectives() ? devices(context) : nullptr;
    if (group)
        watch(*group, *s.run);
    make_outputs(s);
    order(s);
    bind_inputs(s);
    bind_outputs(s);
    fill_in_addresses(s);
    try {
        execute(s);
        copy_back(s);
    } catch (const std::exception &error) { // what is on the stream already still uses the memory
        if (group)
            leave(*group, s, error.what());
        try {
            mark(s);
        } catch (const Error &) { // of a device that has failed; the first error says why
        }
        throw;
    }
    mark(s);
    s.context.pending = s.run;
    // One run with other devices may be under way when the next is submitted, so that the device need not wait for the host.
    const std::shared_ptr<GpuRun> before = group ? std::exchange(watched_, s.run) : nullptr;
    if (before && before != s.run)
        before->finish();
}

// A device that fails would leave the others waiting for ever.
void GpuEngine::watch(NcclCommunicator &group, GpuRun &run) const {
    run.watch([watch = group.watch(), self = &run, what = exchanges_] {
        watch->await([self] { return self->reached(); }, what);
    });
}

// The run has failed here: the others learn of it, and what this device still sends into their memory comes to its end.
void GpuEngine::leave(NcclCommunicator &group, const Submission &s, const char *why) const {
    group.fail(why);
    try {
        const std::shared_ptr<Stream> &lane = s.frame->lane.stream;
        wait_a_while([&] { return (!lane || lane->idle()) && s.context.stream->idle(); });
    } catch (const Error &) { // of a device that has failed
    }
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
    if (plan_->has_collectives() && devices(s.context))
        fail(Code::Unsupported, "a run with exchanges between devices cannot be captured in a graph; run it outside the capture");
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
