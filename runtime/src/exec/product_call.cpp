#include "exec/product_call.h"

#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "core/error.h"
#include "exec/prepared.h"

namespace tessera::core {

namespace {

using Number = long long;

// cublasLtMatmulDescAttributes_t, cublasLtMatrixLayoutAttribute_t, cublasLtMatmulPreferenceAttributes_t
constexpr int product_turn_a = 3, product_turn_b = 4, product_epilogue = 7, product_bias = 8, product_scale_a = 17, product_bias_type = 26;
constexpr int layout_batch = 5, layout_batch_step = 6;
constexpr int most_workspace = 1, alignment_a = 5, alignment_d = 8;
// cublasComputeType_t, cudaDataType_t, cublasOperation_t, cublasLtEpilogue_t
constexpr int compute_f32 = 68, compute_tf32 = 77, compute_f64 = 70;
constexpr int type_f32 = 0, type_f64 = 1;
constexpr int turned = 1;
constexpr uint32_t epilogue_none = 1, epilogue_relu = 2, epilogue_bias = 4, epilogue_gelu = 32;
constexpr uint32_t alignment = 16; // of every operand

// cudaDataType_t; -1: cuBLASLt does not multiply it, or not as floats
int type_of(DType dtype) {
    switch (dtype) {
    case DType::F64:
        return type_f64;
    case DType::F32:
        return type_f32;
    case DType::F16:
        return 2;
    case DType::BF16:
        return 14;
    case DType::F8E4M3:
        return 28;
    case DType::F8E5M2:
        return 29;
    default:
        return -1;
    }
}

} // namespace

// A matrix as the library sees it: column-major.
struct ProductCall::Matrix {
    int64_t rows = 0, columns = 0, step = 0, batch = 1, batch_step = 0, offset = 0;
};

ProductCall::ProductCall(const Libraries &libraries, const LibraryMatmul &matmul)
    : library_(*libraries.cublaslt), handle_(library_.handle(libraries.device)), bias_(matmul.bias),
      scales_{matmul.scales[0], matmul.scales[1]}, alpha_(matmul.alpha), beta_(matmul.beta) {}

ProductCall::~ProductCall() {
    for (gpu::Handle layout : {a_, b_, c_, d_})
        if (layout)
            library_.destroy_layout(layout);
    if (product_)
        library_.destroy_product(product_);
}

template <class T> void ProductCall::set(int attribute, const T &value) const {
    library_.check(library_.set_product(product_, attribute, &value, sizeof value), "a product cannot be described");
}

gpu::Handle ProductCall::layout(const Matrix &m, int type) const {
    gpu::Handle out = nullptr;
    library_.check(library_.create_layout(&out, type, static_cast<uint64_t>(m.rows), static_cast<uint64_t>(m.columns), m.step),
                   "a matrix cannot be described");
    const auto batch = static_cast<int32_t>(m.batch);
    library_.check(library_.set_layout(out, layout_batch, &batch, sizeof batch), "a matrix cannot be described");
    library_.check(library_.set_layout(out, layout_batch_step, &m.batch_step, sizeof m.batch_step), "a matrix cannot be described");
    return out;
}

// A row-major product d = a b is the column-major product dᵀ = bᵀ aᵀ of the same memory.
bool ProductCall::describe(const Instruction &in, const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements) {
    const LibraryMatmul &m = *in.matmul;
    const int64_t rows = not_negative(m.rows, sizes, "size"), columns = not_negative(m.columns, sizes, "size"),
                  terms = not_negative(m.terms, sizes, "size"), batch = not_negative(m.batch, sizes, "size");
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    if (std::max({rows, columns, terms, batch}) > most)
        return false;
    bool fits = true;
    auto matrix = [&](const LibraryMatrix &x, int64_t from_rows, int64_t from_columns, size_t place) {
        Matrix out;
        out.rows = x.transposed ? from_rows : from_columns;
        out.columns = x.transposed ? from_columns : from_rows;
        out.step = not_negative(x.step, sizes, "step");
        out.batch = batch;
        out.batch_step = not_negative(x.batch_step, sizes, "step");
        out.offset = not_negative(x.offset, sizes, "offset");
        if (out.columns <= 1)
            out.step = std::max(out.step, out.rows);
        if (batch <= 1)
            out.batch_step = 0;
        fits = fits && out.step >= out.rows;
        const int64_t last = checked_add(checked_add(out.offset, checked_mul(out.batch_step, batch - 1)),
                                         checked_add(checked_mul(out.step, out.columns - 1), out.rows));
        if (last > elements[place])
            fail(Code::Format, "a product of the plan uses %lld elements of an operand that has %lld%s", Number(last),
                 Number(elements[place]), at_line(in).c_str());
        return out;
    };
    const size_t result = in.operands.size();
    const Matrix a = matrix(m.a, rows, terms, static_cast<size_t>(m.a.position)),
                 b = matrix(m.b, terms, columns, static_cast<size_t>(m.b.position)), d = matrix(m.d, rows, columns, result);
    const Matrix c = m.c.position < 0 ? d : matrix(m.c, rows, columns, static_cast<size_t>(m.c.position));
    if (m.bias >= 0 && elements[static_cast<size_t>(m.bias)] < columns)
        fail(Code::Format, "a product of the plan has a bias of %lld elements for %lld columns%s",
             Number(elements[static_cast<size_t>(m.bias)]), Number(columns), at_line(in).c_str());
    for (int scale : m.scales)
        if (scale >= 0 && (elements[static_cast<size_t>(scale)] < 1 || in.operands[static_cast<size_t>(scale)].dtype != DType::F32))
            fail(Code::Format, "a scale of a product of the plan is no f32%s", at_line(in).c_str());
    auto dtype = [&](int position) { return in.operands[static_cast<size_t>(position)].dtype; };
    const DType result_dtype = in.results[0].dtype, added_dtype = m.c.position < 0 ? result_dtype : dtype(m.c.position);
    const int types[] = {type_of(dtype(m.a.position)), type_of(dtype(m.b.position)), type_of(added_dtype), type_of(result_dtype)};
    if (!fits || *std::min_element(types, types + 4) < 0)
        return false;
    wide_ = types[0] == type_f64;
    const int compute = wide_ ? compute_f64 : types[0] == type_f32 && m.tf32 ? compute_tf32 : compute_f32;
    library_.check(library_.create_product(&product_, compute, wide_ ? type_f64 : type_f32), "a product cannot be described");
    set(product_turn_a, m.b.transposed ? turned : 0);
    set(product_turn_b, m.a.transposed ? turned : 0);
    uint32_t epilogue = m.bias >= 0 ? epilogue_bias : 0;
    epilogue |= m.activation == LibraryMatmul::Activation::Relu       ? epilogue_relu
                : m.activation == LibraryMatmul::Activation::GeluTanh ? epilogue_gelu
                                                                      : 0;
    set(product_epilogue, epilogue ? epilogue : epilogue_none);
    if (m.bias >= 0) {
        set(product_bias_type, type_of(dtype(m.bias)));
        set(product_bias, reinterpret_cast<const void *>(uintptr_t{alignment})); // the choice depends on how it is aligned
    }
    for (int i = 0; i < 2; ++i)
        if (m.scales[i] >= 0)
            set(product_scale_a + i, reinterpret_cast<const void *>(uintptr_t{alignment}));
    a_ = layout(b, types[1]);
    b_ = layout(a, types[0]);
    c_ = layout(c, types[2]);
    d_ = layout(d, types[3]);
    auto place = [&](const Matrix &x, int position, DType of) {
        return Place{position, checked_mul(x.offset, static_cast<int64_t>(item_size(of)))};
    };
    left_ = place(b, m.b.position, dtype(m.b.position));
    right_ = place(a, m.a.position, dtype(m.a.position));
    result_ = place(d, static_cast<int>(result), result_dtype);
    added_ = m.c.position < 0 ? result_ : place(c, m.c.position, added_dtype);
    // Addresses are aligned, and what lies an odd number of elements behind them is not.
    return left_.bytes % alignment == 0 && right_.bytes % alignment == 0 && result_.bytes % alignment == 0 &&
           added_.bytes % alignment == 0;
}

bool ProductCall::choose(int64_t wanted, size_t most_scratch) {
    gpu::Handle preference = nullptr;
    library_.check(library_.create_preference(&preference), "a choice cannot be described");
    const auto bytes = static_cast<uint64_t>(most_scratch);
    library_.set_preference(preference, most_workspace, &bytes, sizeof bytes);
    for (int attribute = alignment_a; attribute <= alignment_d; ++attribute)
        library_.set_preference(preference, attribute, &alignment, sizeof alignment);
    std::vector<gpu::CublasltChoice> choices(static_cast<size_t>(wanted) + 1);
    int found = 0;
    const int status = library_.choose(handle_, product_, a_, b_, c_, d_, preference, static_cast<int>(choices.size()),
                                       choices.data(), &found);
    library_.destroy_preference(preference);
    if (status || found < 1)
        return false;
    choice_ = choices[wanted < found ? static_cast<size_t>(wanted) : 0];
    return choice_.state == 0 && choice_.workspace <= most_scratch;
}

std::shared_ptr<LibraryCall> ProductCall::prepare(const Libraries &libraries, const Instruction &in,
                                                  const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements) {
    const LibraryMatmul &m = *in.matmul;
    if (not_negative(m.terms, sizes, "size") == 0)
        return nullptr;
    gpu::Current current(gpu::cuda_driver(), libraries.device);
    std::shared_ptr<ProductCall> out(new ProductCall(libraries, m));
    const auto most_scratch = static_cast<size_t>(not_negative(in.scratch, sizes, "scratch size"));
    const bool same = m.version == static_cast<int64_t>(libraries.cublaslt->version());
    if (!out->describe(in, sizes, elements) || !out->choose(same ? m.algorithm : 0, most_scratch))
        return nullptr;
    return out;
}

void ProductCall::run(void *const *addresses, void *scratch, gpu::Handle stream) {
    auto address = [&](const Place &p) { return static_cast<char *>(addresses[p.position]) + p.bytes; };
    if (bias_ >= 0)
        set(product_bias, addresses[bias_]);
    for (int i = 0; i < 2; ++i)
        if (scales_[i] >= 0)
            set(product_scale_a + i, addresses[scales_[i]]);
    const float alpha = static_cast<float>(alpha_), beta = static_cast<float>(beta_);
    const void *scale = wide_ ? static_cast<const void *>(&alpha_) : &alpha, *share = wide_ ? static_cast<const void *>(&beta_) : &beta;
    library_.check(library_.multiply(handle_, product_, scale, address(left_), a_, address(right_), b_, share, address(added_), c_,
                                     address(result_), d_, &choice_.algorithm, scratch, choice_.workspace, stream),
                   "a product");
}

} // namespace tessera::core
