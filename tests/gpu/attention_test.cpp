// Attention by cuDNN in plans: values, the generated kernels in its place, errors. On the model, which computes the graphs
// of operations that the runtime describes; tests/gpu/check_libraries.py has the checks for a device.
#include <atomic>
#include <cmath>
#include <numeric>
#include <thread>

#include "core/transfer.h"
#include "device/cuda/cudnn.h"
#include "host.h"
#include "plan_builder.h"

using namespace gpu_test;

namespace {

int64_t library_count(const char *what) {
    static void *library = ::dlopen(FAKE_CUDNN, RTLD_NOW | RTLD_LOCAL);
    return reinterpret_cast<int64_t (*)(const char *)>(::dlsym(library, "fake_cudnn_count"))(what);
}

void fail_next_call(int status) {
    static void *library = ::dlopen(FAKE_CUDNN, RTLD_NOW | RTLD_LOCAL);
    reinterpret_cast<void (*)(int)>(::dlsym(library, "fake_cudnn_fail"))(status);
}

using Values = std::vector<double>;
constexpr int64_t size = 8;

struct Case {
    int64_t heads, shared, length, keys;
    bool causal;
    double scale = 0.5;
};

// Numbers that bf16 holds.
Values drawn(int64_t count, int seed) {
    Values out(static_cast<size_t>(count));
    for (size_t i = 0; i < out.size(); ++i)
        out[i] = (static_cast<double>((i * 7 + static_cast<size_t>(seed) * 5) % 23) - 11) / 8;
    return out;
}

Tensor on_device(const Values &values, const std::vector<int64_t> &shape, DType dtype = DType::BF16) {
    Tensor t = Tensor::empty(dtype, shape);
    for (size_t i = 0; i < values.size(); ++i) {
        const auto value = static_cast<float>(values[i]);
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        if (dtype == DType::F32)
            static_cast<float *>(t.data())[i] = value;
        else
            static_cast<uint16_t *>(t.data())[i] = static_cast<uint16_t>(bits >> 16);
    }
    return to_device(t, device());
}

Values values_of(const Tensor &t) {
    const Tensor host = to_device(t, {});
    Values out(static_cast<size_t>(host.size()));
    for (size_t i = 0; i < out.size(); ++i) {
        if (host.dtype() == DType::F32) {
            out[i] = static_cast<double>(static_cast<const float *>(host.data())[i]);
            continue;
        }
        const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t *>(host.data())[i]) << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        out[i] = static_cast<double>(value);
    }
    return out;
}

bool near(const Values &found, const Values &right) {
    double apart = 0, all = 1e-12;
    for (size_t i = 0; i < right.size(); ++i) {
        apart += (found[i] - right[i]) * (found[i] - right[i]);
        all += right[i] * right[i];
    }
    if (!(found.size() == right.size() && apart <= 4e-4 * all))
        std::fprintf(stderr, "apart: %g of %g\n", std::sqrt(apart), std::sqrt(all));
    return found.size() == right.size() && apart <= 4e-4 * all;
}

// Attention in f64, and its gradients.
struct Reference {
    Values out, sums, dq, dk, dv;

    Reference(const Case &c, const Values &q, const Values &k, const Values &v, const Values &given)
        : out(q.size()), sums(static_cast<size_t>(c.heads * c.length)), dq(q.size()), dk(k.size()), dv(k.size()) {
        for (int64_t h = 0; h < c.heads; ++h)
            for (int64_t i = 0; i < c.length; ++i)
                row(c, (h * c.length + i) * size, h / (c.heads / c.shared) * c.keys * size, c.causal ? std::min(i + 1, c.keys) : c.keys, q, k, v,
                    given);
    }

    static double dot(const Values &a, int64_t at, const Values &b, int64_t other) {
        return std::inner_product(a.begin() + at, a.begin() + at + size, b.begin() + other, 0.0);
    }

    void row(const Case &c, int64_t at, int64_t base, int64_t count, const Values &q, const Values &k, const Values &v, const Values &given) {
        Values w(static_cast<size_t>(count));
        double total = 0;
        for (int64_t j = 0; j < count; ++j)
            total += w[static_cast<size_t>(j)] = std::exp(dot(q, at, k, base + j * size) * c.scale);
        sums[static_cast<size_t>(at / size)] = std::log(total);
        for (int64_t j = 0; j < count; ++j)
            for (int64_t e = 0; e < size; ++e)
                out[static_cast<size_t>(at + e)] += w[static_cast<size_t>(j)] / total * v[static_cast<size_t>(base + j * size + e)];
        const double delta = dot(out, at, given, at);
        for (int64_t j = 0; j < count; ++j) {
            const double p = w[static_cast<size_t>(j)] / total, change = p * (dot(given, at, v, base + j * size) - delta) * c.scale;
            for (int64_t e = 0; e < size; ++e) {
                const auto mine = static_cast<size_t>(at + e), theirs = static_cast<size_t>(base + j * size + e);
                dq[mine] += change * k[theirs];
                dk[theirs] += change * q[mine];
                dv[theirs] += p * given[mine];
            }
        }
    }
};

// The plan of attention or its gradient; in its place a kernel that leaves the sum of the first bytes, as f32, behind.
struct Attention {
    int64_t heads = 2, shared = 2;
    bool gradient = false;
    std::string more, scale = "0.5", scratch = "1048576", dtype = "bf16", otherwise, then = "[]";

    static std::string tensor(const char *name, const std::string &dtype, const char *shape, int buffer) {
        return std::string(R"({"name": ")") + name + R"(", "dtype": ")" + dtype + R"(", "shape": )" + shape + R"(, "buffer": )" +
               std::to_string(buffer) + "}";
    }

    std::string text() const {
        const std::string h = std::to_string(heads), s = std::to_string(shared);
        const std::string rows = h + "*L*8", keys = s + "*S*8", sums = h + "*L";
        std::vector<std::string> counts = {rows, keys, keys, rows, sums};
        if (gradient)
            counts.insert(counts.end(), {rows, rows, keys, keys});
        const size_t inputs = gradient ? 6 : 3;
        PlanText p;
        p.dims = R"([{"name": "L", "min": 0, "max": null, "multiple_of": 1}, {"name": "S", "min": 0, "max": null, "multiple_of": 1}])";
        std::string lists[4]; // inputs, outputs, operands, results
        for (size_t i = 0; i < counts.size(); ++i) {
            const std::string type = i == 4 ? "f32" : dtype, number = std::to_string(i), comma = i && i != inputs ? ", " : "";
            const bool in = i < inputs;
            lists[in ? 0 : 1] += comma + tensor(("t" + number).c_str(), type, ("[\"" + counts[i] + "\"]").c_str(), static_cast<int>(i));
            lists[in ? 2 : 3] += comma + R"({"buffer": )" + number + R"(, "dtype": ")" + type + R"(", "shape": [")" + counts[i] + "\"]}";
            p.buffers += (i ? ", " : "") + std::string(R"({"kind": ")") + (in ? "input" : "output") + R"(", "bytes": ")" + counts[i] +
                         (i == 4 ? "*4\"}" : "*2\"}");
        }
        p.inputs = lists[0];
        p.outputs = lists[1];
        p.kernels = kernel("add", add_arguments);
        const std::string out = std::to_string(inputs);
        p.instructions = R"({"library": "cudnn", "function": ")" + std::string(gradient ? "attention_gradient" : "attention") +
                         R"(", "loc": "model.py:3", "scratch": )" + scratch + R"(, "attrs": {"batch": 1, "heads": )" + h +
                         R"(, "shared": )" + s + R"(, "length": "L", "keys": "S", "size": 8, "scale": )" + scale + more +
                         R"(}, "operands": [)" + lists[2] + R"(], "results": [)" + lists[3] + R"(], "then": )" + then +
                         R"(, "otherwise": )" +
                         (otherwise.empty() ? R"([{"kernel": 0, "buffers": [0, 0, )" + out + R"(], "sizes": [4], "grid": [1, 1, 1]}])" : otherwise) +
                         "}";
        return p.text();
    }
    std::unique_ptr<GpuEngine> engine() const {
        static const std::string code = image();
        return std::make_unique<GpuEngine>(Plan::parse(text(), "test.tsr", code, target()), code, device(), "test.tsr");
    }
};

std::vector<Tensor> run(GpuEngine &engine, Host &host, const std::vector<Tensor> &given) {
    std::vector<const Tensor *> pointers;
    for (const Tensor &t : given)
        pointers.push_back(&t);
    RunContext context = host.context();
    std::vector<Tensor> out(engine.signature().outputs.size());
    engine.run(context, {}, pointers.data(), pointers.size(), out.data());
    return out;
}

struct Given {
    Values q, k, v, g;
    std::vector<Tensor> tensors;

    explicit Given(const Case &c, DType dtype = DType::BF16)
        : q(drawn(c.heads * c.length * size, 1)), k(drawn(c.shared * c.keys * size, 2)), v(drawn(c.shared * c.keys * size, 3)),
          g(drawn(c.heads * c.length * size, 4)) {
        for (const Values *x : {&q, &k, &v})
            tensors.push_back(on_device(*x, {static_cast<int64_t>(x->size())}, dtype));
    }
    // The operands of the gradient.
    std::vector<Tensor> with(const Reference &r) const {
        std::vector<Tensor> out = tensors;
        out.push_back(on_device(r.out, {static_cast<int64_t>(q.size())}));
        out.push_back(on_device(r.sums, {static_cast<int64_t>(r.sums.size())}, DType::F32));
        out.push_back(on_device(g, {static_cast<int64_t>(q.size())}));
        return out;
    }
};

Attention plan_of(const Case &c, bool gradient, const std::string &more = "") {
    Attention a;
    a.heads = c.heads;
    a.shared = c.shared;
    a.gradient = gradient;
    a.more = (c.causal ? R"(, "causal": true)" : "") + more;
    return a;
}

void values(Host &host) {
    for (const Case &c : {Case{2, 2, 5, 5, true}, Case{2, 2, 4, 7, false}, Case{4, 2, 6, 6, true}, Case{6, 1, 3, 5, true}}) {
        const Given given(c);
        const Reference right(c, given.q, given.k, given.v, given.g);
        auto forward = plan_of(c, false).engine();
        const std::vector<Tensor> found = run(*forward, host, given.tensors);
        CHECK(near(values_of(found[0]), right.out) && near(values_of(found[1]), right.sums));
    }
    for (const Case &c : {Case{2, 2, 5, 128, true}, Case{4, 2, 9, 128, false}})
        for (const char *more : {"", R"(, "deterministic": true)"}) {
            const Given given(c);
            const Reference right(c, given.q, given.k, given.v, given.g);
            auto gradient = plan_of(c, true, more).engine();
            const std::vector<Tensor> found = run(*gradient, host, given.with(right));
            CHECK(near(values_of(found[0]), right.dq) && near(values_of(found[1]), right.dk) && near(values_of(found[2]), right.dv));
        }
    CHECK(library_count("create") <= 1);
}

// The same addresses again: the call is part of the captured graph, and its plan is chosen once.
void calls_are_captured(Host &host) {
    const Case c{2, 2, 5, 5, true};
    const Given given(c);
    Attention doubled = plan_of(c, false); // and a launch behind it: twice the sums
    doubled.then = R"([{"kernel": 0, "buffers": [4, 4, 4], "sizes": ["2*L"], "grid": [1, 1, 1]}])";
    auto engine = doubled.engine();
    std::vector<const Tensor *> pointers;
    for (const Tensor &t : given.tensors)
        pointers.push_back(&t);
    std::vector<Tensor> out(2);
    const int64_t chosen = library_count("choose"), before = library_count("execute"), graphs = calls("cuGraphLaunch");
    Values first;
    for (int i = 0; i < 5; ++i) {
        RunContext context = host.context();
        engine->run(context, {}, pointers.data(), pointers.size(), out.data());
        const Values found = values_of(out[0]);
        first = i ? first : found;
        CHECK(found == first);
    }
    const Reference right(c, given.q, given.k, given.v, given.g);
    Values twice = right.sums;
    for (double &v : twice)
        v *= 2;
    CHECK(near(values_of(out[0]), right.out) && near(values_of(out[1]), twice));
    CHECK(library_count("choose") == chosen + 2); // how many engines there are, and which
    CHECK(library_count("execute") == before + 2 && calls("cuGraphLaunch") == graphs + 4);
}

bool is_generated(const Tensor &out, const Values &q) {
    const Tensor host = to_device(out, {}), twice = to_device(on_device(q, {static_cast<int64_t>(q.size())}), {});
    for (int i = 0; i < 4; ++i)
        if (static_cast<const float *>(host.data())[i] != 2 * static_cast<const float *>(twice.data())[i])
            return false;
    return true;
}

// What the library has nothing for is computed by the kernels that the plan names in its place.
void generated_in_its_place(Host &host) {
    const Case c{2, 2, 5, 5, false};
    const Given given(c);
    Attention narrow = plan_of(c, false);
    narrow.scratch = "16"; // less than the model's library asks for
    CHECK(is_generated(run(*narrow.engine(), host, given.tensors)[0], given.q));
    narrow.otherwise = "[]";
    const std::string text = error_of([&] { run(*narrow.engine(), host, given.tensors); }, Code::Device);
    CHECK(contains(text, "cudnn attention: the library has no code for this attention (cuDNN 91900 has no plan: it asks for 4096 bytes "
                         "of workspace, there are 16)") &&
          contains(text, "compile with libraries=[]\n  at model.py:3"));
    Attention other = plan_of(c, false);
    other.dtype = "f16"; // which the model has no engine for
    other.otherwise = "[]";
    CHECK(contains(error_of([&] { run(*other.engine(), host, Given(c, DType::F16).tensors); }, Code::Device), "the model does not know f16"));
    Attention wide = plan_of({4, 3, 5, 5, false}, false);
    CHECK(is_generated(run(*wide.engine(), host, Given({4, 3, 5, 5, false}).tensors)[0], Given({4, 3, 5, 5, false}).q));
    const Case many{65536, 65536, 1, 1, false};
    CHECK(is_generated(run(*plan_of(many, false).engine(), host, Given(many).tensors)[0], Given(many).q));
    for (const char *scale : {"-0.5", "0", "1e-42", "1e39"}) {
        Attention scaled = plan_of(c, false);
        scaled.scale = scale;
        CHECK(is_generated(run(*scaled.engine(), host, given.tensors)[0], given.q));
    }
    const Attention none = plan_of(c, false);
    CHECK(run(*none.engine(), host, Given({2, 2, 0, 5, false}).tensors)[0].size() == 0);
}

// The library is there and does not work with the driver: as if it were missing.
void a_library_that_cannot_be_used(Host &host) {
    ::setenv("FAKE_CUDNN_BROKEN", "1", 1);
    const Case c{2, 2, 5, 5, false};
    const Given given(c);
    CHECK(is_generated(run(*plan_of(c, false).engine(), host, given.tensors)[0], given.q));
    Attention alone = plan_of(c, false);
    alone.otherwise = "[]";
    const std::string text = error_of([&] { alone.engine(); }, Code::Device);
    CHECK(contains(text, "cuDNN cannot be initialised: cuDNN 91900 (") && contains(text, ": the driver is too old") &&
          contains(text, "name its file in TESSERA_CUDNN_LIBRARY"));
    ::unsetenv("FAKE_CUDNN_BROKEN");
}

// Plans are made, and run, by several threads; the library's context is used by one at a time.
void several_threads() {
    const Case c{2, 2, 5, 5, true};
    std::atomic<int> good{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            Host host;
            for (int i = 0; i < 4; ++i) {
                const Given given(c);
                const Reference right(c, given.q, given.k, given.v, given.g);
                auto engine = plan_of(c, false).engine();
                for (int again = 0; again < 2; ++again)
                    good += near(values_of(run(*engine, host, given.tensors)[0]), right.out);
            }
        });
    for (std::thread &t : threads)
        t.join();
    CHECK(good == 32);
}

void a_failed_call_is_an_error(Host &host) {
    const Case c{2, 2, 5, 5, false};
    const Given given(c);
    auto engine = plan_of(c, false).engine();
    fail_next_call(5000);
    const std::string text = error_of([&] { run(*engine, host, given.tensors); }, Code::Device);
    CHECK(contains(text, "cudnn attention: a call: cuDNN 91900 (") &&
          contains(text, "says CUDNN_STATUS_EXECUTION_FAILED (5000): as the test wants it\n  at model.py:3"));
    run(*engine, host, given.tensors);
}

void refused_when_read() {
    struct Refused {
        std::string piece, other;
        const char *words;
    };
    const std::string good = plan_of({2, 2, 5, 5, true}, false).text();
    const Refused cases[] = {
        {R"("function": "attention")", R"("function": "matmul")", "the function 'matmul' of the library 'cudnn' is not known"},
        {R"("function": "attention")", R"("function": "attention_gradient")", "its operands and results are not those of attention"},
        {R"("keys": "S", )", "", "'keys' is missing"},
        {R"("size": 8)", R"("size": 0)", "'size' is 0"},
        {R"("causal": true)", R"("causal": 1)", "'causal' is not true or false"},
        {R"("operands": [{"buffer": 0, "dtype": "bf16")", R"("operands": [{"buffer": 0, "dtype": "f32")", "attention is of bf16 or f16"},
        {R"("operands": [{"buffer": 0, "dtype": "bf16")", R"("operands": [{"buffer": 0, "dtype": "f16")", "differ in dtype"},
    };
    static const std::string code = image();
    for (const Refused &c : cases) {
        std::string text = good;
        const size_t at = text.find(c.piece);
        CHECK(at != std::string::npos);
        text.replace(at, c.piece.size(), c.other);
        const std::string found = error_of([&] { Plan::parse(text, "test.tsr", code, target()); }, Code::Format);
        if (!contains(found, c.words))
            std::fprintf(stderr, "%s: %s\n", c.words, found.c_str());
        CHECK(contains(found, c.words));
    }
}

void tensors_that_are_too_small(Host &host) {
    Attention a = plan_of({2, 2, 5, 5, false}, false);
    std::string text = a.text();
    const std::string piece = R"("heads": 2)";
    text.replace(text.find(piece), piece.size(), R"("heads": 4)");
    static const std::string code = image();
    GpuEngine engine(Plan::parse(text, "test.tsr", code, target()), code, device(), "test.tsr");
    CHECK(contains(error_of([&] { run(engine, host, Given({2, 2, 5, 5, false}).tensors); }, Code::Format),
                   "attention of the plan uses 160 elements of a tensor that has 80"));
}

// The first test: nothing has looked for the library yet.
void without_the_library(Host &host) {
    gpu::add_cudnn_file("");
    gpu::add_cudnn_file("/nowhere/libcudnn.so");
    std::string why;
    CHECK(!gpu::cudnn(&why) && contains(why, "there is no cuDNN on this machine: /nowhere/libcudnn.so"));
    const Case c{2, 2, 5, 5, false};
    const Given given(c);
    CHECK(is_generated(run(*plan_of(c, false).engine(), host, given.tensors)[0], given.q));
    gpu::add_cudnn_file("");
    gpu::add_cudnn_file(FAKE_CUDA); // a library, but not this one
    CHECK(!gpu::cudnn(&why) && contains(why, "is no cuDNN: it has no cudnnCreate"));
    ::setenv("FAKE_CUDNN_VERSION", "90500", 1);
    gpu::add_cudnn_file(FAKE_CUDNN);
    CHECK(!gpu::cudnn(&why) && contains(why, "is cuDNN 9.5.0, Tessera needs 9.10.2 or later"));
    ::unsetenv("FAKE_CUDNN_VERSION");
    gpu::add_cudnn_file("");
    gpu::add_cudnn_file(FAKE_CUDNN);
    CHECK(gpu::cudnn(&why) && why.empty());
    CHECK(contains(error_of([] { gpu::add_cudnn_file("other.so"); }, Code::Argument), "cuDNN is loaded already"));
}

} // namespace

int main(int argc, char **argv) {
    choose(argc, argv);
    if (device_type == DeviceType::ROCM || !on_model)
        return finish();
    {
        Host host;
        without_the_library(host);
        a_library_that_cannot_be_used(host);
        values(host);
        calls_are_captured(host);
        generated_in_its_place(host);
        several_threads();
        a_failed_call_is_an_error(host);
        tensors_that_are_too_small(host);
        refused_when_read();
        host.stream->wait();
    }
    CHECK(live_blocks() == 0);
    CHECK(misuses() == "");
    CHECK(library_count("alive") == 0);
    return finish();
}
