// Scaled dot-product attention: tessera/op/attention.py.
#include <cmath>
#include <limits>

#include "front/functions.h"
#include "front/gradient.h"

namespace tessera::front {

namespace {

constexpr const char *op = "scaled_dot_product_attention";

Dim from_end(const Shape &shape, size_t i) { return shape[shape.size() - i]; }
Shape leading(const Shape &shape, int64_t dropped) { return Shape(shape.begin(), shape.end() - dropped); }
Shape joined(Shape shape, const Shape &more) {
    shape.insert(shape.end(), more.begin(), more.end());
    return shape;
}

// How many query heads share a key head; 1 when heads are not grouped.
int64_t group_of(const Shape &q, const Shape &k) {
    if (q.size() < 3 || k.size() < 3 || from_end(q, 3) == from_end(k, 3))
        return 1;
    const Dim heads = from_end(q, 3), shared = from_end(k, 3);
    if (!heads.is_constant() || !shared.is_constant())
        return 1;
    const int64_t h = heads.constant(), s = shared.constant();
    return s > 1 && h > s && h % s == 0 ? h / s : 1;
}

void check_heads(const Values &of, int64_t group, const std::string &shapes) {
    const Shape &q = of[0].shape(), &k = of[1].shape(), &v = of[2].shape();
    const bool headed = q.size() > 2 && k.size() > 2;
    const Dim a = headed ? from_end(q, 3) : Dim(1), b = headed ? from_end(k, 3) : Dim(1);
    if (group == 1 && a != b && a != Dim(1) && b != Dim(1))
        fail_op(Code::Shape, op,
                shapes + ": q has " + a.text() + " heads and k " + b.text() +
                    "; they must be equal, or the heads of q a multiple of those of k, both ints");
    if (group > 1 && (v.size() < 3 || from_end(v, 3) != from_end(k, 3)))
        fail_op(Code::Shape, op, shapes + ": k and v must have equally many heads");
}

// The shape of the scores, after the checks.
Shape checked_scores(const Values &of, int64_t group) {
    require_floats(op, {of[0], of[1], of[2]});
    require_equal_dtypes(op, {of[0], of[1], of[2]});
    const char *names[] = {"q", "k", "v"};
    std::string shapes;
    for (size_t i = 0; i < 3; ++i) {
        if (of[i].rank() < 2)
            fail_op(Code::Shape, op,
                    std::string(names[i]) + " has shape " + shown_shape(of[i].shape()) +
                        "; expected (…, heads, length, size)");
        shapes += (i ? ", " : "") + std::string(names[i]) + " " + shown_shape(of[i].shape());
    }
    const Shape &q = of[0].shape(), &k = of[1].shape(), &v = of[2].shape();
    if (q.back() != k.back())
        fail_op(Code::Shape, op,
                shapes + ": the last dimension of q (" + q.back().text() + ") must equal that of k (" +
                    k.back().text() + ")");
    if (from_end(k, 2) != from_end(v, 2))
        fail_op(Code::Shape, op,
                shapes + ": k has " + from_end(k, 2).text() + " positions and v has " + from_end(v, 2).text() +
                    "; they must be equal");
    check_heads(of, group, shapes);
    const int64_t dropped = group > 1 ? 3 : 2;
    Shape batch = broadcast_shapes(op, {leading(q, dropped), leading(k, dropped), leading(v, dropped)});
    if (group > 1)
        batch.push_back(from_end(q, 3));
    return joined(batch, {from_end(q, 2), from_end(k, 2)});
}

void check_mask(const Value &mask, DType dtype, const Shape &scores) {
    if (mask.dtype() != DType::Bool && mask.dtype() != dtype)
        fail_op(Code::DType, op,
                std::string("mask has dtype ") + core::name(mask.dtype()) + "; expected bool (true: attend) or " +
                    core::name(dtype) + " (added to the scores)");
    if (broadcast_shapes(op, {scores, mask.shape()}) != scores)
        fail_op(Code::Shape, op,
                "mask has shape " + shown_shape(mask.shape()) + "; it must broadcast to the scores " +
                    shown_shape(scores));
}

// A mask over (…, heads, L, S) as one over (…, shared heads, group, L, S).
Value grouped_mask(const Value &mask, int64_t group) {
    if (group == 1 || mask.rank() < 3)
        return mask;
    const Dim heads = from_end(mask.shape(), 3);
    const Shape split = heads == Dim(1) ? Shape{1, 1} : Shape{floordiv(heads, Dim(group)), group};
    const Shape tail(mask.shape().end() - 2, mask.shape().end());
    return to_shape(mask, joined(joined(leading(mask.shape(), 3), split), tail));
}

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

Shape tail(const Value &x) { return Shape(x.shape().end() - 2, x.shape().end()); }

// A dimension of size 1 before the last two: one key head for a group of query heads.
Value per_group(const Value &x) { return to_shape(x, joined(joined(leading(x.shape(), 2), {1}), tail(x))); }

// q kᵀ · scale with masks applied; heads that are grouped as (shared heads, group).
Value attention_scores(const Values &of, const Attributes &attrs) {
    Value q = of[0], k = of[1];
    const int64_t group = group_of(q.shape(), k.shape());
    if (group > 1) { // so that a key head meets its queries by broadcasting
        q = to_shape(q, joined(joined(leading(q.shape(), 3), {from_end(k.shape(), 3), group}), tail(q)));
        k = per_group(k);
    }
    Value scores = build("matmul", {widen(q), swap_last(widen(k))}) * attrs.scalar(op, "scale").real;
    if (of.size() > 3) {
        const Value mask = grouped_mask(of[3], group);
        scores = mask.dtype() == DType::Bool ? where(mask, scores, minus_infinity) : scores + widen(mask);
    }
    if (attrs.boolean(op, "causal")) {
        const Shape square(scores.shape().end() - 2, scores.shape().end());
        const Value rows = iota(square, 0, DType::I32), columns = iota(square, 1, DType::I32);
        scores = where(le(columns, rows), scores, minus_infinity);
    }
    return scores;
}

Value attention_body(const Values &of, const Attributes &attrs) {
    const int64_t group = group_of(of[0].shape(), of[1].shape());
    const Shape full = checked_scores(of, group);
    const Shape result_shape = joined(leading(full, 1), {of[2].shape().back()});
    if (of.size() > 3)
        check_mask(of[3], of[0].dtype(), full);
    const Value scores = attention_scores(of, attrs), v = group > 1 ? per_group(of[2]) : of[2];
    const Value weights = build("safe_softmax", {scores}, {{"axis", integer(scores.rank() - 1)}});
    return to_shape(cast_to(build("matmul", {weights, widen(v)}), of[0].dtype()), result_shape);
}

// Attention as two operators that a target may have kernels for: tessera/transform/flash_attention.py.
Values forward_body(const Values &of, const Attributes &attrs) {
    const Value scores = attention_scores(of, attrs);
    const std::vector<int64_t> axis = {scores.rank() - 1};
    const Value top = largest(scores, axis), shift = where(eq(top, minus_infinity), 0, top);
    const Value sums = log(total(exp(scores - shift), axis)) + shift;
    const Value out = build(op, of, attrs);
    return {out, cast_to(to_shape(sums, leading(out.shape(), 1)), DType::F32)};
}

// Operands: q, k, v, result, sums, the result's gradient, perhaps a mask.
Values gradient_body(const Values &of, const Attributes &attrs) {
    Values operands(of.begin(), of.begin() + 3);
    operands.insert(operands.end(), of.begin() + 6, of.end());
    Values found = composite_gradients(build(op, operands, attrs).node, {of[5]});
    found.resize(3);
    return found;
}

// The gradient as one operator; with a mask of numbers, which may have a gradient, it follows from the body.
Values attention_gradient(const NodePtr &node, const Values &g) {
    const Values of = node->operands();
    const bool masked = of.size() > 3;
    if (!g[0] || (masked && of[3].dtype() != DType::Bool))
        return {};
    Values operands(of.begin(), of.begin() + 3);
    for (const Value &v : apply("flash_attention", of, node->attrs))
        operands.push_back(v);
    operands.push_back(g[0]);
    operands.insert(operands.end(), of.begin() + 3, of.end());
    Values found = apply("flash_attention_gradient", operands, node->attrs);
    found.resize(of.size());
    return found;
}

} // namespace

void define_attention(Registry &registry) {
    registry.body(op, attention_body);
    registry.gradient(op, attention_gradient);
    registry.bodies("flash_attention", forward_body);
    registry.bodies("flash_attention_gradient", gradient_body);
}

Value scaled_dot_product_attention(const Operand &q, const Operand &k, const Operand &v, const Operand &mask,
                                   bool causal,
                                   std::optional<double> scale) {
    Values of = promote_operands(op, {q, k, v});
    for (Value &x : of)
        x = as_floating(x);
    if (!mask.is_none()) {
        const Value m = as_tensor(mask, of[0].dtype());
        if (m.dtype() != DType::Bool && !core::is_float(m.dtype()))
            fail_op(Code::DType, op,
                    std::string("mask has dtype ") + core::name(m.dtype()) +
                        "; expected bool (true: attend) or a float (added to the scores)");
        of.push_back(m.dtype() == DType::Bool ? m : cast_to(m, of[0].dtype()));
    }
    if (!scale) {
        const Dim size = of[0].rank() ? of[0].shape().back() : Dim(1);
        if (!size.is_constant())
            fail_op(Code::Argument, op, "the size of a head is symbolic (" + size.text() + "); give scale");
        scale = 1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(size.constant(), 1)));
    }
    return build(op, std::move(of), {{"causal", flag(causal)}, {"scale", real(*scale)}});
}

} // namespace tessera::front
