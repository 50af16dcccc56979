#include "graph/attribute.h"

#include "graph/printer.h"

namespace tessera::graph {

namespace {

[[noreturn]] void wrong_kind(std::string_view op, std::string_view name, const Attribute &value, const char *expected) {
    fail(Code::Graph, "%s: attribute '%s' is %s; expected %s", std::string(op).c_str(), std::string(name).c_str(),
         core::shown(to_text(value)).c_str(), expected);
}

const Dim *as_dim(const Attribute &value, Dim &buffer) {
    if (const int64_t *integer = value.get_if<int64_t>()) {
        buffer = Dim(*integer);
        return &buffer;
    }
    return value.get_if<Dim>();
}

} // namespace

Attribute Attribute::dim(const Dim &value) {
    if (value.is_constant())
        return integer(value.constant());
    return Attribute(Variant(std::in_place_type<Dim>, value));
}

Attribute Attribute::dims(const std::vector<Dim> &values) {
    List items;
    items.reserve(values.size());
    for (const Dim &d : values)
        items.push_back(dim(d));
    return list(std::move(items));
}

bool Attribute::is_symbolic() const {
    if (const List *items = get_if<List>()) {
        for (const Attribute &item : *items)
            if (item.is_symbolic())
                return true;
    }
    return get_if<Dim>() != nullptr;
}

Attribute Attribute::evaluate(const std::vector<int64_t> &sizes) const {
    if (const Dim *d = get_if<Dim>())
        return integer(d->evaluate(sizes));
    if (const List *items = get_if<List>()) {
        List out;
        out.reserve(items->size());
        for (const Attribute &item : *items)
            out.push_back(item.evaluate(sizes));
        return list(std::move(out));
    }
    return *this;
}

const Attribute *Attributes::find(std::string_view name) const {
    auto found = items_.find(name);
    return found == items_.end() ? nullptr : &found->second;
}

const Attribute &Attributes::at(std::string_view op, std::string_view name) const {
    if (const Attribute *value = find(name))
        return *value;
    fail(Code::Graph, "%s: attribute '%s' is missing", std::string(op).c_str(), std::string(name).c_str());
}

bool Attributes::boolean(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    if (const bool *flag = value.get_if<bool>())
        return *flag;
    wrong_kind(op, name, value, "true or false");
}

int64_t Attributes::integer(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    if (const int64_t *integer = value.get_if<int64_t>())
        return *integer;
    wrong_kind(op, name, value, "an integer");
}

std::vector<int64_t> Attributes::integers(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    std::vector<int64_t> out;
    const Attribute::List *items = value.get_if<Attribute::List>();
    if (!items)
        wrong_kind(op, name, value, "a list of integers");
    out.reserve(items->size());
    for (const Attribute &item : *items) {
        const int64_t *integer = item.get_if<int64_t>();
        if (!integer)
            wrong_kind(op, name, value, "a list of integers");
        out.push_back(*integer);
    }
    return out;
}

Dim Attributes::dim(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    Dim buffer;
    if (const Dim *d = as_dim(value, buffer))
        return *d;
    wrong_kind(op, name, value, "an integer or a dimension");
}

std::vector<Dim> Attributes::dims(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    const Attribute::List *items = value.get_if<Attribute::List>();
    if (!items)
        wrong_kind(op, name, value, "a list of integers or dimensions");
    std::vector<Dim> out;
    out.reserve(items->size());
    for (const Attribute &item : *items) {
        Dim buffer;
        const Dim *d = as_dim(item, buffer);
        if (!d)
            wrong_kind(op, name, value, "a list of integers or dimensions");
        out.push_back(*d);
    }
    return out;
}

DType Attributes::dtype(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    if (const DType *dtype = value.get_if<DType>())
        return *dtype;
    wrong_kind(op, name, value, "a dtype");
}

const std::string &Attributes::string(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    if (const std::string *text = value.get_if<std::string>())
        return *text;
    wrong_kind(op, name, value, "a string");
}

Scalar Attributes::scalar(std::string_view op, std::string_view name) const {
    const Attribute &value = at(op, name);
    if (const bool *flag = value.get_if<bool>())
        return {*flag ? 1.0 : 0.0, *flag ? 1 : 0, false};
    if (const int64_t *integer = value.get_if<int64_t>())
        return {static_cast<double>(*integer), *integer, false};
    if (const double *real = value.get_if<double>())
        return {*real, 0, true};
    wrong_kind(op, name, value, "a number, true or false");
}

bool Attributes::is_symbolic() const {
    for (const auto &[name, value] : items_)
        if (value.is_symbolic())
            return true;
    return false;
}

Attributes Attributes::evaluate(const std::vector<int64_t> &sizes) const {
    Attributes out;
    for (const auto &[name, value] : items_)
        out.set(name, value.evaluate(sizes));
    return out;
}

} // namespace tessera::graph
