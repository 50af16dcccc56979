#include "front/node.h"

#include <algorithm>

#include "core/transfer.h"
#include "exec/run_context.h"
#include "front/definition.h"
#include "ops/portable.h"

namespace tessera::front {

namespace {

thread_local std::optional<Location> location_now;

bool any_open(const Values &values) {
    return std::any_of(values.begin(), values.end(), [](const Value &v) { return v.node->is_open(); });
}

std::vector<int64_t> sizes_of(const Shape &shape) {
    std::vector<int64_t> out;
    for (const Dim &d : shape)
        out.push_back(d.is_constant() ? d.constant() : -1);
    return out;
}

} // namespace

LocationScope::LocationScope(std::optional<Location> loc) : before_(std::exchange(location_now, std::move(loc))) {}
LocationScope::~LocationScope() { location_now = std::move(before_); }
const std::optional<Location> &current_location() { return location_now; }

Node::Node(std::string op_, Values operands, Attributes attrs_, std::vector<TensorType> types_,
           std::optional<Location> loc_, Values body, Tensor data_)
    : op(std::move(op_)), attrs(std::move(attrs_)), types(std::move(types_)), loc(std::move(loc_)),
      data(std::move(data_)), open_(op == "input" || op == "param" || any_open(operands) || any_open(body)),
      operands_(std::move(operands)), body_(std::move(body)) {}

// A long chain is taken apart in a loop: each node's destructor finds its operands gone.
Node::~Node() {
    std::vector<NodePtr> rest;
    const auto take = [&](Values &values) {
        for (Value &v : values)
            rest.push_back(std::move(v.node));
        values.clear();
    };
    take(operands_);
    take(body_);
    while (!rest.empty()) {
        const NodePtr node = std::move(rest.back());
        rest.pop_back();
        if (node && node.use_count() == 1) {
            take(node->operands_);
            take(node->body_);
        }
    }
}

Values Node::operands() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return operands_;
}

Values Node::body() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return body_;
}

Tensor Node::computed(uint32_t index) const {
    if (is_leaf())
        return data;
    std::lock_guard<std::mutex> lock(mutex_);
    return results_.empty() ? Tensor() : results_[index];
}

std::vector<NodePtr> Node::pending() const {
    std::vector<NodePtr> out;
    const Values needed = [&] {
        std::lock_guard<std::mutex> lock(mutex_);
        return !results_.empty() ? Values() : body_.empty() ? operands_ : body_;
    }();
    for (const Value &v : needed)
        if (!v.node->computed(v.index))
            out.push_back(v.node);
    return out;
}

void Node::compute(core::RunContext &context) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!results_.empty())
        return;
    std::vector<Tensor> results;
    if (!body_.empty()) {
        for (const Value &v : body_)
            results.push_back(v.node->computed(v.index));
    } else {
        std::vector<Tensor> tensors;
        std::vector<core::TensorView> views, outputs;
        core::DeviceId place; // of the operands, where the results go
        for (const Value &operand : operands_) {
            Tensor tensor = operand.node->computed(operand.index);
            if (!tensor.device().is_cpu()) { // operators run one by one on the CPU, through host memory
                place = tensor.device();
                tensor = core::to_device(tensor, {});
            }
            tensors.push_back(tensor.contiguous());
            views.push_back(tensors.back().view());
        }
        for (const TensorType &type : types) {
            results.push_back(Tensor::empty(type.dtype, sizes_of(type.shape), {}, context.allocator));
            outputs.push_back(results.back().view());
        }
        run_operator(*this, views, outputs, &context.pool);
        if (!place.is_cpu())
            for (Tensor &result : results)
                result = core::to_device(result, place, context.allocator);
    }
    results_ = std::move(results);
    if (!open_) {
        operands_.clear();
        body_.clear();
    }
}

void Node::evaluate(core::RunContext &context) {
    // Operands first, without recursion: chains may be long.
    std::vector<NodePtr> stack = {shared_from_this()};
    while (!stack.empty()) {
        const NodePtr node = stack.back();
        if (node->op == "input")
            core::fail(Code::NameMissing,
                       "the input '%s' has no elements: trace the graph and run it with the input's tensor",
                       core::shown(node->attrs.string("input", "name")).c_str());
        if (node->is_leaf() && !node->data)
            core::fail(Code::Argument,
                       "a draw without a key has no numbers until its graph runs: trace the graph, or give the "
                       "operator a key (a seed)");
        std::vector<NodePtr> pending = node->pending();
        if (pending.empty()) {
            if (!node->is_leaf())
                node->compute(context);
            stack.pop_back();
        } else {
            stack.insert(stack.end(), pending.rbegin(), pending.rend());
        }
    }
}

LazyValue::LazyValue(Value value) : Lazy(value.dtype(), sizes_of(value.shape())), value_(std::move(value)) {}

Tensor LazyValue::evaluate(core::RunContext &context) {
    value_.node->evaluate(context);
    return value();
}

Value input(const std::string &name, TensorType type, std::optional<Location> loc) {
    if (name.empty())
        core::fail(Code::Argument, "[input] the name is empty; give the input a name");
    return std::make_shared<Node>("input", Values(), Attributes{{"name", Attribute::string(name)}},
                                  std::vector<TensorType>{std::move(type)}, std::move(loc))
        ->result();
}

Value parameter(const std::string &name, const Tensor &data, bool trainable, std::optional<Location> loc) {
    if (name.empty())
        core::fail(Code::Argument, "[parameter] the name is empty; give the parameter a name");
    if (name.compare(0, 8, "tessera.") == 0 && name != rng_state)
        core::fail(Code::Argument, "[parameter] the name '%s' is reserved: names must not begin with 'tessera.'",
                   core::shown(name).c_str());
    if (trainable && !core::is_float(data.dtype()))
        core::fail(Code::DType,
                   "[parameter] '%s' is trainable and %s: only floats have gradients; pass trainable false",
                   core::shown(name).c_str(), core::name(data.dtype()));
    TensorType type{data.dtype(), Shape(data.shape().begin(), data.shape().end())};
    return std::make_shared<Node>(
               "param", Values(),
               Attributes{{"name", Attribute::string(name)}, {"trainable", Attribute::boolean(trainable)}},
               std::vector<TensorType>{std::move(type)}, std::move(loc), Values(), data)
        ->result();
}

Value constant(const Tensor &data) {
    TensorType type{data.dtype(), Shape(data.shape().begin(), data.shape().end())};
    return std::make_shared<Node>("constant", Values(), Attributes(), std::vector<TensorType>{std::move(type)},
                                  std::nullopt, Values(), data)
        ->result();
}

} // namespace tessera::front
