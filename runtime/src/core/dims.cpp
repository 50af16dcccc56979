#include "core/dims.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/checked.h"
#include "core/error.h"

namespace tessera::core {

// Limits on expressions: far above what programs need, low enough that a hostile text costs little.
namespace {
constexpr size_t max_terms = 1024;
constexpr int max_depth = max_dim_depth;
constexpr size_t max_text = max_dim_text;
} // namespace

enum class Function : uint8_t { None, FloorDiv, Mod, Max, Min };

// A symbol, or a function of two dimensions.
struct Atom {
    SymbolPtr symbol;
    Function function = Function::None;
    Dim a, b;
    std::string text;
    int depth = 0;
};

using AtomPtr = std::shared_ptr<const Atom>;

void Symbol::check(int64_t size, const std::string &where) const {
    if (size >= min && (!max || size <= *max) && size % multiple_of == 0)
        return;
    std::string upper = max ? format(" and at most %lld", static_cast<long long>(*max)) : "";
    std::string multiple =
        multiple_of > 1 ? format(", a multiple of %lld", static_cast<long long>(multiple_of)) : "";
    fail(Code::Shape, "%sdimension %s = %lld is illegal: it must be at least %lld%s%s", where.c_str(), name.c_str(),
         static_cast<long long>(size), static_cast<long long>(min), upper.c_str(), multiple.c_str());
}

bool is_symbol_name(std::string_view name) {
    const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
    if (name.empty() || !letter(name[0]) || name == "max" || name == "min")
        return false;
    return std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

SymbolPtr find_symbol(const SymbolTable &table, std::string_view name) {
    for (const SymbolPtr &s : table)
        if (s->name == name)
            return s;
    return nullptr;
}

namespace {

int64_t floor_division(int64_t a, int64_t b) {
    if (b == 0)
        fail(Code::Shape, "division of a dimension by zero");
    if (b == -1)
        return checked_mul(a, -1);
    int64_t q = a / b;
    return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}

int64_t floor_modulus(int64_t a, int64_t b) {
    if (b == 0)
        fail(Code::Shape, "remainder of a dimension by zero");
    if (b == -1)
        return 0;
    int64_t r = a % b;
    return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}

int64_t apply(Function function, int64_t a, int64_t b) {
    switch (function) {
    case Function::FloorDiv:
        return floor_division(a, b);
    case Function::Mod:
        return floor_modulus(a, b);
    case Function::Max:
        return std::max(a, b);
    default:
        return std::min(a, b);
    }
}

Dim apply(Function function, const Dim &a, const Dim &b) {
    switch (function) {
    case Function::FloorDiv:
        return floordiv(a, b);
    case Function::Mod:
        return mod(a, b);
    case Function::Max:
        return max(a, b);
    default:
        return min(a, b);
    }
}

// The order of terms: higher degree first, then by text, as in dims.py.
std::string monomial_key(const Dim::Monomial &m) {
    std::string out = "(";
    for (size_t i = 0; i < m.size(); ++i)
        out += (i ? ", " : "") + m[i]->text;
    return out + (m.size() == 1 ? ",)" : ")");
}

} // namespace

// Builds dimensions in canonical form; the one place that touches their parts.
struct DimBuilder {
    struct Order {
        bool operator()(const std::pair<size_t, std::string> &x, const std::pair<size_t, std::string> &y) const {
            return x.first != y.first ? x.first > y.first : x.second < y.second;
        }
    };
    std::map<std::pair<size_t, std::string>, Dim::Term, Order> terms;
    int64_t constant = 0;

    void add(const Dim::Monomial &atoms, int64_t coefficient) {
        if (atoms.empty()) {
            constant = checked_add(constant, coefficient);
            return;
        }
        auto [place, fresh] = terms.try_emplace({atoms.size(), monomial_key(atoms)}, Dim::Term{atoms, coefficient});
        if (!fresh)
            place->second.coefficient = checked_add(place->second.coefficient, coefficient);
        if (terms.size() > max_terms)
            fail(Code::Graph, "a dimension with more than %zu terms", max_terms);
    }

    void add(const Dim &d, int64_t factor) {
        for (const Dim::Term &t : d.terms_)
            add(t.atoms, checked_mul(t.coefficient, factor));
        constant = checked_add(constant, checked_mul(d.constant_, factor));
    }

    Dim build() const {
        Dim out(constant);
        for (const auto &[key, term] : terms)
            if (term.coefficient != 0)
                out.terms_.push_back(term);
        return out;
    }

    static Dim atom(AtomPtr a) {
        Dim out;
        out.terms_.push_back({{std::move(a)}, 1});
        return out;
    }

    static const std::vector<Dim::Term> &terms_of(const Dim &d) { return d.terms_; }
    static int64_t constant_of(const Dim &d) { return d.constant_; }

    static int depth(const Dim &d) {
        int out = 0;
        for (const Dim::Term &t : d.terms_)
            for (const AtomPtr &a : t.atoms)
                out = std::max(out, a->depth);
        return out;
    }

    static std::string operand_text(const Dim &d) {
        bool bare = d.terms_.empty() || (d.terms_.size() == 1 && d.constant_ == 0 && d.terms_[0].atoms.size() == 1 &&
                                         d.terms_[0].coefficient == 1);
        return bare ? d.text() : "(" + d.text() + ")";
    }

    static Dim call(Function function, const Dim &a, const Dim &b) {
        auto atom = std::make_shared<Atom>();
        atom->function = function;
        atom->a = a;
        atom->b = b;
        atom->depth = std::max(depth(a), depth(b)) + 1;
        if (atom->depth > max_depth)
            fail(Code::Graph, "a dimension is nested too deeply");
        if (function == Function::Max || function == Function::Min)
            atom->text = (function == Function::Max ? "max(" : "min(") + a.text() + ", " + b.text() + ")";
        else
            atom->text = "(" + operand_text(a) + (function == Function::FloorDiv ? " // " : " % ") + operand_text(b) + ")";
        if (atom->text.size() > max_text)
            fail(Code::Graph, "a dimension's text is longer than %zu bytes", max_text);
        return DimBuilder::atom(std::move(atom));
    }

    // a / b when b is a single term that divides every term of a.
    static std::optional<Dim> divide_exactly(const Dim &a, const Dim &b) {
        if (b.terms_.size() + (b.constant_ != 0) != 1)
            return std::nullopt;
        Dim::Term divisor = b.terms_.empty() ? Dim::Term{{}, b.constant_} : b.terms_[0];
        DimBuilder out;
        auto divide = [&](Dim::Monomial rest, int64_t coefficient) {
            for (const AtomPtr &atom : divisor.atoms) {
                auto place = std::find_if(rest.begin(), rest.end(), [&](const AtomPtr &x) { return x->text == atom->text; });
                if (place == rest.end())
                    return false;
                rest.erase(place);
            }
            if (floor_modulus(coefficient, divisor.coefficient) != 0)
                return false;
            out.add(rest, floor_division(coefficient, divisor.coefficient));
            return true;
        };
        for (const Dim::Term &t : a.terms_)
            if (!divide(t.atoms, t.coefficient))
                return std::nullopt;
        if (a.constant_ != 0 && !divide({}, a.constant_))
            return std::nullopt;
        return out.build();
    }

    // Terms of `a` that b divides (whole) or does not divide (rest); the constant is split into both.
    static void split(const Dim &a, int64_t b, DimBuilder &whole, DimBuilder &rest) {
        for (const Dim::Term &t : a.terms_)
            (floor_modulus(t.coefficient, b) == 0 ? whole : rest).add(t.atoms, t.coefficient);
        int64_t left = floor_modulus(a.constant_, b);
        whole.add(Dim::Monomial{}, checked_add(a.constant_, -left));
        rest.add(Dim::Monomial{}, left);
    }

    static Dim substitute(const Dim &d, const std::function<Dim(const AtomPtr &)> &replace) {
        Dim out(d.constant_);
        for (const Dim::Term &t : d.terms_) {
            Dim term(t.coefficient);
            for (const AtomPtr &a : t.atoms)
                term = term * (a->symbol ? replace(a)
                                         : apply(a->function, substitute(a->a, replace), substitute(a->b, replace)));
            out = out + term;
        }
        return out;
    }

    template <class Lookup> static int64_t evaluate(const Dim &d, const Lookup &lookup) {
        int64_t out = d.constant_;
        for (const Dim::Term &t : d.terms_) {
            int64_t term = t.coefficient;
            for (const AtomPtr &a : t.atoms)
                term = checked_mul(term, a->symbol ? lookup(*a->symbol)
                                                   : apply(a->function, evaluate(a->a, lookup), evaluate(a->b, lookup)));
            out = checked_add(out, term);
        }
        return out;
    }

    static void collect(const Dim &d, SymbolTable &found) {
        for (const Dim::Term &t : d.terms_)
            for (const AtomPtr &a : t.atoms) {
                if (!a->symbol) {
                    collect(a->a, found);
                    collect(a->b, found);
                } else if (!find_symbol(found, a->symbol->name)) {
                    found.push_back(a->symbol);
                }
            }
    }
};

Dim Dim::symbol(SymbolPtr symbol) {
    auto atom = std::make_shared<Atom>();
    atom->text = symbol->name;
    atom->symbol = std::move(symbol);
    return DimBuilder::atom(std::move(atom));
}

std::string Dim::text() const {
    if (terms_.empty())
        return std::to_string(constant_);
    std::string out;
    auto append = [&](bool negative, const std::string &text) {
        out += out.empty() ? (negative ? "-" : "") : (negative ? " - " : " + ");
        out += text;
    };
    for (const Term &t : terms_) {
        uint64_t magnitude = t.coefficient < 0 ? 0 - static_cast<uint64_t>(t.coefficient) : static_cast<uint64_t>(t.coefficient);
        std::string text = magnitude == 1 ? "" : std::to_string(magnitude);
        for (const AtomPtr &a : t.atoms)
            text += (text.empty() ? "" : "*") + a->text;
        append(t.coefficient < 0, text);
    }
    if (constant_ != 0) {
        uint64_t magnitude = constant_ < 0 ? 0 - static_cast<uint64_t>(constant_) : static_cast<uint64_t>(constant_);
        append(constant_ < 0, std::to_string(magnitude));
    }
    return out;
}

int64_t Dim::evaluate(const Sizes &sizes) const {
    return DimBuilder::evaluate(*this, [&](const Symbol &s) {
        auto place = sizes.find(s.name);
        if (place == sizes.end())
            fail(Code::NameMissing, "no size is given for the symbolic dimension '%s'", s.name.c_str());
        return place->second;
    });
}

int64_t Dim::evaluate(const std::vector<int64_t> &sizes) const {
    if (terms_.empty())
        return constant_;
    return DimBuilder::evaluate(*this, [&](const Symbol &s) { return sizes[static_cast<size_t>(s.index)]; });
}

Dim Dim::substitute(const std::map<std::string, Dim, std::less<>> &values) const {
    return DimBuilder::substitute(*this, [&](const AtomPtr &a) {
        auto place = values.find(a->symbol->name);
        return place == values.end() ? DimBuilder::atom(a) : place->second;
    });
}

SymbolTable Dim::symbols() const {
    SymbolTable found;
    DimBuilder::collect(*this, found);
    return found;
}

Dim operator+(const Dim &a, const Dim &b) {
    if (a.is_constant() && b.is_constant())
        return Dim(checked_add(a.constant_, b.constant_));
    DimBuilder out;
    out.add(a, 1);
    out.add(b, 1);
    return out.build();
}

Dim operator-(const Dim &a, const Dim &b) {
    DimBuilder out;
    out.add(a, 1);
    out.add(b, -1);
    return out.build();
}

Dim operator*(const Dim &a, const Dim &b) {
    if (a.is_constant() && b.is_constant())
        return Dim(checked_mul(a.constant_, b.constant_));
    if ((a.terms_.size() + 1) * (b.terms_.size() + 1) > 64 * max_terms)
        fail(Code::Graph, "a dimension with more than %zu terms", max_terms);
    DimBuilder out;
    auto multiply = [&](const Dim::Monomial &x, int64_t cx, const Dim::Monomial &y, int64_t cy) {
        if (cx == 0 || cy == 0)
            return;
        Dim::Monomial atoms = x;
        atoms.insert(atoms.end(), y.begin(), y.end());
        if (atoms.size() > static_cast<size_t>(max_depth))
            fail(Code::Graph, "a dimension of a degree above %d", max_depth);
        std::stable_sort(atoms.begin(), atoms.end(), [](const AtomPtr &p, const AtomPtr &q) { return p->text < q->text; });
        out.add(atoms, checked_mul(cx, cy));
    };
    auto multiply_row = [&](const Dim::Monomial &x, int64_t cx) {
        for (const Dim::Term &t : b.terms_)
            multiply(x, cx, t.atoms, t.coefficient);
        multiply(x, cx, {}, b.constant_);
    };
    for (const Dim::Term &t : a.terms_)
        multiply_row(t.atoms, t.coefficient);
    multiply_row({}, a.constant_);
    return out.build();
}

bool operator==(const Dim &a, const Dim &b) {
    if (a.constant_ != b.constant_ || a.terms_.size() != b.terms_.size())
        return false;
    for (size_t i = 0; i < a.terms_.size(); ++i) {
        const Dim::Term &x = a.terms_[i], &y = b.terms_[i];
        if (x.coefficient != y.coefficient || x.atoms.size() != y.atoms.size())
            return false;
        for (size_t k = 0; k < x.atoms.size(); ++k)
            if (x.atoms[k] != y.atoms[k] && x.atoms[k]->text != y.atoms[k]->text)
                return false;
    }
    return true;
}

__extension__ using Wide = __int128;

bool Dim::is_multiple(int64_t b) const {
    if (floor_modulus(constant_, b) != 0)
        return false;
    for (const Term &t : terms_) {
        // Remainders are multiplied, in 128 bits: the product itself may not fit.
        Wide factor = floor_modulus(t.coefficient, b);
        for (const AtomPtr &a : t.atoms)
            if (a->symbol)
                factor = factor * floor_modulus(a->symbol->multiple_of, b) % b;
        if (factor % b != 0)
            return false;
    }
    return true;
}

Dim floordiv(const Dim &a, const Dim &b) {
    if (b == Dim(0))
        fail(Code::Shape, "division of the dimension %s by zero", a.text().c_str());
    if (a.is_constant() && b.is_constant())
        return Dim(floor_division(a.constant(), b.constant()));
    if (a == b)
        return 1;
    if (auto exact = DimBuilder::divide_exactly(a, b))
        return *exact;
    auto [low, high] = a.bounds();
    if (low >= 0 && high < b.bounds().first)
        return 0;
    if (b.is_constant()) { // split off the terms that b divides: (b*q + r) // b = q + r // b
        DimBuilder whole, rest;
        DimBuilder::split(a, b.constant(), whole, rest);
        Dim w = whole.build(), r = rest.build();
        if (w != Dim(0) && r != Dim(0))
            return *DimBuilder::divide_exactly(w, b) + floordiv(r, b);
    }
    return DimBuilder::call(Function::FloorDiv, a, b);
}

Dim mod(const Dim &a, const Dim &b) {
    if (b == Dim(0))
        fail(Code::Shape, "remainder of the dimension %s by zero", a.text().c_str());
    if (a.is_constant() && b.is_constant())
        return Dim(floor_modulus(a.constant(), b.constant()));
    if (a == b || DimBuilder::divide_exactly(a, b))
        return 0;
    if (b.is_constant() && a.is_multiple(b.constant()))
        return 0;
    auto [low, high] = a.bounds();
    if (low >= 0 && high < b.bounds().first)
        return a;
    if (b.is_constant()) {
        DimBuilder whole, rest;
        DimBuilder::split(a, b.constant(), whole, rest);
        Dim r = rest.build();
        if (r != a)
            return mod(r, b);
    }
    return DimBuilder::call(Function::Mod, a, b);
}

namespace {

Dim extremum(Function function, const Dim &a, const Dim &b) {
    if (a.is_constant() && b.is_constant())
        return apply(function, a.constant(), b.constant());
    auto [low, high] = (a - b).bounds();
    if (low >= 0)
        return function == Function::Max ? a : b;
    if (high <= 0)
        return function == Function::Max ? b : a;
    return b.text() < a.text() ? DimBuilder::call(function, b, a) : DimBuilder::call(function, a, b);
}

constexpr double infinity = std::numeric_limits<double>::infinity();

double times(double x, double y) { return x == 0 || y == 0 ? 0 : x * y; }

std::pair<double, double> atom_bounds(const Atom &atom) {
    if (atom.symbol)
        return {static_cast<double>(atom.symbol->min),
                atom.symbol->max ? static_cast<double>(*atom.symbol->max) : infinity};
    auto [al, ah] = atom.a.bounds();
    auto [bl, bh] = atom.b.bounds();
    if (atom.function == Function::Max)
        return {std::max(al, bl), std::max(ah, bh)};
    if (atom.function == Function::Min)
        return {std::min(al, bl), std::min(ah, bh)};
    if (bl <= 0)
        return {-infinity, infinity};
    if (atom.function == Function::Mod)
        return {0, al >= 0 ? std::min(bh - 1, ah) : bh - 1};
    double low = al >= 0 ? (bh != infinity ? std::floor(al / bh) : 0) : (al != -infinity ? std::floor(al / bl) : al);
    double high = ah == infinity ? ah : ah >= 0 ? std::floor(ah / bl) : bh != infinity ? std::floor(ah / bh) : -1;
    return {low, high};
}

} // namespace

Dim max(const Dim &a, const Dim &b) { return extremum(Function::Max, a, b); }
Dim min(const Dim &a, const Dim &b) { return extremum(Function::Min, a, b); }

std::pair<double, double> Dim::bounds() const {
    double low = static_cast<double>(constant_), high = low;
    for (const Term &t : terms_) {
        double ml = 1, mh = 1;
        for (const AtomPtr &atom : t.atoms) {
            auto [al, ah] = atom_bounds(*atom);
            double corners[] = {times(ml, al), times(ml, ah), times(mh, al), times(mh, ah)};
            ml = *std::min_element(corners, corners + 4);
            mh = *std::max_element(corners, corners + 4);
        }
        double c = static_cast<double>(t.coefficient);
        low += std::min(times(c, ml), times(c, mh));
        high += std::max(times(c, ml), times(c, mh));
    }
    return {low, high};
}

namespace {

// Beyond the bounds: min(a, b) <= a, min(a, b) <= b and the like for an atom that stands alone in a term (where it lowers
// the value one bound is enough, where it raises it both must hold; max the other way round), and
// a - b < b * (a // b) <= a for an integer b > 0. `steps` bounds the work on a hostile text.
bool nonnegative(const Dim &d, int &steps) {
    if (--steps < 0)
        return false;
    if (d.bounds().first >= 0)
        return true;
    // Where both must hold first: either may need another bound of the rest.
    for (const bool one_is_enough : {false, true})
        for (const Dim::Term &t : DimBuilder::terms_of(d)) {
            if (t.atoms.size() != 1 || t.atoms[0]->symbol)
                continue;
            const Atom &atom = *t.atoms[0];
            if (atom.function != Function::Min && atom.function != Function::Max)
                continue;
            if (one_is_enough != ((t.coefficient < 0) == (atom.function == Function::Min)))
                continue;
            const Dim rest = d - Dim(t.coefficient) * DimBuilder::atom(t.atoms[0]);
            const bool first = nonnegative(rest + Dim(t.coefficient) * atom.a, steps);
            return first == one_is_enough ? first : nonnegative(rest + Dim(t.coefficient) * atom.b, steps);
        }
    for (const Dim::Term &t : DimBuilder::terms_of(d)) {
        if (t.atoms.size() != 1 || t.atoms[0]->symbol)
            continue;
        const Atom &atom = *t.atoms[0];
        if (atom.function == Function::FloorDiv && atom.b.is_constant() && atom.b.constant() > 0) {
            const Dim rest = d - Dim(t.coefficient) * DimBuilder::atom(t.atoms[0]);
            const Dim least = t.coefficient < 0 ? atom.a : atom.a + Dim(1) - atom.b;
            return nonnegative(rest * atom.b + least * Dim(t.coefficient), steps);
        }
    }
    return false;
}

} // namespace

bool Dim::is_nonnegative() const {
    int steps = 256;
    try {
        return nonnegative(*this, steps);
    } catch (const Error &) { // coefficients beyond 64 bits on the way prove nothing
        return false;
    }
}

Dim ceildiv(const Dim &a, const Dim &b) { return floordiv(a + b - Dim(1), b); }

Dim product(const std::vector<Dim> &dims) {
    Dim out(1);
    for (const Dim &d : dims)
        out = out * d;
    return out;
}

std::string shape_text(const std::vector<Dim> &shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); ++i)
        out += (i ? ", " : "") + shape[i].text();
    return out + "]";
}

} // namespace tessera::core
