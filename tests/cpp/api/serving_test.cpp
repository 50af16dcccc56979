// What a server needs: exact memory, shared workspaces, weights swapped under load, many threads, the caller's threads,
// cancellation, traces and logs.
#include "tessera/runtime.h"

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>
#include <unistd.h>

#include "artifact_builder.h"
#include "check.h"

using namespace tessera;

namespace {

Graph load() {
    std::string bytes = test_artifact();
    return Graph::load(bytes.data(), bytes.size());
}

// y = x * scale + shift over f32[B, 4], by way of the arena; `scale` and `shift` are not changed by runs.
Graph load_linear() {
    const std::string row = R"("dtype":"f32","shape":["B",4])", weight = R"("dtype":"f32","shape":[4])";
    const std::string plan =
        R"({"version":1,"target":"cpu","level":"x86-64-v2","dims":[{"name":"B","min":1,"max":64,"multiple_of":1}],)"
        R"("inputs":[{"name":"x","buffer":0,)" + row + R"(}],"outputs":[{"name":"y","buffer":1,)" + row + R"(}],)"
        R"("state":[{"name":"scale","buffer":2,)" + weight + R"(},{"name":"shift","buffer":3,)" + weight + R"(}],)"
        R"("constants":[],"buffers":[{"kind":"input","bytes":"16*B"},{"kind":"output","bytes":"16*B"},)"
        R"({"kind":"state","bytes":16},{"kind":"state","bytes":16},{"kind":"arena","bytes":"16*B","offset":0}],)"
        R"("arena":"16*B","kernels":[],"instructions":[)"
        R"({"portable":"mul","operands":[{"buffer":0,)" + row + R"(},{"buffer":2,)" + weight + R"(}],)"
        R"("results":[{"buffer":4,)" + row + R"(}],"loc":"serve.py:3"},)"
        R"({"portable":"add","operands":[{"buffer":4,)" + row + R"(},{"buffer":3,)" + weight + R"(}],)"
        R"("results":[{"buffer":1,)" + row + R"(}],"loc":"serve.py:4"}],"peak":0,"checks":[]})";
    std::string bytes = build_artifact({{"tessera.format", "1"}, {"tessera.plan.cpu.x86-64-v2", plan}},
                                       {{"scale", "F32", "[4]", bytes_of<float>({1, 1, 1, 1})},
                                        {"shift", "F32", "[4]", bytes_of<float>({0, 0, 0, 0})},
                                        {"tessera.kernels.cpu.x86-64-v2", "U8", "[51]", double_kernel}});
    return Graph::load(bytes.data(), bytes.size());
}

Tensor four(float value, int64_t rows = 0) {
    Tensor t = Tensor::create(rows ? std::vector<int64_t>{rows, 4} : std::vector<int64_t>{4}, DType::F32);
    for (int64_t i = 0; i < t.size(); ++i)
        t.data<float>()[i] = value;
    return t;
}

Tensor labels(int64_t count) { return Tensor::create({count}, DType::I64); }

// What `requirements` says before anything is allocated is what a run allocates, to the byte.
void test_requirements() {
    for (int32_t threads : {1, 3})
        for (int64_t batch : {1, 5, 32}) {
            Allocator memory;
            RuntimeOptions options;
            options.threads = threads;
            options.allocator = memory;
            Runtime runtime(options);
            Graph g = load();
            Requirements need = g.requirements({{"B", batch}});
            CHECK(memory.statistics().allocations == 0);
            Tensor x = create({batch, 4}, DType::F32, memory), l = create({batch}, DType::I64, memory);
            CHECK(memory.statistics().bytes_in_use == need.inputs);
            std::vector<Tensor> y = runtime.run(g, {x, l});
            CHECK(memory.statistics().peak_bytes == need.inputs + need.outputs + need.workspace(threads));
            y.clear();
            CHECK(memory.statistics().bytes_in_use == need.inputs + need.workspace(threads));
            const uint64_t calls = memory.statistics().allocations;
            runtime.run(g, {x, l});
            CHECK(memory.statistics().allocations == calls + 2); // its two outputs
            // Strided: the copy is the runtime's memory too, and the log hears of it.
            Tensor columns = Tensor::from_blob(x.data<float>(), {batch, 4}, DType::F32, nullptr, {1, batch});
            if (batch > 1) {
                runtime.run(g, {columns, l});
                CHECK(memory.statistics().peak_bytes ==
                      need.inputs + need.outputs + need.workspace(threads) + columns.bytes());
            }
        }
}

const char *portable_text = R"(tessera.graph 1
graph "main" {
  dim B in [1, 64] multiple_of 1
  %0 = input {name = "x"} : f32[B, 4]
  %1 = param {name = "w", trainable = true} : f32[4]
  %2 = mul(%0, %1) : f32[B, 4] at "train.py":3
  %3 = exp(%2) : f32[B, 4] at "train.py":4
  %4 = add(%3, %2) : f32[B, 4] at "train.py":5
  %5 = sum(%4) {axes = [0], keepdims = false} : f32[4] at "train.py":6
  output "y" = %4
  output "again" = %4
  output "given" = %0
  update %1 = %5
}
)";

Graph load_portable() {
    std::string bytes = build_artifact({{"tessera.format", "1"}, {"tessera.portable", portable_text}},
                                       {{"w", "F32", "[4]", bytes_of<float>({0, 0, 0, 0})}});
    return Graph::load(bytes.data(), bytes.size());
}

// The same for a program without native code, whose memory is planned by lifetimes too.
void test_portable_requirements() {
    Allocator memory;
    RuntimeOptions options;
    options.threads = 2;
    options.allocator = memory;
    Runtime runtime(options);
    for (int64_t batch : {5, 64, 1}) {
        Graph g = load_portable();
        Requirements need = g.requirements({{"B", batch}});
        CHECK(need.arena == 2 * static_cast<uint64_t>((16 * batch + 63) / 64 * 64) && need.workspace(2) == need.arena);
        Tensor x = create({batch, 4}, DType::F32, memory);
        Workspace workspace(need.arena, memory);
        RunOptions with;
        with.workspace = workspace;
        memory.reset_peak();
        std::vector<Tensor> y = runtime.run(g, {x}, with);
        CHECK(memory.statistics().peak_bytes == need.inputs + need.outputs + need.arena);
        CHECK(y[0].data<float>()[4 * batch - 1] == 1 && y[1].data<float>()[0] == 1 && y[2].data<float>()[0] == 0);
        CHECK(g.state("w").data<float>()[3] == static_cast<float>(batch));
        RunOptions small;
        small.workspace = Workspace(need.arena - 64);
        CHECK_ERROR(runtime.run(g, {x}, small), Error, TSR_OUT_OF_MEMORY_ERROR, "the run needs");
        CancelToken token;
        token.cancel();
        with.cancel = token;
        CHECK_ERROR(runtime.run(g, {x}, with), Error, TSR_CANCELLED_ERROR, "cancelled");
        CHECK(g.state("w").data<float>()[3] == static_cast<float>(batch));
        Trace trace;
        with.cancel = std::nullopt;
        with.trace = trace;
        runtime.run(g, {x}, with);
        CHECK(trace.count() == 5 && trace.to_json().find("\"location\":\"train.py:4\"") != std::string::npos);
    }
}

// The caller's limit is met by a typed error, after which smaller runs go on.
void test_no_memory() {
    struct Limited final : Allocator::Functions {
        void *allocate(Device, size_t bytes, size_t alignment, void *) noexcept override {
            return bytes > 200 ? nullptr : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
        }
        void release(Device, void *pointer, size_t, void *) noexcept override { std::free(pointer); }
    };
    RuntimeOptions options;
    options.threads = 1;
    options.allocator = Allocator(std::make_unique<Limited>());
    Runtime runtime(options);
    Graph g = load_linear();
    CHECK_ERROR(runtime.run(g, {four(1, 32)}), Error, TSR_OUT_OF_MEMORY_ERROR, "512 bytes");
    CHECK_ERROR(runtime.submit(g, {{"x", four(1, 32)}}).wait(), Error, TSR_OUT_OF_MEMORY_ERROR, "512 bytes");
    CHECK(runtime.run(g, {four(3, 2)})[0].data<float>()[7] == 3);
}

void test_workspace() {
    Graph a = load(), b = load_linear();
    Allocator memory;
    RuntimeOptions options;
    options.threads = 2;
    options.allocator = memory;
    Runtime runtime(options);
    const uint64_t need = std::max(a.requirements({{"B", 32}}).workspace(2), b.requirements({{"B", 32}}).workspace(2));
    alignas(64) static char block[65536];
    bool freed = false;
    {
        Workspace own(block, need, [&] { freed = true; }), made(need, memory);
        CHECK(own.bytes() == need && memory.statistics().bytes_in_use == need);
        for (const Workspace &w : {own, made}) {
            RunOptions with;
            with.workspace = w;
            for (int i = 0; i < 3; ++i) {
                CHECK(runtime.run(a, {four(2, 32), labels(32)}, with)[0].data<float>()[127] == 4);
                CHECK(runtime.submit(b, {{"x", four(5, 32)}}, {}, with).output("y").data<float>()[127] == 5);
            }
        }
        CHECK(memory.statistics().peak_bytes == need + a.requirements({{"B", 32}}).outputs); // nothing else was allocated
        RunOptions small;
        small.workspace = Workspace(need - 64);
        CHECK_ERROR(runtime.run(a, {four(2, 32), labels(32)}, small), Error, TSR_OUT_OF_MEMORY_ERROR, "the run needs");
        CHECK_ERROR(Workspace(block + 8, 64), Error, TSR_ARGUMENT_ERROR, "not aligned");
        CHECK(!freed);
    }
    CHECK(freed);
    // In use: the second run is refused while the first is under way.
    struct Holding final : ParallelFor {
        std::function<void()> once;
        void run(int64_t units, int64_t, const std::function<void(int64_t, int64_t)> &body) noexcept override {
            if (once)
                std::exchange(once, nullptr)();
            body(0, units);
        }
    };
    auto pool = std::make_shared<Holding>();
    RuntimeOptions held;
    held.threads = 2;
    held.pool = pool;
    Runtime slow(held);
    RunOptions with;
    with.workspace = Workspace(need);
    pool->once = [&] { CHECK_ERROR(runtime.run(b, {four(1, 2)}, with), Error, TSR_ARGUMENT_ERROR, "in use"); };
    CHECK(slow.run(a, {four(2, 32), labels(32)}, with)[0].data<float>()[0] == 4);
    CHECK(runtime.run(b, {four(1, 2)}, with)[0].data<float>()[0] == 1); // it is free again
}

// Each run has all the old or all the new weights: scale == shift, so that y = x * s + s with x = 1 is 2s everywhere.
void test_weights() {
    Graph first = load_linear(), second = load_linear();
    Weights weights({{"scale", four(1)}, {"shift", four(1)}});
    weights.bind(first);
    weights.bind(second);
    Runtime runtime(1);
    CHECK(runtime.run(first, {four(1, 1)})[0].data<float>()[0] == 2);
    std::atomic<bool> stop{false};
    std::atomic<int> mixed{0}, runs{0};
    std::vector<std::thread> threads;
    for (const Graph &graph : {first, second})
        threads.emplace_back([&, graph] {
            Tensor x = four(1, 8), y = Tensor::create({8, 4}, DType::F32);
            Binding run = runtime.bind(graph, {{"x", x}}, {{"y", y}});
            while (!stop) {
                run();
                const float value = y.data<float>()[0];
                if (value != static_cast<float>(static_cast<int>(value)) || static_cast<int>(value) % 2)
                    ++mixed;
                for (int i = 1; i < 32; ++i)
                    if (y.data<float>()[i] != value)
                        ++mixed;
                ++runs;
            }
        });
    bool seen = true;
    for (int s = 2; s < 200 || runs < 50; ++s) {
        weights.swap({{"scale", four(static_cast<float>(s))}, {"shift", four(static_cast<float>(s))}});
        seen = seen && runtime.run(first, {four(1, 1)})[0].data<float>()[0] == 2 * static_cast<float>(s);
    }
    stop = true;
    for (std::thread &t : threads)
        t.join();
    CHECK(mixed == 0 && seen);

    // Old weights are let go when nobody runs with them.
    std::atomic<int> freed{0};
    static float block[4] = {1, 2, 3, 4};
    Tensor watched = Tensor::from_blob(block, {4}, DType::F32, [&] { ++freed; });
    weights.swap({{"scale", watched}, {"shift", four(0)}});
    watched = Tensor();
    CHECK(runtime.run(second, {four(1, 1)})[0].data<float>()[3] == 4 && freed == 0);
    weights.swap({{"scale", four(7)}, {"shift", four(0)}});
    CHECK(freed == 1);

    CHECK_ERROR(weights.swap({{"scale", four(1)}}), Error, TSR_NAME_MISSING_ERROR, "'shift' is missing");
    CHECK_ERROR(weights.swap({{"scale", four(1)}, {"shift", four(1, 1)}}), Error, TSR_SHAPE_ERROR, "[1, 4]");
    CHECK_ERROR(weights.swap({{"scale", four(1)}, {"shift", labels(4)}}), Error, TSR_DTYPE_ERROR, "i64[4]");
    CHECK_ERROR(weights.swap({{"scale", four(1)}, {"shift", four(1)}, {"more", four(1)}}), Error, TSR_NAME_MISSING_ERROR, "3 ");
    CHECK(runtime.run(first, {four(1, 1)})[0].data<float>()[0] == 7); // nothing changed
    Graph training = load(); // whose runs change `steps`
    CHECK_ERROR(Weights({{"steps", four(1)}}).bind(training), Error, TSR_ARGUMENT_ERROR, "changed by runs");
    CHECK_ERROR(Weights({{"other", four(1)}}).bind(first), Error, TSR_NAME_MISSING_ERROR, "'other'");
    CHECK_ERROR(Weights({{"scale", labels(4)}}).bind(first), Error, TSR_DTYPE_ERROR, "scale");
    CHECK_ERROR(Weights(NamedTensors{}), Error, TSR_ARGUMENT_ERROR, "no tensors");
}

void test_weights_file() {
    Graph source = load_linear(), target = load_linear();
    const std::string path = "/tmp/tessera_serving_test." + std::to_string(::getpid()) + ".safetensors";
    source.bind_state("scale", four(3));
    source.save_state(path);
    Weights weights = Weights::load(path);
    weights.bind(target);
    Runtime runtime(1);
    CHECK(runtime.run(target, {four(2, 1)})[0].data<float>()[2] == 6);
    source.bind_state("scale", four(4));
    source.save_state(path);
    weights.swap(path);
    CHECK(runtime.run(target, {four(2, 1)})[0].data<float>()[2] == 8);
    std::remove(path.c_str());
    CHECK_ERROR(weights.swap(path), Error, TSR_FILE_ACCESS_ERROR, path.c_str());
}

// One graph, one runtime, many threads: every thread has its own results, runs of one thread keep their order.
void test_threads() {
    Graph g = load_linear();
    g.bind_state("scale", four(2));
    Runtime runtime(2);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 100; ++i) {
                const int64_t rows = 1 + (t + i) % 5;
                std::vector<Run> runs;
                for (int k = 0; k < 3; ++k)
                    runs.push_back(runtime.submit(g, {{"x", four(static_cast<float>(t + 10 * k), rows)}}));
                for (int k = 2; k >= 0; --k)
                    if (runs[static_cast<size_t>(k)].output().data<float>()[4 * rows - 1] !=
                        2 * static_cast<float>(t + 10 * k))
                        ++wrong;
                if (!runs[0].finished())
                    ++wrong;
            }
        });
    for (std::thread &t : threads)
        t.join();
    runtime.wait();
    CHECK(wrong == 0);
}

void test_streams() {
    Graph g = load(); // changes `steps`
    Runtime runtime(2), other(1);
    Stream stream;
    RunOptions with;
    with.stream = stream;
    std::atomic<bool> release{false};
    stream.call([&] {
        while (!release)
            std::this_thread::yield();
    });
    Tensor y = Tensor::create({4, 4}, DType::F32);
    Run first = runtime.submit(g, {{"x", four(1, 4)}, {"labels", labels(4)}}, {{"y", y}}, with);
    Tensor copied = Tensor::create({4, 4}, DType::F32);
    copy(y, copied, stream); // after the run
    Event end;
    end.record(stream);
    CHECK(!first.finished() && !end.reached());
    Run aside = other.submit(load_linear(), {{"x", four(1, 4)}}); // not held up by the stream
    aside.wait();
    release = true;
    end.wait();
    CHECK(first.finished() && copied.data<float>()[15] == 2);
    CHECK(runtime.run(g, {four(3, 4), labels(4)}, with)[0].data<float>()[0] == 6); // waits for its turn
    CHECK(g.state("steps").data<float>()[0] == 4);
    Tensor bad = labels(4);
    bad.data<int64_t>()[2] = 77;
    Run failed = runtime.submit(g, {{"x", four(1, 4)}, {"labels", bad}}, {}, with);
    stream.wait(); // does not throw: the run does
    CHECK_ERROR(failed.wait(), Error, TSR_INDEX_RANGE_ERROR, "77");
}

// Threads of the caller's, who counts the loops.
struct Pool final : ParallelFor {
    std::atomic<int> loops{0};
    int lost = 0;
    std::function<void()> during;
    void run(int64_t units, int64_t grain, const std::function<void(int64_t, int64_t)> &body) noexcept override {
        ++loops;
        if (during)
            during();
        std::vector<std::thread> threads;
        for (int64_t at = 0; at < units - lost; at += grain)
            threads.emplace_back([&body, at, end = std::min(at + grain, units - lost)] { body(at, end); });
        for (std::thread &t : threads)
            t.join();
    }
};

void test_thread_pool() {
    auto pool = std::make_shared<Pool>();
    Graph g = load();
    {
        RuntimeOptions options;
        options.threads = 2; // fewer than the pool takes at once
        options.pool = pool;
        Runtime runtime(options);
        CHECK(runtime.threads() == 2);
        Tensor x = four(0, 32);
        for (int i = 0; i < 128; ++i)
            x.data<float>()[i] = static_cast<float>(i);
        std::vector<Tensor> y = runtime.run(g, {x, labels(32)});
        bool right = true;
        for (int i = 0; i < 128; ++i)
            right = right && y[0].data<float>()[i] == 2 * static_cast<float>(i);
        CHECK(right && pool->loops == 1);
        pool->lost = 3;
        CHECK_ERROR(runtime.run(g, {x, labels(32)}), Error, TSR_ARGUMENT_ERROR, "125 of 128");
        pool->lost = 0;
    }
    CHECK(pool.use_count() == 1); // the runtime lets it go
}

void test_cancellation() {
    Graph g = load();
    CancelToken token;
    auto pool = std::make_shared<Pool>();
    RuntimeOptions options;
    options.threads = 2;
    options.pool = pool;
    Runtime runtime(options);
    RunOptions with;
    with.cancel = token;
    Tensor steps = g.state("steps");
    CHECK(runtime.run(g, {four(1, 32), labels(32)}, with)[0].data<float>()[0] == 2 && steps.data<float>()[0] == 2);
    // Under way: stopped behind the kernel that runs, before state is written.
    pool->during = [&] { token.cancel(); };
    CHECK_ERROR(runtime.run(g, {four(1, 32), labels(32)}, with), Error, TSR_CANCELLED_ERROR, "cancelled");
    CHECK(steps.data<float>()[0] == 2);
    pool->during = nullptr;
    // Queued, and for good.
    Run run = runtime.submit(g, {{"x", four(1, 32)}, {"labels", labels(32)}}, {}, with);
    CHECK_ERROR(run.wait(), Error, TSR_CANCELLED_ERROR, "cancelled");
    CHECK(steps.data<float>()[0] == 2);
    CHECK(runtime.run(g, {four(1, 32), labels(32)})[0].data<float>()[0] == 2 && steps.data<float>()[0] == 4);
}

// Once state is being written, a run goes on to its end.
void test_late_cancellation() {
    std::string plan = test_plan;
    // The state doubles first, in a kernel that writes it in place, on the pool.
    const std::string from = R"({"kernel": 0, "buffers": [0, 6])", to = R"({"kernel": 0, "buffers": [4, 4], "sizes": [1], )"
                             R"("grid": 4, "grain": 1, "scratch": 0}, {"kernel": 0, "buffers": [0, 6])";
    plan.replace(plan.find(from), from.size(), to);
    std::string bytes = test_artifact(plan);
    Graph g = Graph::load(bytes.data(), bytes.size());
    CancelToken token;
    auto pool = std::make_shared<Pool>();
    pool->during = [&] { token.cancel(); };
    RuntimeOptions options;
    options.threads = 2;
    options.pool = pool;
    Runtime runtime(options);
    RunOptions with;
    with.cancel = token;
    CHECK(runtime.run(g, {four(1, 32), labels(32)}, with)[0].data<float>()[127] == 2); // whole
    CHECK(g.state("steps").data<float>()[3] == 16); // doubled twice
    CHECK_ERROR(runtime.run(g, {four(1, 32), labels(32)}, with), Error, TSR_CANCELLED_ERROR, "cancelled");
    CHECK(g.state("steps").data<float>()[3] == 16);
}

void test_trace() {
    Graph g = load();
    Trace trace;
    RuntimeOptions options;
    options.trace = trace;
    Runtime runtime(options);
    runtime.run(g, {four(1, 4), labels(4)});
    CHECK(trace.count() == 8); // seven instructions and the run
    std::string json = trace.to_json();
    for (const char *part : {"\"name\":\"double\"", "\"location\":\"train.py:8\"", "\"cat\":\"check\"", "\"name\":\"labels\"",
                             "\"cat\":\"copy\"", "\"name\":\"add\"", "\"location\":\"train.py:9\"", "\"cat\":\"run\"",
                             "\"ph\":\"X\"", "\"device\":\"cpu:0\""})
        CHECK(json.find(part) != std::string::npos);
    const std::string path = "/tmp/tessera_serving_test." + std::to_string(::getpid()) + ".json";
    trace.save(path);
    std::ifstream file(path);
    std::stringstream content;
    content << file.rdbuf();
    CHECK(content.str() == json);
    std::remove(path.c_str());
    CHECK_ERROR(trace.save("/nonexistent/trace.json"), Error, TSR_FILE_ACCESS_ERROR, "/nonexistent/trace.json");
    trace.clear();
    CHECK(trace.count() == 0 && trace.to_json().find("traceEvents\":[") != std::string::npos);

    // One run, by a function; events lie within the run, which comes last.
    struct Seen {
        std::string name, location;
        int64_t begin, end;
    };
    std::vector<Seen> seen;
    RunOptions with;
    with.trace = Trace([&](const tsr_trace_event &e) { seen.push_back({e.name, e.location, e.begin_ns, e.end_ns}); });
    runtime.submit(g, {{"x", four(1, 4)}, {"labels", labels(4)}}, {}, with).wait();
    CHECK(trace.count() == 0 && seen.size() == 8 && seen[1].name == "double" && seen[1].location == "train.py:8");
    bool inside = true;
    for (const Seen &s : seen)
        inside = inside && s.begin <= s.end && s.begin >= seen.back().begin && s.end <= seen.back().end;
    CHECK(inside);
    CHECK_ERROR(with.trace->to_json(), Error, TSR_ARGUMENT_ERROR, "keeps none");
}

void test_log() {
    std::mutex lock;
    std::vector<std::string> lines;
    RuntimeOptions options;
    options.log = [&](LogLevel level, const char *message) {
        std::lock_guard<std::mutex> hold(lock);
        lines.push_back(std::to_string(static_cast<int>(level)) + " " + message);
    };
    Runtime runtime(options);
    Graph g = load();
    Tensor block = four(1, 4);
    Tensor columns = Tensor::from_blob(block.data<float>(), {4, 4}, DType::F32, nullptr, {1, 4}), bad = labels(4);
    runtime.run(g, {columns, labels(4)});
    CHECK(lines.size() == 1 && lines[0].find("2 input 'x' is not row-major: 64 bytes") == 0);
    bad.data<int64_t>()[0] = 50;
    CHECK_ERROR(runtime.submit(g, {{"x", block}, {"labels", bad}}).wait(), Error, TSR_INDEX_RANGE_ERROR, "50");
    CHECK(lines.size() == 2 && lines[1].find("3 a run failed: ") == 0 && lines[1].find("labels") != std::string::npos);
}

} // namespace

int main() {
    test_requirements();
    test_portable_requirements();
    test_no_memory();
    test_workspace();
    test_weights();
    test_weights_file();
    test_threads();
    test_streams();
    test_thread_pool();
    test_cancellation();
    test_late_cancellation();
    test_trace();
    test_log();
    return finish();
}
