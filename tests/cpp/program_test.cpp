// A plan executed: kernels, checks, copies, portable instructions, symbolic sizes, argument checks, state.
#include "exec/program.h"

#include <algorithm>
#include <filesystem>
#include <unistd.h>
#include <thread>

#include "artifact_builder.h"
#include "check.h"
#include "device/allocators.h"
#include "exec/runtime.h"

using namespace tessera::core;

static std::shared_ptr<Program> load(const std::string &bytes, const LoadOptions &options = {}, bool complete = true) {
    return Program::load(Mapping::copy(bytes.data(), bytes.size()), "test.tsr", options, complete);
}

static Tensor f32(std::vector<int64_t> shape, float first = 0) {
    Tensor t = Tensor::empty(DType::F32, std::move(shape));
    for (int64_t i = 0; i < t.size(); ++i)
        static_cast<float *>(t.data())[i] = first + static_cast<float>(i);
    return t;
}

static Tensor labels(std::vector<int64_t> values) {
    Tensor t = Tensor::empty(DType::I64, {static_cast<int64_t>(values.size())});
    std::copy(values.begin(), values.end(), static_cast<int64_t *>(t.data()));
    return t;
}

static std::vector<Tensor> run(Program &p, ThreadPool &pool, std::vector<Tensor> inputs, std::vector<Tensor> outputs = {}) {
    outputs.resize(std::max<size_t>(outputs.size(), 2));
    std::vector<const Tensor *> pointers;
    for (const Tensor &t : inputs)
        pointers.push_back(&t);
    RunContext context{pool, make_backend_allocator()};
    p.run(context, pointers.data(), pointers.size(), outputs.data(), outputs.size());
    return outputs;
}

static float at(const Tensor &t, int64_t i) { return static_cast<float *>(t.data())[i]; }

static void test_run(ThreadPool &pool) {
    auto p = load(test_artifact());
    CHECK(p->target() == "cpu" && p->level() == "x86-64-v2");
    Tensor steps = p->state("steps");
    for (int64_t batch : {1, 5, 3, 32, 5}) {
        std::vector<Tensor> y = run(*p, pool, {f32({batch, 4}), labels(std::vector<int64_t>(static_cast<size_t>(batch), 9))});
        CHECK((y[0].shape() == std::vector<int64_t>{batch, 4}));
        bool right = true;
        for (int64_t i = 0; i < batch * 4; ++i)
            right = right && at(y[0], i) == 2.0f * static_cast<float>(i) &&
                    at(y[1], i) == static_cast<float>(i) + 10.0f * static_cast<float>(i % 4 + 1);
        CHECK(right);
    }
    CHECK(at(steps, 3) == 4 * 32); // doubled by each of five runs, in place
    Requirements r = p->requirements({{"B", 5}});
    CHECK(r.arena == 192 && r.scratch_per_thread == 128 && r.inputs == 5 * 24 && r.outputs == 160 && r.state == 16);
}

static void test_strided_input(ThreadPool &pool) {
    auto p = load(test_artifact());
    Tensor base = f32({4, 2});
    int64_t transposed[] = {1, 2};
    Tensor x = Tensor::from_blob(base.data(), DType::F32, {2, 4}, transposed, nullptr, nullptr);
    Tensor y = run(*p, pool, {x, labels({0, -100})})[0];
    CHECK(at(y, 1) == 4 && at(y, 4) == 2);
}

static void test_arguments(ThreadPool &pool) {
    auto p = load(test_artifact());
    Tensor x = f32({2, 4}), l = labels({0, 1}), steps = p->state("steps");
    CHECK_ERROR(run(*p, pool, {x}), Error, Code::NameMissing, "input 'labels' is missing");
    CHECK_ERROR(run(*p, pool, {x, l, l}), Error, Code::Argument, "3 inputs are given, 2 are expected: x, labels");
    CHECK_ERROR(run(*p, pool, {l, l}), Error, Code::DType, "input 'x': expected f32[B, 4], got i64[2]");
    CHECK_ERROR(run(*p, pool, {f32({4}), l}), Error, Code::Shape, "the rank must be 2");
    CHECK_ERROR(run(*p, pool, {f32({2, 5}), l}), Error, Code::Shape, "got [2, 5]: dimension 1 must be 4");
    CHECK_ERROR(run(*p, pool, {f32({3, 4}), l}), Error, Code::Shape,
                "input 'labels': expected shape [B], got [2]: dimension B is 2 here but 3 in dimension 0 of input 'x'");
    CHECK_ERROR(run(*p, pool, {f32({0, 4}), labels({})}), Error, Code::Shape, "dimension B = 0 is illegal");
    CHECK_ERROR(run(*p, pool, {f32({65, 4}), l}), Error, Code::Shape, "at most 64");
    CHECK_ERROR(run(*p, pool, {f32({40, 4}), labels(std::vector<int64_t>(40))}), Error, Code::Shape,
                "the batch is too large for the table (-2*B + 64 is -16, at least 0 is needed) at train.py:3");
    CHECK_ERROR(run(*p, pool, {x, labels({3, 10})}), Error, Code::IndexRange,
                "labels at position [1] is 10; expected 0 to 9, or -100 to be ignored\n  at train.py:7");
    CHECK(at(steps, 0) == 1); // a rejected run changes nothing
    CHECK_ERROR(run(*p, pool, {x, l}, {f32({2, 5})}), Error, Code::Shape, "output 'y': expected shape [2, 4], got [2, 5]");
    CHECK_ERROR(run(*p, pool, {x, l}, {l}), Error, Code::DType, "output 'y': expected f32[2, 4], got i64[2]");
    CHECK_ERROR(run(*p, pool, {x, l}, {x}), Error, Code::Argument, "output 'y' shares memory with input 'x'");
    Tensor y = f32({2, 4});
    CHECK_ERROR(run(*p, pool, {x, l}, {y, y}), Error, Code::Argument, "output 'sum' shares memory with output 'y'");
    Tensor frozen = Tensor::from_blob(y.data(), DType::F32, {2, 4}, nullptr, nullptr, nullptr, true);
    CHECK_ERROR(run(*p, pool, {x, l}, {frozen}), Error, Code::Argument, "output 'y': the tensor is read-only");
    int64_t apart[] = {8, 2};
    Tensor wide = f32({2, 8});
    Tensor sparse = Tensor::from_blob(wide.data(), DType::F32, {2, 4}, apart, nullptr, nullptr);
    CHECK_ERROR(run(*p, pool, {x, l}, {sparse}), Error, Code::Argument, "not contiguous");
    CHECK_ERROR(run(*p, pool, {x, l}, {y, y, y}), Error, Code::Argument, "3 outputs are given, 2 are expected");
    CHECK(run(*p, pool, {x, l}, {y})[0].data() == y.data() && at(y, 7) == 14);
    CHECK_ERROR(p->requirements({}), Error, Code::NameMissing, "'B'");
    CHECK_ERROR(p->requirements({{"B", 1}, {"C", 1}}), Error, Code::NameMissing, "'C'");
}

static void test_state(ThreadPool &pool) {
    auto p = load(test_artifact()), q = load(test_artifact());
    Tensor shared = p->state("steps");
    q->bind_state("steps", shared);
    run(*p, pool, {f32({1, 4}), labels({0})});
    run(*q, pool, {f32({1, 4}), labels({0})});
    CHECK(at(shared, 0) == 4);
    CHECK_ERROR(p->state("nothing"), Error, Code::NameMissing, "there is no state 'nothing'; the states are: steps");
    CHECK_ERROR(p->bind_state("steps", f32({5})), Error, Code::Shape, "state 'steps': expected shape [4], got [5]");
    CHECK_ERROR(p->bind_state("steps", labels({1, 2, 3, 4})), Error, Code::DType, "expected f32[4]");
    Tensor frozen = Tensor::from_blob(shared.data(), DType::F32, {4}, nullptr, nullptr, nullptr, true);
    CHECK_ERROR(p->bind_state("steps", frozen), Error, Code::Argument, "read-only but runs change it");

    namespace fs = std::filesystem;
    fs::path folder = fs::temp_directory_path() / ("tessera_state_" + std::to_string(::getpid()));
    fs::create_directory(folder);
    std::string path = (folder / "state.safetensors").string();
    p->save_state(path);
    auto r = load(test_artifact());
    Tensor before = r->state("steps");
    r->load_state(path);
    CHECK(at(before, 2) == at(shared, 2));
    CHECK_ERROR(p->save_state((folder / "no" / "folder").string()), Error, Code::FileAccess, "cannot write");
    CHECK_ERROR(r->load_state((folder / "nothing").string()), Error, Code::FileAccess, "cannot read");
    CHECK_ERROR(r->load_state(folder.string()), Error, Code::FileAccess, "folder");
    p->save_state(path); // over the old file
    size_t files = 0;
    for ([[maybe_unused]] auto &entry : fs::directory_iterator(folder))
        ++files;
    CHECK(files == 1); // no temporary file stays
    fs::resize_file(path, fs::file_size(path) - 4);
    float kept = at(before, 0);
    CHECK_ERROR(r->load_state(path), Error, Code::Format, "truncated");
    CHECK(at(before, 0) == kept);
    fs::remove_all(folder);
}

static void test_missing_weights(ThreadPool &pool) {
    std::string bytes = build_artifact({{"tessera.format", "1"}, {"tessera.plan.cpu.x86-64-v2", test_plan}},
                                       {{"tessera.kernels.cpu.x86-64-v2", "U8", "[51]", double_kernel}});
    CHECK_ERROR(load(bytes), Error, Code::Format, "the tensor of state 'steps' is missing");
    auto p = load(bytes, {}, false);
    CHECK_ERROR(p->state("steps"), Error, Code::NameMissing, "bind_state");
    CHECK_ERROR(run(*p, pool, {f32({1, 4}), labels({0})}), Error, Code::NameMissing, "state 'steps' has no tensor");
    p->bind_state("steps", f32({4}));
    CHECK_ERROR(run(*p, pool, {f32({1, 4}), labels({0})}), Error, Code::NameMissing, "constant 'table' has no data");
    p->set_constant("table", f32({4}));
    CHECK(at(run(*p, pool, {f32({1, 4}), labels({0})})[1], 3) == 6);
}

static void test_many_threads() {
    auto p = load(test_artifact());
    ThreadPool pool(2);
    std::vector<std::thread> callers;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 4; ++t)
        callers.emplace_back([&, t] {
            for (int k = 0; k < 200; ++k) {
                int64_t batch = 1 + (t + k) % 7;
                Tensor y = run(*p, pool, {f32({batch, 4}, static_cast<float>(t)), labels(std::vector<int64_t>(static_cast<size_t>(batch)))})[0];
                for (int64_t i = 0; i < y.size(); ++i)
                    wrong += at(y, i) != 2.0f * static_cast<float>(t + i);
            }
        });
    for (auto &c : callers)
        c.join();
    CHECK(wrong == 0);
}

static void test_queue() {
    auto p = load(test_artifact());
    RuntimeOptions options;
    options.threads = 2;
    auto runtime = std::make_shared<Runtime>(options);
    std::vector<Run *> runs;
    Tensor steps = p->state("steps");
    for (int k = 0; k < 20; ++k) {
        Run *r = runtime->new_run();
        r->program = p;
        r->inputs = {f32({2, 4}), labels({0, k == 7 ? 99 : 1})};
        r->outputs.resize(2);
        runs.push_back(r);
        runtime->submit(*r);
    }
    runs[3]->wait();
    CHECK(runs[2]->is_done() && at(runs[3]->outputs[0], 1) == 2);
    CHECK_ERROR(runtime->wait(), Error, Code::IndexRange, "99");
    runtime->wait(); // an error is reported once
    CHECK_ERROR(runs[7]->wait(), Error, Code::IndexRange, "99");
    CHECK(at(steps, 0) == 524288); // 19 of 20 runs
    CHECK(runs[19]->run_ns() > 0);
    for (Run *r : runs)
        r->release();
}

int main() {
    ThreadPool pool(2);
    test_run(pool);
    test_strided_input(pool);
    test_arguments(pool);
    test_state(pool);
    test_missing_weights(pool);
    test_many_threads();
    test_queue();
    return finish();
}
