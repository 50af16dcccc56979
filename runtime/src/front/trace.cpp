#include "front/trace.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "front/definition.h"
#include "front/functions.h"
#include "graph/parser.h"
#include "graph/printer.h"
#include "graph/verify.h"

namespace tessera::front {

namespace {

// What tells leaves apart: a name, for a constant its memory and type.
std::string constant_key(const Tensor &data) {
    std::string key = std::to_string(reinterpret_cast<uintptr_t>(data.data())) + " " +
                      core::type_text(data.dtype(), data.shape());
    for (int64_t stride : data.strides())
        key += ' ' + std::to_string(stride);
    return key;
}

// Names and numbers that both forms of a traced graph share.
struct Names {
    core::SymbolTable symbols;
    std::map<std::string, Dim, std::less<>> dims;
    std::map<std::string, std::string> constants;         // by key
    std::map<std::string, std::pair<std::string, Tensor>> parameters; // by name: the key of their memory, the tensor
    std::map<const Node *, int64_t> draws;                // the first id of each leaf of the random state
    int64_t next_draw = 0;
    Tensor rng;
    bool number_draws = true; // false for a graph that was read from text: its draws have their ids
};

int64_t ids_taken(const std::string &op) { return op == "normal" ? 2 : 1; }

class Tracer {
  public:
    Tracer(const std::string &name, Names &names, bool decompose, bool merge)
        : names_(names), decompose_(decompose), merge_(merge) {
        out_.graph.name = name;
    }

    graph::ValueId value(const Value &root) {
        std::vector<Value> stack = {root};
        while (!stack.empty()) {
            const Value at = stack.back();
            if (known(at)) {
                stack.pop_back();
                continue;
            }
            const size_t before = stack.size();
            const Values needed = needs(at);
            for (size_t i = needed.size(); i-- > 0;)
                if (!known(needed[i]))
                    stack.push_back(needed[i]);
            if (stack.size() == before) {
                add(at, needed);
                stack.pop_back();
            }
        }
        return *known(root);
    }

    Traced finish() {
        out_.graph.symbols = names_.symbols;
        return std::move(out_);
    }
    graph::Graph &graph() { return out_.graph; }
    const Value &rng_leaf() const { return rng_leaf_; }

  private:
    static bool is_constant(const Value &v) {
        return v.node->op == "constant" || (!v.node->is_open() && v.node->computed(v.index));
    }

    Values needs(const Value &v) const {
        if (v.node->is_leaf() || is_constant(v))
            return {};
        const Values body = decompose_ ? v.node->body() : Values();
        return body.empty() ? v.node->operands() : body;
    }

    const graph::ValueId *known(const Value &v) const {
        const auto found = values_.find(key_of(v));
        return found == values_.end() ? nullptr : &found->second;
    }

    void set(const Value &v, graph::ValueId id) {
        values_.emplace(key_of(v), id);
        alive_.push_back(v.node);
    }

    Dim renamed(const Dim &d) {
        if (d.is_constant())
            return d;
        for (const core::SymbolPtr &symbol : d.symbols()) {
            const auto found = names_.dims.find(symbol->name);
            if (found == names_.dims.end()) {
                auto own = std::make_shared<core::Symbol>(*symbol);
                own->index = static_cast<int>(names_.symbols.size());
                names_.symbols.push_back(own);
                names_.dims.emplace(own->name, Dim::symbol(own));
            } else if (!(*core::find_symbol(names_.symbols, symbol->name) == *symbol)) {
                core::fail(Code::Argument,
                           "there are two dimensions named '%s' with different ranges: create the dimension once",
                           symbol->name.c_str());
            }
        }
        return d.substitute(names_.dims);
    }

    Attribute renamed(const Attribute &value) {
        if (const Dim *d = value.get_if<Dim>())
            return Attribute::dim(renamed(*d));
        if (const Attribute::List *items = value.get_if<Attribute::List>()) {
            Attribute::List out;
            for (const Attribute &item : *items)
                out.push_back(renamed(item));
            return Attribute::list(std::move(out));
        }
        return value;
    }

    TensorType renamed(const TensorType &type) {
        TensorType out{type.dtype, {}};
        for (const Dim &d : type.shape)
            out.shape.push_back(renamed(d));
        return out;
    }

    // A draw from the random state gets the number of its operation.
    void number_draw(const Values &operands, graph::Node &node) {
        for (const Value &operand : operands) {
            if (!names_.number_draws || operand.node->op != "param" || operand.node->data || !node.attrs.find("id"))
                continue;
            const int64_t own = node.attrs.integer(node.op, "id");
            auto [found, is_new] = names_.draws.emplace(operand.node.get(), names_.next_draw);
            if (is_new)
                names_.next_draw += ids_taken(node.op);
            node.attrs.set("id", Attribute::integer((found->second + own) % (int64_t{1} << 32)));
        }
    }

    void add(const Value &v, const Values &needed) {
        const Node &of = *v.node;
        if (of.is_leaf() || is_constant(v))
            return add_leaf(v);
        if (decompose_ && !of.body().empty()) {
            for (uint32_t i = 0; i < needed.size(); ++i)
                set(v.node->result(i), *known(needed[i]));
            return;
        }
        graph::Node node;
        node.op = of.op;
        for (const auto &[name, value] : of.attrs.items())
            node.attrs.set(name, renamed(value));
        for (const TensorType &type : of.types)
            node.types.push_back(renamed(type));
        node.loc = of.loc;
        for (const Value &operand : needed)
            node.operands.push_back(*known(operand));
        number_draw(needed, node);
        graph::ValueId first = append(std::move(node));
        for (uint32_t i = 0; i < of.types.size(); ++i)
            set(v.node->result(i), first + i);
    }

    // A new node, or an equal one that is there already.
    graph::ValueId append(graph::Node node) {
        if (!merge_)
            return out_.graph.add(std::move(node)).first;
        std::string key = node.op;
        for (graph::ValueId operand : node.operands)
            key += " %" + std::to_string(operand);
        key += ' ' + graph::to_text(node.attrs);
        const auto found = equal_.find(key);
        if (found != equal_.end())
            return found->second;
        const graph::ValueId first = out_.graph.add(std::move(node)).first;
        equal_.emplace(std::move(key), first);
        return first;
    }

    void add_leaf(const Value &v) {
        const Node &of = *v.node;
        graph::Node node;
        node.types = {renamed(v.type())};
        node.loc = of.loc;
        node.attrs = of.attrs;
        std::string key = of.op;
        Tensor data = of.is_leaf() ? of.data : of.computed(v.index);
        if (of.op == "input") {
            node.op = of.op;
            if (!leaf_names_.insert("input " + of.attrs.string("input", "name")).second)
                core::fail(Code::Argument, "there are two inputs named '%s'; give each its own name",
                           core::shown(of.attrs.string("input", "name")).c_str());
            set(v, out_.graph.add(std::move(node)).first);
            return;
        }
        if (of.op == "param") {
            node.op = of.op;
            const std::string &name = of.attrs.string("param", "name");
            key += ' ' + name;
            data = parameter_data(name, data);
            if (names_.number_draws && name == rng_state && !of.data)
                rng_leaf_ = v;
        } else {
            node.op = "constant";
            node.attrs = Attributes();
            const std::string memory = data ? constant_key(data) : "text " + of.attrs.string("constant", "name");
            const auto [found, is_new] =
                names_.constants.emplace(memory, "constant_" + std::to_string(names_.constants.size()));
            if (is_new && of.attrs.find("name"))
                found->second = of.attrs.string("constant", "name");
            node.attrs.set("name", Attribute::string(found->second));
            key += ' ' + found->second;
        }
        const auto found = leaves_.find(key);
        if (found != leaves_.end())
            return set(v, found->second);
        (node.op == "param" ? out_.state : out_.constants).push_back(data);
        const graph::ValueId id = out_.graph.add(std::move(node)).first;
        leaves_.emplace(key, id);
        set(v, id);
    }

    // The tensor of a parameter; the leaves of the random state share one.
    Tensor parameter_data(const std::string &name, Tensor data) {
        if (names_.number_draws && name == rng_state && !data) {
            if (!names_.rng)
                names_.rng = Tensor::zeros(DType::I64, {2});
            data = names_.rng;
        }
        const std::string memory = data ? constant_key(data) : "";
        const auto [found, is_new] = names_.parameters.emplace(name, std::pair(memory, data));
        if (!is_new && found->second.first != memory)
            core::fail(Code::Argument, "two different parameters are called '%s'; give each its own name",
                       core::shown(name).c_str());
        return data;
    }

    Names &names_;
    const bool decompose_, merge_;
    Traced out_;
    std::map<ValueKey, graph::ValueId> values_;
    std::map<std::string, graph::ValueId> leaves_, equal_;
    std::set<std::string> leaf_names_;
    Value rng_leaf_;
    std::vector<NodePtr> alive_; // so that no address is used twice
};

// The inputs that the roots depend on, in the order in which a traversal meets them.
Values inputs_of(const Values &roots) {
    Values found;
    std::set<const Node *> seen;
    for (const Value &root : roots) {
        std::vector<NodePtr> stack = {root.node};
        while (!stack.empty()) {
            const NodePtr node = std::move(stack.back());
            stack.pop_back();
            if (!node->is_open() || !seen.insert(node.get()).second)
                continue;
            if (node->op == "input")
                found.push_back(node->result());
            const Values operands = node->operands();
            for (size_t i = operands.size(); i-- > 0;)
                stack.push_back(operands[i].node);
        }
    }
    return found;
}

void check_updates(const Updates &updates) {
    std::set<ValueKey> updated;
    for (const auto &[target, value] : updates) {
        if (target.node->op != "param")
            core::fail(Code::Argument, "an update is of a parameter (op::parameter), not of the result of '%s'",
                       target.node->op.c_str());
        const std::string name = core::shown(target.node->attrs.string("param", "name"));
        if (!updated.insert(key_of(target)).second)
            core::fail(Code::Argument, "the parameter '%s' is updated twice", name.c_str());
        if (target.type() != value.type())
            core::fail(target.dtype() == value.dtype() ? Code::Shape : Code::DType,
                       "update: the parameter '%s' has type %s but the new value has type %s", name.c_str(),
                       target.type().text().c_str(), value.type().text().c_str());
    }
}

Traced traced(const std::string &graph_name, const NamedValues &outputs, const Updates &updates, const Values &inputs,
              Names &names, bool decompose, bool merge) {
    Tracer tracer(graph_name, names, decompose, merge);
    for (const Value &v : inputs)
        tracer.value(v);
    for (const auto &[output, value] : outputs) {
        const graph::ValueId id = tracer.value(value);
        tracer.graph().outputs.emplace_back(output, id);
    }
    std::vector<graph::ValueId> values;
    for (const auto &[target, value] : updates)
        values.push_back(tracer.value(value));
    for (size_t i = 0; i < updates.size(); ++i)
        tracer.graph().updates.emplace_back(tracer.value(updates[i].first), values[i]);
    if (tracer.rng_leaf()) {
        const graph::ValueId leaf = tracer.value(tracer.rng_leaf());
        const auto is_rng = [&](const auto &update) { return update.first == leaf; };
        const auto &all = tracer.graph().updates;
        if (std::none_of(all.begin(), all.end(), is_rng)) {
            const LocationScope nowhere(std::nullopt);
            const graph::ValueId next = tracer.value(advanced(tracer.rng_leaf()));
            tracer.graph().updates.emplace_back(leaf, next);
        }
    }
    return tracer.finish();
}

} // namespace

Program trace(const std::string &name, const NamedValues &outputs, const Updates &updates, bool number_draws) {
    std::set<std::string> output_names;
    Values roots;
    for (const auto &[output, value] : outputs) {
        if (!output_names.insert(output).second)
            core::fail(Code::Argument, "there are two outputs named '%s'", core::shown(output).c_str());
        roots.push_back(value);
    }
    check_updates(updates);
    for (const auto &[target, value] : updates)
        roots.push_back(value);
    const Values inputs = inputs_of(roots);
    Names names;
    names.number_draws = number_draws;
    Program program;
    program.whole = traced(name, outputs, updates, inputs, names, false, false);
    program.primitives = traced(name, outputs, updates, inputs, names, true, true);
    program.whole.graph.symbols = names.symbols; // a body may have brought in none that the whole has not
    return program;
}

Values import_graph(const graph::Graph &graph, const Values &leaves) {
    Values values(graph.value_count());
    for (const graph::Node &node : graph.nodes) {
        if (node.first < leaves.size() && leaves[node.first]) {
            values[node.first] = leaves[node.first];
            continue;
        }
        if (node.is_leaf()) {
            values[node.first] = std::make_shared<Node>(node.op, Values(), node.attrs, node.types, node.loc)->result();
            continue;
        }
        Values operands;
        for (graph::ValueId operand : node.operands)
            operands.push_back(values[operand]);
        const LocationScope here(node.loc);
        const Values results = apply(node.op, std::move(operands), node.attrs);
        for (size_t i = 0; i < node.types.size(); ++i) {
            if (i >= results.size() || results[i].type() != node.types[i])
                throw graph::located(
                    core::Error(Code::Graph, node.op + ": the stated type is " + node.types[i].text() +
                                                 " but the operator gives " +
                                                 (i < results.size() ? results[i].type().text() : "no such result")),
                    node.loc);
            values[node.first + i] = results[i];
        }
    }
    return values;
}

std::string decompose_text(std::string_view text, bool merge) {
    const graph::Graph graph = graph::parse_graph(text);
    const Values values = import_graph(graph);
    NamedValues outputs;
    Updates updates;
    Values inputs;
    for (const graph::Node &node : graph.nodes)
        if (node.op == "input")
            inputs.push_back(values[node.first]);
    for (const auto &[name, value] : graph.outputs)
        outputs.emplace_back(name, values[value]);
    for (const auto &[target, value] : graph.updates)
        updates.emplace_back(values[target], values[value]);
    Names names;
    names.number_draws = false;
    Traced found = traced(graph.name, outputs, updates, inputs, names, true, merge);
    return graph::to_text(found.graph);
}

} // namespace tessera::front
