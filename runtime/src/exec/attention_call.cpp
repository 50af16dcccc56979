#include "exec/attention_call.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "exec/prepared.h"

namespace tessera::core {

namespace {

using gpu::CudnnFunction;
using gpu::CudnnReduction;
using gpu::CudnnType;
using Number = long long;

constexpr size_t aligned = 256; // of what lies in the scratch memory
constexpr size_t last_without_partial_blocks = 91500; // gradients need keys in whole blocks of 128 up to here
constexpr int64_t most_heads = 65535; // of all in the batch: rows of blocks that a launch may have

// cuDNN may scale behind the mask: its -inf must stay as it is.
bool keeps_infinity(double scale) {
    return scale >= static_cast<double>(std::numeric_limits<float>::min()) &&
           scale <= static_cast<double>(std::numeric_limits<float>::max());
}

} // namespace

AttentionCall::AttentionCall(const Libraries &libraries, const Instruction &in, const Shape &shape)
    : attention_(*in.attention), shape_(shape),
      type_(in.operands[0].dtype == DType::BF16 ? CudnnType::BF16 : CudnnType::F16), graph_(*libraries.cudnn, libraries.device) {
    if (attention_.gradient)
        describe_gradient();
    else
        describe_forward();
}

size_t AttentionCall::own_bytes() const { return std::accumulate(own_.begin(), own_.end(), size_t{0}); }

// Keys or values, turned: a product with them is one with columns.
AttentionCall::Tensor AttentionCall::columns(int64_t heads) {
    const int64_t keys = shape_.keys, size = shape_.size;
    return graph_.memory(type_, {shape_.batch, heads, size, keys}, {heads * keys * size, keys * size, 1, size});
}

AttentionCall::Tensor AttentionCall::scores(CudnnType type) {
    return graph_.inside(type, {shape_.batch, shape_.heads, shape_.length, shape_.keys});
}

AttentionCall::Tensor AttentionCall::applied(CudnnFunction function, std::initializer_list<Tensor> operands) {
    const Tensor &first = *operands.begin(), out = graph_.inside(CudnnType::F32, first.shape);
    graph_.apply(function, operands, out);
    return out;
}

AttentionCall::Tensor AttentionCall::product(const Tensor &a, const Tensor &b) {
    const Tensor out = scores();
    graph_.multiply(a, b, out);
    return out;
}

// Scores, turned and rounded, for a product with rows of queries.
AttentionCall::Tensor AttentionCall::turned(const Tensor &x) {
    const Tensor out = graph_.inside(type_, {x.shape[0], x.shape[1], x.shape[3], x.shape[2]},
                                     {x.steps[0], x.steps[1], x.steps[3], x.steps[2]});
    graph_.view(x, out);
    return out;
}

AttentionCall::Tensor AttentionCall::masked(const Tensor &x) {
    if (!attention_.causal)
        return x;
    const Tensor row = scores(CudnnType::I32), column = scores(CudnnType::I32), attends = scores(CudnnType::Bool);
    graph_.index(x, 2, row);
    graph_.index(x, 3, column);
    graph_.apply(CudnnFunction::GreaterEqual, {row, column}, attends, CudnnType::Bool);
    return applied(CudnnFunction::Select, {x, graph_.number(-std::numeric_limits<float>::infinity()), attends});
}

void AttentionCall::describe_forward() {
    const Shape &s = shape_;
    const Tensor q = rows(s.heads, s.length), k = columns(s.shared), v = rows(s.shared, s.keys), out = rows(s.heads, s.length);
    const Tensor sums = graph_.memory(CudnnType::F32, {s.batch, s.heads, s.length, 1});
    const Tensor scale = graph_.number(static_cast<float>(attention_.scale));
    const Tensor seen = masked(applied(CudnnFunction::Multiply, {product(q, k), scale}));
    const Tensor top = row_values(), total = row_values();
    graph_.reduce(CudnnReduction::Max, seen, top);
    const Tensor powers = applied(CudnnFunction::Exp, {applied(CudnnFunction::Subtract, {seen, top})});
    graph_.reduce(CudnnReduction::Add, powers, total);
    graph_.apply(CudnnFunction::Add, {top, applied(CudnnFunction::Log, {total})}, sums);
    const Tensor weights = scores(type_);
    graph_.apply(CudnnFunction::Divide, {powers, total}, weights);
    graph_.multiply(weights, v, out);
}

// out = weights, turned, times rows of queries: for all heads, or the sums of those that share keys.
void AttentionCall::multiply_to_keys(const Tensor &weights, const Tensor &values, const Tensor &out) {
    if (shape_.heads == shape_.shared) {
        graph_.multiply(weights, values, out);
        return;
    }
    const Tensor each = graph_.inside(type_, {shape_.batch, shape_.heads, shape_.keys, shape_.size});
    graph_.multiply(weights, values, each);
    graph_.reduce(CudnnReduction::Add, each, out);
}

void AttentionCall::describe_gradient() {
    const Shape &s = shape_;
    const Tensor q = rows(s.heads, s.length), k = columns(s.shared), v = columns(s.shared), out = rows(s.heads, s.length);
    const Tensor sums = graph_.memory(CudnnType::F32, {s.batch, s.heads, s.length, 1});
    const Tensor given = rows(s.heads, s.length), dq = rows(s.heads, s.length);
    const Tensor dk = rows(s.shared, s.keys), dv = rows(s.shared, s.keys);
    const Tensor scale = graph_.number(static_cast<float>(attention_.scale));

    const Tensor total = row_values(), delta = graph_.memory(CudnnType::F32, {s.batch, s.heads, s.length, 1});
    auto own = [&](int64_t elements) { own_.push_back((static_cast<size_t>(elements) * 4 + aligned - 1) / aligned * aligned); };
    own(s.batch * s.heads * s.length);
    graph_.reduce(CudnnReduction::Add, applied(CudnnFunction::Multiply, {given, out}), total);
    graph_.apply(CudnnFunction::Multiply, {total, graph_.number(1)}, delta);

    const Tensor scaled = applied(CudnnFunction::Multiply, {product(q, k), scale});
    const Tensor weights = applied(CudnnFunction::Exp, {masked(applied(CudnnFunction::Subtract, {scaled, sums}))});
    multiply_to_keys(turned(weights), given, dv);

    const Tensor slope = applied(CudnnFunction::Subtract, {product(given, v), delta});
    const Tensor change = applied(CudnnFunction::Multiply, {applied(CudnnFunction::Multiply, {slope, weights}), scale});
    multiply_to_keys(turned(change), q, dk);

    const Tensor keys = graph_.inside(CudnnType::F32, {s.batch, s.shared, s.keys, s.size},
                                      {k.steps[0], k.steps[1], k.steps[3], k.steps[2]});
    graph_.view(k, keys);
    if (attention_.deterministic) {
        graph_.multiply(change, keys, dq);
        return;
    }
    const Tensor sum = graph_.memory(CudnnType::F32, {s.batch, s.heads, s.length, s.size}); // blocks of keys add to it
    own(s.batch * s.heads * s.length * s.size);
    graph_.multiply(change, keys, sum);
    graph_.apply(CudnnFunction::Identity, {sum}, dq);
}

std::shared_ptr<LibraryCall> AttentionCall::prepare(const Libraries &libraries, const Instruction &in,
                                                    const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements,
                                                    std::string &why) {
    const LibraryAttention &a = *in.attention;
    Shape s;
    s.batch = not_negative(a.batch, sizes, "size");
    s.heads = not_negative(a.heads, sizes, "size");
    s.shared = not_negative(a.shared, sizes, "size");
    s.length = not_negative(a.length, sizes, "size");
    s.keys = not_negative(a.keys, sizes, "size");
    s.size = a.size;
    const int64_t row_count = checked_mul(checked_mul(s.batch, s.heads), s.length), queries = checked_mul(row_count, s.size),
                  keys = checked_mul(checked_mul(checked_mul(s.batch, s.shared), s.keys), s.size);
    std::vector<int64_t> needed = {queries, keys, keys, queries, row_count};
    if (a.gradient)
        needed.insert(needed.end(), {queries, queries, keys, keys});
    for (size_t i = 0; i < needed.size(); ++i)
        if (needed[i] > elements[i])
            fail(Code::Format, "attention of the plan uses %lld elements of a tensor that has %lld%s", Number(needed[i]),
                 Number(elements[i]), at_line(in).c_str());
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    if (s.shared == 0 || s.heads % s.shared || std::max({s.batch, s.heads, s.length, s.keys}) > most ||
        checked_mul(s.length, s.keys) > std::numeric_limits<int64_t>::max() / std::max<int64_t>(checked_mul(s.batch, s.heads), 1)) {
        why = "its sizes";
        return nullptr;
    }
    if (s.batch * s.heads > most_heads) {
        why = format("%lld heads", Number(s.batch * s.heads));
        return nullptr;
    }
    if (!keeps_infinity(a.scale)) {
        why = format("the scale %g", a.scale);
        return nullptr;
    }
    if (s.length == 0 || s.keys == 0 || (a.gradient && s.length == 1 && s.keys == 1)) {
        why = "its lengths";
        return nullptr;
    }
    if (a.gradient && s.keys % 128 && libraries.cudnn->version() <= last_without_partial_blocks) {
        why = format("cuDNN %zu needs a multiple of 128 keys", libraries.cudnn->version());
        return nullptr;
    }
    gpu::Current current(gpu::cuda_driver(), libraries.device);
    const auto most_scratch = static_cast<size_t>(not_negative(in.scratch, sizes, "scratch size"));
    try {
        std::shared_ptr<AttentionCall> out(new AttentionCall(libraries, in, s));
        if (out->own_bytes() > most_scratch) {
            why = "its sums need more scratch memory than the plan allows";
            return nullptr;
        }
        out->graph_.finish(most_scratch - out->own_bytes());
        return out;
    } catch (const Error &e) {
        why = e.message();
        return nullptr;
    }
}

void AttentionCall::run(void *const *addresses, void *scratch, gpu::Handle stream) {
    const size_t count = attention_.gradient ? 9 : 5;
    std::vector<void *> places(addresses, addresses + count);
    auto *next = static_cast<char *>(scratch);
    for (size_t bytes : own_) {
        places.push_back(next);
        next += bytes;
    }
    graph_.run(places, next, stream);
}

} // namespace tessera::core
