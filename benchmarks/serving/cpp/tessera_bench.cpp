// What a run of a saved graph costs from C++, beside the work itself. `tessera_bench submit FILE ROWS SECONDS` prints
// JSON: nanoseconds per run by one thread (a binding's call; submit and wait; submit by name) and runs per second by 1, 2
// and 4 threads. `tessera_bench load FILE skip|verify` prints JSON: seconds and resident bytes of loading a large file.
#include <tessera/runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <unistd.h>
#include <vector>

#include "measure.h"

using namespace tessera;

struct Caller {
    Tensor x, y;
    Binding run;
    Caller(Runtime &runtime, const Graph &graph, int64_t rows)
        : x(Tensor::create(shape(graph.inputs()[0], rows), DType::F32)),
          y(Tensor::create(shape(graph.outputs()[0], rows), DType::F32)),
          run(runtime.bind(graph, {{graph.inputs()[0].name, x}}, {{graph.outputs()[0].name, y}})) {}

    static std::vector<int64_t> shape(const ValueInfo &info, int64_t rows) {
        std::vector<int64_t> out;
        for (const std::string &d : info.shape)
            out.push_back(std::isdigit(static_cast<unsigned char>(d[0])) ? std::stoll(d) : rows);
        return out;
    }
};

static int submit(const char *path, int64_t rows, double limit) {
    Graph graph = Graph::load(path);
    Runtime runtime(1);
    Caller caller(runtime, graph, rows);
    const std::string input = graph.inputs()[0].name, output = graph.outputs()[0].name;
    std::printf("{\"version\": \"%s\", \"run\": %s", tsr_version(), time_of(limit, [&] { caller.run(); }).c_str());
    std::printf(", \"submit\": %s", time_of(limit, [&] { caller.run.submit().wait(); }).c_str());
    std::printf(", \"named\": %s", time_of(limit, [&] {
                    runtime.submit(graph, {{input, caller.x}}, {{output, caller.y}}).wait();
                }).c_str());
    std::printf(", \"named_new\": %s", time_of(limit, [&] {
                    runtime.submit(graph, {{input, caller.x}}).output();
                }).c_str());
    std::printf(", \"rates\": {");
    for (int count : {1, 2, 4})
        std::printf("%s\"%d\": {\"run\": %.0f, \"submit\": %.0f}", count > 1 ? ", " : "", count,
                    rate(count, limit, [&] { return [c = Caller(runtime, graph, rows)]() mutable { c.run(); }; }),
                    rate(count, limit, [&] { return [c = Caller(runtime, graph, rows)]() mutable { c.run.submit().wait(); }; }));
    std::printf("}}\n");
    return 0;
}

static long resident() {
    long total = 0, pages = 0;
    std::ifstream("/proc/self/statm") >> total >> pages;
    return pages * sysconf(_SC_PAGESIZE);
}

static int load(const char *path, bool verify) {
    LoadOptions options;
    options.verify_hashes = verify;
    const long before = resident();
    const Clock::time_point begin = Clock::now();
    Graph graph = Graph::load(path, options);
    const double seconds = seconds_since(begin);
    std::printf("{\"seconds\": %.6f, \"resident\": %ld}\n", seconds, resident() - before);
    return 0;
}

int main(int count, char **arguments) {
    try {
        if (count == 5 && !std::strcmp(arguments[1], "submit"))
            return submit(arguments[2], std::atoll(arguments[3]), std::atof(arguments[4]));
        if (count == 4 && !std::strcmp(arguments[1], "load"))
            return load(arguments[2], !std::strcmp(arguments[3], "verify"));
    } catch (const Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    std::fprintf(stderr, "usage: tessera_bench submit FILE ROWS SECONDS | tessera_bench load FILE skip|verify\n");
    return 2;
}
