#include "front/definition.h"

#include <atomic>

#include "graph/infer.h"
#include "graph/verify.h"
#include "ops/portable.h"

namespace tessera::front {

namespace {

std::atomic<ExternalLookup> external_lookup{nullptr};

void check_type(std::string_view op, const TensorType &type) {
    if (static_cast<int64_t>(type.rank()) > core::max_rank)
        core::fail(Code::Shape, "[%s] the result would have %zu dimensions; at most %lld are supported",
                   std::string(op).c_str(), type.rank(), static_cast<long long>(core::max_rank));
    std::vector<int64_t> sizes;
    for (const Dim &d : type.shape)
        if (d.is_constant())
            sizes.push_back(d.constant());
    core::element_count(sizes);
}

std::vector<TensorType> types_of(const Values &values) {
    std::vector<TensorType> out;
    for (const Value &v : values)
        out.push_back(v.type());
    return out;
}

// Collectives and the constraint of a sharding, which is its operand: tessera/op/collective.py.
void define_collectives(Registry &registry) {
    for (const char *name : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "collective_permute"})
        registry.no_gradient(name, "partitioning puts collectives in after gradients are formed");
    registry.body("constrain", [](const Values &of, const Attributes &) { return of.at(0); });
    registry.gradient("constrain", [](const NodePtr &node, const Values &g) -> Values {
        const bool fits = g[0] && g[0].dtype() == node->types[0].dtype;
        return {fits ? build("constrain", {g[0]}, node->attrs) : Value()};
    });
}

} // namespace

Definition &Registry::add(const std::string &name) {
    Definition &out = all_[name];
    out.name = name;
    return out;
}

void Registry::gradient(const std::string &name, std::function<Values(const NodePtr &, const Values &)> vjp) {
    add(name).vjp = std::move(vjp);
}

void Registry::no_gradient(const std::string &name, const std::string &reason) { add(name).no_gradient = reason; }

void Registry::body(const std::string &name, std::function<Value(const Values &, const Attributes &)> body) {
    add(name).body = [body = std::move(body)](const Values &operands, const Attributes &attrs) -> Values {
        return {body(operands, attrs)};
    };
}

void Registry::bodies(const std::string &name, std::function<Values(const Values &, const Attributes &)> bodies) {
    add(name).body = std::move(bodies);
}

const std::map<std::string, Definition, std::less<>> &definitions() {
    static const std::map<std::string, Definition, std::less<>> all = [] {
        Registry registry;
        for (auto define : {define_pointwise, define_reductions, define_shapes, define_indexing, define_products,
                            define_grouped_matmul, define_einsum, define_activations, define_softmax, define_normalization, define_losses,
                            define_cross_entropy, define_attention, define_random})
            define(registry);
        define_collectives(registry);
        return std::move(registry.all());
    }();
    return all;
}

void set_external_operators(ExternalLookup lookup) { external_lookup.store(lookup); }

const Definition *find_definition(std::string_view name) {
    if (name.find("::") != std::string_view::npos) {
        const ExternalLookup lookup = external_lookup.load();
        return lookup ? lookup(name) : nullptr;
    }
    const auto found = definitions().find(name);
    return found == definitions().end() ? nullptr : &found->second;
}

Values apply(std::string_view op, Values operands, Attributes attrs) {
    const std::optional<Location> loc = current_location();
    try {
        const Definition *definition = find_definition(op);
        if (!definition && !graph::is_primitive(op))
            core::fail(Code::NameMissing, "unknown operator '%s'", core::shown(std::string(op)).c_str());
        std::vector<TensorType> types;
        Values body;
        if (definition && definition->body) {
            body = definition->body(operands, attrs);
            types = types_of(body);
        } else if (definition && definition->infer) {
            types = definition->infer(types_of(operands), attrs);
        } else {
            types = {graph::infer(op, types_of(operands), attrs)};
        }
        for (const TensorType &type : types)
            check_type(op, type);
        const auto node = std::make_shared<Node>(std::string(op), std::move(operands), std::move(attrs), types, loc,
                                                 std::move(body));
        Values out;
        for (uint32_t i = 0; i < types.size(); ++i)
            out.push_back(node->result(i));
        return out;
    } catch (const core::Error &error) {
        throw graph::located(error, loc);
    }
}

Value build(std::string_view op, Values operands, Attributes attrs) {
    return apply(op, std::move(operands), std::move(attrs))[0];
}

void run_operator(const Node &node, const std::vector<core::TensorView> &operands,
                  const std::vector<core::TensorView> &results, core::ThreadPool *pool) {
    const Definition *definition = find_definition(node.op);
    if (!definition || !definition->run)
        return portable::Primitive(node.op, node.attrs, node.loc).run(operands, results[0], pool);
    try {
        definition->run(node.attrs, operands, results, pool);
    } catch (const core::Error &error) {
        throw graph::located(error, node.loc);
    }
}

} // namespace tessera::front
