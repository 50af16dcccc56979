// Reader of the text form of Graph IR. Text may come from anywhere: every count, depth and size has a limit.
#pragma once

#include <string_view>

#include "graph/graph.h"

namespace tessera::graph {

struct Limits {
    size_t text_bytes = size_t{1} << 28;
    size_t symbols = 4096;
    size_t nodes = size_t{1} << 20;
    size_t operands = size_t{1} << 16; // of one node
    size_t results = 1024;             // of one node
    size_t rank = 64;
    size_t list_items = size_t{1} << 20;
    size_t attributes = 64; // of one node
    size_t string_bytes = size_t{1} << 20;
    size_t dimension_bytes = 4096;
    int depth = 16; // of nested lists
};

// Parses a graph. GraphError with line and column when the text is malformed, VersionError when it needs a newer
// reader. Operators and types are not judged here; see `verify`.
Graph parse_graph(std::string_view text, const Limits &limits = {});

// Parses "{axes = [0], keepdims = false}"; empty text gives no attributes.
Attributes parse_attributes(std::string_view text, const SymbolTable &symbols = {}, const Limits &limits = {});

} // namespace tessera::graph
