#include "graph/printer.h"

#include <charconv>
#include <cmath>
#include <cstdio>

#include "graph/json_string.h"

namespace tessera::graph {

namespace {

void append(std::string &out, const Attribute &value);

struct AttributePrinter {
    std::string &out;

    void operator()(std::monostate) const { out += "none"; }
    void operator()(bool value) const { out += value ? "true" : "false"; }
    void operator()(int64_t value) const { out += std::to_string(value); }
    void operator()(uint64_t value) const { out += std::to_string(value); }
    void operator()(double value) const { out += real_text(value); }
    void operator()(const std::string &value) const { append_json(out, value); }
    void operator()(DType value) const { out += core::name(value); }
    void operator()(const Dim &value) const { out += "<" + value.text() + ">"; }
    void operator()(const Attribute::List &items) const {
        out += '[';
        for (size_t i = 0; i < items.size(); ++i) {
            if (i)
                out += ", ";
            append(out, items[i]);
        }
        out += ']';
    }
};

void append(std::string &out, const Attribute &value) { std::visit(AttributePrinter{out}, value.value()); }

void append_value(std::string &out, ValueId value) { out += '%' + std::to_string(value); }

void append_symbol(std::string &out, const core::Symbol &symbol) {
    out += "  dim " + symbol.name + " in [" + std::to_string(symbol.min) + ", ";
    out += symbol.max ? std::to_string(*symbol.max) : "inf";
    out += "] multiple_of " + std::to_string(symbol.multiple_of) + "\n";
}

void append_type(std::string &out, const TensorType &type) {
    out += type.text();
    if (!type.sharding.empty())
        out += " " + type.sharding;
}

void append_node(std::string &out, const Node &node) {
    out += "  ";
    for (size_t i = 0; i < node.types.size(); ++i) {
        if (i)
            out += ", ";
        append_value(out, node.first + static_cast<ValueId>(i));
    }
    out += " = " + node.op;
    if (!node.operands.empty()) {
        out += '(';
        for (size_t i = 0; i < node.operands.size(); ++i) {
            if (i)
                out += ", ";
            append_value(out, node.operands[i]);
        }
        out += ')';
    }
    if (!node.attrs.items().empty())
        out += " " + to_text(node.attrs);
    out += " : ";
    if (node.types.size() == 1) {
        append_type(out, node.types[0]);
    } else {
        out += '(';
        for (size_t i = 0; i < node.types.size(); ++i) {
            out += i ? ", " : "";
            append_type(out, node.types[i]);
        }
        out += ')';
    }
    if (node.loc) {
        out += " at ";
        append_json(out, node.loc->file);
        out += ':' + std::to_string(node.loc->line);
    }
    out += '\n';
}

} // namespace

std::string real_text(double value) {
    if (std::isnan(value))
        return "nan";
    if (std::isinf(value))
        return value < 0 ? "-inf" : "inf";
    char buffer[64];
    auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    // "-d.ddde-xx": digits and exponent of the shortest form, laid out as Python's repr does.
    std::string text(buffer, end);
    const size_t e = text.find('e');
    const int exponent = std::stoi(text.substr(e + 1));
    std::string sign = text[0] == '-' ? "-" : "";
    std::string digits;
    for (char c : text.substr(0, e))
        if (c >= '0' && c <= '9')
            digits += c;
    const int count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        char tail[16];
        std::snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
        return sign + digits[0] + (count > 1 ? "." + digits.substr(1) : "") + tail;
    }
    if (exponent < 0)
        return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
    if (count <= exponent + 1)
        return sign + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
    return sign + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
           digits.substr(static_cast<size_t>(exponent) + 1);
}

std::string to_text(const Attribute &value) {
    std::string out;
    append(out, value);
    return out;
}

std::string to_text(const Attributes &attributes) {
    if (attributes.items().empty())
        return "";
    std::string out = "{";
    bool first = true;
    for (const auto &[name, value] : attributes.items()) {
        if (!first)
            out += ", ";
        first = false;
        out += name + " = ";
        append(out, value);
    }
    return out + "}";
}

std::string to_text(const Graph &graph) {
    std::string out = "tessera.graph 1\ngraph ";
    append_json(out, graph.name);
    out += " {\n";
    for (size_t i = 0; i < graph.mesh.size(); ++i) {
        out += (i ? ", " : "  mesh ") + graph.mesh[i].first + " = " + std::to_string(graph.mesh[i].second);
        out += i + 1 == graph.mesh.size() ? "\n" : "";
    }
    for (const core::SymbolPtr &symbol : graph.symbols)
        append_symbol(out, *symbol);
    for (const Node &node : graph.nodes)
        append_node(out, node);
    for (const auto &[name, value] : graph.outputs) {
        out += "  output ";
        append_json(out, name);
        out += " = ";
        append_value(out, value);
        out += '\n';
    }
    for (const auto &[param, value] : graph.updates) {
        out += "  update ";
        append_value(out, param);
        out += " = ";
        append_value(out, value);
        out += '\n';
    }
    return out + "}\n";
}

} // namespace tessera::graph
