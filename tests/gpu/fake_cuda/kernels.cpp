// What the kernels of tests/gpu/kernels.ptx and of the examples compute, for the model.
#include <cstdlib>
#include <cstring>

#include "device_model.h"

namespace fake {

namespace {

void add(const Arguments &a) {
    auto n = a.value<int64_t>(3);
    auto *x = a.elements<float>(0, n, "add"), *y = a.elements<float>(1, n, "add"), *out = a.elements<float>(2, n, "add");
    if (!x || !y || !out)
        return;
    for (int64_t i = 0; i < n && i < int64_t{a.blocks} * a.threads; ++i)
        out[i] = x[i] + y[i];
}

void scale(const Arguments &a) {
    auto n = a.value<int32_t>(2);
    auto *x = a.elements<float>(0, n, "scale"), *out = a.elements<float>(1, n, "scale");
    if (!x || !out)
        return;
    for (int32_t i = 0; i < n && i < int64_t{a.blocks} * a.threads; ++i)
        out[i] = 2.0f * x[i];
}

void increment(const Arguments &a) {
    auto *counter = a.elements<int64_t>(0, 1, "increment"), *flag = a.elements<int64_t>(1, 1, "increment");
    if (counter && flag && *flag == 0)
        ++*counter;
}

void add_checked(const Arguments &a) {
    auto *flag = a.elements<int64_t>(4, 1, "add_checked");
    if (flag && *flag == 0)
        add(a);
}

void check_range(const Arguments &a) {
    auto n = a.value<int64_t>(1), low = a.value<int64_t>(2), high = a.value<int64_t>(3);
    auto *x = a.elements<int64_t>(0, n, "check_range");
    auto *flag = a.elements<int64_t>(4, 1, "check_range"), *first = a.elements<int64_t>(5, 1, "check_range");
    if (!x || !flag || !first)
        return;
    for (int64_t i = 0; i < n && i < int64_t{a.blocks} * a.threads; ++i)
        if (x[i] < low || x[i] > high) {
            *flag = 1;
            *first = i < *first ? i : *first;
        }
}

// Each block writes its scratch and sums it.
void through_scratch(const Arguments &a) {
    auto *out = a.elements<float>(0, a.blocks, "through_scratch");
    auto *scratch = a.elements<float>(1, int64_t{a.blocks} * 64, "through_scratch");
    if (!out || !scratch)
        return;
    for (uint32_t b = 0; b < a.blocks; ++b) {
        scratch[b * 64] = static_cast<float>(b) * 3.0f;
        out[b] = scratch[b * 64] + 1.0f;
    }
}

// With FAKE_CUDA_FAULT another error than an illegal address: 719 a failed launch, 999 a lost device.
void fault(const Arguments &a) {
    const char *wanted = std::getenv("FAKE_CUDA_FAULT");
    Model::get().sticky[a.device] = wanted ? std::atoi(wanted) : illegal_address;
}

// Copies the first box of a two-dimensional f32 tensor.
void tile(const Arguments &a) {
    auto map = a.value<ModelTensorMap>(0);
    auto *out = a.elements<float>(1, static_cast<int64_t>(map.box[0] * map.box[1]), "tile");
    if (!out || !Model::get().access(map.base, map.shape[1] * map.stride, a.device, "tile"))
        return;
    for (uint64_t row = 0; row < map.box[1]; ++row)
        for (uint64_t column = 0; column < map.box[0]; ++column) {
            bool inside = row < map.shape[1] && column < map.shape[0];
            out[row * map.box[0] + column] =
                inside ? reinterpret_cast<float *>(map.base + row * map.stride)[column] : 0.0f;
        }
}

void cluster_size(const Arguments &a) {
    if (auto *out = a.elements<int32_t>(0, 1, "cluster_size"))
        *out = static_cast<int32_t>(a.threads);
}

// The kernels of examples/cpp/cuda_stream.
void to_float(const Arguments &a) {
    auto n = a.value<int64_t>(2);
    auto *bytes = a.elements<uint8_t>(0, n, "to_float");
    auto *out = a.elements<float>(1, n, "to_float");
    if (!bytes || !out)
        return;
    for (int64_t i = 0; i < n && i < int64_t{a.blocks} * a.threads; ++i)
        out[i] = static_cast<float>(bytes[i]) / 255.0f;
}

void largest(const Arguments &a) {
    auto rows = a.value<int32_t>(2), columns = a.value<int32_t>(3);
    auto *scores = a.elements<float>(0, int64_t{rows} * columns, "largest");
    auto *best = a.elements<int32_t>(1, rows, "largest");
    if (!scores || !best)
        return;
    for (int32_t row = 0; row < rows && row < int64_t{a.blocks} * a.threads; ++row) {
        best[row] = 0;
        for (int32_t k = 1; k < columns; ++k)
            if (scores[row * columns + k] > scores[row * columns + best[row]])
                best[row] = k;
    }
}

constexpr Kernel kernels[] = {
    {"add", "pppl", add},
    {"scale", "ppi", scale},
    {"increment", "pp", increment},
    {"add_checked", "ppplp", add_checked},
    {"check_range", "plllpp", check_range},
    {"through_scratch", "pp", through_scratch},
    {"fault", "p", fault},
    {"tile", "mp", tile},
    {"large_shared", "p", cluster_size},
    {"to_float", "ppl", to_float},
    {"largest", "ppii", largest},
};

} // namespace

const Kernel *find_kernel(const std::string &name) {
    for (const Kernel &k : kernels)
        if (name == k.name)
            return &k;
    return nullptr;
}

} // namespace fake
