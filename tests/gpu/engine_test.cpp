// Plans executed on a GPU: values, streams, graphs, checks, memory, faults.
#include <algorithm>
#include <numeric>
#include <thread>

#include "core/transfer.h"
#include "custom_operators.h"
#include "exec/trace_sink.h"
#include "host.h"
#include "plan_builder.h"

using namespace gpu_test;

void gpu_test::copy_on_device(void *to, const void *from, size_t bytes, void *stream) {
    const gpu::Driver &driver = gpu::gpu_backend(device()).driver();
    driver.check(driver.call().copy_within(reinterpret_cast<gpu::Address>(to), reinterpret_cast<gpu::Address>(from), bytes, stream),
                 "a copy of the operator's");
}

namespace {

std::unique_ptr<GpuEngine> engine_of(const PlanText &plan) {
    static const std::string code = image();
    Plan parsed = Plan::parse(plan.text(), "test.tsr", code, target());
    return std::make_unique<GpuEngine>(std::move(parsed), code, device(), "test.tsr");
}

Tensor on_host(const std::vector<float> &values) {
    Tensor t = Tensor::empty(DType::F32, {static_cast<int64_t>(values.size())});
    std::copy_n(values.data(), values.size(), static_cast<float *>(t.data()));
    return t;
}

Tensor on_host(const std::vector<int64_t> &values) {
    Tensor t = Tensor::empty(DType::I64, {static_cast<int64_t>(values.size())});
    std::copy_n(values.data(), values.size(), static_cast<int64_t *>(t.data()));
    return t;
}

Tensor on_device(const std::vector<float> &values) { return to_device(on_host(values), device()); }

template <class T = float> std::vector<T> values_of(const Tensor &t) {
    Tensor host = to_device(t, {});
    auto *data = static_cast<const T *>(host.data());
    return std::vector<T>(data, data + host.size());
}

std::vector<float> ramp(size_t count, float first = 0) {
    std::vector<float> out(count);
    std::iota(out.begin(), out.end(), first);
    return out;
}

std::vector<float> expected(const std::vector<float> &x, const std::vector<float> &y) {
    std::vector<float> out;
    for (size_t i = 0; i < x.size(); ++i)
        out.push_back(2.0f * (x[i] + y[i]));
    return out;
}

Tensor run(GpuEngine &engine, RunContext context, const StateTable &table, const std::vector<Tensor> &inputs,
           Tensor output = {}) {
    std::vector<const Tensor *> pointers;
    for (const Tensor &t : inputs)
        pointers.push_back(&t);
    engine.run(context, table, pointers.data(), pointers.size(), &output);
    return output;
}

void any_size_from_any_place(Host &host) {
    auto engine = engine_of(double_sum());
    for (size_t n : {size_t{1}, size_t{1000}, size_t{0}, size_t{127}, size_t{1000}}) {
        std::vector<float> x = ramp(n), y = ramp(n, 3);
        CHECK(values_of(run(*engine, host.context(), {}, {on_device(x), on_device(y)})) == expected(x, y));
        CHECK(values_of(run(*engine, host.context(), {}, {on_host(x), on_device(y)})) == expected(x, y)); // one on the host
        Tensor given = Tensor::empty(DType::F32, {static_cast<int64_t>(n)});
        Tensor out = run(*engine, host.context(), {}, {on_host(x), on_host(y)}, given);
        wait_for(out);
        CHECK(out.data() == given.data() && values_of(given) == expected(x, y));
    }
    // Strides, and addresses that kernels cannot use.
    std::vector<float> x = ramp(64), every_second, y = ramp(32);
    for (size_t i = 0; i < 64; i += 2)
        every_second.push_back(x[i]);
    Tensor whole = on_device(x);
    int64_t two = 2;
    Tensor strided = Tensor::from_blob(whole.data(), DType::F32, {32}, &two, nullptr, nullptr, false, device());
    CHECK(values_of(run(*engine, host.context(), {}, {strided, on_device(y)})) == expected(every_second, y));
    Tensor shifted = Tensor::from_blob(static_cast<char *>(whole.data()) + 4, DType::F32, {32}, nullptr, nullptr, nullptr, false, device());
    CHECK(values_of(run(*engine, host.context(), {}, {shifted, on_device(y)})) == expected(ramp(32, 1), y));
    Tensor target = on_device(ramp(40));
    Tensor output = Tensor::from_blob(static_cast<char *>(target.data()) + 4, DType::F32, {32}, nullptr, nullptr, nullptr, false, device());
    run(*engine, host.context(), {}, {on_device(y), on_device(y)}, output);
    CHECK(values_of(output) == expected(y, y));
    CHECK(values_of(target)[0] == 0 && values_of(target)[33] == 33);
}

void repeated_runs_replay_a_graph(Host &host) {
    auto engine = engine_of(double_sum());
    std::vector<float> x = ramp(500), y = ramp(500, 1);
    Tensor a = on_device(x), b = on_device(y), out = on_device(x);
    for (int i = 0; i < 40; ++i)
        run(*engine, host.context(), {}, {a, b}, out);
    CHECK(values_of(out) == expected(x, y));
    const char *makers[] = {"cuMemAllocFromPoolAsync", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuStreamBeginCapture",
                            "cuGraphInstantiateWithFlags", "cuLaunchKernelEx", "cuModuleLoadData"};
    int64_t before[8], launches = calls("cuGraphLaunch");
    for (int i = 0; i < 8; ++i)
        before[i] = calls(makers[i]);
    for (int i = 0; i < 10; ++i)
        run(*engine, host.context(), {}, {a, b}, out);
    for (int i = 0; i < 8; ++i)
        CHECK(calls(makers[i]) == before[i]);
    CHECK(!on_model || calls("cuGraphLaunch") == launches + 10);
    CHECK(values_of(out) == expected(x, y));
    // More runs than are under way at once, and outputs that are kept.
    std::vector<Tensor> outputs;
    for (int i = 0; i < 600; ++i)
        outputs.push_back(run(*engine, host.context(), {}, {a, b}));
    for (int i = 0; i < 600; i += 50)
        CHECK(values_of(outputs[static_cast<size_t>(i)]) == expected(x, y));
    outputs.clear();
    // Other contents, the same addresses; then other addresses, more of them than are kept; then other sizes and back.
    copy_elements(on_host(y), a);
    run(*engine, host.context(), {}, {a, b}, out);
    CHECK(values_of(out) == expected(y, y));
    std::vector<Tensor> kept;
    for (int i = 0; i < 12; ++i) {
        std::vector<float> z = ramp(500, static_cast<float>(i));
        Tensor c = on_device(z);
        kept.push_back(c);
        for (int k = 0; k < 3; ++k)
            run(*engine, host.context(), {}, {c, b}, out);
        CHECK(values_of(out) == expected(z, y));
    }
    CHECK(!on_model || calls("graphs alive") <= 8);
    CHECK(!on_model || calls("cuGraphExecUpdate") > 0);
    for (int i = 0; i < 3; ++i) {
        std::vector<float> z = ramp(100000);
        CHECK(values_of(run(*engine, host.context(), {}, {on_device(z), on_device(z)})) == expected(z, z));
        run(*engine, host.context(), {}, {a, b}, out);
        CHECK(values_of(out) == expected(y, y));
    }
    engine.reset();
    CHECK(!on_model || calls("graphs alive") == 0);
}

// Kernels that wait by themselves are launched so that the device may start them early; values are as ever.
void early_kernels(Host &host) {
    PlanText marked = double_sum();
    for (size_t at = 0; (at = marked.kernels.find(R"("module")", at)) != std::string::npos; at += 30)
        marked.kernels.insert(at, R"("early": true, )");
    auto engine = engine_of(marked);
    const std::vector<float> x = ramp(3000), y = ramp(3000, 7);
    const int64_t before = calls("early launches");
    CHECK(values_of(run(*engine, host.context(), {}, {on_device(x), on_device(y)})) == expected(x, y));
    CHECK(!on_model || device_type != DeviceType::CUDA || calls("early launches") == before + 1); // the second kernel's
}

void streams_of_the_caller(Host &host) {
    auto engine = engine_of(double_sum());
    std::vector<float> x = ramp(3000), y = ramp(3000, 7);
    for (int i = 0; i < 4; ++i) {
        auto callers = backend(device()).create_stream(0);
        auto wrapped = backend(device()).wrap_stream(0, callers->native());
        // Made by a run on one stream, used by a run on the other.
        Tensor first = run(*engine, host.context(), {}, {on_device(x), on_device(y)});
        Tensor second = run(*engine, host.context_on(*wrapped), {}, {first, on_device(y)});
        Tensor third = run(*engine, host.context(), {}, {second, first});
        callers->wait();
        wrapped.reset();
        callers.reset(); // the caller destroys the stream; what was made on it lives on
        CHECK(values_of(second) == expected(expected(x, y), y));
        CHECK(values_of(third) == expected(expected(expected(x, y), y), expected(x, y)));
    }
    // From many threads at once.
    std::vector<std::thread> threads;
    std::atomic<int> good{0};
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
            Host mine;
            std::vector<float> z = ramp(300, static_cast<float>(t));
            for (int i = 0; i < 10; ++i)
                good += values_of(run(*engine, mine.context(), {}, {on_host(z), on_host(z)})) == expected(z, z);
        });
    for (std::thread &t : threads)
        t.join();
    CHECK(good == 30);
}

void traces(Host &host) {
    struct Sink final : TraceSink {
        std::vector<std::string> seen;
        int64_t last = 0;
        bool ordered = true;
        void record(const TraceEvent &event) noexcept override {
            seen.push_back(std::string(event.category) + " " + event.name + " " + event.location);
            ordered = ordered && event.begin_ns >= last && event.end_ns >= event.begin_ns && event.device == device();
            last = event.end_ns;
        }
    } sink;
    auto engine = engine_of(double_sum());
    std::vector<float> x = ramp(100);
    RunContext context = host.context();
    context.trace = &sink;
    CHECK(values_of(run(*engine, context, {}, {on_device(x), on_device(x)})) == expected(x, x));
    CHECK(sink.seen == (std::vector<std::string>{"kernel add model.py:7", "kernel scale model.py:8"}));
    CHECK(sink.ordered && sink.last > 0);
    if (!on_model)
        return;
    // All three events are there before the first launch, which fails here.
    const Tensor given = on_device(x);
    const int64_t before = calls("cuEventCreate");
    fail_next("cuLaunchKernelEx", 1);
    CHECK(!error_of([&] { run(*engine, context, {}, {given, given}); }, Code::Device).empty());
    CHECK(calls("cuEventCreate") >= before + 3);
}

// A run becomes part of a graph that the caller captures.
void captured_by_the_caller(Host &host) {
    auto engine = engine_of(double_sum());
    const gpu::Driver &driver = gpu::gpu_backend(device()).driver();
    auto callers = backend(device()).create_stream(0);
    auto wrapped = backend(device()).wrap_stream(0, callers->native());
    std::vector<float> x = ramp(300), y = ramp(300, 2);
    Tensor a = on_device(x), b = on_device(y), out = on_device(x);
    gpu::Handle graph = nullptr, executable = nullptr;
    {
        gpu::Current current(driver, 0);
        CHECK(driver.call().capture_begin(callers->native(), 0) == gpu::success);
        run(*engine, host.context_on(*wrapped), {}, {a, b}, out);
        CHECK(contains(error_of([&] { run(*engine, host.context_on(*wrapped), {}, {a, b}); }, Code::Argument), "output 'out'"));
        CHECK(contains(error_of([&] { run(*engine, host.context_on(*wrapped), {}, {a, on_host(y)}, out); }, Code::Argument), "input 'y'"));
        CHECK(driver.call().capture_end(callers->native(), &graph) == gpu::success);
        CHECK(driver.call().graph_instantiate(&executable, graph, 0) == gpu::success);
    }
    CHECK(values_of(out) == x); // nothing has run yet
    run(*engine, host.context(), {}, {b, b}); // other runs of the program do not disturb it
    for (int i = 0; i < 2; ++i) {
        copy_elements(on_host(i ? y : x), a);
        gpu::Current current(driver, 0);
        CHECK(driver.call().graph_launch(executable, callers->native()) == gpu::success);
        callers->wait();
        CHECK(values_of(out) == expected(i ? y : x, y));
    }
    gpu::Current current(driver, 0);
    driver.call().graph_release(executable);
    driver.call().graph_destroy(graph);
}

// The inputs are let go at once; the run still reads them.
void inputs_live_as_long_as_needed(Host &host) {
    auto engine = engine_of(double_sum());
    static int deleted;
    deleted = 0;
    std::vector<float> x = ramp(64);
    Tensor memory = on_device(x), out;
    {
        Tensor foreign = Tensor::from_blob(memory.data(), DType::F32, {64}, nullptr, [](void *) { ++deleted; }, nullptr, false, device());
        out = run(*engine, host.context(), {}, {foreign, foreign});
    }
    CHECK(!on_model || deleted == 0);
    CHECK(values_of(out) == expected(x, x));
    CHECK(deleted == 1);
}

void checks_and_state(Host &host) {
    auto engine = engine_of(checked_step());
    StateTable table;
    table.state.push_back(engine->place(on_host(std::vector<int64_t>{5})));
    CHECK(table.state[0].device() == device());
    std::vector<float> x = ramp(256);
    Tensor input = on_device(x);
    std::vector<int64_t> good = {0, 9, 3}, bad = {1, 2, 3, 10, 4, -1};
    for (int round = 0; round < 3; ++round) {
        Tensor out = run(*engine, host.context(), table, {on_host(good), input});
        CHECK(values_of(out) == expected(x, std::vector<float>(256)));
        // A bad run among good ones: it alone fails, and changes nothing.
        Tensor before = run(*engine, host.context(), table, {on_host(good), input});
        Tensor wrong = run(*engine, host.context(), table, {on_host(bad), input});
        Tensor after = run(*engine, host.context(), table, {on_host(good), input});
        CHECK(values_of(before) == values_of(out));
        std::string text = error_of([&] { wait_for(wrong); }, Code::IndexRange);
        CHECK(contains(text, "label at position [3] is outside 0 to 9") && contains(text, "train.py:4"));
        CHECK(contains(error_of([&] { to_device(wrong, {}); }, Code::IndexRange), "label")); // each time
        run(*engine, host.context(), table, {on_host(bad), input}); // the last to write the state, which it did not
        CHECK(values_of<int64_t>(table.state[0]) == std::vector<int64_t>{5 + 3 * (round + 1)});
        CHECK(values_of(after) == values_of(out));
    }
    CHECK(values_of<int64_t>(table.state[0]) == std::vector<int64_t>{5 + 9});
}

void scratch_and_shared_memory(Host &host) {
    PlanText p;
    p.dims = "[]";
    p.outputs = R"({"name": "out", "dtype": "f32", "shape": [8], "buffer": 0}, {"name": "threads", "dtype": "i32", "shape": [1], "buffer": 1})";
    p.buffers = R"({"kind": "output", "bytes": 32}, {"kind": "output", "bytes": 4})";
    p.kernels = kernel("through_scratch", R"({"buffer": 0}, {"global_scratch": true})", 32, 0, R"(, "scratch": 256)") + ", " +
                kernel("large_shared", R"({"buffer": 0})", 96, 102400);
    p.instructions = R"({"kernel": 0, "buffers": [0], "sizes": [], "grid": [8, 1, 1]}, {"kernel": 1, "buffers": [1], "sizes": [], "grid": [1, 1, 1]})";
    auto engine = engine_of(p);
    RunContext context = host.context();
    Tensor outputs[2];
    engine->run(context, {}, nullptr, 0, outputs);
    CHECK(values_of(outputs[0]) == (std::vector<float>{1, 4, 7, 10, 13, 16, 19, 22}));
    CHECK(values_of<int32_t>(outputs[1]) == std::vector<int32_t>{96});
    CHECK(engine->requirements({}).arena == 2048);
}

void tensor_maps(Host &host) {
    if (device_type != DeviceType::CUDA)
        return;
    PlanText p;
    p.inputs = R"({"name": "x", "dtype": "f32", "shape": ["N", 32], "buffer": 0})";
    p.outputs = R"({"name": "out", "dtype": "f32", "shape": [8, 16], "buffer": 1})";
    p.buffers = R"({"kind": "input", "bytes": "128*N"}, {"kind": "output", "bytes": 512})";
    p.kernels = kernel("tile", R"({"tensor_map": {"buffer": 0, "dtype": "f32", "shape": [{"size": 0}, 32], "strides": [32, 1], "box": [8, 16]}},
                                  {"buffer": 1})", 128, 1024);
    p.instructions = R"({"kernel": 0, "buffers": [0, 1], "sizes": ["N"], "grid": [1, 1, 1]})";
    auto engine = engine_of(p);
    for (size_t rows : {size_t{20}, size_t{5}, size_t{20}}) {
        std::vector<float> x = ramp(rows * 32);
        Tensor flat = on_device(x);
        Tensor out = run(*engine, host.context(), {}, {flat.reshaped({static_cast<int64_t>(rows), 32})});
        std::vector<float> want;
        for (size_t r = 0; r < 8; ++r)
            for (size_t c = 0; c < 16; ++c)
                want.push_back(r < rows ? x[r * 32 + c] : 0.0f); // beyond the tensor: zeros
        CHECK(values_of(out) == want);
    }
    const std::string whole = p.kernels; // from the fourth row on
    p.kernels = std::string(whole).replace(whole.find(R"([{"size": 0}, 32])"), std::strlen(R"([{"size": 0}, 32])"), "[17, 32]");
    p.kernels.insert(p.kernels.find(R"("box")"), R"("start": 96, )");
    const std::vector<float> x = ramp(20 * 32);
    Tensor out = run(*engine_of(p), host.context(), {}, {on_device(x).reshaped({20, 32})});
    std::vector<float> want;
    for (size_t r = 3; r < 11; ++r)
        want.insert(want.end(), x.begin() + static_cast<int64_t>(r) * 32, x.begin() + static_cast<int64_t>(r) * 32 + 16);
    CHECK(values_of(out) == want);
}

// out = 2 rotate(x + x, by): a custom operator between two kernels.
PlanText rotated(int by) {
    PlanText p = double_sum();
    p.inputs = R"({"name": "x", "dtype": "f32", "shape": ["N"], "buffer": 0})";
    p.buffers = R"({"kind": "input", "bytes": "4*N"}, {"kind": "arena", "bytes": "4*N", "offset": 0},
                   {"kind": "output", "bytes": "4*N"},
                   {"kind": "arena", "bytes": "4*N", "offset": "(N + 15) // 16 * 64", "label": "rotated"})";
    p.arena = R"("(N + 15) // 16 * 64 + 4*N")";
    p.instructions = R"({"kernel": 0, "buffers": [0, 0, 1], "sizes": ["N"], "grid": ["(N + 127) // 128", 1, 1], "loc": "model.py:7"},
                        {"custom": "gputest::rotate", "attrs": "{by = )" + std::to_string(by) + R"(}", "loc": "model.py:9",
                         "operands": [{"buffer": 1, "dtype": "f32", "shape": ["N"]}],
                         "results": [{"buffer": 3, "dtype": "f32", "shape": ["N"]}]},
                        {"kernel": 1, "buffers": [3, 2], "sizes": ["N"], "grid": ["(N + 63) // 64", 1, 1], "loc": "model.py:8"})";
    return p;
}

void custom_operators(Host &host) {
    auto engine = engine_of(rotated(3));
    for (size_t n : {size_t{100}, size_t{1}, size_t{0}, size_t{1000}, size_t{100}}) {
        std::vector<float> x = ramp(n), want;
        for (size_t i = 0; i < n; ++i)
            want.push_back(4.0f * x[(i + 3) % n]);
        CHECK(values_of(run(*engine, host.context(), {}, {on_device(x)})) == want);
        CHECK(custom_calls.device_type == static_cast<int32_t>(device_type) && custom_calls.device_index == 0);
    }
    CHECK(engine->requirements({1000}).arena == 4032 + 4032 + 4000); // and the scratch of the operator
    // Each run calls the operator, on the stream that the caller gives.
    std::vector<float> x = ramp(50);
    Tensor a = on_device(x), out = on_device(x);
    const int64_t graphs = calls("cuGraphLaunch");
    auto callers = backend(device()).create_stream(0);
    auto wrapped = backend(device()).wrap_stream(0, callers->native());
    for (int i = 0; i < 5; ++i) {
        const int before = custom_calls.count;
        run(*engine, host.context_on(*wrapped), {}, {a}, out);
        CHECK(custom_calls.count == before + 1 && custom_calls.stream == callers->native());
    }
    CHECK(calls("cuGraphLaunch") == graphs);
    run(*engine, host.context(), {}, {a}, out);
    CHECK(custom_calls.stream == host.stream->native());
    CHECK(values_of(out)[0] == 12.0f);
    // It is seen in a trace.
    struct Sink final : TraceSink {
        std::vector<std::string> seen;
        void record(const TraceEvent &e) noexcept override { seen.push_back(std::string(e.category) + " " + e.name + " " + e.location); }
    } sink;
    RunContext context = host.context();
    context.trace = &sink;
    run(*engine, context, {}, {a});
    CHECK(sink.seen == (std::vector<std::string>{"kernel add model.py:7", "custom gputest::rotate model.py:9", "kernel scale model.py:8"}));
}

// It fails after it has put work on the stream, which goes on reading the memory of the run.
void custom_operators_that_fail(Host &host) {
    auto engine = engine_of(rotated(-1)), good = engine_of(rotated(1));
    std::vector<float> x = ramp(5000);
    auto callers = backend(device()).create_stream(0);
    auto wrapped = backend(device()).wrap_stream(0, callers->native());
    for (int i = 0; i < 4; ++i) {
        std::string text = error_of([&] { run(*engine, i % 2 ? host.context() : host.context_on(*wrapped), {}, {on_host(x)}); }, Code::Generic);
        CHECK(text == "[gputest::rotate] cannot rotate backwards\n  at model.py:9");
        CHECK(values_of(run(*good, host.context(), {}, {on_host(x)}))[0] == 4.0f);
    }
    engine.reset();
    wrapped.reset();
    std::string text = rotated(1).text();
    text.replace(text.find("gputest::rotate"), 15, "gputest::host_only");
    const char *kind = device_type == DeviceType::CUDA ? "CUDA" : "HIP";
    const std::string code = image();
    CHECK(error_of([&] { Plan::parse(text, "test.tsr", code, target()); }, Code::Unsupported) ==
          std::string("test.tsr: instruction 1: [gputest::host_only] has no ") + kind + " kernel; engine_test has to declare one");
    std::string narrow = rotated(1).text(); // the operator says otherwise
    const size_t at = narrow.rfind(R"("shape": ["N"])");
    narrow.replace(at, 14, R"("shape": ["N - 1"])");
    Plan plan = Plan::parse(narrow, "test.tsr", code, target());
    CHECK(contains(error_of([&] { GpuPrepared(plan, {8}); }, Code::Shape), "the shape function gives f32[8] for result 0"));
}

void too_little_memory(Host &host) {
    PlanText p = double_sum();
    p.buffers.replace(p.buffers.find(R"("bytes": "4*N", "offset": 64)"), 28, R"("bytes": "400*N", "offset": 64)");
    p.arena = R"("400*N + 64")";
    p.buffers += R"(, {"kind": "arena", "bytes": "200*N", "offset": 64, "within": 3, "label": "a part of it"})";
    auto engine = engine_of(p);
    const int64_t n = int64_t{1} << 30; // 400 GiB
    Tensor pretend = Tensor::from_blob(reinterpret_cast<void *>(uintptr_t{1} << 20), DType::F32, {n}, nullptr, nullptr, nullptr, false, device());
    CHECK(contains(error_of([&] { run(*engine, host.context(), {}, {pretend, pretend}, pretend); }, Code::Argument), "shares memory"));
    std::string text = error_of([&] { run(*engine, host.context(), {}, {pretend, pretend}); }, Code::OutOfMemory);
    CHECK(contains(text, "400.0 GiB temporary 'sum of x and y' at model.py:7") && !contains(text, "a part of it"));
    p.buffers.replace(p.buffers.find(R"("within": 3)"), 11, R"("within": 4)"); // itself
    CHECK(contains(error_of([&] { engine_of(p); }, Code::Format), "buffer 4: a buffer index is outside [0, 4)"));
    std::vector<float> x = ramp(10); // and goes on
    CHECK(values_of(run(*engine, host.context(), {}, {on_host(x), on_host(x)})) == expected(x, x));
}

void wrong_arguments(Host &host) {
    auto engine = engine_of(double_sum());
    Tensor x = on_device(ramp(8)), y = on_device(ramp(9));
    CHECK(contains(error_of([&] { run(*engine, host.context(), {}, {x, y}); }, Code::Shape), "N"));
    Tensor elsewhere = Tensor::from_blob(x.data(), DType::F32, {8}, nullptr, nullptr, nullptr, false, {device_type, 1});
    CHECK(contains(error_of([&] { run(*engine, host.context(), {}, {x, elsewhere}); }, Code::Device), "input 'y' is on"));
    CHECK(contains(error_of([&] { run(*engine, host.context(), {}, {x, x}, y); }, Code::Shape), "output 'out'"));
    CancelFlag cancel;
    cancel.cancel();
    RunContext context = host.context();
    context.cancel = &cancel;
    CHECK(contains(error_of([&] { run(*engine, context, {}, {x, x}); }, Code::Cancelled), "cancelled"));
}

void several_devices(Host &) {
    if (backend(device()).count() < 2)
        return;
    const std::string code = image();
    GpuEngine engine(Plan::parse(double_sum().text(), "test.tsr", code, target()), code, device(1), "test.tsr");
    Host host;
    host.stream = backend(device()).create_stream(1);
    std::vector<float> x = ramp(77);
    Tensor out = run(engine, host.context(), {}, {on_host(x), to_device(on_device(x), device(1))});
    CHECK(out.device() == device(1));
    CHECK(values_of(out) == expected(x, x));
    CHECK(values_of(to_device(out, device(0))) == expected(x, x));
}

void code_for_another_device() {
    const std::string code = image();
    PlanText p = double_sum();
    auto load = [&](const std::string &text) {
        return GpuEngine(Plan::parse(text, "test.tsr", code, target()), code, device(), "test.tsr");
    };
    std::string missing = p.text();
    missing.replace(missing.find(R"("symbol": "add")"), 15, R"("symbol": "odd")");
    CHECK(contains(error_of([&] { load(missing); }, Code::Format), "no function 'odd'"));
    if (device_type == DeviceType::CUDA) {
        std::string alone = p.text();
        alone.replace(alone.find(R"("alternative": true)"), 19, R"("alternative": false)");
        std::string text = error_of([&] { load(alone); }, Code::Device);
        CHECK(contains(text, "does not take the code of 'sm_90'") && contains(text, "cubin"));
        std::string cut = p.text();
        cut.replace(cut.find(R"("bytes": 64)"), 11, R"("bytes": 63)");
        CHECK(contains(error_of([&] { load(cut); }, Code::Format), "no cubin, or is cut off"));
        std::string torn = code;
        torn[torn.size() - 100] = '\0';
        CHECK(contains(error_of([&] { GpuEngine(Plan::parse(p.text(), "test.tsr", torn, target()), torn, device(), "test.tsr"); },
                                Code::Format), "module 1 is no PTX text"));
    }
    gpu::DeviceProperties hopper;
    hopper.level = "sm_90";
    hopper.major = 9;
    CHECK(level_runs_on("sm_90a", hopper) && level_runs_on("sm_90", hopper) && level_runs_on("sm_80", hopper));
    CHECK(!level_runs_on("sm_100a", hopper) && !level_runs_on("sm_80a", hopper) && !level_runs_on("sm_100", hopper));
    CHECK(!level_runs_on("gfx90a", hopper) && !level_runs_on("sm_", hopper) && !level_runs_on("sm_9x", hopper));
    CHECK(level_rank("sm_90a") > level_rank("sm_90") && level_rank("sm_90") > level_rank("sm_80"));
}

// The last test: on a real device nothing runs afterwards.
void a_fault_is_an_error(Host &host) {
    PlanText p;
    p.dims = "[]";
    p.outputs = R"({"name": "out", "dtype": "f32", "shape": [1], "buffer": 0})";
    p.buffers = R"({"kind": "output", "bytes": 4})";
    p.kernels = kernel("fault", R"({"buffer": 0})", 1);
    p.instructions = R"({"kernel": 0, "buffers": [0], "sizes": [], "grid": [1, 1, 1], "loc": "bad.py:1"})";
    auto engine = engine_of(p);
    auto other = engine_of(double_sum());
    RunContext context = host.context();
    Tensor out;
    engine->run(context, {}, nullptr, 0, &out);
    std::string text = error_of([&] { wait_for(out); }, Code::Device);
    CHECK(contains(text, "ILLEGAL_ADDRESS") && contains(text, "nothing more can run on this device"));
    std::vector<float> x = ramp(4);
    CHECK(contains(error_of([&] { run(*other, host.context(), {}, {on_host(x), on_host(x)}); }, Code::Device), "nothing more can run"));
    engine.reset(); // and nothing hangs or crashes
    other.reset();
}

} // namespace

int main(int argc, char **argv) {
    choose(argc, argv);
    register_custom_operators();
    {
        Host host;
        any_size_from_any_place(host);
        repeated_runs_replay_a_graph(host);
        early_kernels(host);
        streams_of_the_caller(host);
        traces(host);
        captured_by_the_caller(host);
        inputs_live_as_long_as_needed(host);
        checks_and_state(host);
        scratch_and_shared_memory(host);
        tensor_maps(host);
        custom_operators(host);
        custom_operators_that_fail(host);
        too_little_memory(host);
        wrong_arguments(host);
        several_devices(host);
        code_for_another_device();
        host.stream->wait();
        const AllocatorStatistics used = host.allocator->statistics();
        CHECK(used.bytes_in_use == 0 && used.allocations == used.releases);
    }
    CHECK(live_blocks() == 0);
    CHECK(misuses() == "");
    CHECK(calls("modules alive") == 0);
    if (with_faults) {
        Host host;
        a_fault_is_an_error(host);
        if (on_model)
            repair();
    }
    return finish();
}
