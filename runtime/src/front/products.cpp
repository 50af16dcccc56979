// Matrix products: tessera/op/matmul.py.
#include <numeric>

#include "front/functions.h"

namespace tessera::front {

namespace {

Shape joined(Shape shape, const Shape &more) {
    shape.insert(shape.end(), more.begin(), more.end());
    return shape;
}

Shape leading(const Shape &shape, int64_t dropped) { return Shape(shape.begin(), shape.end() - dropped); }

Values matmul_gradient(const NodePtr &node, const Values &gs) {
    const Values of = node->operands();
    Value a = of[0], g = gs[0];
    const Value &b = of[1];
    if (!g)
        return {{}, {}};
    const Value to_a = unbroadcast(build("matmul", {g, swap_last(b)}), a.shape());
    if (b.rank() == 2 && a.rank() > 2) { // one product over all rows, instead of one per batch element and a sum
        const Dim rows = core::product(leading(a.shape(), 1));
        a = to_shape(a, {rows, a.shape().back()});
        g = to_shape(g, {rows, g.shape().back()});
    }
    return {to_a, unbroadcast(build("matmul", {swap_last(a), g}), b.shape())};
}

Value linear_body(const Values &of, const Attributes &) {
    const Value &x = of[0], &w = of[1];
    require_floats("linear", of);
    require_equal_dtypes("linear", of);
    const std::string shapes = "x has shape " + shown_shape(x.shape()) + " and w has shape " + shown_shape(w.shape());
    if (w.rank() != 2 || x.rank() < 1)
        fail_op(Code::Shape, "linear", shapes + "; expected x (…, in) and w (in, out)");
    if (x.shape().back() != w.dim(0))
        fail_op(Code::Shape, "linear",
                shapes + ": the last dimension of x (" + x.shape().back().text() + ") must equal the first of w (" +
                    w.dim(0).text() + ")");
    if (of.size() == 3 && of[2].shape() != Shape{w.dim(1)})
        fail_op(Code::Shape, "linear",
                "b has shape " + shown_shape(of[2].shape()) + "; expected " + shown_shape({w.dim(1)}) +
                    ", one per column of w");
    const Shape rows = leading(x.shape(), 1);
    Value y = build("matmul", {to_shape(x, {core::product(rows), x.shape().back()}), w});
    if (of.size() == 3)
        y = build("add", {y, of[2]});
    return to_shape(y, joined(rows, {w.dim(1)}));
}

Values numbers(const char *op, const Operand &a, const Operand &b) {
    const Values operands = promote_operands(op, {a, b});
    if (operands[0].dtype() == DType::Bool)
        fail_op(Code::DType, op, "both operands are bool; cast them to a number dtype, or use logical_and and any");
    return operands;
}

[[noreturn]] void inner_mismatch(const char *op, const Value &x, const Value &y, const Dim &inner, const char *place) {
    fail_op(Code::Shape, op,
            "a has shape " + shown_shape(x.shape()) + " and b has shape " + shown_shape(y.shape()) +
                ": the last dimension of a (" + x.shape().back().text() + ") must equal " + place + " (" +
                inner.text() + ")");
}

bool broadcasts_to(const Shape &from, const Shape &to) {
    if (from.size() > to.size())
        return false;
    for (size_t i = 0; i < from.size(); ++i)
        if (from[i] != Dim(1) && from[i] != to[to.size() - from.size() + i])
            return false;
    return true;
}

} // namespace

void define_products(Registry &registry) {
    registry.gradient("matmul", matmul_gradient);
    registry.body("linear", linear_body);
}

Value swap_last(const Value &x) {
    std::vector<int64_t> perm(x.shape().size());
    std::iota(perm.begin(), perm.end(), 0);
    std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
    return build("transpose", {x}, {{"perm", ints(perm)}});
}

Value matmul(const Operand &a, const Operand &b) {
    const Values of = numbers("matmul", a, b);
    const Value &x = of[0], &y = of[1];
    if (x.rank() == 0 || y.rank() == 0)
        fail_op(Code::Shape, "matmul",
                std::string(x.rank() == 0 ? "a" : "b") +
                    " is a scalar; a matrix product needs at least one dimension: use mul");
    const Dim inner = y.rank() > 1 ? y.dim(y.rank() - 2) : y.dim(0);
    if (x.shape().back() != inner)
        inner_mismatch("matmul", x, y, inner, y.rank() > 1 ? "the second-last of b" : "the length of b");
    const Shape rows = leading(x.shape(), 1);
    const Value right = y.rank() > 1 ? y : to_shape(y, {inner, 1});
    if (right.rank() == 2) { // all leading dimensions of a are rows
        const Value result = build("matmul", {to_shape(x, {core::product(rows), inner}), right});
        return to_shape(result, y.rank() > 1 ? joined(rows, {y.shape().back()}) : rows);
    }
    if (x.rank() > 1)
        return build("matmul", {x, right});
    const Value result = build("matmul", {to_shape(x, {1, inner}), right});
    return to_shape(result, joined(leading(result.shape(), 2), {result.shape().back()}));
}

Value dot(const Operand &a, const Operand &b) {
    const Values of = numbers("dot", a, b);
    const Value &x = of[0], &y = of[1];
    if (x.rank() == 0 || y.rank() == 0)
        return build("mul", {x, y});
    if (y.rank() <= 2)
        return matmul(x, y);
    const int64_t n = y.rank();
    const Dim k = y.dim(n - 2);
    if (x.shape().back() != k)
        inner_mismatch("dot", x, y, k, "the second-last of b");
    const Shape columns = joined(leading(y.shape(), 2), {y.shape().back()});
    std::vector<int64_t> perm = {n - 2};
    for (int64_t i = 0; i < n - 2; ++i)
        perm.push_back(i);
    perm.push_back(n - 1);
    const Value table = to_shape(build("transpose", {y}, {{"perm", ints(perm)}}), {k, core::product(columns)});
    return to_shape(matmul(x, table), joined(leading(x.shape(), 1), columns));
}

Value outer(const Operand &a, const Operand &b) {
    const Values of = promote_operands("outer", {a, b});
    return build("mul", {to_shape(of[0], {of[0].size(), 1}), to_shape(of[1], {1, of[1].size()})});
}

Value linear(const Operand &x, const Operand &w, const Operand &b) {
    return build("linear", promote_operands("linear", b.is_none() ? std::vector<Operand>{x, w}
                                                                  : std::vector<Operand>{x, w, b}));
}

Value scaled_matmul(const Operand &a, const Operand &b, const Operand &scale_a, const Operand &scale_b, DType out_dtype) {
    const char *op = "scaled_matmul";
    const Value x = as_tensor(a), y = as_tensor(b);
    for (const auto &[name, v] : {std::pair("a", x), std::pair("b", y)})
        if (!is_small_float(v.dtype()))
            fail_op(Code::DType, op,
                    std::string(name) + " is " + core::name(v.dtype()) +
                        "; expected f8e4m3 or f8e5m2: divide it by a scale and cast it, or use matmul");
    if (!core::is_float(out_dtype) || is_small_float(out_dtype))
        fail_op(Code::DType, op,
                std::string("out_dtype is ") + core::name(out_dtype) + "; expected f64, f32, bf16 or f16");
    Value total = matmul(cast_to(x, DType::F32), cast_to(y, DType::F32));
    for (const auto &[name, scale, each] :
         {std::tuple("scale_a", scale_a, "row of a"), std::tuple("scale_b", scale_b, "column of b")}) {
        const Value factor = as_tensor(scale, DType::F32);
        if (factor.dtype() != DType::F32)
            fail_op(Code::DType, op,
                    std::string(name) + " is " + core::name(factor.dtype()) + "; expected f32: cast it first");
        if (!broadcasts_to(factor.shape(), total.shape()))
            fail_op(Code::Shape, op,
                    std::string(name) + " has shape " + shown_shape(factor.shape()) +
                        ", which does not broadcast to the product's " + shown_shape(total.shape()) +
                        "; expected one number, or one per " + each);
        total = build("mul", {total, factor});
    }
    return cast_to(total, out_dtype);
}

} // namespace tessera::front
