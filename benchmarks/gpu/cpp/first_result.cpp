// The first result of a saved graph: `first_result FILE` loads it, runs it on zeros for all inputs and copies the outputs
// to the host, then prints nanoseconds of the monotonic clock: at the start of main, after loading, and at the end.
#include <tessera/runtime.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

using namespace tessera;

static long long now() {
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

int main(int count, char **arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: first_result FILE\n");
        return 2;
    }
    try {
        const long long start = now();
        Graph graph = Graph::load(arguments[1]);
        Runtime runtime;
        const long long loaded = now();
        std::vector<std::pair<std::string, Tensor>> inputs;
        for (const ValueInfo &info : graph.inputs()) {
            std::vector<int64_t> shape;
            for (const std::string &size : info.shape)
                shape.push_back(std::stoll(size));
            inputs.emplace_back(info.name, Tensor::create(shape, info.dtype));
        }
        Run run = runtime.submit(graph, inputs);
        for (const ValueInfo &info : graph.outputs())
            run.output(info.name).to(Device{});
        std::printf("%lld %lld %lld %s %s\n", start, loaded, now(), graph.target().c_str(), graph.level().c_str());
    } catch (const std::exception &error) {
        std::fprintf(stderr, "first_result: %s\n", error.what());
        return 1;
    }
    return 0;
}
