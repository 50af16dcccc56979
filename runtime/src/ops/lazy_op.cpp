#include "ops/lazy_op.h"

#include <map>
#include <set>
#include <tuple>

#include "exec/run_context.h"

namespace tessera::portable {

using core::Code;
using core::Tensor;

namespace {

std::shared_ptr<LazyOp> pending_op(const LazyOperand &operand) {
    std::shared_ptr<LazyOp> op = std::dynamic_pointer_cast<LazyOp>(operand.lazy);
    return op && !op->value() ? op : nullptr;
}

} // namespace

graph::TensorType LazyOperand::type() const {
    return {dtype(), std::vector<core::Dim>(shape().begin(), shape().end())};
}

Tensor LazyInput::evaluate(core::RunContext &) {
    core::fail(Code::NameMissing, "the input '%s' has no elements: trace the graph and run it with the input's tensor",
               core::shown(name_).c_str());
}

std::shared_ptr<LazyOp> LazyOp::apply(Primitive primitive, std::vector<LazyOperand> operands) {
    std::vector<graph::TensorType> types;
    for (const LazyOperand &operand : operands)
        types.push_back(operand.type());
    const graph::TensorType type = primitive.result_type(types);
    std::vector<int64_t> shape;
    for (const core::Dim &d : type.shape)
        shape.push_back(d.constant());
    core::element_count(shape);
    if (static_cast<int64_t>(shape.size()) > core::max_rank)
        core::fail(Code::Shape, "[%s] the result would have %zu dimensions; at most %lld are supported",
                   primitive.op().c_str(), shape.size(), static_cast<long long>(core::max_rank));
    return std::make_shared<LazyOp>(std::move(primitive), std::move(operands), type.dtype, std::move(shape));
}

LazyOp::LazyOp(Primitive primitive, std::vector<LazyOperand> operands, core::DType dtype, std::vector<int64_t> shape)
    : Lazy(dtype, std::move(shape)), primitive_(std::move(primitive)), operands_(std::move(operands)) {}

// A long chain is taken apart in a loop: each operator's destructor finds its operands gone.
LazyOp::~LazyOp() {
    std::vector<LazyOperand> rest = std::move(operands_);
    while (!rest.empty()) {
        const std::shared_ptr<core::Lazy> lazy = std::move(rest.back().lazy);
        rest.pop_back();
        LazyOp *op = dynamic_cast<LazyOp *>(lazy.get());
        if (op && lazy.use_count() == 1) {
            for (LazyOperand &operand : op->operands_)
                rest.push_back(std::move(operand));
            op->operands_.clear();
        }
    }
}

Tensor LazyOp::value() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return value_;
}

std::vector<LazyOperand> LazyOp::operands() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return operands_;
}

void LazyOp::compute(core::RunContext &context) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (value_)
        return;
    std::vector<Tensor> tensors;
    std::vector<TensorView> views;
    for (const LazyOperand &operand : operands_) {
        tensors.push_back((operand.lazy ? operand.lazy->evaluate(context) : operand.tensor).contiguous());
        views.push_back(tensors.back().view());
    }
    Tensor result = Tensor::empty(dtype(), shape());
    primitive_.run(views, result.view(), &context.pool);
    value_ = std::move(result);
    operands_.clear();
}

Tensor LazyOp::evaluate(core::RunContext &context) {
    // Operands first, without recursion: chains may be long.
    std::vector<std::shared_ptr<LazyOp>> stack = {shared_from_this()};
    while (!stack.empty()) {
        const std::shared_ptr<LazyOp> op = stack.back();
        const size_t before = stack.size();
        for (const LazyOperand &operand : op->operands())
            if (std::shared_ptr<LazyOp> pending = pending_op(operand))
                stack.push_back(std::move(pending));
        if (stack.size() == before) {
            op->compute(context);
            stack.pop_back();
        }
    }
    return value();
}

namespace {

// Numbers the nodes that a traced graph needs, operands first.
class Tracer {
  public:
    explicit Tracer(const std::string &name) { out_.graph.name = name; }

    graph::ValueId value(const LazyOperand &root) {
        std::vector<LazyOperand> stack = {root};
        while (!stack.empty()) {
            const LazyOperand at = stack.back();
            if (known(at)) {
                stack.pop_back();
                continue;
            }
            const size_t before = stack.size();
            std::shared_ptr<LazyOp> op = pending_op(at);
            const std::vector<LazyOperand> operands = op ? op->operands() : std::vector<LazyOperand>();
            for (size_t i = operands.size(); i-- > 0;)
                if (!known(operands[i]))
                    stack.push_back(operands[i]);
            if (stack.size() == before) {
                add(at, op.get(), operands);
                stack.pop_back();
            }
        }
        return *known(root);
    }

    Traced finish() { return std::move(out_); }
    graph::Graph &graph() { return out_.graph; }

  private:
    // A tensor that exists is known by its memory and its type.
    struct Key {
        const void *lazy;
        const void *data;
        std::string type;
        bool operator<(const Key &o) const { return std::tie(lazy, data, type) < std::tie(o.lazy, o.data, o.type); }
    };

    static Key key(const LazyOperand &x) {
        if (x.lazy)
            return {x.lazy.get(), nullptr, ""};
        std::string type = x.type().text();
        for (int64_t stride : x.tensor.strides())
            type += ' ' + std::to_string(stride);
        return {nullptr, x.tensor.data(), std::move(type)};
    }

    const graph::ValueId *known(const LazyOperand &x) const {
        const auto found = values_.find(key(x));
        return found == values_.end() ? nullptr : &found->second;
    }

    void add(const LazyOperand &x, const LazyOp *op, const std::vector<LazyOperand> &operands) {
        graph::Node node;
        node.types = {x.type()};
        if (op) {
            node.op = op->primitive().op();
            node.attrs = op->primitive().attrs();
            node.loc = op->primitive().loc();
            for (const LazyOperand &operand : operands)
                node.operands.push_back(*known(operand));
        } else if (const auto *input = dynamic_cast<const LazyInput *>(x.lazy.get())) {
            if (!input_names_.insert(input->name()).second)
                core::fail(Code::Argument, "there are two inputs named '%s'", core::shown(input->name()).c_str());
            node.op = "input";
            node.attrs.set("name", graph::Attribute::string(input->name()));
        } else {
            const std::string name = "constant_" + std::to_string(out_.constants.size());
            node.op = "constant";
            node.attrs.set("name", graph::Attribute::string(name));
            out_.constants.push_back(x.lazy ? x.lazy->value() : x.tensor);
        }
        values_.emplace(key(x), out_.graph.add(std::move(node)).first);
        alive_.push_back(x);
    }

    Traced out_;
    std::map<Key, graph::ValueId> values_;
    std::set<std::string> input_names_;
    std::vector<LazyOperand> alive_; // so that no address is used twice
};

} // namespace

Traced trace(const std::string &name, const std::vector<std::pair<std::string, LazyOperand>> &outputs) {
    Tracer tracer(name);
    std::set<std::string> names;
    for (const auto &[output, operand] : outputs) {
        if (!names.insert(output).second)
            core::fail(Code::Argument, "there are two outputs named '%s'", core::shown(output).c_str());
        const graph::ValueId value = tracer.value(operand);
        tracer.graph().outputs.emplace_back(output, value);
    }
    return tracer.finish();
}

} // namespace tessera::portable
