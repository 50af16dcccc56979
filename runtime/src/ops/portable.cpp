#include "ops/portable.h"

#include <map>

#include "custom/call.h"
#include "custom/registry.h"
#include "graph/infer.h"
#include "graph/parser.h"
#include "graph/verify.h"
#include "ops/kernel.h"

namespace tessera::portable {

namespace {

Kernel find_kernel(const std::string &op) {
    static const std::map<std::string_view, Kernel> kernels = [] {
        std::map<std::string_view, Kernel> out;
        for (const KernelTable *table : {&pointwise_kernels(), &reduction_kernels(), &matmul_kernels(),
                                         &shape_kernels(), &creation_kernels(), &index_kernels(),
                                         &collective_kernels()})
            for (const KernelEntry &entry : *table)
                out.emplace(entry.name, entry.kernel);
        return out;
    }();
    const auto found = kernels.find(op);
    if (found == kernels.end())
        core::fail(Code::NameMissing, "unknown operator '%s': it is not a primitive of this version",
                   core::shown(op).c_str());
    return found->second;
}

graph::TensorType type_of(const TensorView &tensor) {
    return {tensor.dtype, std::vector<core::Dim>(tensor.shape.begin(), tensor.shape.end())};
}

std::vector<graph::TensorType> types_of(const std::vector<TensorView> &tensors) {
    std::vector<graph::TensorType> out;
    out.reserve(tensors.size());
    for (const TensorView &t : tensors)
        out.push_back(type_of(t));
    return out;
}

void run_custom(const custom::Definition &definition, const graph::Attributes &attrs,
                const std::vector<TensorView> &operands, const std::vector<TensorView> &results, ThreadPool *pool) {
    const custom::Call call(definition, attrs, operands, results);
    std::vector<void *> addresses;
    for (const std::vector<TensorView> *list : {&operands, &results})
        for (const TensorView &v : *list)
            addresses.push_back(v.data);
    custom::Place place;
    std::shared_ptr<core::Storage> scratch;
    if (call.scratch_bytes())
        place.scratch = (scratch = core::Storage::allocate(call.scratch_bytes()))->data();
    place.pool = pool;
    call.run(addresses.data(), place);
}

} // namespace

Primitive::Primitive(std::string op, graph::Attributes attrs, std::optional<graph::Location> loc)
    : op_(std::move(op)), attrs_(std::move(attrs)), loc_(std::move(loc)), symbolic_(attrs_.is_symbolic()) {
    if (custom::is_custom(op_))
        custom_ = &custom::get(op_);
    else
        kernel_ = find_kernel(op_);
}

Primitive::Primitive(std::string op, std::string_view attributes, const core::SymbolTable &symbols,
                     std::optional<graph::Location> loc)
    : Primitive(std::move(op), graph::parse_attributes(attributes, symbols), std::move(loc)) {}

std::vector<graph::TensorType> Primitive::result_types(const std::vector<graph::TensorType> &operands) const {
    try {
        return graph::infer_results(op_, operands, attrs_);
    } catch (const core::Error &error) {
        throw graph::located(error, loc_);
    }
}

graph::TensorType Primitive::result_type(const std::vector<graph::TensorType> &operands) const {
    std::vector<graph::TensorType> types = result_types(operands);
    if (types.size() != 1)
        core::fail(Code::Argument, "[%s] has %zu results, one was asked for", op_.c_str(), types.size());
    return std::move(types[0]);
}

void Primitive::run(const std::vector<TensorView> &operands, const std::vector<TensorView> &results, ThreadPool *pool,
                    const std::vector<int64_t> &sizes) const {
    try {
        if (symbolic_)
            run_evaluated(attrs_.evaluate(sizes), operands, results, pool);
        else
            run_evaluated(attrs_, operands, results, pool);
    } catch (const core::Error &error) {
        throw graph::located(error, loc_);
    }
}

void Primitive::run_evaluated(const graph::Attributes &attrs, const std::vector<TensorView> &operands,
                              const std::vector<TensorView> &results, ThreadPool *pool) const {
    if (custom_)
        return run_custom(*custom_, attrs, operands, results, pool);
    if (results.size() != 1)
        core::fail(Code::Argument, "[%s] has one result, %zu are to be written", op_.c_str(), results.size());
    const TensorView &result = results[0];
    const graph::TensorType expected = graph::infer(op_, types_of(operands), attrs);
    const graph::TensorType given = type_of(result);
    if (given != expected)
        core::fail(Code::Shape, "[%s] the result has type %s but is to be written to %s", op_.c_str(),
                   expected.text().c_str(), given.text().c_str());
    kernel_({op_, attrs, operands.data(), operands.size(), result, pool, loc_ ? &*loc_ : nullptr});
}

} // namespace tessera::portable
