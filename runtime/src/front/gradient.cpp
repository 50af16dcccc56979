#include "front/gradient.h"

#include <algorithm>
#include <map>
#include <set>

#include "front/functions.h"
#include "front/trace.h"
#include "graph/parser.h"
#include "graph/printer.h"

namespace tessera::front {

namespace {

using Set = std::set<ValueKey>;
using Seeds = std::vector<std::pair<Value, Value>>;

std::string at(const std::optional<Location> &loc) { return loc ? "\n  at " + core::shown(loc->text(), 4096) : ""; }

Value filled(const Value &like, double number) {
    const LocationScope here(like.node->loc);
    return build("full", {},
                 {{"shape", dims(like.shape())}, {"value", real(number)}, {"dtype", kind(like.dtype())}});
}

// Gradient contributions per value, added up in order of arrival when they are read.
class Sums {
  public:
    void add(const Value &value, const Value &part) { parts_[key_of(value)].push_back(part); }

    Value total(const Value &value) {
        const auto found = parts_.find(key_of(value));
        if (found == parts_.end())
            return {};
        Values &parts = found->second;
        if (parts.size() > 1) {
            const LocationScope here(value.node->loc);
            Value sum = parts[0];
            for (size_t i = 1; i < parts.size(); ++i)
                sum = build("add", {sum, parts[i]});
            parts = {sum};
        }
        return parts[0];
    }

  private:
    std::map<ValueKey, Values> parts_;
};

Values results_of(const NodePtr &node) {
    Values out;
    for (uint32_t i = 0; i < node->types.size(); ++i)
        out.push_back(node->result(i));
    return out;
}

bool in(const Set &set, const Value &v) { return set.count(key_of(v)) != 0; }

// Nodes between `wrt` and the roots in topological order; `active` gets their results that depend on `wrt`.
std::vector<NodePtr> paths(const Seeds &roots, const Values &wrt, const Set &leaves, Set &active) {
    Set targets;
    for (const Value &v : wrt)
        targets.insert(key_of(v));
    active = targets;
    std::vector<NodePtr> order;
    std::set<const Node *> seen;
    std::vector<std::pair<NodePtr, bool>> stack;
    for (const auto &[root, seed] : roots) {
        stack.emplace_back(root.node, false);
        while (!stack.empty()) {
            const auto [node, ready] = stack.back();
            stack.pop_back();
            const Values operands = node->operands(), results = results_of(node);
            if (!ready) {
                if (!seen.insert(node.get()).second)
                    continue;
                stack.emplace_back(node, true);
                const bool below = std::any_of(results.begin(), results.end(), [&](const Value &v) { return !in(leaves,
                                                                                                                v); });
                if (below)
                    for (const Value &v : operands)
                        if (!in(leaves, v) && !seen.count(v.node.get()))
                            stack.emplace_back(v.node, false);
                continue;
            }
            const bool depends = std::any_of(operands.begin(), operands.end(), [&](const Value &v) { return in(active,
                                                                                                               v); });
            bool any = false;
            for (const Value &v : results)
                if (in(targets, v) || (depends && core::is_float(v.dtype()) && !in(leaves, v))) {
                    active.insert(key_of(v));
                    any = true;
                }
            if (any)
                order.push_back(node);
        }
    }
    return order;
}

std::map<ValueKey, Value> pull_back(const Seeds &seeds, const Values &wrt, const Set &leaves);

// Gradients through a composite's body, each operand taken as independent.
Seeds through_body(const NodePtr &node, const Values &gradients) {
    Values operands;
    Set leaves;
    for (const Value &v : node->operands()) {
        if (core::is_float(v.dtype()) && !in(leaves, v))
            operands.push_back(v);
        leaves.insert(key_of(v));
    }
    Seeds seeds, out;
    const Values body = node->body();
    for (size_t i = 0; i < body.size(); ++i)
        if (gradients[i])
            seeds.emplace_back(body[i], gradients[i]);
    const std::map<ValueKey, Value> found = pull_back(seeds, operands, leaves);
    for (const Value &v : operands) {
        const auto g = found.find(key_of(v));
        if (g != found.end())
            out.emplace_back(v, g->second);
    }
    return out;
}

// (operand, gradient) pairs of one node; an operand may appear more than once.
Seeds vjp(const NodePtr &node, const Values &gradients) {
    const Definition *definition = find_definition(node->op);
    if (definition && !definition->no_gradient.empty())
        core::fail(Code::Gradient, "%s has no gradient: %s%s", node->op.c_str(), definition->no_gradient.c_str(),
                   at(node->loc).c_str());
    if (!definition || (!definition->vjp && !definition->body))
        core::fail(Code::Gradient, "%s has no gradient: none is defined for it%s", node->op.c_str(),
                   at(node->loc).c_str());
    if (!definition->vjp)
        return through_body(node, gradients);
    const LocationScope here(node->loc);
    const Values found = definition->vjp(node, gradients), operands = node->operands();
    if (found.empty() && definition->body && !operands.empty())
        return through_body(node, gradients);
    if (found.size() != operands.size())
        core::fail(Code::Internal, "%s: the gradient has %zu parts for %zu operands", node->op.c_str(), found.size(),
                   operands.size());
    Seeds out;
    for (size_t i = 0; i < operands.size(); ++i) {
        if (!found[i] || !core::is_float(operands[i].dtype()))
            continue;
        if (found[i].type() != operands[i].type())
            core::fail(Code::Gradient, "%s: the gradient has type %s for operand %zu of type %s%s", node->op.c_str(),
                       found[i].type().text().c_str(), i, operands[i].type().text().c_str(), at(node->loc).c_str());
        out.emplace_back(operands[i], found[i]);
    }
    return out;
}

// Gradients of the `wrt` values that a path reaches. Nothing below `leaves` is looked at.
std::map<ValueKey, Value> pull_back(const Seeds &seeds, const Values &wrt, const Set &leaves) {
    Set active;
    const std::vector<NodePtr> order = paths(seeds, wrt, leaves, active);
    Sums sums;
    for (const auto &[value, seed] : seeds)
        if (in(active, value))
            sums.add(value, seed);
    for (size_t i = order.size(); i-- > 0;) {
        const NodePtr &node = order[i];
        const Values operands = node->operands();
        if (std::none_of(operands.begin(), operands.end(), [&](const Value &v) { return in(active, v); }))
            continue;
        Values gradients;
        for (const Value &v : results_of(node))
            gradients.push_back(in(leaves, v) ? Value() : sums.total(v));
        if (std::none_of(gradients.begin(), gradients.end(), [](const Value &g) { return static_cast<bool>(g); }))
            continue;
        for (const auto &[operand, gradient] : vjp(node, gradients))
            if (in(active, operand))
                sums.add(operand, gradient);
    }
    std::map<ValueKey, Value> out;
    for (const Value &v : wrt)
        if (const Value g = sums.total(v))
            out.emplace(key_of(v), g);
    return out;
}

Seeds checked_seeds(const Values &outputs, const Values &seeds) {
    Seeds out;
    if (!seeds.empty() && seeds.size() != outputs.size())
        core::fail(Code::Argument, "gradient: %zu outputs need as many seeds, but %zu are given", outputs.size(),
                   seeds.size());
    for (size_t i = 0; i < outputs.size(); ++i) {
        const Value &v = outputs[i];
        if (!seeds.empty() && !seeds[i])
            continue;
        if (!core::is_float(v.dtype()))
            core::fail(Code::Gradient, "gradient: the loss must be a floating-point scalar, but it is %s%s",
                       v.type().text().c_str(), at(v.node->loc).c_str());
        if (seeds.empty() && v.rank() > 0)
            core::fail(Code::Gradient,
                       "gradient: the loss must be a scalar, but it has shape %s%s; reduce it (sum, mean) or pass "
                       "seeds, the gradient of each output",
                       core::shape_text(v.shape()).c_str(), at(v.node->loc).c_str());
        if (!seeds.empty() && seeds[i].type() != v.type())
            core::fail(seeds[i].dtype() == v.dtype() ? Code::Shape : Code::DType,
                       "gradient: seed %zu is %s but output %zu is %s; they must be equal", i,
                       seeds[i].type().text().c_str(), i, v.type().text().c_str());
        out.emplace_back(v, seeds.empty() ? filled(v, 1.0) : seeds[i]);
    }
    return out;
}

} // namespace

Values gradients(const Values &outputs, const Values &wrt, const Values &seeds) {
    for (const Value &v : wrt) {
        if (!core::is_float(v.dtype()))
            core::fail(Code::Gradient, "gradient: a tensor of type %s; gradients exist for floating-point tensors only",
                       v.type().text().c_str());
        if (!v.node->is_open())
            core::fail(Code::Gradient,
                       "gradient: a tensor of type %s that exists already is a constant of the graph; make it a "
                       "parameter (op::parameter) or an input (op::input)",
                       v.type().text().c_str());
    }
    const std::map<ValueKey, Value> found = pull_back(checked_seeds(outputs, seeds), wrt, {});
    Values out;
    for (const Value &v : wrt) {
        const auto g = found.find(key_of(v));
        out.push_back(g != found.end() ? g->second : filled(v, 0.0));
    }
    return out;
}

Values composite_gradients(const NodePtr &node, const Values &gradients) {
    std::map<ValueKey, Value> found;
    for (const auto &[operand, gradient] : through_body(node, gradients))
        found.emplace(key_of(operand), gradient);
    Values out;
    for (const Value &v : node->operands()) {
        const auto g = found.find(key_of(v));
        out.push_back(g != found.end() ? g->second : filled(v, 0.0));
    }
    return out;
}

std::string gradient_text(std::string_view text, const std::vector<std::string> &wrt) {
    const graph::Graph graph = graph::parse_graph(text);
    const Values values = import_graph(graph);
    NamedValues outputs;
    Values losses, seeds, targets;
    for (const auto &[name, id] : graph.outputs) {
        outputs.emplace_back(name, values[id]);
        if (!core::is_float(values[id].dtype()))
            continue;
        losses.push_back(values[id]);
        seeds.push_back(values[id].rank() == 0 ? filled(values[id], 1.0) : input("seed." + name, values[id].type()));
    }
    for (const std::string &name : wrt) {
        const auto found = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const graph::Node &node) {
            return (node.op == "input" || node.op == "param") && node.attrs.string(node.op, "name") == name;
        });
        if (found == graph.nodes.end())
            core::fail(Code::NameMissing, "gradient: the graph has no input or parameter '%s'",
                       core::shown(name).c_str());
        targets.push_back(values[found->first]);
    }
    const Values found = gradients(losses, targets, seeds);
    for (size_t i = 0; i < wrt.size(); ++i)
        outputs.emplace_back("grad." + wrt[i], found[i]);
    Updates updates;
    for (const auto &[target, value] : graph.updates)
        updates.emplace_back(values[target], values[value]);
    return graph::to_text(trace(graph.name, outputs, updates, false).whole.graph);
}

} // namespace tessera::front
