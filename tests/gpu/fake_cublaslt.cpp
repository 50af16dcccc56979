// A cuBLASLt for tests on machines without a GPU: the entry points that the runtime uses, computed on the model of GPUs.
//
// What it multiplies is bf16, f32 and f64. Like the real one it wants 16-byte aligned matrices, proposes nothing for types
// that it does not know or for less scratch than it asks for, and reads all of its descriptors when it is called.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "fake_cuda/device_model.h"

using namespace fake;
using Handle = void *;

namespace {

constexpr int not_supported = 15, invalid = 7;
constexpr int f32 = 0, f64 = 1, bf16 = 14;
constexpr size_t asked_scratch = 4096;

struct Product {
    int compute = 0, scale = 0, turn_a = 0, turn_b = 0, bias_type = -1;
    uint32_t epilogue = 1;
    uintptr_t bias = 0, scales[2] = {0, 0};
};

struct Layout {
    int type = 0;
    int64_t rows = 0, columns = 0, step = 0, batch_step = 0;
    int32_t batch = 1;
};

struct Preference {
    uint64_t scratch = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};
};

struct Choice {
    uint64_t algorithm[8];
    size_t scratch;
    int state;
    float waves;
    int reserved[4];
};

std::map<std::string, int64_t> counts;
int failure = 0;

size_t item(int type) { return type == f64 ? 8 : type == f32 ? 4 : 2; }

double load(uintptr_t base, int type, int64_t at) {
    if (type == f64)
        return reinterpret_cast<const double *>(base)[at];
    if (type == f32)
        return static_cast<double>(reinterpret_cast<const float *>(base)[at]);
    const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(base)[at]) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return static_cast<double>(out);
}

void store(uintptr_t base, int type, int64_t at, double value) {
    if (type == f64) {
        reinterpret_cast<double *>(base)[at] = value;
    } else if (type == f32) {
        reinterpret_cast<float *>(base)[at] = static_cast<float>(value);
    } else {
        const auto narrow = static_cast<float>(value);
        uint32_t bits;
        std::memcpy(&bits, &narrow, sizeof bits);
        reinterpret_cast<uint16_t *>(base)[at] = static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}

bool inside(uintptr_t base, const Layout &l, int device, const char *what) {
    const int64_t last = (l.batch - 1) * l.batch_step + (l.columns - 1) * l.step + l.rows;
    return Model::get().access(base, static_cast<size_t>(last) * item(l.type), device, what);
}

struct Call {
    Product p;
    Layout a, b, c, d;
    double alpha, beta;
    uintptr_t pa, pb, pc, pd, scratch;
    int device;

    void scale(const void *given_alpha, const void *given_beta) {
        const bool wide = p.scale == f64;
        alpha = load(reinterpret_cast<uintptr_t>(given_alpha), wide ? f64 : f32, 0);
        beta = load(reinterpret_cast<uintptr_t>(given_beta), wide ? f64 : f32, 0);
    }

    void run() const {
        const int64_t m = d.rows, n = d.columns, k = p.turn_a ? a.rows : a.columns;
        if (!inside(pa, a, device, "cublasLtMatmul") || !inside(pb, b, device, "cublasLtMatmul") ||
            !inside(pd, d, device, "cublasLtMatmul") || !Model::get().access(scratch, asked_scratch, device, "cublasLt scratch"))
            return;
        if ((p.epilogue & 4) && !Model::get().access(p.bias, static_cast<size_t>(m) * item(p.bias_type), device, "cublasLt bias"))
            return;
        double factor = alpha;
        for (uintptr_t scale : p.scales)
            if (scale && !Model::get().access(scale, sizeof(float), device, "cublasLt scale"))
                return;
            else if (scale)
                factor *= load(scale, f32, 0);
        std::memset(reinterpret_cast<void *>(scratch), 0x77, asked_scratch);
        for (int64_t e = 0; e < d.batch; ++e)
            for (int64_t j = 0; j < n; ++j)
                for (int64_t i = 0; i < m; ++i) {
                    double total = 0;
                    for (int64_t t = 0; t < k; ++t)
                        total += load(pa, a.type, e * a.batch_step + (p.turn_a ? i * a.step + t : t * a.step + i)) *
                                 load(pb, b.type, e * b.batch_step + (p.turn_b ? t * b.step + j : j * b.step + t));
                    total *= factor;
                    if (beta != 0)
                        total += beta * load(pc, c.type, e * c.batch_step + j * c.step + i);
                    if (p.epilogue & 4)
                        total += load(p.bias, p.bias_type, i);
                    if (p.epilogue & 2)
                        total = total > 0 ? total : 0;
                    if (p.epilogue & 32)
                        total = 0.5 * total * (1 + std::tanh(std::sqrt(2 / M_PI) * (total + 0.044715 * total * total * total)));
                    store(pd, d.type, e * d.batch_step + j * d.step + i, total);
                }
    }
};

template <class T> int read(T &field, const void *value, size_t bytes) {
    if (bytes != sizeof field)
        return invalid;
    std::memcpy(&field, value, sizeof field);
    return 0;
}

} // namespace

extern "C" {

size_t cublasLtGetVersion() {
    const char *wanted = std::getenv("FAKE_CUBLASLT_VERSION");
    return wanted ? static_cast<size_t>(std::atoll(wanted)) : 130100;
}

int cublasLtCreate(Handle *handle) {
    if (std::getenv("FAKE_CUBLASLT_BROKEN"))
        return 1;
    ++counts["create"];
    static char context;
    *handle = &context;
    return 0;
}

int cublasLtMatmulDescCreate(Handle *product, int compute, int scale) {
    ++counts["alive"];
    auto *made = new Product;
    made->compute = compute;
    made->scale = scale;
    *product = made;
    return 0;
}
int cublasLtMatmulDescDestroy(Handle product) {
    --counts["alive"];
    delete static_cast<Product *>(product);
    return 0;
}
int cublasLtMatmulDescSetAttribute(Handle product, int attribute, const void *value, size_t bytes) {
    auto &p = *static_cast<Product *>(product);
    switch (attribute) {
    case 3:
        return read(p.turn_a, value, bytes);
    case 4:
        return read(p.turn_b, value, bytes);
    case 7:
        return read(p.epilogue, value, bytes);
    case 8:
        return read(p.bias, value, bytes);
    case 17:
    case 18:
        return read(p.scales[attribute - 17], value, bytes);
    case 26:
        return read(p.bias_type, value, bytes);
    }
    return invalid;
}

int cublasLtMatrixLayoutCreate(Handle *layout, int type, uint64_t rows, uint64_t columns, int64_t step) {
    ++counts["alive"];
    auto *made = new Layout;
    made->type = type;
    made->rows = static_cast<int64_t>(rows);
    made->columns = static_cast<int64_t>(columns);
    made->step = step;
    *layout = made;
    return 0;
}
int cublasLtMatrixLayoutDestroy(Handle layout) {
    --counts["alive"];
    delete static_cast<Layout *>(layout);
    return 0;
}
int cublasLtMatrixLayoutSetAttribute(Handle layout, int attribute, const void *value, size_t bytes) {
    auto &l = *static_cast<Layout *>(layout);
    return attribute == 5 ? read(l.batch, value, bytes) : attribute == 6 ? read(l.batch_step, value, bytes) : invalid;
}

int cublasLtMatmulPreferenceCreate(Handle *preference) {
    ++counts["alive"];
    *preference = new Preference;
    return 0;
}
int cublasLtMatmulPreferenceDestroy(Handle preference) {
    --counts["alive"];
    delete static_cast<Preference *>(preference);
    return 0;
}
int cublasLtMatmulPreferenceSetAttribute(Handle preference, int attribute, const void *value, size_t bytes) {
    auto &p = *static_cast<Preference *>(preference);
    if (attribute == 1)
        return read(p.scratch, value, bytes);
    return attribute >= 5 && attribute <= 8 ? read(p.alignment[attribute - 5], value, bytes) : invalid;
}

int cublasLtMatmulAlgoGetHeuristic(Handle, Handle product, Handle a, Handle b, Handle c, Handle d, Handle preference, int wanted,
                                   Choice *choices, int *found) {
    ++counts["choose"];
    const auto &p = *static_cast<Product *>(product);
    *found = 0;
    for (Handle x : {a, b, c, d})
        if (int type = static_cast<Layout *>(x)->type; type != f32 && type != f64 && type != bf16)
            return not_supported;
    if (static_cast<Preference *>(preference)->scratch < asked_scratch || static_cast<Preference *>(preference)->alignment[0] > 16)
        return not_supported;
    if ((p.epilogue & 4) && p.bias_type != static_cast<Layout *>(d)->type && p.bias_type != f32)
        return not_supported;
    for (int i = 0; i < wanted && i < 3; ++i, ++*found) {
        choices[i] = {};
        choices[i].algorithm[0] = static_cast<uint64_t>(i) + 1;
        choices[i].scratch = asked_scratch;
    }
    return 0;
}

int cublasLtMatmul(Handle, Handle product, const void *alpha, const void *a, Handle a_layout, const void *b, Handle b_layout,
                   const void *beta, const void *c, Handle c_layout, void *d, Handle d_layout, const uint64_t *algorithm,
                   void *scratch, size_t scratch_bytes, Handle stream) {
    Model &model = Model::get();
    std::lock_guard<std::recursive_mutex> hold(model.lock);
    ++counts["multiply"];
    counts["algorithm"] = static_cast<int64_t>(algorithm[0]);
    if (failure) {
        const int result = failure;
        failure = 0;
        return result;
    }
    Stream *on = model.stream(stream);
    if (!on || algorithm[0] < 1 || algorithm[0] > 3 || scratch_bytes < asked_scratch) {
        model.misuse("cublasLtMatmul with wrong arguments");
        return invalid;
    }
    Call call;
    call.p = *static_cast<Product *>(product);
    call.a = *static_cast<Layout *>(a_layout);
    call.b = *static_cast<Layout *>(b_layout);
    call.c = *static_cast<Layout *>(c_layout);
    call.d = *static_cast<Layout *>(d_layout);
    call.scale(alpha, beta);
    call.pa = reinterpret_cast<uintptr_t>(a);
    call.pb = reinterpret_cast<uintptr_t>(b);
    call.pc = reinterpret_cast<uintptr_t>(c);
    call.pd = reinterpret_cast<uintptr_t>(d);
    call.scratch = reinterpret_cast<uintptr_t>(scratch);
    call.device = on->device;
    for (uintptr_t address : {call.pa, call.pb, call.pc, call.pd})
        if (address % 16)
            model.misuse("cublasLtMatmul: a matrix is not aligned as the choice was told");
    model.put(*on, {"cublasLtMatmul", [call] { call.run(); }});
    return 0;
}

// For tests: "create", "alive" (descriptors), "choose", "multiply", "algorithm" (the last, from 1).
int64_t fake_cublaslt_count(const char *what) { return counts[what]; }
// The next product fails with this status.
void fake_cublaslt_fail(int status) { failure = status; }
}
