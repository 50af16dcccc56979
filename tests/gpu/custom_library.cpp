// A library of operators with kernels for all devices. A GPU's are copies, so that it needs no compiler for one.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "tessera/custom_op.h"

using namespace tessera;
using namespace tessera::custom;

namespace {

using Copy = int (*)(uint64_t to, uint64_t from, size_t bytes, void *stream);

void *driver(const char *variable, const char *standard) {
    const char *file = std::getenv(variable);
    void *handle = dlopen(file && *file ? file : standard, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        throw Error(TSR_DEVICE_ERROR, dlerror());
    return handle;
}

Copy cuda_copy() {
    using Find = int (*)(const char *, void **, int, uint64_t, int *);
    static const auto find = reinterpret_cast<Find>(dlsym(driver("TESSERA_CUDA_LIBRARY", "libcuda.so.1"), "cuGetProcAddress_v2"));
    void *address = nullptr;
    int status = 0;
    find("cuMemcpyDtoDAsync", &address, 12000, 0, &status);
    return reinterpret_cast<Copy>(address);
}

Copy hip_copy() {
    return reinterpret_cast<Copy>(dlsym(driver("TESSERA_HIP_LIBRARY", "libamdhip64.so"), "hipMemcpyDtoDAsync"));
}

// y[i] = x[(i + by) % n], as two copies on the run's stream.
template <Copy (*find)()> void rotate(const Context &context, const Input &x, int64_t by, const Output &y) {
    static const Copy copy = find();
    if (x.size() == 0)
        return;
    const auto from = reinterpret_cast<uint64_t>(x.data<float>()), to = reinterpret_cast<uint64_t>(y.data<float>());
    const uint64_t bytes = static_cast<uint64_t>(x.size()) * 4, head = static_cast<uint64_t>(by % x.size()) * 4;
    if (copy(to, from + head, bytes - head, context.stream()) || (head && copy(to + bytes - head, from, head, context.stream())))
        throw Error(TSR_DEVICE_ERROR, "a copy cannot be put on the stream");
}

} // namespace

TESSERA_OPERATOR(gpulib, rotate) {
    declare.doc("The elements of a vector, rotated.")
        .arguments({"x", {"by", 1}})
        .dtypes({DType::F32})
        .shape([](const TensorType &x, int64_t by) {
            if (x.rank() != 1 || by < 0)
                throw Error(TSR_SHAPE_ERROR, "expected a vector and a distance of at least 0, got " + x.text());
            return x;
        })
        .cpu([](const Context &, const Input &x, int64_t by, const Output &y) {
            if (x.size())
                std::rotate_copy(x.data<float>(), x.data<float>() + by % x.size(), x.data<float>() + x.size(), y.data<float>());
        })
        .cuda(rotate<cuda_copy>)
        .hip(rotate<hip_copy>)
        .no_gradient("not needed here");
}

TESSERA_OPERATOR(gpulib, host_only) {
    declare.doc("The same elements.")
        .arguments({"x"})
        .shape([](const TensorType &x) { return x; })
        .cpu([](const Context &, const Input &x, const Output &y) {
            std::copy_n(x.data<float>(), x.size(), y.data<float>());
        });
}
