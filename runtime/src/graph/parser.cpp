#include "graph/parser.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "graph/scanner.h"

namespace tessera::graph {

namespace {

constexpr int64_t format_version = 1;

// A dimension between delimiters; a plain integer is the common case.
Dim parse_dimension(Scanner &in, const SymbolTable &symbols, const Limits &limits) {
    const Scanner::Position start = in.position();
    const std::string_view text = in.dimension_text(limits.dimension_bytes);
    int64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size())
        return Dim(value);
    try {
        return Dim::parse(text, symbols);
    } catch (const core::Error &e) {
        in.fail_at(start, e.message());
    }
}

class AttributeParser {
  public:
    AttributeParser(Scanner &in, const SymbolTable &symbols, const Limits &limits)
        : in_(in), symbols_(symbols), limits_(limits) {}

    Attributes attributes() {
        Attributes out;
        in_.expect('{');
        while (!in_.accept('}')) {
            if (!out.items().empty())
                in_.expect(',');
            const Scanner::Position start = in_.position();
            std::string name(in_.word("an attribute's name"));
            if (name.find('.') != std::string::npos)
                in_.fail_at(start, "an attribute's name has no dots");
            if (out.find(name))
                in_.fail_at(start, "the attribute '" + name + "' is given twice");
            if (out.items().size() >= limits_.attributes)
                in_.fail_at(start, "a node has too many attributes");
            in_.expect('=');
            out.set(std::move(name), value(0));
        }
        return out;
    }

  private:
    Attribute value(int depth) {
        const char c = in_.peek();
        if (c == '[')
            return list(depth);
        if (c == '"')
            return Attribute::string(in_.string(limits_.string_bytes));
        if (c == '<') {
            in_.expect('<');
            Dim d = parse_dimension(in_, symbols_, limits_);
            in_.expect('>');
            return Attribute::dim(d);
        }
        if (c == '-' || (c >= '0' && c <= '9'))
            return number();
        return word();
    }

    Attribute list(int depth) {
        if (depth >= limits_.depth)
            in_.fail("lists are nested too deeply");
        Attribute::List items;
        in_.expect('[');
        while (!in_.accept(']')) {
            if (!items.empty())
                in_.expect(',');
            if (++list_items_ > limits_.list_items)
                in_.fail("the attribute lists of a node are too long");
            items.push_back(value(depth + 1));
        }
        return Attribute::list(std::move(items));
    }

    Attribute number() {
        const Scanner::Position start = in_.position();
        const std::string_view text = in_.number_text();
        if (text == "-inf")
            return Attribute::real(-std::numeric_limits<double>::infinity());
        if (text == "-nan")
            return Attribute::real(std::numeric_limits<double>::quiet_NaN());
        const char *last = text.data() + text.size();
        if (text.find_first_of(".eE") == std::string_view::npos) {
            int64_t integer = 0;
            auto [end, error] = std::from_chars(text.data(), last, integer);
            if (error == std::errc() && end == last)
                return Attribute::integer(integer);
            uint64_t large = 0;
            if (auto [stop, status] = std::from_chars(text.data(), last, large); status == std::errc() && stop == last)
                return Attribute::large_integer(large);
            in_.fail_at(start, "not a 64-bit integer: " + core::shown(std::string(text)));
        }
        double real = 0;
        auto [end, error] = std::from_chars(text.data(), last, real);
        if (error != std::errc() || end != last)
            in_.fail_at(start, "not a number: " + core::shown(std::string(text)));
        return Attribute::real(real);
    }

    Attribute word() {
        const Scanner::Position start = in_.position();
        const std::string_view text = in_.word("an attribute's value");
        DType dtype;
        if (text == "true" || text == "false")
            return Attribute::boolean(text == "true");
        if (text == "none")
            return Attribute();
        if (text == "inf")
            return Attribute::real(std::numeric_limits<double>::infinity());
        if (text == "nan")
            return Attribute::real(std::numeric_limits<double>::quiet_NaN());
        if (core::parse_dtype(text, dtype))
            return Attribute::dtype(dtype);
        in_.fail_at(start, "unknown word '" + core::shown(std::string(text)) +
                               "'; expected a number, a string, a dtype, true, false, none, <dimension> or a list");
    }

    Scanner &in_;
    const SymbolTable &symbols_;
    const Limits &limits_;
    size_t list_items_ = 0;
};

class GraphParser {
  public:
    GraphParser(std::string_view text, const Limits &limits) : in_(text), limits_(limits) {}

    Graph parse() {
        header();
        in_.expect_word("graph");
        graph_.name = in_.string(limits_.string_bytes);
        in_.expect('{');
        while (!in_.accept('}'))
            statement();
        if (!in_.at_end())
            in_.fail("text after the end of the graph");
        return std::move(graph_);
    }

  private:
    void header() {
        in_.expect_word("tessera.graph");
        const int64_t version = in_.integer("the format version");
        if (version > format_version)
            fail(Code::Version, "the graph text has format version %lld; this reader knows up to %lld: update Tessera",
                 static_cast<long long>(version), static_cast<long long>(format_version));
        if (version < 1)
            in_.fail("the format version must be at least 1");
    }

    void statement() {
        if (in_.peek() == '%')
            return node();
        const Scanner::Position start = in_.position();
        const std::string_view keyword = in_.word("a statement (dim, mesh, %value, output, update) or '}'");
        if (keyword == "dim")
            return symbol();
        if (keyword == "mesh")
            return mesh();
        if (keyword == "output")
            return output();
        if (keyword == "update")
            return update();
        in_.fail_at(start, "unknown statement '" + core::shown(std::string(keyword)) +
                               "'; expected dim, mesh, %value, output or update");
    }

    void symbol() {
        const Scanner::Position start = in_.position();
        auto symbol = std::make_shared<core::Symbol>();
        symbol->name = in_.word("a dimension's name");
        if (core::find_symbol(graph_.symbols, symbol->name))
            in_.fail_at(start, "the dimension '" + symbol->name + "' is declared twice");
        if (symbol->name == "max" || symbol->name == "min" || symbol->name.find('.') != std::string::npos)
            in_.fail_at(start, "'" + symbol->name + "' is not a usable name of a dimension");
        if (graph_.symbols.size() >= limits_.symbols)
            in_.fail_at(start, "too many dimensions are declared");
        in_.expect_word("in");
        in_.expect('[');
        symbol->min = in_.integer("the least size");
        in_.expect(',');
        if (!in_.accept_word("inf"))
            symbol->max = in_.integer("the greatest size or inf");
        in_.expect(']');
        in_.expect_word("multiple_of");
        symbol->multiple_of = in_.integer("a divisor");
        if (symbol->min < 0 || symbol->multiple_of < 1 || (symbol->max && *symbol->max < symbol->min))
            in_.fail_at(start, "the range of the dimension '" + symbol->name + "' is empty or negative");
        symbol->index = static_cast<int>(graph_.symbols.size());
        graph_.symbols.push_back(std::move(symbol));
    }

    void node() {
        const Scanner::Position start = in_.position();
        if (graph_.nodes.size() >= limits_.nodes)
            in_.fail("too many nodes");
        std::vector<int64_t> results;
        do {
            if (results.size() >= limits_.results)
                in_.fail("a node has too many results");
            results.push_back(value_number());
        } while (in_.accept(','));
        in_.expect('=');
        Node node;
        node.op = in_.operator_name("an operator's name");
        if (in_.accept('('))
            operands(node);
        if (in_.peek() == '{')
            node.attrs = AttributeParser(in_, graph_.symbols, limits_).attributes();
        in_.expect(':');
        types(node);
        if (node.types.size() != results.size())
            in_.fail_at(start, std::to_string(results.size()) + " results but " + std::to_string(node.types.size()) +
                                   " types");
        if (in_.accept_word("at"))
            location(node);
        const Node &added = graph_.add(std::move(node));
        for (size_t i = 0; i < results.size(); ++i)
            if (!values_.emplace(results[i], added.first + static_cast<ValueId>(i)).second)
                in_.fail_at(start, "the value %" + std::to_string(results[i]) + " is defined twice");
    }

    void operands(Node &node) {
        while (!in_.accept(')')) {
            if (!node.operands.empty())
                in_.expect(',');
            if (node.operands.size() >= limits_.operands)
                in_.fail("a node has too many operands");
            node.operands.push_back(value());
        }
    }

    void types(Node &node) {
        if (!in_.accept('(')) {
            node.types.push_back(type());
            return;
        }
        while (!in_.accept(')')) {
            if (!node.types.empty())
                in_.expect(',');
            if (node.types.size() >= limits_.results)
                in_.fail("a node has too many results");
            node.types.push_back(type());
        }
    }

    TensorType type() {
        const Scanner::Position start = in_.position();
        const std::string_view dtype = in_.word("a dtype");
        TensorType out;
        if (!core::parse_dtype(dtype, out.dtype))
            in_.fail_at(start, "unknown dtype '" + core::shown(std::string(dtype)) + "'");
        in_.expect('[');
        while (!in_.accept(']')) {
            if (!out.shape.empty())
                in_.expect(',');
            if (out.shape.size() >= limits_.rank)
                in_.fail("a shape has more than " + std::to_string(limits_.rank) + " dimensions");
            in_.peek(); // moves past spaces
            const Scanner::Position at = in_.position();
            Dim size = parse_dimension(in_, graph_.symbols, limits_);
            if (size.is_constant() && size.constant() < 0)
                in_.fail_at(at, "a size is negative");
            out.shape.push_back(std::move(size));
        }
        if (in_.accept_word("split"))
            out.sharding = sharding(out.rank());
        return out;
    }

    // Carried as text; the axes must be those of the mesh, each used once.
    std::string sharding(size_t rank) {
        std::set<std::string> used;
        std::string text = "split [";
        in_.expect('[');
        for (size_t i = 0; i < rank; ++i) {
            if (i > 0)
                in_.expect(',');
            text += i > 0 ? ", " : "";
            text += in_.accept('-') ? "-" : split(used);
        }
        in_.expect(']');
        text += "]";
        if (!in_.accept_word("partial"))
            return text;
        text += " partial [";
        in_.expect('[');
        do {
            text += text.back() == '[' ? "" : ", ";
            text += mesh_axis(used);
            text += " " + combine();
        } while (in_.accept(','));
        in_.expect(']');
        return text + "]";
    }

    std::string split(std::set<std::string> &used) {
        std::string text = mesh_axis(used);
        while (in_.accept('*'))
            text += "*" + mesh_axis(used);
        if (!in_.accept('/'))
            return text;
        return text + "/" + parse_dimension(in_, graph_.symbols, limits_).text();
    }

    std::string mesh_axis(std::set<std::string> &used) {
        const Scanner::Position start = in_.position();
        std::string name(in_.word("a mesh axis"));
        bool known = false;
        for (const auto &[axis, size] : graph_.mesh)
            known = known || axis == name;
        if (!known)
            in_.fail_at(start, "the mesh has no axis '" + core::shown(name) + "'");
        if (!used.insert(name).second)
            in_.fail_at(start, "the mesh axis '" + core::shown(name) + "' is used twice");
        return name;
    }

    std::string combine() {
        const Scanner::Position start = in_.position();
        std::string name(in_.word("how parts are combined"));
        if (name != "sum" && name != "prod" && name != "max" && name != "min")
            in_.fail_at(start, "parts are combined by sum, prod, max or min, not '" + core::shown(name) + "'");
        return name;
    }

    void mesh() {
        const Scanner::Position start = in_.position();
        if (!graph_.mesh.empty())
            in_.fail_at(start, "the mesh is declared twice");
        do {
            std::string name(in_.word("the name of a mesh axis"));
            in_.expect('=');
            const int64_t size = in_.integer("the size of a mesh axis");
            for (const auto &[axis, other] : graph_.mesh)
                if (axis == name)
                    in_.fail_at(start, "the mesh axis '" + core::shown(name) + "' is declared twice");
            if (size < 1 || graph_.mesh.size() >= limits_.rank)
                in_.fail_at(start, "the mesh axis '" + core::shown(name) + "' has no device");
            graph_.mesh.emplace_back(std::move(name), size);
        } while (in_.accept(','));
    }

    void location(Node &node) {
        Location loc;
        loc.file = in_.string(limits_.string_bytes);
        in_.expect(':');
        loc.line = in_.integer("a line number");
        node.loc = std::move(loc);
    }

    void output() {
        const Scanner::Position start = in_.position();
        std::string name = in_.string(limits_.string_bytes);
        in_.expect('=');
        if (!output_names_.insert(name).second)
            in_.fail_at(start, "the output '" + core::shown(name) + "' is given twice");
        graph_.outputs.emplace_back(std::move(name), value());
    }

    void update() {
        const Scanner::Position start = in_.position();
        const ValueId target = value();
        in_.expect('=');
        if (graph_.producer(target).op != "param")
            in_.fail_at(start, "only a param can be updated");
        if (!updated_.insert(target).second)
            in_.fail_at(start, "the param is updated twice");
        graph_.updates.emplace_back(target, value());
    }

    int64_t value_number() {
        in_.expect('%');
        return in_.adjacent_integer("a value's number");
    }

    ValueId value() {
        in_.peek();
        const Scanner::Position start = in_.position();
        const int64_t number = value_number();
        auto found = values_.find(number);
        if (found == values_.end())
            in_.fail_at(start, "the value %" + std::to_string(number) + " is not defined before this use");
        return found->second;
    }

    Scanner in_;
    const Limits &limits_;
    Graph graph_;
    std::unordered_map<int64_t, ValueId> values_;
    std::unordered_set<std::string> output_names_;
    std::unordered_set<ValueId> updated_;
};

void check_size(std::string_view text, const Limits &limits) {
    if (text.size() > limits.text_bytes)
        fail(Code::Graph, "graph text: %zu bytes; at most %zu are read", text.size(), limits.text_bytes);
}

} // namespace

Graph parse_graph(std::string_view text, const Limits &limits) {
    check_size(text, limits);
    return GraphParser(text, limits).parse();
}

Attributes parse_attributes(std::string_view text, const SymbolTable &symbols, const Limits &limits) {
    check_size(text, limits);
    Scanner in(text);
    if (in.at_end())
        return {};
    Attributes out = AttributeParser(in, symbols, limits).attributes();
    if (!in.at_end())
        in.fail("text after the attributes");
    return out;
}

} // namespace tessera::graph
