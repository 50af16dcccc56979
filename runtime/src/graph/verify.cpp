#include "graph/verify.h"

#include <set>

#include "graph/infer.h"

namespace tessera::graph {

namespace {

void verify_leaf(const Node &node, std::set<std::string> &names) {
    const std::string &name = node.attrs.string(node.op, "name");
    if (!node.operands.empty() || node.types.size() != 1)
        fail(Code::Graph, "%s '%s': a leaf has no operands and one result", node.op.c_str(),
             core::shown(name).c_str());
    if (node.op == "param")
        node.attrs.boolean(node.op, "trainable");
    if (!names.insert(node.op + " " + name).second)
        fail(Code::Graph, "there are two of %s '%s'", node.op.c_str(), core::shown(name).c_str());
}

std::string types_text(const std::vector<TensorType> &types) {
    std::string out;
    for (const TensorType &type : types)
        out += (out.empty() ? "" : ", ") + type.text();
    return types.size() == 1 ? out : "(" + out + ")";
}

void verify_node(const Graph &graph, const Node &node, std::set<std::string> &names) {
    if (node.is_leaf())
        return verify_leaf(node, names);
    std::vector<TensorType> operands;
    operands.reserve(node.operands.size());
    for (ValueId operand : node.operands)
        operands.push_back(graph.type(operand));
    const std::vector<TensorType> inferred = infer_results(node.op, operands, node.attrs);
    if (node.types != inferred)
        fail(Code::Graph, "%s: the stated type is %s but the operator gives %s", node.op.c_str(),
             types_text(node.types).c_str(), types_text(inferred).c_str());
}

} // namespace

core::Error located(const core::Error &error, const std::optional<Location> &loc) {
    if (!loc || error.message().find("\n  at ") != std::string::npos)
        return error;
    return core::Error(error.code(), error.message() + "\n  at " + core::shown(loc->text(), 4096));
}

void verify(const Graph &graph) {
    std::set<std::string> names;
    for (const Node &node : graph.nodes) {
        try {
            verify_node(graph, node, names);
        } catch (const core::Error &error) {
            throw located(error, node.loc);
        }
    }
    for (const auto &[param, value] : graph.updates)
        if (graph.type(param) != graph.type(value))
            fail(Code::Graph, "update: the parameter has type %s but the new value has type %s",
                 graph.type(param).text().c_str(), graph.type(value).text().c_str());
}

} // namespace tessera::graph
