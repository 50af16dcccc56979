#include "custom/gradient.h"

#include <map>
#include <memory>
#include <mutex>

#include "api/op_api.h"
#include "custom/attribute_block.h"
#include "custom/registry.h"
#include "front/definition.h"
#include "front/trace.h"
#include "graph/printer.h"
#include "ops/portable.h"

namespace tessera::custom {

using core::Code;
using core::fail;
using front::Value;
using front::Values;

namespace {

struct ReleaseTensor {
    void operator()(tsr_tensor *tensor) const { tsr_tensor_release(tensor); }
};
using TensorHandle = std::unique_ptr<tsr_tensor, ReleaseTensor>;

// Handles for values; null for an empty one.
class Handles {
  public:
    explicit Handles(const Values &values) {
        for (const Value &v : values) {
            owned_.emplace_back(v ? front::to_handle(v) : nullptr);
            pointers_.push_back(owned_.back().get());
        }
    }
    tsr_tensor *const *data() const { return pointers_.data(); }
    int32_t count() const { return static_cast<int32_t>(pointers_.size()); }

  private:
    std::vector<TensorHandle> owned_;
    std::vector<tsr_tensor *> pointers_;
};

Values results_of(const front::NodePtr &node) {
    Values out;
    for (uint32_t i = 0; i < node->types.size(); ++i)
        out.push_back(node->result(i));
    return out;
}

Value zeros(const graph::TensorType &type) {
    graph::Attributes attrs;
    attrs.set("dtype", graph::Attribute::dtype(type.dtype));
    attrs.set("shape", graph::Attribute::dims(type.shape));
    attrs.set("value", core::is_float(type.dtype) ? graph::Attribute::real(0) : graph::Attribute::integer(0));
    return front::build("full", {}, std::move(attrs));
}

Values by_operator(const Definition &definition, const front::NodePtr &node, const Values &cotangents) {
    const std::string &name = definition.gradient_op();
    if (!find(name))
        fail(Code::NameMissing, "%s: its gradient is the operator %s, which is not there; load its library too",
             definition.name().c_str(), name.c_str());
    Values operands = node->operands();
    for (size_t i = 0; i < cotangents.size(); ++i)
        operands.push_back(cotangents[i] ? cotangents[i] : zeros(node->types[i]));
    const Values found = front::apply(name, std::move(operands), node->attrs);
    Values out;
    size_t next = 0;
    for (const Value &operand : node->operands()) {
        const bool real = core::is_float(operand.dtype());
        out.push_back(real && next < found.size() ? found[next] : Value());
        next += real;
    }
    if (next != found.size())
        fail(Code::Gradient, "%s: %s has %zu results for %zu floating-point operands", definition.name().c_str(),
             name.c_str(), found.size(), next);
    return out;
}

Values by_function(const Definition &definition, const front::NodePtr &node, const Values &cotangents) {
    const AttributeBlock attributes(definition.schema().complete(definition.name(), node->attrs));
    const Handles operands(node->operands()), results(results_of(node)), given(cotangents);
    std::vector<tsr_tensor *> gradients(static_cast<size_t>(operands.count()), nullptr);
    tsr_custom_gradient call{};
    call.size = sizeof call;
    call.operands = operands.data();
    call.results = results.data();
    call.cotangents = given.data();
    call.attributes = attributes.data();
    call.operand_count = operands.count();
    call.result_count = results.count();
    call.attribute_count = attributes.count();
    call.gradients = gradients.data();
    tsr_set_error(TSR_OK, "");
    const tsr_status status = definition.functions().gradient(definition.functions().context, &call);
    std::vector<TensorHandle> owned;
    for (tsr_tensor *handle : gradients)
        owned.emplace_back(handle);
    definition.require_ok(status);
    Values out;
    for (const TensorHandle &handle : owned)
        out.push_back(handle ? front::from_handle(handle.get()) : Value());
    return out;
}

// What the front end knows about each operator; made when it is first asked for, never given up.
const front::Definition *front_definition(std::string_view name) {
    static std::mutex *const lock = new std::mutex;
    static auto *const known = new std::map<std::string, front::Definition, std::less<>>;
    const Definition &definition = get(name);
    std::lock_guard<std::mutex> hold(*lock);
    const auto found = known->find(name);
    if (found != known->end())
        return &found->second;
    front::Definition out;
    out.name = definition.name();
    out.no_gradient = definition.has_gradient() ? "" : definition.no_gradient();
    out.infer = [&definition](const std::vector<graph::TensorType> &operands, const graph::Attributes &attrs) {
        return definition.infer(operands, attrs).results;
    };
    if (definition.has_gradient())
        out.vjp = [&definition](const front::NodePtr &node, const Values &cotangents) {
            return gradient(definition, node, cotangents);
        };
    out.run = [&definition](const graph::Attributes &attrs, const std::vector<core::TensorView> &operands,
                            const std::vector<core::TensorView> &results, core::ThreadPool *pool) {
        portable::Primitive(definition.name(), attrs).run(operands, results, pool);
    };
    return &known->emplace(definition.name(), std::move(out)).first->second;
}

[[maybe_unused]] const bool installed = (front::set_external_operators(front_definition), true);

} // namespace

Values gradient(const Definition &definition, const front::NodePtr &node, const Values &cotangents) {
    const char *name = definition.name().c_str();
    if (!definition.has_gradient())
        fail(Code::Gradient, "%s has no gradient: %s", name, definition.no_gradient().c_str());
    const Values found = definition.gradient_op().empty() ? by_function(definition, node, cotangents)
                                                          : by_operator(definition, node, cotangents);
    const Values operands = node->operands();
    for (size_t i = 0; i < found.size(); ++i)
        if (found[i] && core::is_float(operands[i].dtype()) && found[i].type() != operands[i].type())
            fail(Code::Gradient, "%s: the gradient of operand %zu, a %s, is a %s", name, i,
                 operands[i].type().text().c_str(), found[i].type().text().c_str());
    return found;
}

std::string gradient_text(const Definition &definition, const std::vector<graph::TensorType> &operands,
                          const graph::Attributes &attrs, std::string_view cotangents) {
    Values inputs, given;
    for (size_t i = 0; i < operands.size(); ++i)
        inputs.push_back(front::input("operand_" + std::to_string(i), operands[i]));
    const Values results = front::apply(definition.name(), inputs, attrs);
    if (cotangents.size() != results.size())
        fail(Code::Argument, "[%s] has %zu results; %zu are spoken of", definition.name().c_str(), results.size(),
             cotangents.size());
    for (size_t i = 0; i < results.size(); ++i)
        given.push_back(cotangents[i] == '1' ? front::input("cotangent_" + std::to_string(i), results[i].type())
                                             : Value());
    const Values found = gradient(definition, results[0].node, given);
    front::NamedValues outputs;
    for (size_t i = 0; i < found.size(); ++i)
        if (found[i] && core::is_float(operands[i].dtype))
            outputs.emplace_back("gradient_" + std::to_string(i), found[i]);
    const front::Traced traced = front::trace("gradient", outputs, {}, false).whole;
    if (!traced.constants.empty() || !traced.state.empty())
        fail(Code::Unsupported,
             "%s: the gradient uses a tensor that exists or a parameter; build what it needs with op:: functions, such "
             "as op::full",
             definition.name().c_str());
    return graph::to_text(traced.graph);
}

} // namespace tessera::custom
