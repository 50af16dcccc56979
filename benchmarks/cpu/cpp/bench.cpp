// Measures a saved graph from C++: `bench time FILE INPUT OUTPUT THREADS SECONDS` (JSON of seconds per run) and
// `bench first FILE` (milliseconds from the start of main to the first result; the caller adds the process's start).
#include <tessera/runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

using namespace tessera;
using Clock = std::chrono::steady_clock;

static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

static int measure(char **arguments) {
    const Clock::time_point start = Clock::now();
    Graph graph = Graph::load(arguments[0]);
    Runtime runtime(std::atoi(arguments[3]));
    const std::string x = graph.inputs()[0].name, y = graph.outputs()[0].name;
    Tensor input = graph.input(x), output = graph.output(y);
    std::ifstream(arguments[1], std::ios::binary).read(reinterpret_cast<char *>(input.data<float>()), input.bytes());
    Binding run = runtime.bind(graph, {{x, input}}, {{y, output}});
    run();
    const double first = seconds_since(start);
    const double limit = std::atof(arguments[4]);
    std::vector<double> times;
    const int batch = 50;
    for (int i = 0; i < 1000; ++i) run();
    for (const Clock::time_point begin = Clock::now(); times.size() < 10 || seconds_since(begin) < limit;) {
        const Clock::time_point once = Clock::now();
        for (int i = 0; i < batch; ++i) run();
        times.push_back(seconds_since(once) / batch);
    }
    std::ofstream(arguments[2], std::ios::binary).write(reinterpret_cast<const char *>(output.data<float>()), output.bytes());
    std::sort(times.begin(), times.end());
    std::printf("{\"min\": %.9g, \"median\": %.9g, \"count\": %zu, \"first\": %.9g, \"version\": \"%s\"}\n", times[0],
                times[times.size() / 2], times.size() * batch, first, tsr_version());
    return 0;
}

static int first(const char *path) {
    Graph graph = Graph::load(path);
    Runtime runtime;
    runtime.run(graph, {Tensor::create({1, 64}, DType::F32)});
    return 0;
}

int main(int count, char **arguments) {
    try {
        if (count == 7 && !std::strcmp(arguments[1], "time")) return measure(arguments + 2);
        if (count == 3 && !std::strcmp(arguments[1], "first")) return first(arguments[2]);
    } catch (const Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    std::fprintf(stderr, "usage: bench time FILE INPUT OUTPUT THREADS SECONDS | bench first FILE\n");
    return 2;
}
