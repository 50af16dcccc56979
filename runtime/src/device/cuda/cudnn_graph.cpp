#include "device/cuda/cudnn_graph.h"

#include "core/error.h"

namespace tessera::core::gpu {

namespace {

// cudnnBackendDescriptorType_t
constexpr int pointwise_kind = 0, configuration_kind = 3, heuristic_kind = 4, plan_kind = 5, pointwise_operation = 13,
              graph_kind = 15, pack_kind = 16, tensor_kind = 17, product_kind = 18, product_operation = 19,
              reduction_kind = 21, reduction_operation = 22, view_operation = 31;
// cudnnBackendAttributeType_t
constexpr int handle_type = 0, data_type = 1, bool_type = 2, i64_type = 3, f32_type = 4, pointer_type = 6, mode_type = 8,
              function_type = 14, descriptor_type = 15, reduction_type = 18;
// cudnnBackendAttributeName_t
constexpr int pointwise_mode = 0, pointwise_computed = 1, pointwise_axis = 9;
constexpr int heuristic_mode = 200, heuristic_graph = 201, heuristic_results = 202;
constexpr int plan_handle = 400, plan_configuration = 401, plan_workspace = 402;
constexpr int pointwise_function = 750, pointwise_x = 751, pointwise_b = 752, pointwise_y = 753, pointwise_alpha = 754,
              pointwise_t = 758;
constexpr int graph_handle = 800, graph_operations = 801;
constexpr int tensor_alignment = 900, tensor_type = 901, tensor_shape = 902, tensor_steps = 903, tensor_number = 906,
              tensor_inside = 907, tensor_value = 908;
constexpr int pack_numbers = 1000, pack_addresses = 1001, pack_workspace = 1003;
constexpr int product_computed = 1500, product_a = 1520, product_b = 1521, product_c = 1522, product_of = 1523;
constexpr int reduction_operator = 1600, reduction_computed = 1601, reduction_x = 1610, reduction_y = 1611, reduction_of = 1612;
constexpr int view_x = 2200, view_y = 2201;
// cudnnBackendHeurMode_t
constexpr int usual_mode = 3, other_mode = 2;
constexpr int64_t alignment = 16;
constexpr int f32 = static_cast<int>(CudnnType::F32);

CudnnGraph::Sizes row_major(const CudnnGraph::Sizes &s) { return {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1}; }

} // namespace

CudnnGraph::CudnnGraph(const Cudnn &library, int device) : library_(library), device_(device) {}

CudnnGraph::~CudnnGraph() {
    for (auto descriptor = made_.rbegin(); descriptor != made_.rend(); ++descriptor)
        library_.destroy(*descriptor);
}

Handle CudnnGraph::make(int type) {
    Handle out = nullptr;
    library_.check(library_.make(type, &out), "a descriptor");
    made_.push_back(out);
    return out;
}

void CudnnGraph::set(Handle descriptor, int attribute, int type, int64_t count, const void *values) const {
    library_.check(library_.set(descriptor, attribute, type, count, values), format("attribute %d", attribute).c_str());
}

CudnnGraph::Tensor CudnnGraph::tensor(CudnnType type, const Sizes &shape, const Sizes &steps, bool is_inside, bool is_value) {
    const Handle made = make(tensor_kind);
    const Tensor out{static_cast<int64_t>(tensors_.size()), type, shape, steps};
    const int64_t number = out.number + 1;
    const int kind = static_cast<int>(type);
    set(made, tensor_type, data_type, 1, &kind);
    set(made, tensor_shape, i64_type, 4, shape.data());
    set(made, tensor_steps, i64_type, 4, steps.data());
    set(made, tensor_number, i64_type, 1, &number);
    set(made, tensor_alignment, i64_type, 1, &alignment);
    set(made, tensor_inside, bool_type, 1, &is_inside);
    set(made, tensor_value, bool_type, 1, &is_value);
    library_.check(library_.finalize(made), "a tensor");
    tensors_.push_back(made);
    return out;
}

CudnnGraph::Tensor CudnnGraph::memory(CudnnType type, const Sizes &shape) { return memory(type, shape, row_major(shape)); }

CudnnGraph::Tensor CudnnGraph::memory(CudnnType type, const Sizes &shape, const Sizes &steps) {
    const Tensor out = tensor(type, shape, steps, false, false);
    in_memory_.push_back(out.number + 1);
    return out;
}

CudnnGraph::Tensor CudnnGraph::inside(CudnnType type, const Sizes &shape) { return inside(type, shape, row_major(shape)); }

CudnnGraph::Tensor CudnnGraph::inside(CudnnType type, const Sizes &shape, const Sizes &steps) {
    return tensor(type, shape, steps, true, false);
}

CudnnGraph::Tensor CudnnGraph::number(float value) {
    const Tensor out = tensor(CudnnType::F32, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
    numbers_.push_back(out.number + 1);
    values_.push_back(value);
    return out;
}

void CudnnGraph::add(Handle operation) {
    library_.check(library_.finalize(operation), format("operation %zu", operations_.size()).c_str());
    operations_.push_back(operation);
}

void CudnnGraph::multiply(const Tensor &a, const Tensor &b, const Tensor &out) {
    const Handle product = make(product_kind), operation = make(product_operation);
    set(product, product_computed, data_type, 1, &f32);
    library_.check(library_.finalize(product), "a product");
    link(operation, product_a, of(a));
    link(operation, product_b, of(b));
    link(operation, product_c, of(out));
    link(operation, product_of, product);
    add(operation);
}

Handle CudnnGraph::function(CudnnFunction function, CudnnType computed, int64_t axis) {
    const Handle out = make(pointwise_kind);
    const int mode = static_cast<int>(function), type = static_cast<int>(computed);
    set(out, pointwise_mode, function_type, 1, &mode);
    set(out, pointwise_computed, data_type, 1, &type);
    if (axis >= 0)
        set(out, pointwise_axis, i64_type, 1, &axis);
    library_.check(library_.finalize(out), "a function");
    const Handle operation = make(pointwise_operation);
    link(operation, pointwise_function, out);
    const float one = 1;
    for (int i = 0; i < 2; ++i)
        set(operation, pointwise_alpha + i, f32_type, 1, &one);
    return operation;
}

void CudnnGraph::apply(CudnnFunction which, std::initializer_list<Tensor> operands, const Tensor &out, CudnnType computed) {
    const Handle operation = function(which, computed, -1);
    constexpr int attributes[] = {pointwise_x, pointwise_b, pointwise_t};
    const int *attribute = attributes;
    for (const Tensor &t : operands)
        link(operation, *attribute++, of(t));
    link(operation, pointwise_y, of(out));
    add(operation);
}

void CudnnGraph::index(const Tensor &x, int64_t axis, const Tensor &out) {
    const Handle operation = function(CudnnFunction::Index, CudnnType::F32, axis);
    link(operation, pointwise_x, of(x));
    link(operation, pointwise_y, of(out));
    add(operation);
}

void CudnnGraph::reduce(CudnnReduction reduction, const Tensor &x, const Tensor &out) {
    const Handle kind = make(reduction_kind), operation = make(reduction_operation);
    const int which = static_cast<int>(reduction);
    set(kind, reduction_operator, reduction_type, 1, &which);
    set(kind, reduction_computed, data_type, 1, &f32);
    library_.check(library_.finalize(kind), "a reduction");
    link(operation, reduction_x, of(x));
    link(operation, reduction_y, of(out));
    link(operation, reduction_of, kind);
    add(operation);
}

void CudnnGraph::view(const Tensor &x, const Tensor &out) {
    const Handle operation = make(view_operation);
    link(operation, view_x, of(x));
    link(operation, view_y, of(out));
    add(operation);
}

std::vector<Handle> CudnnGraph::proposals(int mode) {
    const Handle heuristic = make(heuristic_kind);
    link(heuristic, heuristic_graph, graph_);
    set(heuristic, heuristic_mode, mode_type, 1, &mode);
    library_.check(library_.finalize(heuristic), "an engine");
    int64_t count = 0;
    library_.check(library_.get(heuristic, heuristic_results, descriptor_type, 0, &count, nullptr), "engines");
    std::vector<Handle> out;
    for (int64_t i = 0; i < count; ++i)
        out.push_back(make(configuration_kind));
    if (count)
        library_.check(library_.get(heuristic, heuristic_results, descriptor_type, count, &count, out.data()), "engines");
    out.resize(static_cast<size_t>(count));
    return out;
}

bool CudnnGraph::take(Handle proposal, size_t most_workspace, std::string &why) {
    const Handle plan = make(plan_kind), context = library_.handle(device_);
    set(plan, plan_handle, handle_type, 1, &context);
    link(plan, plan_configuration, proposal);
    int64_t bytes = 0, count = 0;
    try {
        library_.check(library_.finalize(plan), "a plan");
        library_.check(library_.get(plan, plan_workspace, i64_type, 1, &count, &bytes), "a workspace");
    } catch (const Error &e) {
        why = e.message();
        return false;
    }
    if (bytes < 0 || static_cast<size_t>(bytes) > most_workspace) {
        why = format("it asks for %lld bytes of workspace, there are %zu", static_cast<long long>(bytes), most_workspace);
        return false;
    }
    plan_ = plan;
    workspace_ = static_cast<size_t>(bytes);
    return true;
}

void CudnnGraph::finish(size_t most_workspace) {
    graph_ = make(graph_kind);
    const Handle context = library_.handle(device_);
    const auto hold = library_.alone(); // the context is used until a plan is complete
    set(graph_, graph_handle, handle_type, 1, &context);
    set(graph_, graph_operations, descriptor_type, static_cast<int64_t>(operations_.size()), operations_.data());
    library_.check(library_.finalize(graph_), "a graph of operations");
    std::string why = "it proposes no engine";
    for (int mode : {usual_mode, other_mode}) {
        try {
            for (Handle proposal : proposals(mode))
                if (take(proposal, most_workspace, why))
                    return;
        } catch (const Error &e) {
            why = e.message();
        }
    }
    fail(Code::Device, "cuDNN %zu has no plan: %s", library_.version(), why.c_str());
}

void CudnnGraph::run(const std::vector<void *> &addresses, void *workspace, Handle stream) const {
    std::vector<int64_t> numbers = in_memory_;
    numbers.insert(numbers.end(), numbers_.begin(), numbers_.end());
    std::vector<const void *> places(addresses.begin(), addresses.end());
    for (const float &value : values_)
        places.push_back(&value);
    Handle pack = nullptr;
    library_.check(library_.make(pack_kind, &pack), "addresses");
    try {
        const auto count = static_cast<int64_t>(numbers.size());
        set(pack, pack_numbers, i64_type, count, numbers.data());
        set(pack, pack_addresses, pointer_type, count, places.data());
        set(pack, pack_workspace, pointer_type, 1, &workspace);
        library_.check(library_.finalize(pack), "addresses");
        library_.run(device_, stream, plan_, pack);
    } catch (...) {
        library_.destroy(pack);
        throw;
    }
    library_.destroy(pack);
}

} // namespace tessera::core::gpu
