#include "exec/gpu_prepared.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace tessera::core {

namespace {

using Number = long long;

constexpr int64_t max_grid_x = std::numeric_limits<int32_t>::max(), max_grid_yz = 65535;


// CUtensorMapDataType; element types that CUDA does not know are moved as integers of their width.
int tensor_map_type(DType dtype) {
    switch (dtype) {
    case DType::F64:
        return 8;
    case DType::F32:
        return 7;
    case DType::BF16:
        return 9;
    case DType::F16:
        return 6;
    case DType::I64:
        return 5;
    case DType::I32:
        return 3;
    case DType::I16:
        return 1;
    default:
        return 0;
    }
}

bool is_launch(const GpuStep &step) {
    const InstructionKind kind = step.source->kind;
    return !step.agrees && (kind == InstructionKind::Kernel || kind == InstructionKind::CheckRange);
}

} // namespace

GpuPrepared::GpuPrepared(const Plan &plan, std::vector<int64_t> given, const Libraries &libraries)
    : SizedBuffers(plan, std::move(given)) {
    size_t checks = 0;
    size_t left = static_cast<size_t>(std::count_if(plan.instructions.begin(), plan.instructions.end(), [](const Instruction &in) {
        return in.kind == InstructionKind::CheckRange;
    }));
    for (const Instruction &in : plan.instructions) {
        add_step(plan, in, checks, libraries);
        if (in.kind == InstructionKind::CheckRange && --left == 0 && plan.has_collectives()) {
            GpuStep step; // at the same place of all devices' programs, whatever is empty on some
            step.source = &in;
            step.agrees = true;
            steps.push_back(step);
        }
    }
    for (size_t slot = 0; slot < slot_buffers.size(); ++slot) {
        const PlanBuffer &b = plan.buffers[static_cast<size_t>(slot_buffers[slot])];
        if (b.kind == BufferKind::Input)
            input_patches.push_back({slot, b.binding});
        else if (b.kind == BufferKind::Output)
            output_patches.push_back({slot, b.binding});
    }
}

void GpuPrepared::add_step(const Plan &plan, const Instruction &in, size_t &checks, const Libraries &libraries) {
    GpuStep step;
    step.source = &in;
    switch (in.kind) {
    case InstructionKind::CheckRange: {
        int64_t count = not_negative(in.count, sizes, "element count");
        check_fits(plan, in.checked, checked_mul(count, static_cast<int64_t>(item_size(in.dtype))), in);
        GpuSize low, high;
        low.i64 = in.low.evaluate(sizes);
        high.i64 = in.high.evaluate(sizes);
        check_limits.push_back(low);
        check_limits.push_back(high);
        step.check = checks++;
        add_launch(plan, in, step);
        return;
    }
    case InstructionKind::Kernel:
        add_launch(plan, in, step);
        return;
    case InstructionKind::Copy:
    case InstructionKind::Zero:
        step.bytes = not_negative(in.bytes, sizes, "byte count");
        for (int b : in.buffers)
            check_fits(plan, b, step.bytes, in);
        if (step.bytes == 0)
            return;
        step.first_slot = slot_buffers.size();
        slot_buffers.insert(slot_buffers.end(), in.buffers.begin(), in.buffers.end());
        steps.push_back(step);
        return;
    case InstructionKind::Custom:
        add_custom(plan, in, step);
        return;
    case InstructionKind::Collective:
        add_collective(plan, in, step);
        return;
    case InstructionKind::Wait:
        steps.push_back(step);
        return;
    case InstructionKind::Library:
        add_library(plan, in, step, libraries);
        return;
    default:
        fail(Code::Unsupported, "an instruction of the plan cannot run on a GPU%s", at_line(in).c_str());
    }
}

void GpuPrepared::add_collective(const Plan &plan, const Instruction &in, GpuStep &step) {
    step.operand = views(plan, in.operands, in).front();
    step.result = views(plan, in.results, in).front();
    step.exchange = std::make_shared<GpuExchange>();
    const int64_t scratch = NcclCommunicator::scratch(*in.collective, step.operand, step.result);
    scratch_bytes = std::max(scratch_bytes, scratch);
    // Scratch is memory of all steps: who uses it is waited for at once.
    step.beside = in.exchange && scratch == 0;
    exchanges_beside = exchanges_beside || in.exchange;
    step.first_slot = slot_buffers.size();
    const std::vector<int> buffers = buffers_of(in);
    slot_buffers.insert(slot_buffers.end(), buffers.begin(), buffers.end());
    calls_custom = true;
    steps.push_back(std::move(step));
}

void GpuPrepared::add_custom(const Plan &plan, const Instruction &in, GpuStep &step) {
    step.call = custom_call(in, views(plan, in.operands, in), views(plan, in.results, in));
    scratch_bytes = std::max(scratch_bytes, static_cast<int64_t>(step.call->scratch_bytes()));
    step.first_slot = slot_buffers.size();
    const std::vector<int> buffers = buffers_of(in);
    slot_buffers.insert(slot_buffers.end(), buffers.begin(), buffers.end());
    calls_custom = true;
    steps.push_back(std::move(step));
}

// The library's call, or the generated kernels in its place: where it is missing, and for sizes that it does nothing for.
void GpuPrepared::add_library(const Plan &plan, const Instruction &in, GpuStep &step, const Libraries &libraries) {
    std::vector<int64_t> elements;
    for (const auto *list : {&in.operands, &in.results})
        for (const TensorView &v : views(plan, *list, in))
            elements.push_back(element_count(v.shape));
    if (is_empty(in, sizes))
        return;
    std::string why;
    step.library = LibraryCall::prepare(libraries, in, sizes, elements, why);
    if (!step.library) {
        if (in.otherwise.empty())
            fail(Code::Device, "%s: the library %s, and the artefact has no kernel in its place; compile with libraries=[]%s",
                 in.what.c_str(), why.c_str(), at_line(in).c_str());
        add_launches(plan, in.otherwise);
        return;
    }
    scratch_bytes = std::max(scratch_bytes, static_cast<int64_t>(step.library->scratch()));
    step.first_slot = slot_buffers.size();
    const std::vector<int> buffers = buffers_of(in);
    slot_buffers.insert(slot_buffers.end(), buffers.begin(), buffers.end());
    steps.push_back(std::move(step));
    add_launches(plan, in.then);
}

void GpuPrepared::add_launches(const Plan &plan, const std::vector<Instruction> &launches) {
    for (const Instruction &in : launches) {
        GpuStep step;
        step.source = &in;
        add_launch(plan, in, step);
    }
}

void GpuPrepared::add_launch(const Plan &plan, const Instruction &in, GpuStep &step) {
    step.kernel = static_cast<size_t>(in.kernel);
    const PlanKernel &kernel = plan.kernels[step.kernel];
    const GpuKernel &k = kernel.gpu;
    const Dim *grid[] = {&in.grid, &in.grid_y, &in.grid_z};
    int64_t blocks = 1;
    for (int d = 0; d < 3; ++d) {
        const int64_t size = not_negative(*grid[d], sizes, "grid"), most = d == 0 ? max_grid_x : max_grid_yz;
        if (size > most)
            fail(Code::Shape, "kernel %s needs %lld blocks in dimension %d of its grid, a GPU takes %lld; use smaller sizes%s",
                 kernel.name.c_str(), Number(size), d, Number(most), at_line(in).c_str());
        if (size % k.cluster[d])
            fail(Code::Format, "kernel %s: a grid of %lld is no multiple of its cluster of %u", kernel.name.c_str(), Number(size),
                 k.cluster[d]);
        step.launch.grid[d] = static_cast<unsigned>(size);
        step.launch.cluster[d] = k.cluster[d];
        blocks = checked_mul(blocks, size);
    }
    if (blocks == 0)
        return;
    step.launch.threads = k.threads;
    step.launch.shared = k.shared;
    step.launch.early = k.early && !steps.empty() && is_launch(steps.back());
    step.first_slot = slot_buffers.size();
    slot_buffers.insert(slot_buffers.end(), in.buffers.begin(), in.buffers.end());
    step.first_argument = arguments.size();
    step.argument_count = k.arguments.size();
    for (const GpuArgument &a : k.arguments) {
        if (a.kind == GpuArgumentKind::StatusCheck && in.kind != InstructionKind::CheckRange)
            fail(Code::Format, "kernel %s: only a range check has a word of its own", kernel.name.c_str());
        arguments.push_back(argument(in, a, step));
    }
    if (k.scratch)
        scratch_bytes = std::max(scratch_bytes, checked_mul(k.scratch, blocks));
    steps.push_back(step);
}

GpuPreparedArgument GpuPrepared::argument(const Instruction &in, const GpuArgument &a, const GpuStep &step) {
    GpuPreparedArgument out;
    out.kind = a.kind;
    switch (a.kind) {
    case GpuArgumentKind::Buffer:
        out.index = step.first_slot + a.index;
        break;
    case GpuArgumentKind::SizeI32:
    case GpuArgumentKind::SizeI64: {
        GpuSize value;
        value.i64 = in.sizes[a.index].evaluate(sizes);
        if (a.kind == GpuArgumentKind::SizeI32) {
            if (value.i64 < std::numeric_limits<int32_t>::min() || value.i64 > std::numeric_limits<int32_t>::max())
                fail(Code::Shape, "the size %s is %lld, which the compiled kernel cannot hold in 32 bits; declare the dimension "
                                  "with its real range and compile again%s",
                     in.sizes[a.index].text().c_str(), Number(value.i64), at_line(in).c_str());
            value.i32 = static_cast<int32_t>(value.i64);
        }
        out.index = size_values.size();
        size_values.push_back(value);
        break;
    }
    case GpuArgumentKind::ConstantI32:
    case GpuArgumentKind::ConstantI64: {
        GpuSize value;
        value.i64 = a.constant;
        if (a.kind == GpuArgumentKind::ConstantI32)
            value.i32 = static_cast<int32_t>(a.constant);
        out.index = size_values.size();
        size_values.push_back(value);
        break;
    }
    case GpuArgumentKind::TensorMap:
        out.index = maps.size();
        maps.push_back(prepared_map(a.map, step.first_slot + a.index, in.buffers[a.index], in));
        break;
    case GpuArgumentKind::StatusCheck:
        out.index = step.check;
        break;
    default:
        break;
    }
    return out;
}

GpuPreparedMap GpuPrepared::prepared_map(const GpuTensorMap &map, size_t slot, int buffer, const Instruction &in) const {
    GpuPreparedMap made;
    made.slot = slot;
    gpu::TensorMapLayout &out = made.layout;
    const size_t rank = map.shape.size();
    const auto item = static_cast<int64_t>(item_size(map.dtype));
    out.type = tensor_map_type(map.dtype);
    out.rank = static_cast<uint32_t>(rank);
    auto value = [&](const GpuNumber &n) {
        return n.size < 0 ? n.constant
                          : checked_mul(n.constant, not_negative(in.sizes[static_cast<size_t>(n.size)], sizes, "tensor map"));
    };
    int64_t last = 0; // offset of the last element
    bool empty = false;
    for (size_t i = 0; i < rank; ++i) { // the driver wants the innermost dimension first
        const size_t from = rank - 1 - i;
        const int64_t size = value(map.shape[from]), stride = value(map.strides[from]);
        if (i == 0 && stride != 1)
            fail(Code::Format, "a tensor map's last stride is %lld, expected 1%s", Number(stride), at_line(in).c_str());
        empty = empty || size == 0;
        last = checked_add(last, checked_mul(stride, size > 0 ? size - 1 : 0));
        out.shape[i] = static_cast<uint64_t>(size);
        out.box[i] = static_cast<uint32_t>(map.box[from]);
        if (i > 0)
            out.strides[i - 1] = static_cast<uint64_t>(checked_mul(stride, item));
    }
    made.start = checked_mul(value(map.start), item);
    if (made.start % 16 != 0)
        fail(Code::Format, "a tensor map starts at byte %lld, expected a multiple of 16%s", Number(made.start), at_line(in).c_str());
    const int64_t bytes = empty ? 0 : checked_add(made.start, checked_mul(checked_add(last, 1), item));
    if (bytes > buffer_bytes[static_cast<size_t>(buffer)])
        fail(Code::Format, "a tensor map of %lld bytes does not fit in buffer %d, which has %lld%s", Number(bytes), buffer,
             Number(buffer_bytes[static_cast<size_t>(buffer)]), at_line(in).c_str());
    out.swizzle = map.swizzle == 0 ? 0 : map.swizzle == 32 ? 1 : map.swizzle == 64 ? 2 : 3;
    out.l2_promotion = 2; // 128 bytes
    return made;
}

} // namespace tessera::core
