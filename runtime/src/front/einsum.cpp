// Contractions in index notation: tessera/op/einsum.py.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "front/functions.h"

namespace tessera::front {

namespace {

using Labels = std::vector<std::string>; // dimensions of an ellipsis are ".0" (the last), ".1", ...
using Sizes = std::map<std::string, Dim>;

constexpr int64_t typical_size = 64; // what a symbolic size counts for when the order of contractions is chosen

size_t times(const Labels &labels, const std::string &c) {
    return static_cast<size_t>(std::count(labels.begin(), labels.end(), c));
}
bool has(const Labels &labels, const std::string &c) { return times(labels, c) > 0; }

std::string quoted(const std::string &equation) { return "'" + core::shown(equation) + "'"; }

Labels dots(size_t count) {
    Labels out;
    for (size_t i = count; i-- > 0;)
        out.push_back("." + std::to_string(i));
    return out;
}

std::string replaced(std::string text) { // "..." becomes "."
    for (size_t at; (at = text.find("...")) != std::string::npos;)
        text.replace(at, 3, ".");
    return text;
}

Labels letters(const std::string &equation, const std::string &marked, const Labels &ellipsis) {
    Labels labels;
    for (char c : marked) {
        if (c == '.' && std::count(marked.begin(), marked.end(), '.') == 1)
            labels.insert(labels.end(), ellipsis.begin(), ellipsis.end());
        else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
            labels.emplace_back(1, c);
        else
            fail_op(Code::Argument, "einsum",
                    quoted(equation) + ": unexpected '" + core::shown(std::string(1, c)) +
                        "'; use letters, ',', '->' and at most one '...' per term");
    }
    return labels;
}

Labels term(const std::string &equation, const std::string &text, size_t rank, size_t position) {
    const std::string marked = replaced(text);
    const size_t points = static_cast<size_t>(std::count(marked.begin(), marked.end(), '.'));
    const size_t named = marked.size() - points;
    if (named > rank || (points == 0 && named != rank))
        fail_op(Code::Shape, "einsum",
                quoted(equation) + ": term '" + text + "' does not fit operand " + std::to_string(position) +
                    ", which has " + std::to_string(rank) + " dimensions");
    return letters(equation, marked, dots(rank - named));
}

void check_result(const std::string &equation, const std::vector<Labels> &operands, const Labels &result, bool arrow,
                  size_t widest) {
    for (const std::string &c : result) {
        if (std::none_of(operands.begin(), operands.end(), [&](const Labels &l) { return has(l, c); }))
            fail_op(Code::Argument, "einsum", quoted(equation) + ": label '" + c + "' of the result is in no operand");
        if (times(result, c) > 1)
            fail_op(Code::Argument, "einsum", quoted(equation) + ": label '" + c + "' is twice in the result");
    }
    if (arrow && widest && !has(result, dots(widest)[0]))
        fail_op(Code::Argument, "einsum",
                quoted(equation) + ": operands have dimensions under '...', so the result needs '...' too");
}

// The labels of each operand, and of the result last.
std::vector<Labels> parse(const std::string &equation, const Values &of) {
    std::string text;
    for (char c : equation)
        if (c != ' ')
            text += c;
    const size_t arrow = text.find("->");
    const std::string left = text.substr(0, arrow);
    std::vector<std::string> terms(1);
    for (char c : left)
        if (c == ',')
            terms.emplace_back();
        else
            terms.back() += c;
    if (terms.size() != of.size())
        fail_op(Code::Argument, "einsum",
                quoted(equation) + " has " + std::to_string(terms.size()) + " terms for " + std::to_string(of.size()) +
                    " operands");
    std::vector<Labels> operands;
    size_t widest = 0;
    std::map<std::string, size_t> seen;
    for (size_t i = 0; i < terms.size(); ++i) {
        operands.push_back(term(equation, terms[i], of[i].shape().size(), i));
        size_t points = 0;
        for (const std::string &c : operands.back()) {
            ++seen[c];
            points += c[0] == '.';
        }
        widest = std::max(widest, points);
    }
    Labels result;
    if (arrow != std::string::npos) {
        result = letters(equation, replaced(text.substr(arrow + 2)), dots(widest));
    } else {
        result = dots(widest);
        for (const auto &[c, n] : seen)
            if (c[0] != '.' && n == 1)
                result.push_back(c);
    }
    check_result(equation, operands, result, arrow != std::string::npos, widest);
    operands.push_back(result);
    return operands;
}

// The size of each label; a size of 1 broadcasts.
Sizes sizes_of(const std::string &equation, const std::vector<Labels> &labels, const Values &of) {
    Sizes sizes;
    for (size_t k = 0; k < of.size(); ++k)
        for (size_t i = 0; i < labels[k].size(); ++i) {
            const std::string &c = labels[k][i];
            const Dim &d = of[k].shape()[i];
            for (size_t j = 0; j < i; ++j)
                if (labels[k][j] == c && of[k].shape()[j] != d)
                    fail_op(Code::Shape, "einsum",
                            quoted(equation) + ": label '" + c + "' is repeated over different sizes of " +
                                shown_shape(of[k].shape()));
            const Dim have = sizes.emplace(c, d).first->second;
            if (have != d && have != Dim(1) && d != Dim(1))
                fail_op(Code::Shape, "einsum",
                        quoted(equation) + ": " + (c[0] == '.' ? "an ellipsis dimension" : "label '" + c + "'") +
                            " is " + have.text() + " in one operand and " + d.text() + " in another");
            if (have == Dim(1))
                sizes[c] = d;
        }
    return sizes;
}

// A value with a label per dimension.
struct Term {
    Value value;
    Labels labels;

    // Summed over the labels that are in neither list.
    Term summed_to(const std::set<std::string> &kept) const {
        std::vector<int64_t> axes;
        Labels rest;
        for (size_t i = 0; i < labels.size(); ++i)
            if (kept.count(labels[i]))
                rest.push_back(labels[i]);
            else
                axes.push_back(static_cast<int64_t>(i));
        return axes.empty() ? *this : Term{cast_to(total(value, axes, false), value.dtype()), rest};
    }

    Value arranged(const Labels &order) const {
        std::vector<int64_t> perm, same(order.size());
        for (const std::string &c : order)
            perm.push_back(std::find(labels.begin(), labels.end(), c) - labels.begin());
        std::iota(same.begin(), same.end(), 0);
        return perm == same ? value : build("transpose", {value}, {{"perm", ints(perm)}});
    }

    // Without the dimensions of size 1 that broadcast against a larger one.
    Term squeezed(const Sizes &sizes) const {
        Shape shape;
        Labels kept;
        for (size_t i = 0; i < labels.size(); ++i)
            if (value.shape()[i] == sizes.at(labels[i])) {
                shape.push_back(value.shape()[i]);
                kept.push_back(labels[i]);
            }
        return kept.size() == labels.size() ? *this : Term{to_shape(value, shape), kept};
    }
};

// Repeated labels taken along the diagonal, one pair at a time.
Term diagonal(Term t) {
    for (;;) {
        const auto repeated =
            std::find_if(t.labels.begin(), t.labels.end(), [&](const std::string &c) { return times(t.labels,
                                                                                                    c) > 1; });
        if (repeated == t.labels.end())
            return t;
        const int64_t first = repeated - t.labels.begin();
        const int64_t second = std::find(repeated + 1, t.labels.end(), *repeated) - t.labels.begin();
        std::vector<int64_t> perm = {first, second};
        Labels labels = {*repeated};
        for (int64_t i = 0; i < t.value.rank(); ++i)
            if (i != first && i != second) {
                perm.push_back(i);
                labels.push_back(t.labels[static_cast<size_t>(i)]);
            }
        const Value moved = build("transpose", {t.value}, {{"perm", ints(perm)}});
        const Dim n = moved.dim(0);
        const Shape rest(moved.shape().begin() + 2, moved.shape().end());
        const auto with = [&](Shape shape) {
            shape.insert(shape.end(), rest.begin(), rest.end());
            return shape;
        };
        // An n x n matrix, padded to n * (n + 1) elements and cut into rows of n + 1, has element (i, i) first in row
        // i.
        Value flat = to_shape(moved, with({n * n}));
        const Shape none(flat.shape().size(), 0);
        Shape high = none;
        high[0] = n;
        flat = build("pad", {flat},
                     {{"low", dims(none)}, {"high", dims(high)},
                      {"value", core::is_float(flat.dtype()) ? real(0.0) : integer(0)}});
        const Value rows = to_shape(flat, with({n, n + Dim(1)}));
        Shape stop = rows.shape();
        stop[1] = 1;
        const Value column = build("slice", {rows}, {{"start", dims(Shape(stop.size(), 0))}, {"stop", dims(stop)},
                                                     {"step", dims(Shape(stop.size(), 1))}});
        t = {to_shape(column, with({n})), labels};
    }
}

// An estimate of the number of elements.
double weight(const std::set<std::string> &labels, const Sizes &sizes) {
    double out = 1;
    for (const std::string &c : labels) {
        const auto [low, high] = sizes.at(c).bounds();
        out *= low == high ? low : std::max(low, std::min(static_cast<double>(typical_size), high));
    }
    return out;
}

Labels operator+(Labels a, const Labels &b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

// The product of two terms, summed over the labels that nothing else needs.
Term contract(Term a, Term b, const std::set<std::string> &needed, const Sizes &sizes) {
    const auto with_needed = [&](const Labels &labels) {
        std::set<std::string> out = needed;
        out.insert(labels.begin(), labels.end());
        return out;
    };
    a = a.summed_to(with_needed(b.labels));
    b = b.summed_to(with_needed(a.labels));
    Labels batch, inner, rows, columns;
    for (const std::string &c : a.labels)
        (!has(b.labels, c) ? rows : needed.count(c) ? batch : inner).push_back(c);
    for (const std::string &c : b.labels)
        if (!has(a.labels, c))
            columns.push_back(c);
    const auto shape = [&](const Labels &labels) {
        Shape out;
        for (const std::string &c : labels)
            out.push_back(sizes.at(c));
        return out;
    };
    const auto joined = [](Shape x, const Shape &y) {
        x.insert(x.end(), y.begin(), y.end());
        return x;
    };
    const Shape outer = shape(batch);
    if (inner.empty()) {
        const Value left = to_shape(a.arranged(batch + rows), joined(shape(batch + rows), Shape(columns.size(), 1)));
        const Value right = to_shape(b.arranged(batch + columns),
                                     joined(joined(outer, Shape(rows.size(), 1)), shape(columns)));
        return {build("mul", {left, right}), batch + rows + columns};
    }
    const Dim m = core::product(shape(rows)), k = core::product(shape(inner)), n = core::product(shape(columns));
    const Value left = to_shape(a.arranged(batch + rows + inner), joined(outer, {m, k}));
    const Value right = to_shape(b.arranged(batch + inner + columns), joined(outer, {k, n}));
    return {to_shape(build("matmul", {left, right}), joined(outer, shape(rows + columns))), batch + rows + columns};
}

std::set<std::string> labels_but(const std::vector<Term> &terms, size_t i, size_t j, const Labels &result) {
    std::set<std::string> out(result.begin(), result.end());
    for (size_t at = 0; at < terms.size(); ++at)
        if (at != i && at != j)
            out.insert(terms[at].labels.begin(), terms[at].labels.end());
    return out;
}

// The pair whose product is smallest, of those the one with the least work; the first at a tie.
std::pair<size_t, size_t> cheapest(const std::vector<Term> &terms, const Labels &result, const Sizes &sizes) {
    std::pair<size_t, size_t> best{0, 1};
    std::optional<std::pair<double, double>> least;
    for (size_t i = 0; i < terms.size(); ++i)
        for (size_t j = i + 1; j < terms.size(); ++j) {
            std::set<std::string> both(terms[i].labels.begin(), terms[i].labels.end()), kept;
            both.insert(terms[j].labels.begin(), terms[j].labels.end());
            const std::set<std::string> others = labels_but(terms, i, j, result);
            std::set_intersection(both.begin(), both.end(), others.begin(), others.end(),
                                  std::inserter(kept, kept.end()));
            const std::pair<double, double> cost{weight(kept, sizes), weight(both, sizes)};
            if (!least || cost < *least) {
                least = cost;
                best = {i, j};
            }
        }
    return best;
}

Value einsum_body(const Values &of, const Attributes &attrs) {
    const std::string &equation = attrs.string("einsum", "equation");
    for (size_t i = 0; i < of.size(); ++i)
        if (of[i].dtype() == DType::Bool || is_small_float(of[i].dtype()))
            fail_op(Code::DType, "einsum",
                    "operand " + std::to_string(i) + " has dtype " + core::name(of[i].dtype()) +
                        "; expected a number: cast it first");
    require_equal_dtypes("einsum", of);
    std::vector<Labels> labels = parse(equation, of);
    const Labels result = labels.back();
    labels.pop_back();
    const Sizes sizes = sizes_of(equation, labels, of);
    std::vector<Term> terms;
    for (size_t i = 0; i < of.size(); ++i)
        terms.push_back(diagonal({of[i], labels[i]}).squeezed(sizes));
    while (terms.size() > 1) {
        const auto [i, j] = cheapest(terms, result, sizes);
        const Term product = contract(terms[i], terms[j], labels_but(terms, i, j, result), sizes);
        terms.erase(terms.begin() + static_cast<std::ptrdiff_t>(j));
        terms.erase(terms.begin() + static_cast<std::ptrdiff_t>(i));
        terms.insert(terms.begin() + static_cast<std::ptrdiff_t>(i), product);
    }
    return terms[0].summed_to({result.begin(), result.end()}).arranged(result);
}

} // namespace

void define_einsum(Registry &registry) { registry.body("einsum", einsum_body); }

Value einsum(const std::string &equation, const std::vector<Operand> &operands) {
    if (operands.empty())
        fail_op(Code::Argument, "einsum", quoted(equation) + " needs operands");
    std::string compact;
    for (char c : equation)
        if (c != ' ')
            compact += c;
    return build("einsum", promote_operands("einsum", operands), {{"equation", text(compact)}});
}

} // namespace tessera::front
