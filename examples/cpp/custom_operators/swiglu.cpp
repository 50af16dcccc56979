// SwiGLU, the gate of a transformer's feed-forward layer: silu(gate) * up, in one pass over memory.
#include <tessera/custom_op.h>

#include <cstdint>
#include <cstring>

using namespace tessera;
using namespace tessera::custom;

namespace {

// e to the power of x without branches and calls, so that loops over it are vectorised: 2^n times a polynomial of the rest
// (the coefficients are those of Cephes, by Moshier), within about 1e-7; x is cut to [-87, 88], and NaN stays.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f; // the integer n stands in the low bits
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = p * r + c;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return (p * r * r + r + 1.0f) * power;
}

template <class T> void swiglu(const T *gate, const T *up, T *y, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        const float g = gate[i];
        y[i] = T(g / (1.0f + exponential(-g)) * static_cast<float>(up[i]));
    }
}

// docs: swiglu
TESSERA_OPERATOR(mylib, swiglu) {
    declare.doc("silu(gate) * up, elementwise: the gated activation of Shazeer 2020. Computed in f32.")
        .arguments({"gate", "up"})
        .results({"y"})
        .dtypes({DType::F32, DType::BF16})
        .shape([](const TensorType &gate, const TensorType &up) {
            if (gate != up)
                throw Error(TSR_SHAPE_ERROR, "gate is " + gate.text() + " and up is " + up.text() +
                                                 "; they must have one dtype and shape");
            return gate;
        })
        .cpu([](const Context &context, const Input &gate, const Input &up, const Output &y) {
            dispatch<float, bfloat16>(y.dtype(), [&](auto kind) {
                using T = decltype(kind);
                context.parallel_for(y.size(), 16384, [&](int64_t begin, int64_t end) {
                    swiglu(gate.data<T>(), up.data<T>(), y.data<T>(), begin, end);
                });
            });
        })
        .gradient([](const Gradient &g, const Tensor &gate, const Tensor &up) {
            const Tensor s = op::sigmoid(gate), dy = g.of();
            const Tensor slope = op::mul(s, op::add(1, op::mul(gate, op::sub(1, s)))); // of silu
            return std::pair(op::mul(op::mul(dy, up), slope), op::mul(dy, op::mul(gate, s)));
        })
        .shard("*,*->*")
        .sample({random({4, 6}), random({4, 6})})
        .sample({random({3, 5, 7}, "float", -10, 10), random({3, 5, 7})})
        .sample({random({40000}), random({40000})}, {}, {/*gradient=*/false});
}
// docs: end

} // namespace