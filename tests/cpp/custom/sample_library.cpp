// Operators for the tests: attributes of every kind, lists of tensors, several results, symbolic sizes, scratch memory,
// failures of every kind.
#include <tessera/custom_op.h>

#include <algorithm>
#include <stdexcept>

using namespace tessera;
using namespace tessera::custom;

namespace {

// y = factor * x + shift
TESSERA_OPERATOR(sample, affine) {
    declare.doc("factor * x + shift, for f32 and bf16.")
        .arguments({"x", {"factor", 2.0}, {"shift", std::nullopt}})
        .dtypes({DType::F32, DType::BF16})
        .shape([](const TensorType &x, double, std::optional<double>) { return x; })
        .cpu([](const Context &context, const Input &x, double factor, std::optional<double> shift, const Output &y) {
            dispatch<float, bfloat16>(x.dtype(), [&](auto kind) {
                using T = decltype(kind);
                const T *from = x.data<T>();
                T *to = y.data<T>();
                context.parallel_for(x.size(), 4, [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i)
                        to[i] = T(static_cast<float>(factor) * from[i] + static_cast<float>(shift.value_or(0)));
                });
            });
        })
        .gradient([](const Gradient &g, const Tensor &, double factor, std::optional<double>) {
            return op::mul(g.of(), factor);
        })
        .shard("*->*")
        .sample({random({3, 4})})
        .sample({random({0, 4})}, {{"factor", -1.0}, {"shift", 0.5}});
}

// The minimum and maximum of each row of several tensors joined along the rows.
TESSERA_OPERATOR(sample, row_range) {
    declare.arguments({"first", "rest", "keep"})
        .results({"low", "high"})
        .dtypes({DType::F32})
        .shape([](const TensorType &first, const std::vector<TensorType> &rest, bool keep) {
            Dim rows = first.shape.at(0);
            for (const TensorType &t : rest) {
                if (t.rank() != 2 || t.shape[1] != first.shape[1])
                    throw Error(TSR_SHAPE_ERROR, "all tensors need " + first.shape[1].text() + " columns, one has type " +
                                                     t.text());
                rows = rows + t.shape[0];
            }
            TensorType out{first.dtype, {rows}};
            if (keep)
                out.shape.push_back(1);
            return std::pair<TensorType, TensorType>(out, out);
        })
        .cpu([](const Context &, const Input &first, const std::vector<Input> &rest, bool, const Output &low,
                const Output &high) {
            std::vector<Input> all = {first};
            all.insert(all.end(), rest.begin(), rest.end());
            float *l = low.data<float>(), *h = high.data<float>();
            for (const Input &x : all)
                for (int64_t i = 0, n = x.size(1); i < x.size(0); ++i) {
                    const float *row = x.data<float>() + i * n;
                    *l++ = *std::min_element(row, row + n);
                    *h++ = *std::max_element(row, row + n);
                }
        })
        .no_gradient("it is made of comparisons");
}

// Every kind of attribute, echoed as numbers.
TESSERA_OPERATOR(sample, echo) {
    declare.arguments({"size", {"flag", false}, {"name", "abc"}, {"kind", DType::I64}, {"list", std::vector<int64_t>{1, 2}},
                       {"reals", std::vector<double>{}}, {"maybe", std::nullopt}})
        .shape([](const Dim &size, bool, const std::string &, DType kind, const std::vector<int64_t> &,
                  const std::vector<double> &, std::optional<int64_t>) {
            return TensorType{kind, {size + 7}};
        })
        .cpu([](const Context &, int64_t size, bool flag, const std::string &name, DType kind,
                const std::vector<int64_t> &list, const std::vector<double> &reals, std::optional<int64_t> maybe,
                const Output &y) {
            int64_t *out = y.data<int64_t>();
            std::fill(out, out + y.size(), 0);
            out[0] = size;
            out[1] = flag;
            out[2] = static_cast<int64_t>(name.size());
            out[3] = static_cast<int64_t>(kind);
            out[4] = list.empty() ? -1 : list.back();
            out[5] = reals.empty() ? -1 : static_cast<int64_t>(reals[0] * 10);
            out[6] = maybe.value_or(-1);
        });
}

// Sorts in scratch memory.
TESSERA_OPERATOR(sample, sorted) {
    declare.arguments({"x"})
        .dtypes({DType::I64})
        .shape([](const TensorType &x) { return x; })
        .scratch([](const TensorType &x) { return x.shape.at(0) * Dim(8); })
        .cpu([](const Context &context, const Input &x, const Output &y) {
            if (context.scratch_bytes() != static_cast<size_t>(x.size()) * 8)
                throw std::logic_error("scratch memory of another size");
            int64_t *space = context.scratch<int64_t>();
            std::copy_n(x.data<int64_t>(), x.size(), space);
            std::sort(space, space + x.size());
            std::copy_n(space, x.size(), y.data<int64_t>());
        });
}

// x³, whose gradient is another operator.
TESSERA_OPERATOR(sample, cubed) {
    declare.arguments({"x"})
        .dtypes({DType::F32})
        .shape([](const TensorType &x) { return x; })
        .cpu([](const Context &, const Input &x, const Output &y) {
            for (int64_t i = 0; i < x.size(); ++i)
                y.data<float>()[i] = x.data<float>()[i] * x.data<float>()[i] * x.data<float>()[i];
        })
        .gradient("sample::cubed_slope")
        .shard("*->*")
        .sample({random({3, 4})});
}

TESSERA_OPERATOR(sample, cubed_slope) {
    declare.arguments({"x", "dy"})
        .dtypes({DType::F32})
        .shape([](const TensorType &x, const TensorType &) { return x; })
        .cpu([](const Context &, const Input &x, const Input &dy, const Output &dx) {
            for (int64_t i = 0; i < x.size(); ++i)
                dx.data<float>()[i] = 3 * x.data<float>()[i] * x.data<float>()[i] * dy.data<float>()[i];
        })
        .shard("*,*->*")
        .no_gradient("one is enough");
}

// Fails where and how `how` says.
TESSERA_OPERATOR(sample, failing) {
    declare.arguments({"x", "how"})
        .shape([](const TensorType &x, const std::string &how) {
            if (how == "shape")
                throw Error(TSR_DTYPE_ERROR, "the shape function fails");
            if (how == "negative")
                return TensorType{x.dtype, {x.shape.at(0) - 1000}};
            if (how == "foreign")
                return TensorType{x.dtype, {Dim::symbol("Z")}};
            return x;
        })
        .cpu([](const Context &context, const Input &, const std::string &how, const Output &) {
            if (how == "error")
                throw Error(TSR_INDEX_RANGE_ERROR, "the kernel fails");
            if (how == "exception")
                throw std::runtime_error("some exception");
            if (how == "int")
                throw 7;
            if (how == "memory")
                throw std::bad_alloc();
            if (how == "range")
                context.parallel_for(1000, 1, [](int64_t begin, int64_t) {
                    if (begin == 0)
                        throw Error(TSR_UNSUPPORTED_ERROR, "the first range fails");
                });
        })
        .gradient([](const Gradient &, const Tensor &, const std::string &) -> Tensor {
            throw std::runtime_error("no gradient today");
        });
}

} // namespace
