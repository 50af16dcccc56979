// Inference inside a program that owns its CUDA stream and its memory: a kernel of the program's turns bytes into numbers,
// a compiled graph gives scores, another kernel finds the largest one, all in the order of one stream. The host puts batch
// after batch there and waits once. `export.py` writes the files.
//
//   inference FOLDER [rows of a batch]
#include <tessera/runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "cuda.h"
#include "kernels.h"

using namespace tessera;

namespace {

template <class T> std::vector<T> read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
        throw std::runtime_error("cannot read " + path);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const T *data = reinterpret_cast<const T *>(bytes.data());
    return std::vector<T>(data, data + bytes.size() / sizeof(T));
}

int run(const std::string &folder, int64_t batch) {
    const std::vector<uint8_t> frames = read<uint8_t>(folder + "/frames.u8");
    const std::vector<int32_t> expected = read<int32_t>(folder + "/expected.i32");
    const auto count = static_cast<int64_t>(expected.size()), pixels = static_cast<int64_t>(frames.size()) / count;

    // The program's own: context, stream, kernels, memory.
    const char *driver = std::getenv("CUDA_DRIVER"); // another file than libcuda.so.1, such as a model of a device
    if (driver)
        check(tsr_device_library(TSR_CUDA, driver));
    Cuda cuda(driver ? driver : "libcuda.so.1");
    CUstream stream = nullptr;
    CUmodule module = nullptr;
    cuda.call<CUstream *, unsigned>("cuStreamCreate", &stream, 1); // non-blocking
    cuda.call<CUmodule *, const void *>("cuModuleLoadData", &module, kernels);
    const CUfunction to_float = cuda.function(module, "to_float"), largest = cuda.function(module, "largest");

    std::vector<int32_t> found(expected.size());
    {
        // docs: own_stream
        Graph graph = Graph::load(folder + "/model.tsr");
        Runtime runtime;
        RunOptions options;
        options.stream = Stream::wrap(graph.device(), stream); // a CUstream; a cudaStream_t is the same
        // docs: end
        const int64_t classes = std::stoll(graph.outputs()[0].shape[1]);
        const CUdeviceptr bytes = cuda.allocate(static_cast<size_t>(batch * pixels), stream),
                          numbers = cuda.allocate(static_cast<size_t>(batch * pixels) * sizeof(float), stream),
                          results = cuda.allocate(static_cast<size_t>(batch * classes) * sizeof(float), stream),
                          best = cuda.allocate(static_cast<size_t>(batch) * sizeof(int32_t), stream);

        for (int64_t first = 0; first < count; first += batch) {
            const int64_t rows = std::min(batch, count - first), values = rows * pixels;
            cuda.call<CUdeviceptr, const void *, size_t, CUstream>("cuMemcpyHtoDAsync", bytes, frames.data() + first * pixels,
                                                                   static_cast<size_t>(values), stream);
            // docs: between_kernels
            cuda.launch(to_float, static_cast<unsigned>(values), stream, bytes, numbers, values);
            Tensor x = Tensor::from_blob(reinterpret_cast<void *>(numbers), {rows, pixels}, DType::F32, nullptr, {}, graph.device());
            Tensor y = Tensor::from_blob(reinterpret_cast<void *>(results), {rows, classes}, DType::F32, nullptr, {}, graph.device());
            runtime.submit(graph, {{"x", x}}, {{"scores", y}}, options); // put on the stream; nothing is waited for
            cuda.launch(largest, static_cast<unsigned>(rows), stream, results, best, static_cast<int32_t>(rows),
                        static_cast<int32_t>(classes));
            // docs: end
            cuda.call<void *, CUdeviceptr, size_t, CUstream>("cuMemcpyDtoHAsync", found.data() + first, best,
                                                             static_cast<size_t>(rows) * sizeof(int32_t), stream);
        }
        cuda.call<CUstream>("cuStreamSynchronize", stream);
        runtime.wait(); // throws what went wrong on the way
        for (CUdeviceptr memory : {bytes, numbers, results, best})
            cuda.call<CUdeviceptr, CUstream>("cuMemFreeAsync", memory, stream);
        std::printf("%lld frames in batches of %lld on %s %s, %s\n", static_cast<long long>(count), static_cast<long long>(batch),
                    graph.target().c_str(), graph.level().c_str(), found == expected ? "as expected" : "WRONG");
    }
    cuda.call<CUmodule>("cuModuleUnload", module);
    cuda.call<CUstream>("cuStreamDestroy", stream);
    return found == expected ? 0 : 1;
}

} // namespace

int main(int count, char **arguments) {
    if (count < 2) {
        std::fprintf(stderr, "usage: inference FOLDER [rows of a batch]\n");
        return 2;
    }
    try {
        return run(arguments[1], count > 2 ? std::stoll(arguments[2]) : 256);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "inference: %s\n", error.what());
        return 1;
    }
}
