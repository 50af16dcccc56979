#include "exec/read_library.h"

namespace tessera::core {

namespace {

LibraryMatrix matrix(const PlanFields &f, const Json &j, int position, const std::string &place) {
    LibraryMatrix m;
    m.position = position;
    m.step = f.dim(f.member(j, "step", place), place);
    m.batch_step = j.find("batch_step") ? f.dim(f.member(j, "batch_step", place), place) : Dim(0);
    m.offset = j.find("offset") ? f.dim(f.member(j, "offset", place), place) : Dim(0);
    m.transposed = f.flag(j, "transposed", place);
    return m;
}

} // namespace

LibraryMatmul read_matmul(const PlanFields &f, const Json &j, const Instruction &in, const std::string &place) {
    LibraryMatmul m;
    m.rows = f.dim(f.member(j, "rows", place), place);
    m.columns = f.dim(f.member(j, "columns", place), place);
    m.terms = f.dim(f.member(j, "terms", place), place);
    m.batch = f.dim(f.member(j, "batch", place), place);
    m.alpha = f.number(j, "alpha", 1, place);
    m.beta = f.number(j, "beta", 0, place);
    m.tf32 = f.flag(j, "tf32", place);
    const std::string activation = f.optional_text(j, "activation", place);
    f.expect(activation.empty() || activation == "relu" || activation == "gelu_tanh", place,
             "unknown activation '" + shown(activation) + "'");
    m.activation = activation.empty() ? LibraryMatmul::Activation::None
                   : activation == "relu" ? LibraryMatmul::Activation::Relu : LibraryMatmul::Activation::GeluTanh;
    m.algorithm = j.find("algorithm") ? f.bounded(j, "algorithm", 0, 63, place) : 0;
    m.version = j.find("version") ? f.bounded(j, "version", 0, INT32_MAX, place) : 0;
    int position = 0;
    auto next = [&](const char *name) {
        f.expect(position < static_cast<int>(in.operands.size()), place, format("there is no operand for '%s'", name));
        return position++;
    };
    m.a = matrix(f, f.member(j, "a", place), next("a"), place);
    m.b = matrix(f, f.member(j, "b", place), next("b"), place);
    if (f.flag(j, "bias", place))
        m.bias = next("bias");
    if (const Json *c = j.find("c"))
        m.c = matrix(f, *c, next("c"), place);
    const int64_t scales = j.find("scales") ? f.bounded(j, "scales", 0, 2, place) : 0;
    for (int64_t i = 0; i < scales; ++i)
        m.scales[i] = next("scales");
    f.expect(position == static_cast<int>(in.operands.size()) && in.results.size() == 1, place,
             "its operands and results are not those of a product");
    f.expect(m.beta == 0 || m.c.position >= 0, place, "'beta' is given without a 'c'");
    m.d = matrix(f, f.member(j, "d", place), 0, place);
    f.expect(!m.d.transposed && !m.c.transposed, place, "'c' and 'd' cannot be transposed");
    return m;
}

LibraryAttention read_attention(const PlanFields &f, const Json &j, const Instruction &in, bool gradient, const std::string &place) {
    LibraryAttention a;
    a.batch = f.dim(f.member(j, "batch", place), place);
    a.heads = f.dim(f.member(j, "heads", place), place);
    a.shared = f.dim(f.member(j, "shared", place), place);
    a.length = f.dim(f.member(j, "length", place), place);
    a.keys = f.dim(f.member(j, "keys", place), place);
    a.size = f.bounded(j, "size", 1, 1024, place);
    a.scale = f.number(j, "scale", 1, place);
    a.causal = f.flag(j, "causal", place);
    a.gradient = gradient;
    a.deterministic = gradient && f.flag(j, "deterministic", place);
    f.expect(in.operands.size() == (gradient ? 6 : 3) && in.results.size() == (gradient ? 3 : 2), place,
             "its operands and results are not those of attention");
    const DType dtype = in.operands[0].dtype;
    f.expect(dtype == DType::BF16 || dtype == DType::F16, place, "attention is of bf16 or f16");
    for (size_t i = 0; i < in.operands.size() + in.results.size(); ++i) {
        const bool sums = i == 4;
        const PlanOperand &o = i < in.operands.size() ? in.operands[i] : in.results[i - in.operands.size()];
        f.expect(o.dtype == (sums ? DType::F32 : dtype), place, "the tensors of attention differ in dtype");
    }
    return a;
}

} // namespace tessera::core
