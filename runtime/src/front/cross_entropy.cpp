// cross_entropy with index or soft labels, and nll_loss: tessera/op/cross_entropy.py. A label meets its class by
// comparing it with the class number: no one-hot matrix, gather or scatter.
#include "front/functions.h"
#include "front/rows.h"

namespace tessera::front {

namespace {

Shape kept(Shape shape, int64_t axis) {
    shape[static_cast<size_t>(axis)] = 1;
    return shape;
}

Shape dropped(Shape shape, int64_t axis) {
    shape.erase(shape.begin() + axis);
    return shape;
}

// A vector over the classes, wide, aligned with the axis.
Value along_axis(const Value &vector, int64_t rank, int64_t axis) {
    Shape shape = {vector.dim(0)};
    shape.insert(shape.end(), static_cast<size_t>(rank - axis - 1), Dim(1));
    return to_shape(widen(vector), shape);
}

void check_scores(const char *name, const Values &of, int64_t axis, const Attributes &attrs) {
    const Value &scores = of[0];
    require_floats(name, {scores});
    require_reduction(name, attrs.string(name, "reduction"));
    if (scores.dim(axis) == Dim(0))
        fail_op(Code::Shape, name,
                "the scores have shape " + shown_shape(scores.shape()) + ": there are no classes along axis " +
                    std::to_string(axis));
    if (of.size() < 3)
        return;
    require_equal_dtypes(name, {scores, of[2]});
    if (of[2].shape() != Shape{scores.dim(axis)})
        fail_op(Code::Shape, name,
                "weight has shape " + shown_shape(of[2].shape()) + "; expected " + shown_shape({scores.dim(axis)}) +
                    ", one per class");
}

void check_labels(const char *name, const Values &of, int64_t axis) {
    const Shape expected = dropped(of[0].shape(), axis);
    if (of[1].shape() != expected)
        fail_op(Code::Shape, name,
                "the scores have shape " + shown_shape(of[0].shape()) + " and the labels " +
                    shown_shape(of[1].shape()) + "; expected labels " + shown_shape(expected) +
                    ", the scores without the class axis " + std::to_string(axis) +
                    (of[1].shape() == of[0].shape() ? "; soft labels are floats: cast them" : ""));
}

// What forward and gradient share: per row (class axis kept, size 1) the labels' matches, validity and weight.
struct Rows {
    Rows(const char *name, const Values &of, const Attributes &attrs)
        : axis(attrs.integer(name, "axis")), reduction(attrs.string(name, "reduction")) {
        const Value &scores = of[0];
        const Dim classes = scores.dim(axis);
        const int64_t ignore = attrs.integer(name, "ignore_index");
        const Value labels = check_range(of[1], 0, classes - Dim(1), ignore, "label");
        const Value rows = to_shape(labels, kept(scores.shape(), axis));
        labels_shape = labels.shape();
        valid = ne(rows, ignore);
        Shape shape = {classes};
        shape.insert(shape.end(), static_cast<size_t>(scores.rank() - axis - 1), Dim(1));
        const Value numbers = build("iota", {}, {{"shape", dims(shape)}, {"axis", integer(0)}, {"dtype",
                                                                                                kind(DType::I32)}});
        matches = eq(cast_to(rows, DType::I32), numbers);
        if (of.size() > 2) {
            class_weight = along_axis(of[2], scores.rank(), axis);
            row_weight = pick(class_weight);
        }
    }

    // The element of x (over the classes) at each row's label; 0 where there is none.
    Value pick(const Value &x) const { return total(where(matches, x, 0), {axis}); }
    Value weighted(const Value &rows) const { return row_weight ? rows * row_weight : rows; }
    // What `mean` divides by: the number, or total weight, of the labels that are not ignored.
    Value denominator(const Value &like) const {
        const std::vector<int64_t> axes = every_axis(valid);
        if (!row_weight)
            return cast_to(total(valid, axes, false), like.dtype());
        return total(where(valid, row_weight, 0), axes, false);
    }
    // The loss from each row's: zero where ignored.
    Value reduce(const Value &each) const {
        const Value rows = where(valid, each, 0);
        if (reduction == "none")
            return to_shape(rows, labels_shape);
        const Value summed = total(rows, every_axis(rows), false);
        return reduction == "mean" ? summed / denominator(rows) : summed;
    }
    // The cotangent of each row's loss.
    Value scale(Value g) const {
        if (reduction == "none")
            g = to_shape(g, valid.shape());
        else if (reduction == "mean")
            g = g / denominator(g);
        return where(valid, g, 0);
    }
    Value over_rows(const Value &contribution) const {
        return total(contribution, axes_but(contribution, axis), false);
    }
    // What each row's loss per weight contributes to the gradient of its label's weight: a mean divides by the total
    // weight, so that only what lies above the mean counts.
    Value above_mean(const Value &rows, const Value &loss) const {
        return reduction == "mean" ? rows - widen(loss) : rows;
    }

    int64_t axis;
    std::string reduction;
    Shape labels_shape;
    Value valid, matches, class_weight, row_weight;
};

// ---- Index labels ----

Value cross_entropy_body(const Values &of, const Attributes &attrs) {
    const char *name = "cross_entropy";
    const int64_t axis = one_axis(name, attrs.integer(name, "axis"), of[0].rank());
    check_scores(name, of, axis, attrs);
    check_labels(name, of, axis);
    const Rows rows(name, of, attrs);
    const double smoothing = attrs.scalar(name, "label_smoothing").real;
    const Shifted x = shifted_exponentials(widen(of[0]), axis);
    const Value log_s = log(x.s);
    Value loss = rows.weighted(log_s - rows.pick(x.d));
    if (smoothing != 0) {
        const Value every = rows.class_weight ? (log_s - x.d) * rows.class_weight : log_s - x.d;
        const Value part = smoothing / count({of[0].dim(axis)}, log_s.dtype());
        loss = loss * (1.0 - smoothing) + total(every, {axis}) * part;
    }
    return cast_to(rows.reduce(loss), of[0].dtype());
}

Values cross_entropy_gradient(const NodePtr &node, const Values &gs) {
    const char *name = "cross_entropy";
    const Values of = node->operands();
    const Value &logits = of[0], g = gs[0];
    const Rows rows(name, of, node->attrs);
    const double smoothing = node->attrs.scalar(name, "label_smoothing").real;
    const int64_t axis = rows.axis;
    const Shifted x = shifted_exponentials(widen(logits), axis);
    const Value scale = rows.scale(widen(g));
    Value at_label = rows.weighted(scale), at_all = at_label, of_rest, part;
    if (smoothing != 0) {
        part = smoothing / count({logits.dim(axis)}, scale.dtype()) * scale;
        at_label = at_label * (1.0 - smoothing);
        if (!rows.class_weight) {
            at_all = scale;
            of_rest = part;
        } else {
            at_all = at_label + part * total(rows.class_weight, {0});
            of_rest = part * rows.class_weight;
        }
    }
    Value to_logits = x.e * (at_all * reciprocal(x.s)) - where(rows.matches, at_label, 0);
    if (of_rest)
        to_logits = to_logits - of_rest;
    Values found = {cast_to(to_logits, logits.dtype()), {}};
    if (of.size() > 2) {
        const Value log_s = log(x.s);
        const Value share = scale * rows.above_mean((log_s - rows.pick(x.d)) * (1.0 - smoothing), node->result());
        Value contribution = where(rows.matches, share, 0);
        if (part)
            contribution = contribution + part * (log_s - x.d);
        found.push_back(cast_to(rows.over_rows(contribution), of[2].dtype()));
    }
    return found;
}

// ---- Soft labels ----

// The labels after smoothing, times the class weights.
Value soft_target(const Value &target, const Value &weight, double smoothing, int64_t axis) {
    Value wide = widen(target);
    if (smoothing != 0)
        wide = wide * (1.0 - smoothing) + smoothing / count({target.dim(axis)}, wide.dtype());
    return weight ? wide * along_axis(weight, target.rank(), axis) : wide;
}

Value soft_body(const Values &of, const Attributes &attrs) {
    const char *name = "soft_cross_entropy";
    const Value &logits = of[0];
    const int64_t axis = one_axis("cross_entropy", attrs.integer(name, "axis"), logits.rank());
    require_floats("cross_entropy", of);
    require_equal_dtypes("cross_entropy", of);
    check_scores("cross_entropy", of, axis, attrs);
    if (of[1].shape() != logits.shape())
        fail_op(Code::Shape, "cross_entropy",
                "logits have shape " + shown_shape(logits.shape()) + ", float labels " + shown_shape(of[1].shape()) +
                    "; soft labels need the shape of the logits, index labels an integer dtype");
    const std::string &reduction = attrs.string(name, "reduction");
    const Shifted x = shifted_exponentials(widen(logits), axis);
    const Value t = soft_target(of[1], of.size() > 2 ? of[2] : Value(), attrs.scalar(name, "label_smoothing").real,
                                axis);
    const Value rows = total((log(x.s) - x.d) * t, {axis});
    if (reduction == "none")
        return cast_to(to_shape(rows, dropped(logits.shape(), axis)), logits.dtype());
    const Value summed = total(rows, every_axis(rows), false);
    return cast_to(reduction == "mean" ? summed / count(rows.shape(), rows.dtype()) : summed, logits.dtype());
}

Values soft_gradient(const NodePtr &node, const Values &gs) {
    const char *name = "soft_cross_entropy";
    const Values of = node->operands();
    const Value &logits = of[0], &target = of[1], weight = of.size() > 2 ? of[2] : Value();
    const double smoothing = node->attrs.scalar(name, "label_smoothing").real;
    const int64_t axis = node->attrs.integer(name, "axis");
    const std::string &reduction = node->attrs.string(name, "reduction");
    const Shape rows = kept(logits.shape(), axis);
    Value scale = widen(gs[0]);
    if (reduction == "mean")
        scale = scale / count(rows, scale.dtype());
    else if (reduction == "none")
        scale = to_shape(scale, rows);
    const Shifted x = shifted_exponentials(widen(logits), axis);
    const Value t = soft_target(target, weight, smoothing, axis);
    const Value cost = (log(x.s) - x.d) * scale;
    Value to_target = cost * (1.0 - smoothing);
    if (weight)
        to_target = to_target * along_axis(weight, logits.rank(), axis);
    Values found = {cast_to((x.e * (total(t, {axis}) * reciprocal(x.s)) - t) * scale, logits.dtype()),
                    cast_to(to_target, target.dtype())};
    if (weight) {
        const Value to_weight =
            total(cost * soft_target(target, {}, smoothing, axis), axes_but(logits, axis), false);
        found.push_back(cast_to(to_weight, weight.dtype()));
    }
    return found;
}

// ---- nll_loss ----

Value nll_body(const Values &of, const Attributes &attrs) {
    const int64_t axis = one_axis("nll_loss", attrs.integer("nll_loss", "axis"), of[0].rank());
    check_scores("nll_loss", of, axis, attrs);
    check_labels("nll_loss", of, axis);
    const Rows rows("nll_loss", of, attrs);
    return cast_to(rows.reduce(rows.weighted(-rows.pick(widen(of[0])))), of[0].dtype());
}

Values nll_gradient(const NodePtr &node, const Values &gs) {
    const Values of = node->operands();
    const Rows rows("nll_loss", of, node->attrs);
    const Value scale = rows.scale(widen(gs[0]));
    Values found = {cast_to(where(rows.matches, -rows.weighted(scale), 0), of[0].dtype()), {}};
    if (of.size() > 2) {
        const Value share = scale * rows.above_mean(-rows.pick(widen(of[0])), node->result());
        found.push_back(cast_to(rows.over_rows(where(rows.matches, share, 0)), of[2].dtype()));
    }
    return found;
}

int64_t class_axis(const char *op, const Value &scores, int64_t axis) {
    if (scores.rank() == 0)
        fail_op(Code::Shape, op, "the scores are a scalar; expected at least one dimension, the classes");
    return one_axis(op, axis, scores.rank());
}

Value with_labels(const char *op, const Value &scores, const Operand &labels, const Operand &weight, Attributes attrs) {
    Values of = {scores, as_index(op, "labels", labels)};
    if (!weight.is_none())
        of.push_back(cast_to(as_floating(as_tensor(weight, scores.dtype())), scores.dtype()));
    return build(op, std::move(of), std::move(attrs));
}

} // namespace

void define_cross_entropy(Registry &registry) {
    registry.body("cross_entropy", cross_entropy_body);
    registry.gradient("cross_entropy", cross_entropy_gradient);
    registry.body("soft_cross_entropy", soft_body);
    registry.gradient("soft_cross_entropy", soft_gradient);
    registry.body("nll_loss", nll_body);
    registry.gradient("nll_loss", nll_gradient);
}

Value cross_entropy(const Operand &logits, const Operand &labels, const Operand &weight, int64_t ignore_index,
                    double label_smoothing, const std::string &reduction, int64_t axis) {
    const Value scores = as_floating(logits), target = as_tensor(labels);
    const int64_t at = class_axis("cross_entropy", scores, axis);
    if (!(label_smoothing >= 0 && label_smoothing <= 1))
        fail_op(Code::Argument, "cross_entropy",
                "label_smoothing is " + Number{Number::Real, label_smoothing, 0}.text() + "; it must be in [0, 1]");
    Attributes attrs{
        {"label_smoothing", real(label_smoothing)}, {"reduction", text(reduction)}, {"axis", integer(at)}};
    if (core::is_float(target.dtype())) {
        Values of = promote_operands("cross_entropy", {scores, target});
        if (!weight.is_none())
            of.push_back(cast_to(as_floating(as_tensor(weight, of[0].dtype())), of[0].dtype()));
        return build("soft_cross_entropy", std::move(of), std::move(attrs));
    }
    attrs.set("ignore_index", integer(ignore_index));
    return with_labels("cross_entropy", scores, target, weight, std::move(attrs));
}

Value nll_loss(const Operand &log_probabilities, const Operand &labels, const Operand &weight, int64_t ignore_index,
               const std::string &reduction, int64_t axis) {
    const Value scores = as_floating(log_probabilities);
    return with_labels("nll_loss", scores, labels, weight,
                       {{"ignore_index", integer(ignore_index)},
                        {"reduction", text(reduction)},
                        {"axis", integer(class_axis("nll_loss", scores, axis))}});
}

} // namespace tessera::front
