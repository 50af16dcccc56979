#include "exec/plan_engine.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"
#include "exec/check_range.h"
#include "exec/describe.h"
#include "exec/trace_sink.h"

namespace tessera::core {

namespace {

// Size tuples whose evaluation is kept; a program that meets more of them evaluates the oldest again.
constexpr size_t max_prepared = 64;

void check_range(const Plan &plan, const Prepared &prepared, const PreparedInstruction &in, const void *data) {
    const Instruction &source = *in.source;
    int64_t position = find_out_of_range(data, source.dtype, in.count, in.low, in.high, source.ignore);
    if (position < 0)
        return;
    const PlanBuffer &b = plan.buffers[static_cast<size_t>(source.buffers[0])];
    std::vector<int64_t> shape;
    if (b.kind == BufferKind::Input)
        shape = prepared.input_shapes[static_cast<size_t>(b.binding)];
    std::string ignored =
        source.ignore ? format(", or %lld to be ignored", static_cast<long long>(*source.ignore)) : std::string();
    fail(Code::IndexRange, "[check_range] %s at position %s is %lld; expected %lld to %lld%s%s", source.what.c_str(),
         position_text(shape, in.count, position).c_str(),
         static_cast<long long>(integer_at(data, source.dtype, position)), static_cast<long long>(in.low),
         static_cast<long long>(in.high), ignored.c_str(), at_line(source).c_str());
}

void run_portable(ThreadPool &pool, const Prepared &prepared, const PreparedInstruction &in, void *const *addresses) {
    std::vector<TensorView> operands = in.operands;
    TensorView result = in.results[0];
    for (TensorView &v : operands)
        v.data = *addresses++;
    result.data = *addresses;
    in.source->primitive->run(operands, result, &pool, prepared.sizes);
}

void run_collective(RunContext &context, const PreparedInstruction &in, void *const *addresses) {
    TensorView operand = in.operands[0], result = in.results[0];
    operand.data = addresses[0];
    result.data = addresses[1];
    if (context.communicator)
        context.communicator->run(*in.source->collective, operand, result);
    else
        run_alone(*in.source->collective, operand, result);
}

void run_custom(RunContext &context, const PreparedInstruction &in, void *const *addresses, void *scratch) {
    custom::Place place;
    place.pool = &context.pool;
    place.cancel = context.cancel;
    place.scratch = scratch;
    try {
        in.call->run(addresses, place);
    } catch (const Error &e) {
        throw Error(e.code(), e.message() + at_line(*in.source));
    }
}

// Large blocks are copied and cleared by all threads.
constexpr int64_t memory_grain = 1 << 18;

void copy_bytes(ThreadPool &pool, const char *source, char *target, int64_t bytes) {
    if (bytes <= memory_grain) {
        std::memmove(target, source, static_cast<size_t>(bytes));
        return;
    }
    pool.parallel_for(bytes, memory_grain, [&](int64_t begin, int64_t end, int) {
        std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
    });
}

void clear_bytes(ThreadPool &pool, char *target, int64_t bytes) {
    pool.parallel_for(bytes, memory_grain, [&](int64_t begin, int64_t end, int) {
        std::memset(target + begin, 0, static_cast<size_t>(end - begin));
    });
}

} // namespace

TraceEvent describe(const Plan &plan, const Instruction &in) {
    TraceEvent out;
    out.location = in.loc.c_str();
    switch (in.kind) {
    case InstructionKind::Kernel:
        out.category = "kernel";
        out.name = plan.kernels[static_cast<size_t>(in.kernel)].name.c_str();
        break;
    case InstructionKind::CheckRange:
        out.category = "check";
        out.name = in.what.c_str();
        break;
    case InstructionKind::Copy:
        out.category = "copy";
        out.name = "copy";
        break;
    case InstructionKind::Zero:
        out.category = "copy";
        out.name = "zero";
        break;
    case InstructionKind::Portable:
        out.category = "operator";
        out.name = in.primitive->op().c_str();
        break;
    case InstructionKind::Collective:
        out.category = "collective";
        out.name = in.collective->name.c_str();
        break;
    case InstructionKind::Custom:
        out.category = "custom";
        out.name = in.definition->name().c_str();
        break;
    case InstructionKind::Library:
        out.category = "library";
        out.name = in.what.c_str();
        break;
    case InstructionKind::Wait:
        out.category = "collective";
        out.name = "wait";
        break;
    }
    return out;
}

struct PlanEngine::Lease {
    SlotCache<Frame> &idle;
    std::unique_ptr<Frame> frame;

    explicit Lease(PlanEngine &engine) : idle(engine.idle_), frame(idle.take()) {
        if (!frame)
            frame = std::make_unique<Frame>();
    }
    ~Lease() { idle.put(std::move(frame)); }
    Lease(const Lease &) = delete;
    Lease &operator=(const Lease &) = delete;
};

const Prepared &PlanEngine::prepare(Frame &frame, const Tensor *const *inputs, size_t input_count) {
    if (const Prepared *known = frame.find(plan_.signature, inputs, input_count))
        return *known;
    check_on_cpu(plan_.signature, inputs, input_count);
    return *frame.remember(prepare(plan_.signature.solve(inputs, input_count)));
}

std::shared_ptr<const Prepared> PlanEngine::prepare(const std::vector<int64_t> &sizes) {
    auto find = [&]() -> std::shared_ptr<const Prepared> {
        for (const auto &p : prepared_)
            if (p->sizes == sizes)
                return p;
        return nullptr;
    };
    {
        std::lock_guard<std::mutex> hold(lock_);
        if (auto found = find())
            return found;
    }
    auto fresh = std::make_shared<const Prepared>(plan_, image_, sizes);
    std::lock_guard<std::mutex> hold(lock_);
    if (auto found = find())
        return found;
    prepared_.insert(prepared_.begin(), fresh);
    if (prepared_.size() > max_prepared)
        prepared_.pop_back();
    return fresh;
}

void PlanEngine::check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs) {
    Lease lease(*this);
    const Prepared &prepared = prepare(*lease.frame, inputs, input_count);
    for (size_t i = 0; i < plan_.signature.outputs.size(); ++i)
        if (outputs[i])
            check_output(plan_.signature.outputs[i], prepared.output_prototypes[i].shape(), outputs[i]);
}

Requirements PlanEngine::requirements(const std::vector<int64_t> &sizes) {
    std::shared_ptr<const Prepared> p = prepare(sizes);
    Requirements out;
    out.arena = p->arena_bytes;
    out.scratch_per_thread = p->scratch_bytes;
    return out;
}

void PlanEngine::run(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                     Tensor *outputs) {
    Lease lease(*this);
    Frame &frame = *lease.frame;
    const Prepared &prepared = prepare(frame, inputs, input_count);
    const Signature &signature = plan_.signature;
    bool given = false;
    for (size_t i = 0; i < signature.outputs.size(); ++i) {
        if (!outputs[i])
            continue;
        check_output(signature.outputs[i], prepared.output_prototypes[i].shape(), outputs[i]);
        given = true;
    }
    if (given)
        check_overlap(signature, table, inputs, input_count, outputs);
    for (size_t i = 0; i < signature.outputs.size(); ++i)
        if (!outputs[i])
            outputs[i] = Tensor::empty_like(prepared.output_prototypes[i], context.allocator);

    WorkspaceLease memory(context, prepared.workspace_bytes(context.pool.threads()));
    frame.set_up(plan_, prepared, table, memory.data());
    std::vector<Tensor> copies; // row-major copies of strided inputs, and of those in memory that the run changes
    auto copied = [&](size_t i) { return !copies.empty() && copies[i]; };
    for (size_t i = 0; i < input_count; ++i)
        if (!inputs[i]->is_contiguous() || shares_mutated_state(signature, table, *inputs[i])) {
            copies.resize(input_count);
            copies[i] = copied_input(context, signature.inputs[i], *inputs[i]);
        }
    void **addresses = frame.addresses();
    for (const Patch &p : prepared.input_patches) {
        auto i = static_cast<size_t>(p.binding);
        addresses[p.slot] = copied(i) ? copies[i].data() : inputs[i]->data();
    }
    for (const Patch &p : prepared.output_patches)
        addresses[p.slot] = outputs[p.binding].data();
    execute(context, prepared, frame);
}

void PlanEngine::execute(RunContext &context, const Prepared &prepared, Frame &frame) {
    const PreparedInstruction *const begin = prepared.instructions.data(), *const end = begin + prepared.instructions.size();
    // Once state is being written, a run goes on to its end.
    const PreparedInstruction *const last_stop = begin + prepared.first_state_write;
    // A device whose inputs are refused must stop the others before they change state.
    bool agreed = !context.communicator || !plan_.has_collectives() || !plan_.changes_state();
    for (const PreparedInstruction *in = begin; in != end; ++in) {
        if (context.cancel && in <= last_stop)
            context.cancel->check();
        if (!agreed && in->source->kind != InstructionKind::CheckRange) {
            context.communicator->agree();
            agreed = true;
        }
        if (!context.trace) {
            execute_instruction(context, prepared, *in, frame);
            continue;
        }
        TraceEvent event = describe(plan_, *in->source);
        event.begin_ns = TraceSink::now();
        execute_instruction(context, prepared, *in, frame);
        event.end_ns = TraceSink::now();
        context.trace->record(event);
    }
}

void PlanEngine::execute_instruction(RunContext &context, const Prepared &prepared, const PreparedInstruction &in,
                                     Frame &frame) {
    void **addresses = frame.addresses() + in.first_slot;
    switch (in.source->kind) {
    case InstructionKind::Kernel:
        execute_kernel(context, in, frame);
        break;
    case InstructionKind::CheckRange:
        check_range(plan_, prepared, in, addresses[0]);
        break;
    case InstructionKind::Copy:
        copy_bytes(context.pool, static_cast<const char *>(addresses[0]), static_cast<char *>(addresses[1]), in.count);
        break;
    case InstructionKind::Zero:
        clear_bytes(context.pool, static_cast<char *>(addresses[0]), in.count);
        break;
    case InstructionKind::Portable:
        run_portable(context.pool, prepared, in, addresses);
        break;
    case InstructionKind::Collective:
        run_collective(context, in, addresses);
        break;
    case InstructionKind::Custom:
        run_custom(context, in, addresses, frame.scratch(0));
        break;
    case InstructionKind::Library: // of GPUs only
    case InstructionKind::Wait:    // dropped in preparation
        break;
    }
}

void PlanEngine::execute_kernel(RunContext &context, const PreparedInstruction &in, Frame &frame) {
    void *const *addresses = frame.addresses() + in.first_slot;
    int64_t status = 0;
    if (in.grid <= in.grain || context.pool.threads() == 1) {
        status = in.entry(addresses, in.sizes, 0, in.grid, frame.scratch(0));
    } else {
        std::atomic<int64_t> worst{0};
        context.pool.parallel_for(in.grid, in.grain, [&](int64_t begin, int64_t end, int thread) {
            if (int64_t s = in.entry(addresses, in.sizes, begin, end, frame.scratch(thread)); s != 0)
                worst.store(s, std::memory_order_relaxed);
        });
        status = worst.load(std::memory_order_relaxed);
    }
    if (status != 0)
        fail(Code::Internal, "kernel %s failed with status %lld%s",
             plan_.kernels[static_cast<size_t>(in.source->kernel)].name.c_str(), static_cast<long long>(status),
             at_line(*in.source).c_str());
}

} // namespace tessera::core
