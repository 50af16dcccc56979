#include "exec/portable_engine.h"

namespace tessera::core {

void PortableEngine::check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs) {
    check_on_cpu(signature(), inputs, input_count);
    std::vector<int64_t> sizes = signature().solve(inputs, input_count);
    for (size_t i = 0; i < signature().outputs.size(); ++i)
        if (outputs[i])
            check_output(signature().outputs[i], signature().outputs[i].concrete_shape(sizes), outputs[i]);
}

Requirements PortableEngine::requirements(const std::vector<int64_t> &sizes) {
    Requirements out;
    out.arena = program_.memory(sizes);
    return out;
}

void PortableEngine::run(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                         Tensor *outputs) {
    std::vector<int64_t> sizes = signature().solve(inputs, input_count);
    const size_t count = signature().outputs.size();
    check(inputs, input_count, outputs);
    check_overlap(signature(), table, inputs, input_count, outputs);
    std::vector<Tensor> given;
    for (size_t i = 0; i < input_count; ++i)
        given.push_back(*inputs[i]);
    std::vector<Tensor> results(outputs, outputs + count);
    program_.run(context, sizes, given, table.state, table.constants, results);
    for (size_t i = 0; i < count; ++i)
        outputs[i] = std::move(results[i]);
}

} // namespace tessera::core
