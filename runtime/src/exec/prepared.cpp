#include "exec/prepared.h"

#include <algorithm>

#include "core/error.h"

namespace tessera::core {

namespace {

using Number = long long;

int64_t tensor_bytes(DType dtype, const std::vector<int64_t> &shape) {
    // Offsets in bytes fit in 64 bits, in empty tensors too.
    std::vector<int64_t> solid = shape;
    std::replace(solid.begin(), solid.end(), int64_t{0}, int64_t{1});
    checked_mul(element_count(solid), 8);
    return checked_mul(element_count(shape), static_cast<int64_t>(item_size(dtype)));
}

} // namespace

int64_t not_negative(const Dim &d, const std::vector<int64_t> &sizes, const char *what) {
    int64_t value = d.evaluate(sizes);
    if (value < 0)
        fail(Code::Format, "the plan's %s is %lld", what, Number(value));
    return value;
}

namespace {

bool writes_state(const Plan &plan, const Instruction &in) {
    auto mutated = [&](int buffer) {
        const PlanBuffer &b = plan.buffers[static_cast<size_t>(buffer)];
        return b.kind == BufferKind::State && plan.signature.state[static_cast<size_t>(b.binding)].mutated;
    };
    switch (in.kind) {
    case InstructionKind::Kernel: {
        const PlanKernel &k = plan.kernels[static_cast<size_t>(in.kernel)];
        for (size_t i = 0; i < in.buffers.size(); ++i)
            if (mutated(in.buffers[i]) && k.may_write(i))
                return true;
        return false;
    }
    case InstructionKind::CheckRange:
    case InstructionKind::Wait:
        return false;
    case InstructionKind::Copy:
        return mutated(in.buffers[1]);
    case InstructionKind::Zero:
        return mutated(in.buffers[0]);
    case InstructionKind::Portable:
    case InstructionKind::Collective:
    case InstructionKind::Custom:
    case InstructionKind::Library:
        return std::any_of(in.results.begin(), in.results.end(), [&](const PlanOperand &o) { return mutated(o.buffer); });
    }
    return true;
}

} // namespace

size_t Prepared::workspace_bytes(int threads) const {
    return static_cast<size_t>(checked_add(arena_bytes, checked_mul(scratch_bytes, threads)));
}

Prepared::Prepared(const Plan &plan, const KernelImage &image, std::vector<int64_t> given)
    : SizedBuffers(plan, std::move(given)) {
    instructions.reserve(plan.instructions.size());
    first_state_write = SIZE_MAX;
    for (const Instruction &in : plan.instructions) {
        prepare_instruction(plan, image, in);
        if (first_state_write == SIZE_MAX && writes_state(plan, in))
            first_state_write = std::max<size_t>(instructions.size(), 1) - 1;
    }
    first_state_write = std::min(first_state_write, instructions.size());
    for (size_t slot = 0; slot < slot_buffers.size(); ++slot) {
        const PlanBuffer &b = plan.buffers[static_cast<size_t>(slot_buffers[slot])];
        if (b.kind == BufferKind::Input)
            input_patches.push_back({slot, b.binding});
        else if (b.kind == BufferKind::Output)
            output_patches.push_back({slot, b.binding});
    }
    scratch_bytes = checked_add(scratch_bytes, 63) & ~int64_t{63};
}

SizedBuffers::SizedBuffers(const Plan &plan, std::vector<int64_t> given) : sizes(std::move(given)) {
    for (const TensorSpec &s : plan.signature.inputs)
        input_shapes.push_back(s.concrete_shape(sizes));
    for (const TensorSpec &s : plan.signature.outputs)
        output_prototypes.push_back(Tensor::prototype(s.dtype, s.concrete_shape(sizes)));
    arena_bytes = checked_add(not_negative(plan.arena, sizes, "arena size"), 63) & ~int64_t{63};
    buffer_bytes.reserve(plan.buffers.size());
    arena_offsets.assign(plan.buffers.size(), 0);
    for (size_t i = 0; i < plan.buffers.size(); ++i) {
        const PlanBuffer &b = plan.buffers[i];
        int64_t bytes = not_negative(b.bytes, sizes, "buffer size");
        buffer_bytes.push_back(bytes);
        if (b.kind != BufferKind::Arena)
            continue;
        int64_t offset = not_negative(b.offset, sizes, "buffer offset");
        if (offset % static_cast<int64_t>(tensor_alignment) || checked_add(offset, bytes) > arena_bytes)
            fail(Code::Format, "the plan's buffer %zu, [%lld, +%lld), does not fit in the arena of %lld bytes", i,
                 Number(offset), Number(bytes), Number(arena_bytes));
        arena_offsets[i] = offset;
    }
    auto check = [&](const TensorSpec &s, const std::vector<int64_t> &shape) {
        int64_t bytes = tensor_bytes(s.dtype, shape), planned = buffer_bytes[static_cast<size_t>(s.buffer)];
        if (bytes != planned)
            fail(Code::Format, "the plan's buffer %d has %lld bytes, '%s' needs %lld", s.buffer, Number(planned),
                 s.name.c_str(), Number(bytes));
    };
    const Signature &signature = plan.signature;
    for (size_t i = 0; i < signature.inputs.size(); ++i)
        check(signature.inputs[i], input_shapes[i]);
    for (size_t i = 0; i < signature.outputs.size(); ++i)
        check(signature.outputs[i], output_prototypes[i].shape());
    for (const TensorSpec &s : signature.state)
        check(s, s.concrete_shape(sizes));
    for (const TensorSpec &s : signature.constants)
        check(s, s.concrete_shape(sizes));
}

size_t Prepared::add_slots(const std::vector<int> &buffers) {
    size_t first = slot_buffers.size();
    slot_buffers.insert(slot_buffers.end(), buffers.begin(), buffers.end());
    return first;
}

void SizedBuffers::check_fits(const Plan &plan, int buffer, int64_t bytes, const Instruction &in) const {
    int64_t there = buffer_bytes[static_cast<size_t>(buffer)];
    if (bytes < 0 || bytes > there)
        fail(Code::Format, "an instruction of the plan (%s) uses %lld bytes of buffer %d, '%s', which has %lld",
             in.loc.c_str(), Number(bytes), buffer, plan.buffers[static_cast<size_t>(buffer)].label.c_str(), Number(there));
}

std::vector<TensorView> SizedBuffers::views(const Plan &plan, const std::vector<PlanOperand> &operands,
                                            const Instruction &in) const {
    std::vector<TensorView> out;
    for (const PlanOperand &o : operands) {
        TensorView v;
        v.dtype = o.dtype;
        for (const Dim &d : o.shape)
            v.shape.push_back(d.evaluate(sizes));
        check_fits(plan, o.buffer, tensor_bytes(v.dtype, v.shape), in);
        out.push_back(std::move(v));
    }
    return out;
}

void Prepared::prepare_instruction(const Plan &plan, const KernelImage &image, const Instruction &in) {
    PreparedInstruction out;
    out.source = &in;
    switch (in.kind) {
    case InstructionKind::Kernel: {
        out.entry = image.entry(plan.kernels[static_cast<size_t>(in.kernel)].entry);
        auto values = std::make_unique<int64_t[]>(in.sizes.size() + 1);
        for (size_t i = 0; i < in.sizes.size(); ++i)
            values[i] = in.sizes[i].evaluate(sizes);
        out.sizes = values.get();
        size_arrays_.push_back(std::move(values));
        out.grid = not_negative(in.grid, sizes, "grid");
        out.grain = std::max<int64_t>(1, in.grain.evaluate(sizes));
        scratch_bytes = std::max(scratch_bytes, not_negative(in.scratch, sizes, "scratch size"));
        if (out.grid == 0)
            return;
        out.first_slot = add_slots(in.buffers);
        break;
    }
    case InstructionKind::CheckRange:
        out.count = not_negative(in.count, sizes, "element count");
        out.low = in.low.evaluate(sizes);
        out.high = in.high.evaluate(sizes);
        check_fits(plan, in.buffers[0], checked_mul(out.count, static_cast<int64_t>(item_size(in.dtype))), in);
        out.first_slot = add_slots(in.buffers);
        break;
    case InstructionKind::Copy:
    case InstructionKind::Zero:
        out.count = not_negative(in.bytes, sizes, "byte count");
        for (int b : in.buffers)
            check_fits(plan, b, out.count, in);
        out.first_slot = add_slots(in.buffers);
        break;
    case InstructionKind::Collective:
    case InstructionKind::Portable:
    case InstructionKind::Custom: {
        out.operands = views(plan, in.operands, in);
        out.results = views(plan, in.results, in);
        if (in.kind == InstructionKind::Custom) {
            out.call = custom_call(in, out.operands, out.results);
            scratch_bytes = std::max(scratch_bytes, static_cast<int64_t>(out.call->scratch_bytes()));
        }
        out.first_slot = add_slots(buffers_of(in));
        break;
    }
    case InstructionKind::Library: // of GPUs only
    case InstructionKind::Wait:    // an exchange is done where it is started
        return;
    }
    instructions.push_back(std::move(out));
}

std::shared_ptr<const custom::Call> SizedBuffers::custom_call(const Instruction &in, const std::vector<TensorView> &operands,
                                                              const std::vector<TensorView> &results) const {
    try {
        return std::make_shared<const custom::Call>(*in.definition, in.attributes.evaluate(sizes), operands, results);
    } catch (const Error &e) {
        throw Error(e.code(), e.message() + at_line(in));
    }
}

std::vector<int> buffers_of(const Instruction &in) {
    std::vector<int> out;
    for (const PlanOperand &o : in.operands)
        out.push_back(o.buffer);
    for (const PlanOperand &o : in.results)
        out.push_back(o.buffer);
    return out;
}

bool SizedBuffers::matches(const Signature &signature, const Tensor *const *inputs, size_t count) const {
    if (count != input_shapes.size())
        return false;
    for (size_t i = 0; i < count; ++i)
        if (inputs[i]->dtype() != signature.inputs[i].dtype || inputs[i]->shape() != input_shapes[i])
            return false;
    for (size_t i = 0; i < signature.given_sizes.size(); ++i)
        if (signature.given_sizes[i] && *signature.given_sizes[i] != sizes[i])
            return false;
    return true;
}

} // namespace tessera::core
