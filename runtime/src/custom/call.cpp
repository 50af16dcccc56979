#include "custom/call.h"

#include <array>

namespace tessera::custom {

using core::Code;
using core::fail;
using graph::TensorType;

namespace {

constexpr size_t on_stack = 16; // tensors of a call that need no allocation

std::vector<TensorType> types_of(const std::vector<core::TensorView> &views) {
    std::vector<TensorType> out;
    for (const core::TensorView &v : views)
        out.push_back({v.dtype, std::vector<core::Dim>(v.shape.begin(), v.shape.end())});
    return out;
}

tsr_status parallel_for(const tsr_custom_call *call, int64_t units, int64_t grain, tsr_range_function function,
                        void *context) {
    return core::guarded([&] {
        core::require(call, "call");
        core::require(reinterpret_cast<const void *>(function), "function");
        if (units <= 0)
            return;
        const auto range = [&](int64_t begin, int64_t end, int thread) {
            tsr_set_error(TSR_OK, "");
            if (const tsr_status status = function(context, begin, end, thread))
                throw core::Error(static_cast<Code>(status), tsr_last_error()); // of this thread
        };
        core::ThreadPool *pool = static_cast<const Place *>(call->runtime)->pool;
        if (pool)
            pool->parallel_for(units, grain < 1 ? 1 : grain, range);
        else
            range(0, units, 0);
    });
}

int32_t cancelled(const tsr_custom_call *call) {
    const core::CancelFlag *flag = call ? static_cast<const Place *>(call->runtime)->cancel : nullptr;
    return flag && flag->is_cancelled() ? 1 : 0;
}

const char *device_name(int32_t type) { return type == TSR_CUDA ? "CUDA" : type == TSR_ROCM ? "HIP" : "CPU"; }

} // namespace

Call::Call(const Definition &definition, const graph::Attributes &attrs, const std::vector<core::TensorView> &operands,
           const std::vector<core::TensorView> &results)
    : definition_(definition), attributes_(definition.schema().complete(definition.name(), attrs)), views_(operands),
      operand_count_(operands.size()) {
    const Inferred inferred = definition.infer(types_of(operands), attrs);
    const std::vector<TensorType> given = types_of(results);
    for (size_t i = 0; i < inferred.results.size(); ++i)
        if (i >= given.size() || given[i] != inferred.results[i])
            fail(Code::Shape, "[%s] the shape function gives %s for result %zu, the program has %s",
                 definition.name().c_str(), inferred.results[i].text().c_str(), i,
                 i < given.size() ? given[i].text().c_str() : "none");
    if (given.size() != inferred.results.size())
        fail(Code::Shape, "[%s] has %zu results, the program has %zu", definition.name().c_str(),
             inferred.results.size(), given.size());
    views_.insert(views_.end(), results.begin(), results.end());
    scratch_bytes_ = static_cast<size_t>(inferred.scratch.constant());
}

void Call::run(void *const *addresses, const Place &place) const {
    const auto kernel = definition_.kernel(place.device_type);
    if (!kernel)
        fail(Code::Unsupported, "[%s] has no %s kernel; %s has to declare one", definition_.name().c_str(),
             device_name(place.device_type), definition_.library().c_str());
    std::array<tsr_custom_tensor, on_stack> few;
    std::array<const tsr_custom_tensor *, on_stack> few_pointers;
    std::vector<tsr_custom_tensor> many;
    std::vector<const tsr_custom_tensor *> many_pointers;
    tsr_custom_tensor *tensors = few.data();
    const tsr_custom_tensor **pointers = few_pointers.data();
    if (views_.size() > on_stack) {
        many.resize(views_.size());
        many_pointers.resize(views_.size());
        tensors = many.data();
        pointers = many_pointers.data();
    }
    for (size_t i = 0; i < views_.size(); ++i) {
        tensors[i] = {sizeof(tsr_custom_tensor), addresses[i], views_[i].shape.data(),
                      static_cast<int32_t>(views_[i].shape.size()), static_cast<tsr_dtype>(views_[i].dtype)};
        pointers[i] = &tensors[i];
    }
    tsr_custom_call call{};
    call.size = sizeof call;
    call.operands = pointers;
    call.results = pointers + operand_count_;
    call.attributes = attributes_.data();
    call.operand_count = static_cast<int32_t>(operand_count_);
    call.result_count = static_cast<int32_t>(views_.size() - operand_count_);
    call.attribute_count = attributes_.count();
    call.device_type = place.device_type;
    call.device_index = place.device_index;
    call.threads = place.pool ? place.pool->threads() : 1;
    call.stream = place.stream;
    call.scratch = place.scratch;
    call.scratch_bytes = scratch_bytes_;
    call.parallel_for = parallel_for;
    call.cancelled = cancelled;
    call.runtime = const_cast<Place *>(&place);
    tsr_set_error(TSR_OK, "");
    definition_.require_ok(kernel(definition_.functions().context, &call));
}

} // namespace tessera::custom
