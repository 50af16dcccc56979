// Many threads at once, objects that come and go: run under ThreadSanitizer and AddressSanitizer by
// `make test-sanitize`, with more rounds than here.
#include "tessera/runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>
#include <unistd.h>

#include "artifact_builder.h"
#include "check.h"

using namespace tessera;

#ifndef TESSERA_STRESS_ROUNDS
#define TESSERA_STRESS_ROUNDS 1
#endif

namespace {

constexpr int rounds = TESSERA_STRESS_ROUNDS;
constexpr int64_t width = 32;

// y = x * scale + shift over x: f32[B, 32], in both forms: a plan (without native code, so that the sanitizers see every
// access) and a portable graph.
std::string affine_artifact(float value) {
    const char *graph = "tessera.graph 1\ngraph \"main\" {\n  dim B in [1, 64] multiple_of 1\n"
                        "  %0 = input {name = \"x\"} : f32[B, 32]\n"
                        "  %1 = param {name = \"scale\", trainable = true} : f32[32]\n"
                        "  %2 = param {name = \"shift\", trainable = true} : f32[32]\n"
                        "  %3 = mul(%0, %1) : f32[B, 32]\n  %4 = add(%3, %2) : f32[B, 32]\n  output \"y\" = %4\n}\n";
    std::string row = R"("dtype":"f32","shape":["B",32])", weight = R"("dtype":"f32","shape":[32])";
    std::string plan =
        R"({"version":1,"target":"cpu","level":"x86-64-v2","dims":[{"name":"B","min":1,"max":64,"multiple_of":1}],)"
        R"("inputs":[{"name":"x","buffer":0,)" + row + R"(}],"outputs":[{"name":"y","buffer":1,)" + row + R"(}],)"
        R"("state":[{"name":"scale","buffer":2,)" + weight + R"(},{"name":"shift","buffer":3,)" + weight + R"(}],)"
        R"("constants":[],"buffers":[{"kind":"input","bytes":"128*B"},{"kind":"output","bytes":"128*B"},)"
        R"({"kind":"state","bytes":128},{"kind":"state","bytes":128},{"kind":"arena","bytes":"128*B","offset":0}],)"
        R"("arena":"128*B","kernels":[],"peak":0,"instructions":[)"
        R"({"portable":"mul","operands":[{"buffer":0,)" + row + R"(},{"buffer":2,)" + weight + R"(}],)"
        R"("results":[{"buffer":4,)" + row + R"(}]},)"
        R"({"portable":"add","operands":[{"buffer":4,)" + row + R"(},{"buffer":3,)" + weight + R"(}],)"
        R"("results":[{"buffer":1,)" + row + R"(}]}]})";
    std::string values = bytes_of(std::vector<float>(width, value));
    return build_artifact({{"tessera.format", "1"}, {"tessera.graph", graph}, {"tessera.portable", graph},
                           {"tessera.plan.cpu.x86-64-v2", plan}},
                          {{"scale", "F32", "[32]", values}, {"shift", "F32", "[32]", values}});
}

Graph load(const std::string &bytes, const std::string &target) {
    LoadOptions options;
    options.target = target;
    return Graph::load(bytes.data(), bytes.size(), options);
}

Tensor rows(int64_t count, float value) {
    Tensor t = Tensor::create({count, width}, DType::F32);
    for (int64_t i = 0; i < count * width; ++i)
        t.data<float>()[i] = value;
    return t;
}

void in_threads(int count, const std::function<void(int)> &body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i)
        threads.emplace_back(body, i);
    for (std::thread &t : threads)
        t.join();
}

// Whether every element is x * k + k for the given k.
bool is_affine(const Tensor &y, float x, float k) {
    for (int64_t i = 0; i < y.size(); ++i)
        if (y.data<float>()[i] != x * k + k)
            return false;
    return true;
}

// 16 threads on one graph: run and submit, own and shared runtimes, all batch sizes.
void test_shared_graph(const std::string &target) {
    Graph g = load(affine_artifact(3), target);
    Runtime shared(2);
    std::atomic<int> wrong{0};
    in_threads(16, [&](int thread) {
        Runtime own(1);
        for (int i = 0; i < 8 * rounds; ++i) {
            int64_t batch = 1 + (thread * 7 + i * 5) % 64;
            float value = static_cast<float>(thread + i);
            Tensor x = rows(batch, value);
            Tensor y = i % 3 == 0   ? shared.submit(g, {{"x", x}}).output("y")
                       : i % 3 == 1 ? shared.run(g, {x})[0]
                                    : own.run(g, {x})[0];
            wrong += !(y.shape() == std::vector<int64_t>{batch, width} && is_affine(y, value, 3));
        }
    });
    CHECK(wrong == 0);
}

// A program that changes state: runs exclude each other, none is lost.
void test_shared_state() {
    std::string bytes = test_artifact();
    Graph g = Graph::load(bytes.data(), bytes.size());
    for (int64_t i = 0; i < 4; ++i)
        g.state("steps").data<float>()[i] = 1;
    Runtime rt(2);
    in_threads(16, [&](int) {
        Tensor x = Tensor::create({1, 4}, DType::F32), labels = Tensor::create({1}, DType::I64);
        for (int i = 0; i < 4; ++i)
            i % 2 ? rt.run(g, {x, labels})[0] : rt.submit(g, {{"x", x}, {"labels", labels}}).output("y");
    });
    CHECK(g.state("steps").data<float>()[0] == 18446744073709551616.0f); // 2^64
}

// Loading and letting go, from a file that other threads read too.
void test_load_and_unload() {
    namespace fs = std::filesystem;
    std::string path = (fs::temp_directory_path() / ("tessera_stress_" + std::to_string(::getpid()) + ".tsr")).string();
    std::string bytes = affine_artifact(2);
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    std::atomic<int> wrong{0};
    in_threads(8, [&](int thread) {
        for (int i = 0; i < 10 * rounds; ++i) {
            LoadOptions options;
            options.target = thread % 2 ? "cpu" : "portable";
            Graph g = Graph::load(path, options);
            Runtime rt(1 + i % 2);
            Run run = rt.submit(g, {{"x", rows(3, 5)}});
            if (i % 2)
                g = Graph(); // the run keeps what it needs
            wrong += !is_affine(run.output(), 5, 2);
        }
    });
    fs::remove(path);
    CHECK(wrong == 0);
}

// Handles go in every order; what is under way keeps its owners.
void test_destruction_order() {
    std::string bytes = affine_artifact(4);
    std::atomic<int> wrong{0};
    in_threads(6, [&](int order) {
        for (int i = 0; i < 10 * rounds; ++i) {
            auto g = std::make_unique<Graph>(load(bytes, i % 2 ? "cpu" : "portable"));
            auto rt = std::make_unique<Runtime>(2);
            auto x = std::make_unique<Tensor>(rows(2, 1));
            auto run = std::make_unique<Run>(rt->submit(*g, {{"x", *x}}));
            Tensor state = g->state("scale");
            const std::function<void()> release[] = {[&] { g.reset(); }, [&] { rt.reset(); }, [&] { x.reset(); }};
            const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
            for (int which : orders[order])
                release[which]();
            wrong += !is_affine(run->output(), 1, 4);
            run.reset();
            wrong += state.data<const float>()[width - 1] != 4;
        }
    });
    CHECK(wrong == 0);
}

// Two runtimes of one process, with one graph between them and work of their own.
void test_two_runtimes() {
    Graph shared = load(affine_artifact(2), "cpu"), other = load(affine_artifact(5), "portable");
    std::atomic<int> wrong{0};
    in_threads(2, [&](int) {
        Runtime rt(3);
        std::vector<Run> runs;
        for (int i = 0; i < 20 * rounds; ++i) {
            runs.push_back(rt.submit(shared, {{"x", rows(64, 1)}}));
            runs.push_back(rt.submit(other, {{"x", rows(64, 1)}}));
        }
        for (size_t i = 0; i < runs.size(); ++i)
            wrong += !is_affine(runs[i].output(), 1, i % 2 ? 5 : 2);
        rt.wait();
    });
    CHECK(wrong == 0);
}

// Failures on many threads: each gets its own error, and the text of its own.
void test_errors() {
    Graph g = load(affine_artifact(1), "cpu");
    Runtime rt(2);
    std::atomic<int> wrong{0};
    in_threads(16, [&](int thread) {
        for (int i = 0; i < 10 * rounds; ++i) {
            std::string name = "input_" + std::to_string(thread);
            try {
                rt.submit(g, {{name, rows(1, 1)}});
                ++wrong;
            } catch (const Error &error) {
                wrong += error.code() != TSR_NAME_MISSING_ERROR || std::string(error.what()).find(name) == std::string::npos;
            }
            try {
                rt.run(g, {rows(65 + thread, 1)});
                ++wrong;
            } catch (const Error &error) {
                wrong += error.code() != TSR_SHAPE_ERROR;
            }
        }
    });
    CHECK(wrong == 0);
}

// Weights that change while 16 threads run with them: no run sees some old and some new ones.
void test_weight_swap(const std::string &target) {
    Graph g = load(affine_artifact(1), target), other = load(affine_artifact(1), target);
    auto set = [](float value) {
        NamedTensors out;
        for (const char *name : {"scale", "shift"}) {
            Tensor t = Tensor::create({width}, DType::F32);
            std::fill_n(t.data<float>(), width, value);
            out.emplace_back(name, t);
        }
        return out;
    };
    Weights weights(set(1));
    weights.bind(g);
    weights.bind(other);
    Runtime rt(1);
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::thread swapper([&] {
        for (int i = 0; !stop; ++i)
            weights.swap(set(static_cast<float>(2 + i % 50)));
    });
    in_threads(16, [&](int thread) {
        for (int i = 0; i < 20 * rounds; ++i) {
            Tensor y = rt.run(thread % 2 ? g : other, {rows(1 + i % 8, 1)})[0];
            wrong += !is_affine(y, 1, y.data<float>()[0] / 2);
        }
    });
    stop = true;
    swapper.join();
    CHECK(wrong == 0);
}

// Cancelled at any moment, a run gives its result or CancelledError, and the next one is as good as ever.
void test_cancellation() {
    Graph g = load(affine_artifact(3), "cpu");
    Runtime rt(2);
    std::atomic<int> wrong{0};
    in_threads(8, [&](int thread) {
        for (int i = 0; i < 20 * rounds; ++i) {
            CancelToken token;
            RunOptions options;
            options.cancel = token;
            std::vector<Run> runs;
            for (int k = 0; k < 4; ++k)
                runs.push_back(rt.submit(g, {{"x", rows(64, 2)}}, {}, options));
            if ((i + thread) % 3)
                token.cancel();
            for (const Run &run : runs)
                try {
                    wrong += !is_affine(run.output(), 2, 3);
                } catch (const Error &error) {
                    wrong += error.code() != TSR_CANCELLED_ERROR || (i + thread) % 3 == 0;
                }
            wrong += !is_affine(rt.run(g, {rows(1, 5)})[0], 5, 3);
        }
    });
    CHECK(wrong == 0);
}

// Each thread with a workspace of its own, all of one allocator of the caller's.
void test_workspaces() {
    Graph a = load(affine_artifact(2), "cpu"), b = load(affine_artifact(3), "cpu");
    Allocator memory;
    RuntimeOptions settings;
    settings.threads = 2;
    settings.allocator = memory;
    {
        Runtime rt(settings);
        const uint64_t need = a.requirements({{"B", 64}}).workspace(rt.threads());
        std::atomic<int> wrong{0};
        in_threads(16, [&](int thread) {
            RunOptions options;
            options.workspace = Workspace(need, memory);
            for (int i = 0; i < 10 * rounds; ++i) {
                const bool first = (i + thread) % 2;
                wrong += !is_affine(rt.run(first ? a : b, {rows(1 + i % 64, 1)}, options)[0], 1, first ? 2 : 3);
            }
        });
        CHECK(wrong == 0);
    }
    CHECK(memory.statistics().bytes_in_use == 0);
}

// The caller's threads in place of the runtime's, and a trace that all runs write to.
void test_caller_s_threads() {
    struct Pool final : ParallelFor {
        void run(int64_t units, int64_t grain, const std::function<void(int64_t, int64_t)> &body) noexcept override {
            const int64_t half = units / 2;
            if (half < grain || units - half < grain)
                return body(0, units);
            std::thread other([&] { body(0, half); });
            body(half, units);
            other.join();
        }
    };
    Graph g = load(affine_artifact(2), "cpu");
    RuntimeOptions settings;
    settings.threads = 2;
    settings.pool = std::make_shared<Pool>();
    settings.trace = Trace();
    Runtime rt(settings);
    std::atomic<int> wrong{0};
    in_threads(8, [&](int) {
        for (int i = 0; i < 10 * rounds; ++i)
            wrong += !is_affine(rt.run(g, {rows(64, 1)})[0], 1, 2);
    });
    CHECK(wrong == 0);
    CHECK(settings.trace->count() >= 8 * 10 * rounds * 2);
}

} // namespace

int main() {
    test_shared_graph("cpu");
    test_shared_graph("portable");
    test_shared_state();
    test_load_and_unload();
    test_destruction_order();
    test_two_runtimes();
    test_errors();
    test_weight_swap("cpu");
    test_weight_swap("portable");
    test_cancellation();
    test_workspaces();
    test_caller_s_threads();
    return finish();
}
