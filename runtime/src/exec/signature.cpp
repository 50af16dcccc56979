#include "exec/signature.h"

#include <optional>

#include "core/error.h"

namespace tessera::core {

namespace {

using Number = long long;

int64_t difference(int64_t a, int64_t b) {
    int64_t out;
    if (__builtin_sub_overflow(a, b, &out))
        fail(Code::Shape, "%lld - %lld does not fit in 64 bits", Number(a), Number(b));
    return out;
}

// The sizes found so far, and where each was found.
struct Solution {
    struct Found {
        int64_t size;
        std::string where;
    };
    std::vector<std::optional<Found>> found;
};

std::string names_of(const std::vector<TensorSpec> &list) {
    std::string out;
    for (const TensorSpec &s : list)
        out += (out.empty() ? "" : ", ") + s.name;
    return out.empty() ? "none" : out;
}

[[noreturn]] void fail_shape(const TensorSpec &spec, const Tensor &given, const std::string &why) {
    fail(Code::Shape, "input '%s': expected shape %s, got %s: %s", spec.name.c_str(), shape_text(spec.shape).c_str(),
         shape_text(given.shape()).c_str(), why.c_str());
}

// The symbol and the size that make a*symbol + c equal to `size`, for a dimension of that form.
struct Linear {
    SymbolPtr symbol;
    int64_t factor, offset;
};

std::optional<Linear> linear(const Dim &d) {
    SymbolTable symbols = d.symbols();
    if (symbols.size() != 1)
        return std::nullopt;
    auto at = [&](int64_t size) { return d.evaluate(Sizes{{symbols[0]->name, size}}); };
    try {
        int64_t c = at(0), a = difference(at(1), c);
        // A canonical expression equal to a*s + c is that polynomial.
        if (a <= 0 || d != Dim(a) * Dim::symbol(symbols[0]) + Dim(c))
            return std::nullopt;
        return Linear{symbols[0], a, c};
    } catch (const Error &) { // not defined at 0 or 1, such as 8 // B, or too large there
        return std::nullopt;
    }
}

void match(const TensorSpec &spec, const Tensor &given, size_t axis, Solution &solution) {
    const Dim &d = spec.shape[axis];
    int64_t size = given.shape()[axis];
    if (d.is_constant()) {
        if (d.constant() != size)
            fail_shape(spec, given, format("dimension %zu must be %lld", axis, Number(d.constant())));
        return;
    }
    std::optional<Linear> form = linear(d);
    if (!form)
        return; // compared when all sizes are known
    int64_t rest = difference(size, form->offset);
    if (rest % form->factor != 0 || rest < 0)
        fail_shape(spec, given, format("dimension %zu must be %s", axis, d.text().c_str()));
    int64_t value = rest / form->factor;
    std::string where = format("dimension %zu of input '%s'", axis, spec.name.c_str());
    auto &found = solution.found[static_cast<size_t>(form->symbol->index)];
    if (found && found->size != value)
        fail(Code::Shape, "input '%s': expected shape %s, got %s: dimension %s is %lld here but %lld in %s",
             spec.name.c_str(), shape_text(spec.shape).c_str(), shape_text(given.shape()).c_str(),
             form->symbol->name.c_str(), Number(value), Number(found->size), found->where.c_str());
    if (!found) {
        form->symbol->check(value, format("input '%s': ", spec.name.c_str()));
        found = Solution::Found{value, where};
    }
}

} // namespace

std::vector<int64_t> TensorSpec::concrete_shape(const std::vector<int64_t> &sizes) const {
    std::vector<int64_t> out;
    out.reserve(shape.size());
    for (const Dim &d : shape)
        out.push_back(d.evaluate(sizes));
    return out;
}

bool TensorSpec::is_symbolic() const {
    for (const Dim &d : shape)
        if (!d.is_constant())
            return true;
    return false;
}

size_t Signature::find(const std::vector<TensorSpec> &list, std::string_view name, const char *kind) {
    for (size_t i = 0; i < list.size(); ++i)
        if (list[i].name == name)
            return i;
    fail(Code::NameMissing, "there is no %s '%s'; the %ss are: %s", kind, shown(std::string(name)).c_str(), kind,
         names_of(list).c_str());
}

void Signature::give(std::string_view name, int64_t size) {
    for (size_t i = 0; i < symbols.size(); ++i)
        if (symbols[i]->name == name) {
            symbols[i]->check(size);
            given_sizes.resize(symbols.size());
            given_sizes[i] = size;
            return;
        }
    fail(Code::NameMissing, "there is no symbolic dimension '%s'", shown(std::string(name)).c_str());
}

std::vector<int64_t> Signature::solve(const Tensor *const *given, size_t count) const {
    if (count < inputs.size())
        fail(Code::NameMissing, "input '%s' is missing: %zu inputs are needed (%s), %zu are given",
             inputs[count].name.c_str(), inputs.size(), names_of(inputs).c_str(), count);
    if (count > inputs.size())
        fail(Code::Argument, "%zu inputs are given, %zu are expected: %s", count, inputs.size(), names_of(inputs).c_str());
    Solution solution;
    solution.found.resize(symbols.size());
    for (size_t i = 0; i < given_sizes.size(); ++i)
        if (given_sizes[i])
            solution.found[i] = Solution::Found{*given_sizes[i], "the size that was given"};
    for (size_t i = 0; i < count; ++i) {
        const TensorSpec &spec = inputs[i];
        const Tensor &t = *given[i];
        if (t.dtype() != spec.dtype)
            fail(Code::DType, "input '%s': expected %s, got %s", spec.name.c_str(), spec.type().c_str(),
                 type_text(t.dtype(), t.shape()).c_str());
        if (t.shape().size() != spec.shape.size())
            fail_shape(spec, t, format("the rank must be %zu", spec.shape.size()));
        for (size_t axis = 0; axis < spec.shape.size(); ++axis)
            match(spec, t, axis, solution);
    }
    std::vector<int64_t> sizes;
    for (size_t i = 0; i < symbols.size(); ++i) {
        if (!solution.found[i])
            fail(Code::Shape, "no input gives the size of the symbolic dimension %s", symbols[i]->name.c_str());
        sizes.push_back(solution.found[i]->size);
    }
    for (size_t i = 0; i < count; ++i)
        if (std::vector<int64_t> expected = inputs[i].concrete_shape(sizes); expected != given[i]->shape())
            fail_shape(inputs[i], *given[i], "with the sizes of the other inputs it must be " + shape_text(expected));
    check_sizes(sizes);
    return sizes;
}

std::vector<int64_t> Signature::sizes_by_name(const Sizes &given) const {
    std::vector<int64_t> sizes;
    for (const SymbolPtr &s : symbols) {
        auto place = given.find(s->name);
        if (place == given.end())
            fail(Code::NameMissing, "no size is given for the symbolic dimension '%s'", s->name.c_str());
        s->check(place->second);
        sizes.push_back(place->second);
    }
    for (const auto &[name, size] : given)
        if (!find_symbol(symbols, name))
            fail(Code::NameMissing, "there is no symbolic dimension '%s'", shown(name).c_str());
    check_sizes(sizes);
    return sizes;
}

void Signature::check_sizes(const std::vector<int64_t> &sizes) const {
    for (const SizeCheck &c : checks)
        if (int64_t value = c.expr.evaluate(sizes); value < c.min)
            fail(Code::Shape, "%s (%s is %lld, at least %lld is needed)%s%s", c.message.c_str(), c.expr.text().c_str(),
                 Number(value), Number(c.min), c.loc.empty() ? "" : " at ", c.loc.c_str());
}

} // namespace tessera::core
