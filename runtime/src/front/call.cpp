#include "front/call.h"

#include <functional>
#include <map>

#include "graph/verify.h"

namespace tessera::front {

const Given &Call::given(size_t i) const {
    if (i >= operands_.size())
        fail_op(Code::Argument, function_.c_str(),
                "operand " + std::to_string(i) + " is missing: " + std::to_string(operands_.size()) + " are given");
    return operands_[i];
}

std::vector<Operand> Call::operands() const {
    std::vector<Operand> out;
    for (const Given &given : operands_)
        out.push_back(given.operand);
    return out;
}

bool Call::has(const char *name) const {
    const Attribute *value = arguments_.find(name);
    return value && !value->is_none();
}

std::optional<DType> Call::optional_dtype(const char *name) const {
    return has(name) ? std::optional(dtype(name)) : std::nullopt;
}
std::optional<double> Call::optional_real(const char *name) const {
    return has(name) ? std::optional(real(name)) : std::nullopt;
}
std::optional<int64_t> Call::optional_integer(const char *name) const {
    return has(name) ? std::optional(integer(name)) : std::nullopt;
}
Axes Call::axes(const char *name) const { return has(name) ? Axes(integers(name)) : std::nullopt; }

namespace {

using Function = std::function<Values(const Call &)>;
using Table = std::map<std::string, Function, std::less<>>;
using C = const Call &;

// A function with one result.
template <class F> Function one(F function) {
    return [=](C c) -> Values { return {function(c)}; };
}

void add_pointwise(Table &table) {
    for (const std::string &name : unary_names())
        table[name] = one([name](C c) { return unary(name, c.operand(0)); });
    table["cast"] = one([](C c) { return cast(c.operand(0), c.dtype("dtype")); });
    table["logical_not"] = one([](C c) { return logical_not(c.operand(0)); });
    table["bitwise_not"] = one([](C c) { return bitwise_not(c.operand(0)); });
    table["stop_gradient"] = one([](C c) { return stop_gradient(c.operand(0)); });
    const auto binary = [&](const char *name, Value (*function)(const Operand &, const Operand &)) {
        table[name] = one([=](C c) { return function(c.operand(0), c.operand(1)); });
    };
    binary("add", add);
    binary("sub", sub);
    binary("mul", mul);
    binary("div", div);
    binary("floordiv", floordiv);
    binary("mod", mod);
    binary("pow", pow);
    binary("float_power", float_power);
    binary("maximum", maximum);
    binary("minimum", minimum);
    binary("atan2", atan2);
    binary("logaddexp", logaddexp);
    for (const char *name : {"eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_xor",
                             "shift_left",
                             "shift_right"})
        table[name] = one([=](C c) { return promoted(name, c.operand(0), c.operand(1)); });
    for (const char *name : {"logical_and", "logical_or", "logical_xor"})
        table[name] = one([=](C c) { return logical(name, c.operand(0), c.operand(1)); });
    table["where"] = one([](C c) { return where(c.operand(0), c.operand(1), c.operand(2)); });
    table["clip"] = one([](C c) { return clip(c.operand(0), c.operand(1), c.operand(2)); });
    table["lerp"] = one([](C c) { return lerp(c.operand(0), c.operand(1), c.operand(2)); });
    table["isclose"] = one([](C c) {
        return isclose(c.operand(0), c.operand(1), c.real("rtol"), c.real("atol"), c.flag("equal_nan"));
    });
    table["nan_to_num"] = one([](C c) {
        return nan_to_num(c.operand(0), c.real("nan"), c.optional_real("posinf"), c.optional_real("neginf"));
    });
}

void add_reductions(Table &table) {
    const auto reduction = [&](const char *name, Value (*function)(const Operand &, const Axes &, bool)) {
        table[name] = one([=](C c) { return function(c.operand(0), c.axes("axis"), c.flag("keepdims")); });
    };
    reduction("sum", sum);
    reduction("prod", prod);
    reduction("max", max);
    reduction("min", min);
    reduction("mean", mean);
    reduction("logsumexp", logsumexp);
    reduction("any", any);
    reduction("all", all);
    table["var"] =
        one([](C c) { return var(c.operand(0), c.axes("axis"), c.flag("keepdims"), c.real("ddof")); });
    table["std"] =
        one([](C c) { return std_deviation(c.operand(0), c.axes("axis"), c.flag("keepdims"), c.real("ddof")); });
    table["norm"] =
        one([](C c) { return norm(c.operand(0), c.real("ord"), c.axes("axis"), c.flag("keepdims")); });
    table["argmax"] = one([](C c) { return argmax(c.operand(0), c.optional_integer("axis"), c.flag("keepdims")); });
    table["argmin"] = one([](C c) { return argmin(c.operand(0), c.optional_integer("axis"), c.flag("keepdims")); });
    table["cumsum"] = one([](C c) { return cumsum(c.operand(0), c.integer("axis")); });
}

Number number_of(C c, size_t i) {
    if (!c.operand(i).is_number())
        fail_op(Code::Argument, c.function().c_str(), "operand " + std::to_string(i) + " must be a number");
    return c.operand(i).number();
}

Value arange_of(C c) {
    const std::optional<DType> dtype = c.optional_dtype("dtype");
    const Number step = number_of(c, 2);
    const bool has_stop = !c.operand(1).is_none();
    if (!c.given(0).size && !c.given(1).size)
        return arange(number_of(c, 0), has_stop ? std::optional(number_of(c, 1)) : std::nullopt, step, dtype);
    if (step.real != 1)
        fail_op(Code::Argument, "arange",
                "with a symbolic bound the step must be 1, got " + step.text() + "; scale the result instead");
    const auto bound = [&](size_t i) { return c.given(i).size ? *c.given(i).size : Dim(number_of(c, i).integer); };
    return has_stop ? arange_sizes(bound(0), bound(1), dtype) : arange_sizes(0, bound(0), dtype);
}

void add_creation(Table &table) {
    table["full"] = one([](C c) {
        const std::optional<Dim> &size = c.given(0).size;
        return size ? full_size(c.shape("shape"), *size, c.optional_dtype("dtype"))
                    : full(c.shape("shape"), c.operand(0), c.optional_dtype("dtype"));
    });
    table["full_like"] =
        one([](C c) { return full_like(c.operand(0), c.operand(1), c.optional_dtype("dtype")); });
    table["iota"] = one([](C c) { return iota(c.shape("shape"), c.integer("axis"), c.dtype("dtype")); });
    table["arange"] = one(arange_of);
    table["eye"] = one([](C c) {
        return eye(c.dim("n"), c.has("m") ? std::optional(c.dim("m")) : std::nullopt, c.integer("k"), c.dtype("dtype"));
    });
}

Value pad_of(C c) {
    const Shape flat = c.shape("width"); // low and high of each dimension in turn
    std::vector<std::pair<Dim, Dim>> pairs;
    for (size_t i = 0; i + 1 < flat.size(); i += 2)
        pairs.emplace_back(flat[i], flat[i + 1]);
    return pad(c.operand(0), pairs, c.text("mode"), c.operand(1));
}

void add_shapes(Table &table) {
    table["reshape"] = one([](C c) { return reshape(c.operand(0), c.shape("shape")); });
    table["flatten"] = one([](C c) { return flatten(c.operand(0), c.integer("start"), c.integer("stop")); });
    table["squeeze"] = one([](C c) { return squeeze(c.operand(0), c.axes("axis")); });
    table["expand_dims"] = one([](C c) { return expand_dims(c.operand(0), c.integers("axis")); });
    table["transpose"] = one([](C c) { return transpose(c.operand(0), c.axes("perm")); });
    table["swapaxes"] = one([](C c) { return swapaxes(c.operand(0), c.integer("a"), c.integer("b")); });
    table["moveaxis"] =
        one([](C c) { return moveaxis(c.operand(0), c.integers("source"), c.integers("destination")); });
    table["broadcast_to"] = one([](C c) { return broadcast_to(c.operand(0), c.shape("shape")); });
    table["tile"] = one([](C c) { return tile(c.operand(0), c.shape("reps")); });
    table["repeat"] = one([](C c) { return repeat(c.operand(0), c.dim("repeats"), c.optional_integer("axis")); });
    table["slice"] =
        one([](C c) { return slice(c.operand(0), c.shape("start"), c.shape("stop"), c.integers("step")); });
    table["flip"] = one([](C c) { return flip(c.operand(0), c.axes("axis")); });
    table["split"] = [](C c) {
        return c.has("sections") ? split(c.operand(0), c.integer("sections"), c.integer("axis"))
                                 : split_at(c.operand(0), c.shape("positions"), c.integer("axis"));
    };
    table["concat"] = one([](C c) { return concat(c.operands(), c.integer("axis")); });
    table["stack"] = one([](C c) { return stack(c.operands(), c.integer("axis")); });
    table["pad"] = one(pad_of);
    table["tril"] = one([](C c) { return tril(c.operand(0), c.integer("k")); });
    table["triu"] = one([](C c) { return triu(c.operand(0), c.integer("k")); });
}

void add_indexing(Table &table) {
    table["check_range"] = one([](C c) {
        return check_range(c.operand(0), c.dim("low"), c.dim("high"), c.optional_integer("ignore"), c.text("what"));
    });
    table["take"] = one([](C c) { return take(c.operand(0), c.operand(1), c.integer("axis")); });
    table["take_along_axis"] =
        one([](C c) { return take_along_axis(c.operand(0), c.operand(1), c.integer("axis")); });
    table["index_add"] =
        one([](C c) { return index_add(c.operand(0), c.operand(1), c.operand(2), c.integer("axis")); });
    table["scatter_add"] =
        one([](C c) { return scatter_add(c.operand(0), c.operand(1), c.operand(2), c.integer("axis")); });
    table["one_hot"] = one([](C c) { return one_hot(c.operand(0), c.dim("depth"), c.dtype("dtype")); });
    table["embedding"] = one([](C c) { return embedding(c.operand(0), c.operand(1)); });
}

void add_layers(Table &table) {
    table["matmul"] = one([](C c) { return matmul(c.operand(0), c.operand(1)); });
    table["dot"] = one([](C c) { return dot(c.operand(0), c.operand(1)); });
    table["outer"] = one([](C c) { return outer(c.operand(0), c.operand(1)); });
    table["scaled_matmul"] = one([](C c) {
        return scaled_matmul(c.operand(0), c.operand(1), c.operand(2), c.operand(3), c.dtype("out_dtype"));
    });
    table["grouped_matmul"] = one([](C c) { return grouped_matmul(c.operand(0), c.operand(1), c.operand(2)); });
    table["linear"] = one([](C c) { return linear(c.operand(0), c.operand(1), c.operand(2)); });
    table["einsum"] = one([](C c) { return einsum(c.text("equation"), c.operands()); });
    table["relu"] = one([](C c) { return relu(c.operand(0)); });
    table["relu6"] = one([](C c) { return relu6(c.operand(0)); });
    table["gelu"] = one([](C c) { return gelu(c.operand(0), c.text("approximate")); });
    table["leaky_relu"] = one([](C c) { return leaky_relu(c.operand(0), c.real("negative_slope")); });
    table["elu"] = one([](C c) { return elu(c.operand(0), c.real("alpha")); });
    table["softplus"] = one([](C c) { return softplus(c.operand(0), c.real("beta")); });
    for (const char *name : {"silu", "hard_sigmoid", "hard_swish", "mish"})
        table[name] = one([=](C c) { return activation(name, c.operand(0)); });
    for (const char *name : {"softmax", "safe_softmax", "log_softmax"})
        table[name] = one([=](C c) { return along(name, c.operand(0), c.integer("axis")); });
    table["layer_norm"] = one(
        [](C c) { return layer_norm(c.operand(0), c.operand(1), c.operand(2), c.axes("axes"), c.real("eps")); });
    table["rms_norm"] =
        one([](C c) { return rms_norm(c.operand(0), c.operand(1), c.axes("axes"), c.real("eps")); });
    table["group_norm"] = one([](C c) {
        return group_norm(c.operand(0), c.integer("groups"), c.operand(1), c.operand(2), c.real("eps"));
    });
    table["scaled_dot_product_attention"] = one([](C c) {
        return scaled_dot_product_attention(c.operand(0), c.operand(1), c.operand(2), c.operand(3), c.flag("causal"),
                                            c.optional_real("scale"));
    });
}

void add_losses(Table &table) {
    for (const char *name : {"mse", "l1", "binary_cross_entropy_with_logits"})
        table[name] = one([=](C c) { return loss(name, c.operand(0), c.operand(1), c.text("reduction")); });
    table["huber"] =
        one([](C c) { return huber(c.operand(0), c.operand(1), c.real("delta"), c.text("reduction")); });
    table["cross_entropy"] = one([](C c) {
        return cross_entropy(c.operand(0), c.operand(1), c.operand(2), c.integer("ignore_index"),
                             c.real("label_smoothing"), c.text("reduction"), c.integer("axis"));
    });
    table["nll_loss"] = one([](C c) {
        return nll_loss(c.operand(0), c.operand(1), c.operand(2), c.integer("ignore_index"), c.text("reduction"),
                        c.integer("axis"));
    });
}

void add_random(Table &table) {
    table["random_uniform"] = one(
        [](C c) { return random_uniform(c.operand(0), c.shape("shape"), c.dtype("dtype"), c.integer("id")); });
    table["uniform"] = one([](C c) {
        return uniform(c.shape("shape"), c.real("low"), c.real("high"), c.dtype("dtype"), c.operand(0));
    });
    table["normal"] = one([](C c) {
        return normal(c.shape("shape"), c.real("mean"), c.real("std"), c.dtype("dtype"), c.operand(0));
    });
    table["randint"] = one([](C c) {
        return randint(c.integer("low"), c.integer("high"), c.shape("shape"), c.dtype("dtype"), c.operand(0));
    });
    table["bernoulli"] = one([](C c) {
        return bernoulli(c.operand(0), c.has("shape") ? std::optional(c.shape("shape")) : std::nullopt, c.operand(1));
    });
    table["dropout"] =
        one([](C c) { return dropout(c.operand(0), c.real("p"), c.flag("training"), c.operand(1)); });
}

const Table &functions() {
    static const Table table = [] {
        Table out;
        for (auto add : {add_pointwise, add_reductions, add_creation, add_shapes, add_indexing, add_layers, add_losses,
                         add_random})
            add(out);
        return out;
    }();
    return table;
}

} // namespace

Values call(const Call &call) {
    const auto found = functions().find(call.function());
    if (found == functions().end())
        core::fail(Code::NameMissing, "unknown function '%s'", core::shown(call.function()).c_str());
    try {
        return found->second(call);
    } catch (const core::Error &error) {
        const bool named = error.message().compare(0, 1, "[") == 0;
        throw graph::located(
            core::Error(error.code(), named ? error.message() : "[" + call.function() + "] " + error.message()),
            current_location());
    }
}

const std::vector<std::string> &function_names() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> out;
        for (const auto &[name, function] : functions())
            out.push_back(name);
        return out;
    }();
    return names;
}

} // namespace tessera::front
