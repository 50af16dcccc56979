// Kernel of the matrix product: accumulated in the compute type (f32 for bf16 and f16, 64 bits for integers), over k in
// order, so that the result is the same for any number of threads.
#include <algorithm>
#include <type_traits>

#include "ops/kernel.h"
#include "ops/strided.h"

// The inner loop is compiled for several vector levels and chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TSR_VECTOR_LEVELS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define TSR_VECTOR_LEVELS
#endif

namespace tessera::portable {

namespace {

constexpr int64_t row_block = 32, column_block = 256, inner_block = 256;

// acc[rows][width] += a[rows][depth] · b[depth][width], four rows at a time.
template <class T>
[[gnu::always_inline]] inline void multiply_add_rows(T *__restrict acc, const T *a, int64_t a_stride,
                                                     const T *__restrict b, int64_t b_stride, int64_t rows,
                                                     int64_t depth, int64_t width) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        T *__restrict out = acc + i * column_block;
        for (int64_t p = 0; p < depth; ++p) {
            const T *__restrict row = b + p * b_stride;
            const T *column = a + i * a_stride + p;
            const T x0 = column[0], x1 = column[a_stride], x2 = column[2 * a_stride], x3 = column[3 * a_stride];
            for (int64_t j = 0; j < width; ++j) {
                const T y = row[j];
                out[j] += x0 * y;
                out[column_block + j] += x1 * y;
                out[2 * column_block + j] += x2 * y;
                out[3 * column_block + j] += x3 * y;
            }
        }
    }
    for (; i < rows; ++i)
        for (int64_t p = 0; p < depth; ++p) {
            const T x = a[i * a_stride + p];
            for (int64_t j = 0; j < width; ++j)
                acc[i * column_block + j] += x * b[p * b_stride + j];
        }
}

#define TSR_MULTIPLY_ADD(T)                                                                                            \
    TSR_VECTOR_LEVELS void multiply_add(T *acc, const T *a, int64_t a_stride, const T *b, int64_t b_stride,            \
                                        int64_t rows, int64_t depth, int64_t width) {                                  \
        multiply_add_rows<T>(acc, a, a_stride, b, b_stride, rows, depth, width);                                       \
    }
TSR_MULTIPLY_ADD(float)
TSR_MULTIPLY_ADD(double)
TSR_MULTIPLY_ADD(uint64_t) // integers wrap
#undef TSR_MULTIPLY_ADD

struct Product {
    int64_t batches, m, n, k;
    std::vector<int64_t> a_offsets, b_offsets; // of each batch, in matrices
};

// Which matrix of an operand each batch of the result reads.
std::vector<int64_t> batch_offsets(const std::vector<int64_t> &shape, const std::vector<int64_t> &batch) {
    const std::vector<int64_t> own(shape.begin(), shape.end() - 2);
    const std::vector<int64_t> strides = broadcast_strides(own, batch);
    std::vector<int64_t> out(static_cast<size_t>(core::element_count(batch)));
    for (size_t b = 0; b < out.size(); ++b) {
        int64_t rest = static_cast<int64_t>(b);
        for (size_t i = batch.size(); i-- > 0; rest /= batch[i])
            out[b] += rest % batch[i] * strides[i];
    }
    return out;
}

// The operand's elements in the compute type: its own memory, or a converted copy in `copy`.
template <class T, class Raw>
const T *in_compute_type(const KernelCall &call, const TensorView &x, std::vector<T> &copy) {
    if (core::item_size(x.dtype) == sizeof(T))
        return x.as<T>();
    const int64_t size = x.size();
    copy.resize(static_cast<size_t>(size));
    const StridedReader reader(x, x.shape);
    constexpr int64_t piece = 1 << 14;
    call.parallel((size + piece - 1) / piece, piece, [&](int64_t first, int64_t last) {
        const int64_t begin = first * piece, end = std::min(last * piece, size);
        reader.read(begin, end - begin, reinterpret_cast<Raw *>(copy.data() + begin));
    });
    return copy.data();
}

template <class T, class Raw> void multiply(const KernelCall &call, const Product &p) {
    std::vector<T> a_copy, b_copy;
    const T *a = in_compute_type<T, Raw>(call, call.operand(0), a_copy);
    const T *b = in_compute_type<T, Raw>(call, call.operand(1), b_copy);
    const int64_t row_blocks = (p.m + row_block - 1) / row_block,
                  column_blocks = (p.n + column_block - 1) / column_block;
    const int64_t item = static_cast<int64_t>(core::item_size(call.result.dtype));
    const int64_t work = std::min(p.m, row_block) * std::min(p.n, column_block) * std::max<int64_t>(1, p.k) / 8;
    call.parallel(p.batches * row_blocks * column_blocks, work, [&](int64_t first, int64_t last) {
        std::vector<T> acc(static_cast<size_t>(row_block * column_block));
        for (int64_t unit = first; unit < last; ++unit) {
            const int64_t column = unit % column_blocks * column_block;
            const int64_t row = unit / column_blocks % row_blocks * row_block;
            const size_t batch = static_cast<size_t>(unit / column_blocks / row_blocks);
            const int64_t rows = std::min(row_block, p.m - row), width = std::min(column_block, p.n - column);
            const T *left = a + (p.a_offsets[batch] * p.m + row) * p.k;
            const T *right = b + p.b_offsets[batch] * p.k * p.n + column;
            std::fill(acc.begin(), acc.end(), T{0});
            for (int64_t at = 0; at < p.k; at += inner_block)
                multiply_add(acc.data(), left + at, p.k, right + at * p.n, p.n, rows, std::min(inner_block, p.k - at),
                             width);
            char *target = call.result.as<char>() + ((static_cast<int64_t>(batch) * p.m + row) * p.n + column) * item;
            for (int64_t r = 0; r < rows; ++r)
                store(call.result.dtype, reinterpret_cast<const Raw *>(acc.data() + r * column_block), width,
                      target + r * p.n * item);
        }
    });
}

void matmul(const KernelCall &call) {
    if (call.result.size() == 0) // before anything is sized by a dimension that no memory stands behind
        return;
    const std::vector<int64_t> &shape = call.result.shape;
    const std::vector<int64_t> batch(shape.begin(), shape.end() - 2);
    const Product p{core::element_count(batch),
                    shape[shape.size() - 2],
                    shape.back(),
                    call.operand(0).shape.back(),
                    batch_offsets(call.operand(0).shape, batch),
                    batch_offsets(call.operand(1).shape, batch)};
    with_compute_type(call.result.dtype, [&](auto zero) {
        using Raw = decltype(zero);
        multiply<std::conditional_t<std::is_integral_v<Raw>, uint64_t, Raw>, Raw>(call, p);
    });
}

} // namespace

const KernelTable &matmul_kernels() {
    static const KernelTable table = {{"matmul", matmul}};
    return table;
}

} // namespace tessera::portable
