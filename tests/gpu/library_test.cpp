// Calls of vendor libraries in plans: values, the generated kernels in their place, errors.
#include <algorithm>
#include <numeric>

#include "core/transfer.h"
#include "device/cuda/cublaslt.h"
#include "host.h"
#include "plan_builder.h"

using namespace gpu_test;

namespace {

int64_t library_count(const char *what) {
    static void *library = ::dlopen(FAKE_CUBLASLT, RTLD_NOW | RTLD_LOCAL);
    return on_model ? reinterpret_cast<int64_t (*)(const char *)>(::dlsym(library, "fake_cublaslt_count"))(what) : 0;
}

void fail_next_product(int status) {
    static void *library = ::dlopen(FAKE_CUBLASLT, RTLD_NOW | RTLD_LOCAL);
    reinterpret_cast<void (*)(int)>(::dlsym(library, "fake_cublaslt_fail"))(status);
}

using Values = std::vector<float>;

Tensor on_host(const Values &values, std::vector<int64_t> shape) {
    Tensor t = Tensor::empty(DType::F32, shape);
    std::copy_n(values.data(), values.size(), static_cast<float *>(t.data()));
    return t;
}

Values values_of(const Tensor &t) {
    Tensor host = to_device(t, {});
    auto *data = static_cast<const float *>(host.data());
    return Values(data, data + host.size());
}

// Small integers, so that sums are exact in any order.
Values drawn(size_t count, int seed) {
    Values out(count);
    for (size_t i = 0; i < count; ++i)
        out[i] = static_cast<float>(static_cast<int>((i * 7 + static_cast<size_t>(seed) * 5) % 11) - 5);
    return out;
}

// out[B, M, 8] = x[B, M, 4] w[4, 8] + bias, perhaps with relu; else twice the bias in the first eight elements.
struct Product {
    std::string x = R"("step": 4, "batch_step": "4*M")", w = R"("step": 8)", more = R"("bias": true)";
    std::string scratch = "1048576", otherwise = R"([{"kernel": 0, "buffers": [2, 2, 3], "sizes": [8], "grid": [1, 1, 1]}])";
    std::string w_shape = "[4, 8]", then = "[]", operands = "";

    std::string text() const {
        PlanText p;
        p.dims = R"([{"name": "M", "min": 0, "max": null, "multiple_of": 1}, {"name": "B", "min": 0, "max": null, "multiple_of": 1}])";
        p.inputs = R"({"name": "x", "dtype": "f32", "shape": ["B", "M", 4], "buffer": 0}, {"name": "w", "dtype": "f32", "shape": )" + w_shape +
                   R"(, "buffer": 1}, {"name": "bias", "dtype": "f32", "shape": [8], "buffer": 2})";
        p.outputs = R"({"name": "out", "dtype": "f32", "shape": ["B", "M", 8], "buffer": 3})";
        p.buffers = R"({"kind": "input", "bytes": "16*B*M"}, {"kind": "input", "bytes": 128}, {"kind": "input", "bytes": 32},
                       {"kind": "output", "bytes": "32*B*M"})";
        p.kernels = kernel("add", add_arguments);
        p.instructions = R"({"library": "cublaslt", "function": "matmul", "loc": "model.py:3", "scratch": )" + scratch +
                         R"(, "attrs": {"rows": "M", "columns": 8, "terms": 4, "batch": "B", "a": {)" + x + R"(}, "b": {)" + w +
                         R"(}, "d": {"step": 8, "batch_step": "8*M"}, )" + more + R"(}, "operands": [
                         {"buffer": 0, "dtype": "f32", "shape": ["4*B*M"]}, {"buffer": 1, "dtype": "f32", "shape": [32]},
                         {"buffer": 2, "dtype": "f32", "shape": [8]})" + operands + R"(],
                         "results": [{"buffer": 3, "dtype": "f32", "shape": ["8*B*M"]}],
                         "then": )" + then + R"(, "otherwise": )" + otherwise + "}";
        return p.text();
    }
    Plan plan() const {
        static const std::string code = image();
        return Plan::parse(text(), "test.tsr", code, target());
    }
    std::unique_ptr<GpuEngine> engine() const {
        static const std::string code = image();
        return std::make_unique<GpuEngine>(plan(), code, device(), "test.tsr");
    }
};

Tensor run(GpuEngine &engine, Host &host, const Values &x, std::vector<int64_t> shape, const Values &w, const Values &bias,
           const std::vector<int64_t> &w_shape = {4, 8}) {
    Tensor tensors[] = {to_device(on_host(x, shape), device()), to_device(on_host(w, w_shape), device()),
                        to_device(on_host(bias, {8}), device())};
    const Tensor *pointers[] = {&tensors[0], &tensors[1], &tensors[2]};
    RunContext context = host.context();
    Tensor out;
    engine.run(context, {}, pointers, 3, &out);
    return out;
}

Values product(const Values &x, const Values &w, const Values &bias, bool turned = false, bool relu = false) {
    Values out;
    for (size_t r = 0; r < x.size() / 4; ++r)
        for (size_t c = 0; c < 8; ++c) {
            float total = bias[c];
            for (size_t k = 0; k < 4; ++k)
                total += x[4 * r + k] * (turned ? w[4 * c + k] : w[8 * k + c]);
            out.push_back(relu && total < 0 ? 0.0f : total);
        }
    return out;
}

void products_of_any_size(Host &host) {
    auto engine = Product().engine();
    const Values w = drawn(32, 2), bias = drawn(8, 3);
    for (int64_t batch : {1, 3, 0})
        for (int64_t rows : {5, 1, 0, 64, 5}) {
            const Values x = drawn(static_cast<size_t>(4 * batch * rows), 1);
            CHECK(values_of(run(*engine, host, x, {batch, rows, 4}, w, bias)) == product(x, w, bias));
        }
    CHECK(library_count("create") <= 1);
    Product turned;
    turned.w = R"("step": 4, "transposed": true)";
    turned.w_shape = "[8, 4]";
    turned.more = R"("bias": true, "activation": "relu")";
    engine = turned.engine();
    const Values x = drawn(4 * 7 * 2, 4);
    CHECK(values_of(run(*engine, host, x, {2, 7, 4}, w, bias, {8, 4})) == product(x, w, bias, true, true));
    CHECK(engine->requirements({7, 2}).arena <= 1048576); // the library's scratch
    Product doubled; // and a launch behind it: out = out + out
    doubled.then = R"([{"kernel": 0, "buffers": [3, 3, 3], "sizes": ["8*B*M"], "grid": [2, 1, 1]}])";
    Values twice = product(x, w, bias);
    for (float &v : twice)
        v *= 2;
    CHECK(values_of(run(*doubled.engine(), host, x, {2, 7, 4}, w, bias)) == twice);
}

// The numbers by which products of 8-bit floats are multiplied; the model takes them for all types.
void scaled_products(Host &host) {
    if (!on_model)
        return;
    Product scaled;
    scaled.more = R"("scales": 2)";
    scaled.operands = R"(, {"buffer": 2, "dtype": "f32", "shape": [8]})";
    const Values x = drawn(4 * 5, 1), w = drawn(32, 2);
    Values bias = drawn(8, 3), want = product(x, w, Values(8));
    bias[0] = 3;
    for (float &v : want)
        v *= 9;
    CHECK(values_of(run(*scaled.engine(), host, x, {1, 5, 4}, w, bias)) == want);
    scaled.operands = R"(, {"buffer": 2, "dtype": "i32", "shape": [8]})";
    CHECK(contains(error_of([&] { run(*scaled.engine(), host, x, {1, 5, 4}, w, bias); }, Code::Format), "a scale of a product of the plan is no f32"));
}

// The same addresses again: the call is part of the captured graph.
void calls_are_captured(Host &host) {
    auto engine = Product().engine();
    const Values x = drawn(4 * 9, 1), w = drawn(32, 2), bias = drawn(8, 3);
    Tensor tensors[] = {to_device(on_host(x, {1, 9, 4}), device()), to_device(on_host(w, {4, 8}), device()),
                        to_device(on_host(bias, {8}), device())};
    const Tensor *pointers[] = {&tensors[0], &tensors[1], &tensors[2]};
    Product doubled;
    doubled.then = R"([{"kernel": 0, "buffers": [3, 3, 3], "sizes": ["8*B*M"], "grid": [2, 1, 1]}])";
    engine = doubled.engine();
    Tensor out;
    {
        RunContext context = host.context();
        engine->run(context, {}, pointers, 3, &out);
    }
    const Values first = values_of(out);
    const int64_t before = library_count("multiply"), chosen = library_count("choose"), graphs = calls("cuGraphLaunch");
    for (int i = 0; i < 5; ++i) {
        RunContext context = host.context();
        engine->run(context, {}, pointers, 3, &out);
        CHECK(values_of(out) == first);
    }
    CHECK(!on_model || library_count("multiply") == before + 1);
    CHECK(library_count("choose") == chosen);
    CHECK(!on_model || calls("cuGraphLaunch") == graphs + 5);
}

// What the library has nothing for is computed by the kernels that the plan names in its place.
void generated_in_its_place(Host &host) {
    const Values x = drawn(4 * 5, 1), w = drawn(32, 2), bias = drawn(8, 3);
    Product shifted; // the second matrix begins in the middle of an aligned address
    shifted.w = R"("step": 8, "offset": 1)";
    shifted.more = R"("bias": true)";
    CHECK(contains(error_of([&] { run(*shifted.engine(), host, x, {1, 5, 4}, w, bias); }, Code::Format), "uses 33 elements of an operand that has 32"));
    shifted.x = R"("step": 4, "batch_step": "4*M", "offset": 1)";
    shifted.w = R"("step": 8)";
    CHECK(contains(error_of([&] { run(*shifted.engine(), host, x, {1, 5, 4}, w, bias); }, Code::Format), "uses 21 elements of an operand that has 20"));
    if (!on_model)
        return;
    Product narrow;
    narrow.scratch = "16"; // less than the model's library asks for
    Values found = values_of(run(*narrow.engine(), host, x, {1, 5, 4}, w, bias));
    for (size_t i = 0; i < 8; ++i)
        CHECK(found[i] == 2 * bias[i]);
    narrow.otherwise = "[]";
    CHECK(contains(error_of([&] { run(*narrow.engine(), host, x, {1, 5, 4}, w, bias); }, Code::Device),
                   "cublaslt matmul: the library has no code for this product, and the artefact has no kernel in its place; compile "
                   "with libraries=[]\n  at model.py:3"));
}

// The library is there and does not work with the driver: as if it were missing.
void a_library_that_cannot_be_used(Host &host) {
    if (!on_model)
        return;
    ::setenv("FAKE_CUBLASLT_BROKEN", "1", 1);
    const Values x = drawn(4 * 5, 1), w = drawn(32, 2), bias = drawn(8, 3);
    Values found = values_of(run(*Product().engine(), host, x, {1, 5, 4}, w, bias));
    for (size_t i = 0; i < 8; ++i)
        CHECK(found[i] == 2 * bias[i]);
    Product alone;
    alone.otherwise = "[]";
    CHECK(contains(error_of([&] { alone.engine(); }, Code::Device), "cuBLASLt cannot be initialised: cuBLASLt ("));
    ::unsetenv("FAKE_CUBLASLT_BROKEN");
}

void chosen_algorithms(Host &host) {
    if (!on_model)
        return;
    const Values x = drawn(4 * 5, 1), w = drawn(32, 2), bias = drawn(8, 3);
    auto taken = [&](const std::string &more) {
        Product p;
        p.more = R"("bias": true, )" + more;
        CHECK(values_of(run(*p.engine(), host, x, {1, 5, 4}, w, bias)) == product(x, w, bias));
        return library_count("algorithm");
    };
    CHECK(taken(R"("algorithm": 2, "version": 130100)") == 3);
    CHECK(taken(R"("algorithm": 2, "version": 120800)") == 1); // numbers of another version mean something else
    CHECK(taken(R"("algorithm": 9, "version": 130100)") == 1); // there are three
}

void a_failed_call_is_an_error(Host &host) {
    if (!on_model)
        return;
    const Values x = drawn(4 * 5, 1), w = drawn(32, 2), bias = drawn(8, 3);
    auto engine = Product().engine();
    fail_next_product(13);
    std::string text = error_of([&] { run(*engine, host, x, {1, 5, 4}, w, bias); }, Code::Device);
    CHECK(contains(text, "cublaslt matmul: a product: cuBLASLt (") && contains(text, "execution failed (13)\n  at model.py:3"));
    CHECK(values_of(run(*engine, host, x, {1, 5, 4}, w, bias)) == product(x, w, bias));
}

void refused_when_read() {
    struct Case {
        std::string piece, other;
        const char *words;
    };
    const std::string good = Product().text();
    const Case cases[] = {
        {R"("library": "cublaslt")", R"("library": "cudnn")", "the function 'matmul' of the library 'cudnn' is not known"},
        {R"("function": "matmul")", R"("function": "attention")", "the function 'attention' of the library 'cublaslt' is not known"},
        {R"("function": "matmul")", R"("function": "other")", "the function 'other'"},
        {R"("scratch": 1048576)", R"("scratch": "Q")", "Q"},
        {R"("terms": 4, )", "", "'terms' is missing"},
        {R"("bias": true)", R"("bias": false)", "its operands and results are not those of a product"},
        {R"("bias": true)", R"("bias": true, "c": {"step": 8})", "there is no operand for 'c'"},
        {R"("bias": true)", R"("bias": true, "beta": 1.0)", "'beta' is given without a 'c'"},
        {R"("bias": true)", R"("bias": true, "activation": "tanh")", "unknown activation 'tanh'"},
        {R"("bias": true)", R"("bias": true, "algorithm": 64)", "'algorithm' is 64"},
        {R"("bias": true)", R"("bias": true, "scales": 3)", "'scales' is 3"},
        {R"("bias": true)", R"("bias": true, "scales": 1)", "there is no operand for 'scales'"},
        {R"("d": {)", R"("d": {"transposed": true, )", "cannot be transposed"},
        {R"("then": [])", R"("then": [{"copy": [0, 3], "bytes": 4}])", "'then' is no list of kernel calls"},
        {R"("results": [{"buffer": 3)", R"("results": [{"buffer": 0)", "must not be written"},
    };
    for (const Case &c : cases) {
        std::string text = good;
        const size_t at = text.find(c.piece);
        CHECK(at != std::string::npos);
        text.replace(at, c.piece.size(), c.other);
        static const std::string code = image();
        const std::string found = error_of([&] { Plan::parse(text, "test.tsr", code, target()); }, Code::Format);
        if (!contains(found, c.words))
            std::fprintf(stderr, "%s: %s\n", c.words, found.c_str());
        CHECK(contains(found, c.words));
    }
}

// The first test: nothing has looked for the library yet. Gives whether the loader alone finds none.
bool without_the_library(Host &host) {
    gpu::add_cublaslt_file("");
    gpu::add_cublaslt_file("/nowhere/libcublasLt.so");
    std::string why;
    if (gpu::cublaslt(&why))
        return false;
    CHECK(contains(why, "there is no cuBLASLt on this machine: /nowhere/libcublasLt.so"));
    const Values x = drawn(4 * 5, 1), w = drawn(32, 2), bias = drawn(8, 3);
    Values found = values_of(run(*Product().engine(), host, x, {1, 5, 4}, w, bias));
    for (size_t i = 0; i < 8; ++i)
        CHECK(found[i] == 2 * bias[i]);
    Product alone;
    alone.otherwise = "[]";
    std::string text = error_of([&] { alone.engine(); }, Code::Device);
    CHECK(contains(text, "test.tsr: cublaslt matmul: there is no cuBLASLt on this machine") &&
          contains(text, "name its file in TESSERA_CUBLASLT_LIBRARY, or compile with libraries=[]"));
    gpu::add_cublaslt_file("");
    gpu::add_cublaslt_file(FAKE_CUDA); // a library, but not this one
    CHECK(!gpu::cublaslt(&why) && contains(why, "is no cuBLASLt: it has no cublasLtCreate"));
    if (on_model) {
        ::setenv("FAKE_CUBLASLT_VERSION", "111100", 1);
        gpu::add_cublaslt_file(FAKE_CUBLASLT);
        CHECK(!gpu::cublaslt(&why) && contains(why, "is cuBLASLt 11.11, Tessera needs 12.0 or later"));
        ::unsetenv("FAKE_CUBLASLT_VERSION");
    }
    gpu::add_cublaslt_file("");
    return true;
}

} // namespace

int main(int argc, char **argv) {
    choose(argc, argv);
    if (device_type == DeviceType::ROCM) {
        static const std::string code = image();
        CHECK(contains(error_of([&] { Product().plan(); }, Code::Format), "vendor libraries are for NVIDIA devices"));
        return finish();
    }
    {
        Host host;
        const bool missing = without_the_library(host);
        if (on_model && missing)
            gpu::add_cublaslt_file(FAKE_CUBLASLT);
        else if (const char *file = std::getenv("TESSERA_CUBLASLT_LIBRARY"); file && missing)
            gpu::add_cublaslt_file(file);
        std::string why;
        if (!gpu::cublaslt(&why)) {
            std::printf("%s\n", why.c_str());
            CHECK(!on_model);
            return finish();
        }
        CHECK(contains(error_of([] { gpu::add_cublaslt_file("other.so"); }, Code::Argument), "cuBLASLt is loaded already"));
        a_library_that_cannot_be_used(host);
        products_of_any_size(host);
        scaled_products(host);
        calls_are_captured(host);
        generated_in_its_place(host);
        chosen_algorithms(host);
        a_failed_call_is_an_error(host);
        refused_when_read();
        host.stream->wait();
    }
    CHECK(live_blocks() == 0);
    CHECK(misuses() == "");
    CHECK(library_count("alive") == 0);
    return finish();
}
