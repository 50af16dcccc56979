#include "exec/engine.h"

#include "core/error.h"
#include "core/log.h"

namespace tessera::core {

void Engine::give(std::string_view symbol, int64_t) {
    fail(Code::Unsupported, "the size of '%s' cannot be given: this program takes all sizes from its inputs",
         std::string(symbol).c_str());
}

void check_output(const TensorSpec &spec, const std::vector<int64_t> &shape, const Tensor &given, DeviceId device) {
    const char *name = spec.name.c_str();
    if (!given.device().is_cpu() && given.device() != device)
        fail(Code::Device, "output '%s' is on %s, the program runs on %s", name, text(given.device()).c_str(),
             device.is_cpu() ? "the CPU" : text(device).c_str());
    if (given.dtype() != spec.dtype)
        fail(Code::DType, "output '%s': expected %s, got %s", name, type_text(spec.dtype, shape).c_str(),
             type_text(given.dtype(), given.shape()).c_str());
    if (given.shape() != shape)
        fail(Code::Shape, "output '%s': expected shape %s, got %s", name, shape_text(shape).c_str(),
             shape_text(given.shape()).c_str());
    if (!given.is_contiguous())
        fail(Code::Argument, "output '%s': the tensor is not contiguous; give a row-major one", name);
    if (given.readonly())
        fail(Code::Argument, "output '%s': the tensor is read-only", name);
}


void check_overlap(const Signature &signature, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                   const Tensor *outputs) {
    for (size_t i = 0; i < signature.outputs.size(); ++i) {
        if (!outputs[i])
            continue;
        AddressRange mine = address_range(outputs[i]);
        auto check = [&](const Tensor &other, const char *kind, const std::string &name) {
            if (mine.overlaps(address_range(other)))
                fail(Code::Argument, "output '%s' shares memory with %s '%s'; give it memory of its own",
                     signature.outputs[i].name.c_str(), kind, name.c_str());
        };
        for (size_t k = 0; k < input_count; ++k)
            check(*inputs[k], "input", signature.inputs[k].name);
        for (size_t k = 0; k < table.state.size(); ++k)
            check(table.state[k], "state", signature.state[k].name);
        for (size_t k = 0; k < table.constants.size(); ++k)
            check(table.constants[k], "constant", signature.constants[k].name);
        for (size_t k = 0; k < i; ++k)
            if (outputs[k])
                check(outputs[k], "output", signature.outputs[k].name);
    }
}

void check_on_cpu(const Signature &signature, const Tensor *const *inputs, size_t input_count) {
    for (size_t i = 0; i < input_count && i < signature.inputs.size(); ++i)
        if (!inputs[i]->device().is_cpu())
            fail(Code::Device, "input '%s' is on %s, the program runs on the CPU; copy it there first",
                 signature.inputs[i].name.c_str(), text(inputs[i]->device()).c_str());
}

Tensor copied_input(const RunContext &context, const TensorSpec &spec, const Tensor &input) {
    if (context.log && context.log->wants(LogLevel::Warning))
        context.log->write(LogLevel::Warning,
                           format("input '%s' is %s: %zu bytes of it are copied before the run", spec.name.c_str(),
                                  input.is_contiguous() ? "memory of a state that the run changes" : "not row-major",
                                  input.bytes()));
    Tensor out = Tensor::empty(input.dtype(), input.shape(), {}, context.allocator);
    input.copy_to(out.data());
    return out;
}

bool shares_mutated_state(const Signature &signature, const StateTable &table, const Tensor &input) {
    AddressRange mine = address_range(input);
    for (size_t i = 0; i < signature.state.size(); ++i)
        if (signature.state[i].mutated && mine.overlaps(address_range(table.state[i])))
            return true;
    return false;
}

} // namespace tessera::core
