// Classifies the held-out digits with the network that Python trained, and compares the logits with Python's.
// Usage: classify FOLDER, where train.py wrote digits.tsr, images.f32, labels.i64 and logits.f32.
#include <tessera/runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

static const int64_t pixels = 64, classes = 10;

template <class T> std::vector<T> read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
        throw std::runtime_error("cannot read " + path);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
}

int main(int count, char **arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: classify FOLDER\n");
        return 2;
    }
    try {
        const std::string folder = std::string(arguments[1]) + "/";
        std::vector<float> images = read<float>(folder + "images.f32");
        const std::vector<int64_t> labels = read<int64_t>(folder + "labels.i64");
        const std::vector<float> expected = read<float>(folder + "logits.f32");
        const int64_t rows = static_cast<int64_t>(labels.size());

        tessera::Graph graph = tessera::Graph::load(folder + "digits.tsr");
        tessera::Runtime runtime;
        tessera::Tensor x = tessera::Tensor::from_blob(images.data(), {rows, pixels}, tessera::DType::F32);
        tessera::Tensor logits = runtime.submit(graph, {{"x", x}}).output("logits");

        const float *values = logits.data<float>();
        int64_t right = 0;
        for (int64_t row = 0; row < rows; ++row) {
            int64_t best = 0;
            for (int64_t c = 1; c < classes; ++c)
                if (values[row * classes + c] > values[row * classes + best])
                    best = c;
            right += best == labels[static_cast<size_t>(row)];
        }
        std::printf("C++: %.2f%% of the held-out images are right (%s %s)\n", 100.0 * right / rows, graph.target().c_str(),
                    graph.level().c_str());
        if (std::memcmp(values, expected.data(), expected.size() * sizeof(float)) != 0) {
            std::fprintf(stderr, "the logits differ from Python's\n");
            return 1;
        }
        std::printf("the %lld logits equal Python's bit for bit\n", static_cast<long long>(expected.size()));
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "classify: %s\n", error.what());
        return 1;
    }
}
