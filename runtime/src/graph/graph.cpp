#include "graph/graph.h"

namespace tessera::graph {

Node &Graph::add(Node node) {
    node.first = static_cast<ValueId>(producers_.size());
    for (ValueId operand : node.operands)
        if (operand >= node.first)
            fail(Code::Internal, "graph: %s uses the value %%%u before it is defined", node.op.c_str(), operand);
    producers_.insert(producers_.end(), node.types.size(), static_cast<uint32_t>(nodes.size()));
    nodes.push_back(std::move(node));
    return nodes.back();
}

const TensorType &Graph::type(ValueId value) const {
    const Node &node = producer(value);
    return node.types[value - node.first];
}

} // namespace tessera::graph
