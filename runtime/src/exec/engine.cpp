#include "exec/engine.h"

#include "core/error.h"

namespace tessera::core {

void Engine::give(std::string_view symbol, int64_t) {
    fail(Code::Unsupported, "the size of '%s' cannot be given: this program takes all sizes from its inputs",
         std::string(symbol).c_str());
}

void check_output(const TensorSpec &spec, const std::vector<int64_t> &shape, const Tensor &given) {
    const char *name = spec.name.c_str();
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

namespace {

// The addresses that a tensor's elements lie in.
struct Range {
    const char *begin, *end;
    bool overlaps(const Range &o) const { return begin < o.end && o.begin < end; }
};

Range range_of(const Tensor &t) {
    auto *data = static_cast<const char *>(t.data());
    if (!t || t.size() == 0)
        return {data, data};
    if (t.is_contiguous())
        return {data, data + t.bytes()};
    int64_t low = 0, high = 0, item = static_cast<int64_t>(item_size(t.dtype()));
    for (size_t i = 0; i < t.shape().size(); ++i) {
        int64_t reach = (t.shape()[i] - 1) * t.strides()[i] * item;
        (reach < 0 ? low : high) += reach;
    }
    return {data + low, data + high + item};
}

} // namespace

void check_overlap(const Signature &signature, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                   const Tensor *outputs) {
    for (size_t i = 0; i < signature.outputs.size(); ++i) {
        if (!outputs[i])
            continue;
        Range mine = range_of(outputs[i]);
        auto check = [&](const Tensor &other, const char *kind, const std::string &name) {
            if (mine.overlaps(range_of(other)))
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

bool shares_mutated_state(const Signature &signature, const StateTable &table, const Tensor &input) {
    Range mine = range_of(input);
    for (size_t i = 0; i < signature.state.size(); ++i)
        if (signature.state[i].mutated && mine.overlaps(range_of(table.state[i])))
            return true;
    return false;
}

} // namespace tessera::core
