#include "custom/schema.h"

#include <algorithm>
#include <array>
#include <set>

#include "graph/parser.h"
#include "graph/printer.h"

namespace tessera::custom {

using core::Code;
using core::fail;
using core::shown;
using graph::Attribute;

namespace {

constexpr std::array<std::string_view, 7> kind_names = {"tensor", "bool", "int", "float", "str", "dtype", "dim"};
constexpr size_t max_parameters = 64;

bool is_word(char c, bool first) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

// The value as the parameter's kind; nothing when it does not fit.
std::optional<Attribute> single(Kind kind, const Attribute &value) {
    switch (kind) {
    case Kind::Bool:
        return value.get_if<bool>() ? std::optional(value) : std::nullopt;
    case Kind::Integer:
        return value.get_if<int64_t>() ? std::optional(value) : std::nullopt;
    case Kind::Real:
        if (const int64_t *integer = value.get_if<int64_t>())
            return Attribute::real(static_cast<double>(*integer));
        return value.get_if<double>() ? std::optional(value) : std::nullopt;
    case Kind::String:
        return value.get_if<std::string>() ? std::optional(value) : std::nullopt;
    case Kind::DType:
        return value.get_if<core::DType>() ? std::optional(value) : std::nullopt;
    case Kind::Dim:
        return value.get_if<int64_t>() || value.get_if<core::Dim>() ? std::optional(value) : std::nullopt;
    case Kind::Tensor:
        break;
    }
    return std::nullopt;
}

std::optional<Attribute> fitted(const Parameter &parameter, const Attribute &value) {
    if (value.is_none())
        return parameter.optional ? std::optional(value) : std::nullopt;
    if (!parameter.list)
        return single(parameter.kind, value);
    const Attribute::List *items = value.get_if<Attribute::List>();
    if (!items)
        return std::nullopt;
    Attribute::List out;
    for (const Attribute &item : *items) {
        std::optional<Attribute> one = single(parameter.kind, item);
        if (!one)
            return std::nullopt;
        out.push_back(std::move(*one));
    }
    return Attribute::list(std::move(out));
}

std::string type_text(const Parameter &p) {
    std::string out(kind_names[static_cast<size_t>(p.kind)]);
    for (size_t i = 0; i < p.dtypes.size(); ++i)
        out += (i ? "|" : "(") + std::string(core::name(p.dtypes[i]));
    if (!p.dtypes.empty())
        out += ")";
    return out + (p.list ? "[]" : "") + (p.optional ? "?" : "");
}

class Reader {
  public:
    explicit Reader(std::string_view text) : text_(text) {}

    Schema read() {
        Schema out;
        expect("(");
        while (!accept(")")) {
            if (!out.parameters.empty())
                expect(",");
            out.parameters.push_back(parameter());
        }
        expect("->");
        expect("(");
        while (!accept(")")) {
            if (!out.results.empty())
                expect(",");
            out.results.push_back(word("a result's name"));
        }
        skip();
        if (at_ < text_.size())
            error("text after the end");
        check(out);
        return out;
    }

  private:
    [[noreturn]] void error(const std::string &what) const {
        fail(Code::Format, "schema %s, column %zu: %s", shown(std::string(text_), 400).c_str(), at_ + 1, what.c_str());
    }

    void skip() {
        while (at_ < text_.size() && text_[at_] == ' ')
            ++at_;
    }

    bool accept(std::string_view token) {
        skip();
        if (text_.substr(at_, token.size()) != token)
            return false;
        at_ += token.size();
        return true;
    }

    void expect(std::string_view token) {
        if (!accept(token))
            error("expected '" + std::string(token) + "'");
    }

    std::string word(const char *what) {
        skip();
        const size_t start = at_;
        while (at_ < text_.size() && is_word(text_[at_], at_ == start))
            ++at_;
        if (at_ == start)
            error(std::string("expected ") + what);
        return std::string(text_.substr(start, at_ - start));
    }

    Parameter parameter() {
        Parameter out;
        out.name = word("a parameter's name");
        expect(":");
        const std::string kind = word("a type");
        const auto found = std::find(kind_names.begin(), kind_names.end(), kind);
        if (found == kind_names.end())
            error("unknown type '" + kind + "'; expected tensor, bool, int, float, str, dtype or dim");
        out.kind = static_cast<Kind>(found - kind_names.begin());
        if (out.is_tensor() && accept("("))
            dtypes(out);
        if (accept("[")) {
            expect("]");
            out.list = true;
        }
        out.optional = accept("?");
        if (out.optional && out.is_tensor())
            error("a tensor cannot be optional");
        if (accept("=")) {
            out.standard = fitted(out, standard(out));
            if (!out.standard)
                error("the default of '" + out.name + "' is not of type " + type_text(out));
        }
        return out;
    }

    void dtypes(Parameter &out) {
        do {
            core::DType dtype;
            if (!core::parse_dtype(word("a dtype"), dtype))
                error("unknown dtype");
            out.dtypes.push_back(dtype);
        } while (accept("|"));
        expect(")");
    }

    // The default: attribute text up to the next comma or parenthesis outside strings and lists.
    Attribute standard(const Parameter &parameter) {
        if (parameter.is_tensor())
            error("a tensor has no default");
        skip();
        const size_t start = at_;
        int depth = 0;
        for (bool quoted = false; at_ < text_.size(); ++at_) {
            const char c = text_[at_];
            if (quoted) {
                at_ += c == '\\';
                quoted = c != '"';
            } else if (c == '"') {
                quoted = true;
            } else if (depth == 0 && (c == ',' || c == ')')) {
                break;
            } else {
                depth += (c == '[') - (c == ']');
            }
        }
        const std::string text(text_.substr(start, std::min(at_, text_.size()) - start));
        try {
            const graph::Attributes read = graph::parse_attributes("{value = " + text + "}");
            if (const Attribute *value = read.find("value"))
                return *value;
        } catch (const core::Error &e) {
            error("the default of '" + parameter.name + "' is no attribute: " + e.message());
        }
        error("the default of '" + parameter.name + "' is missing");
    }

    void check(const Schema &schema) const {
        std::set<std::string> names;
        size_t lists = 0;
        bool defaults = false;
        for (const Parameter &p : schema.parameters) {
            if (!names.insert(p.name).second)
                error("the parameter '" + p.name + "' is there twice");
            lists += p.is_tensor() && p.list;
            if (defaults && !p.standard)
                error("'" + p.name + "' has no default but follows a parameter that has one");
            defaults = defaults || p.standard.has_value();
        }
        if (lists > 1)
            error("there is more than one list of tensors");
        if (schema.parameters.size() > max_parameters || schema.results.size() > max_parameters)
            error("there are too many parameters or results");
        if (schema.results.empty())
            error("there is no result");
        if (std::set<std::string>(schema.results.begin(), schema.results.end()).size() != schema.results.size())
            error("two results have one name");
    }

    std::string_view text_;
    size_t at_ = 0;
};

} // namespace

Schema Schema::parse(std::string_view text) { return Reader(text).read(); }

std::string Schema::text() const {
    std::string out = "(";
    for (size_t i = 0; i < parameters.size(); ++i) {
        const Parameter &p = parameters[i];
        out += (i ? ", " : "") + p.name + ": " + type_text(p);
        if (p.standard)
            out += " = " + graph::to_text(*p.standard);
    }
    out += ") -> (";
    for (size_t i = 0; i < results.size(); ++i)
        out += (i ? ", " : "") + results[i];
    return out + ")";
}

size_t Schema::attribute_count() const {
    return static_cast<size_t>(
        std::count_if(parameters.begin(), parameters.end(), [](const Parameter &p) { return !p.is_tensor(); }));
}

const Parameter &Schema::operand(size_t index, size_t count) const {
    std::vector<const Parameter *> tensors;
    for (const Parameter &p : parameters)
        if (p.is_tensor())
            tensors.push_back(&p);
    for (const Parameter *p : tensors) {
        const size_t width = p->list ? count + 1 - tensors.size() : 1;
        if (index < width)
            return *p;
        index -= width;
    }
    fail(Code::Internal, "an operand beyond the schema");
}

void Schema::check_operands(const std::string &op, const std::vector<graph::TensorType> &operands) const {
    const size_t tensors = parameters.size() - attribute_count();
    const bool list = std::any_of(parameters.begin(), parameters.end(),
                                  [](const Parameter &p) { return p.is_tensor() && p.list; });
    if (list ? operands.size() + 1 < tensors : operands.size() != tensors)
        fail(Code::Argument, "[%s] takes %s%zu tensors, got %zu: %s", op.c_str(), list ? "at least " : "",
             list ? tensors - 1 : tensors, operands.size(), text().c_str());
    for (size_t i = 0; i < operands.size(); ++i) {
        const Parameter &p = operand(i, operands.size());
        if (p.dtypes.empty() || std::find(p.dtypes.begin(), p.dtypes.end(), operands[i].dtype) != p.dtypes.end())
            continue;
        std::string accepted;
        for (core::DType d : p.dtypes)
            accepted += (accepted.empty() ? "" : ", ") + std::string(core::name(d));
        fail(Code::DType, "[%s] %s has type %s; expected dtype %s: cast it first", op.c_str(), p.name.c_str(),
             operands[i].text().c_str(), accepted.c_str());
    }
}

std::vector<Attribute> Schema::complete(const std::string &op, const graph::Attributes &given) const {
    for (const auto &[name, value] : given.items()) {
        const auto found = std::find_if(parameters.begin(), parameters.end(),
                                        [&, &n = name](const Parameter &p) { return p.name == n && !p.is_tensor(); });
        if (found == parameters.end())
            fail(Code::Argument, "[%s] has no attribute '%s'; its signature is %s", op.c_str(), shown(name).c_str(),
                 text().c_str());
    }
    std::vector<Attribute> out;
    for (const Parameter &p : parameters) {
        if (p.is_tensor())
            continue;
        const Attribute *value = given.find(p.name);
        if (!value && !p.standard)
            fail(Code::Argument, "[%s] the attribute '%s' (%s) is missing", op.c_str(), p.name.c_str(),
                 type_text(p).c_str());
        if (!value)
            value = &*p.standard;
        std::optional<Attribute> fit = fitted(p, *value);
        if (!fit)
            fail(Code::Argument, "[%s] the attribute '%s' is %s; expected %s", op.c_str(), p.name.c_str(),
                 shown(graph::to_text(*value)).c_str(), type_text(p).c_str());
        out.push_back(std::move(*fit));
    }
    return out;
}

} // namespace tessera::custom
