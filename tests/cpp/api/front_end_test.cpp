// Graphs built in C++: composites, symbolic sizes, parameters and their updates, gradients, random state, saving.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>

#include "check.h"
#include "tessera/runtime.h"

using namespace tessera;

namespace {

Runtime &runtime() {
    static Runtime rt(1);
    return rt;
}

Tensor vector(std::vector<float> values) {
    Tensor t = Tensor::create({static_cast<int64_t>(values.size())}, DType::F32);
    std::copy(values.begin(), values.end(), t.data<float>());
    return t;
}

bool close(const Tensor &x, const std::vector<float> &expected, float tolerance = 1e-6f) {
    if (x.is_lazy()) {
        runtime().submit(x);
        runtime().wait();
    }
    bool same = x.size() == static_cast<int64_t>(expected.size());
    for (size_t i = 0; same && i < expected.size(); ++i)
        same = std::abs(x.data<const float>()[i] - expected[i]) <= tolerance;
    return same;
}

std::string here(int line) { return "front_end_test.cpp:" + std::to_string(line); }

bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

std::string portable(const Graph &graph) { return graph.metadata()["tessera.portable"]; }

void test_composites_keep_their_names() {
    const Tensor x = op::input("x", {2, 3});
    const Tensor p = op::softmax(x);
    const Graph graph = Graph::trace({{"p", p}});
    CHECK(contains(graph.to_text(), "%1 = softmax(%0) {axis = 1} : f32[2, 3] at \""));
    CHECK(contains(graph.to_text(), "front_end_test.cpp\":" + std::to_string(__LINE__ - 3)));
    CHECK(!contains(portable(graph), "softmax") && contains(portable(graph), "exp("));
    const Tensor given = Tensor::create({2, 3}, DType::F32);
    CHECK(close(runtime().run(graph, {given})[0], std::vector<float>(6, 1.0f / 3)));
    CHECK(close(op::softmax(vector({1, 1, 1, 1})), {0.25f, 0.25f, 0.25f, 0.25f}));
    // Equal parts are one in the portable form.
    const Graph twice = Graph::trace({{"y", op::gelu(x) + op::gelu(x)}});
    CHECK(portable(twice).find("erf") == portable(twice).rfind("erf"));
}

void test_symbolic_sizes() {
    const Dim b = op::dim("B", 1, 4096, 2);
    const Tensor x = op::input("x", {b, 4});
    CHECK(x.shape()[0] == -1 && dims(x)[0] == b && x.is_lazy());
    const Tensor y = op::concat({op::reshape(x, {b * 4}), op::full({b}, 2.0)});
    CHECK(dims(y)[0].text() == "5*B");
    const Graph graph = Graph::trace({{"y", y}, {"m", op::mean(x, 0)}});
    CHECK(contains(graph.to_text(), "dim B in [1, 4096] multiple_of 2"));
    for (int64_t size : {2, 6}) {
        const std::vector<Tensor> out = runtime().run(graph, {Tensor::create({size, 4}, DType::F32)});
        CHECK(out[0].shape() == std::vector<int64_t>({5 * size}) && out[0].data<float>()[5 * size - 1] == 2);
    }
    CHECK_ERROR(runtime().run(graph, {Tensor::create({3, 4}, DType::F32)}), Error, TSR_SHAPE_ERROR, "B");
    CHECK_ERROR(op::add(x, op::input("z", {op::dim("N"), 4})), Error, TSR_SHAPE_ERROR, "do not broadcast");
    const Tensor other = op::input("other", {op::dim("B", 2)});
    CHECK_ERROR(Graph::trace({{"a", x}, {"b", other}}), Error, TSR_ARGUMENT_ERROR, "two dimensions named 'B'");
    CHECK_ERROR(op::input("negative", {b - 10}), Error, TSR_SHAPE_ERROR, "is or can be negative");
    CHECK(dims(op::split(x, 2, -1)[1])[1] == Dim(2) && op::split(x, {1, 3}, 1).size() == 3);
    CHECK_ERROR(op::split(x, 3, 1), Error, TSR_SHAPE_ERROR, "not a multiple of 3");
}

void test_a_step_that_updates_parameters() {
    Tensor memory = vector({1, 2});
    const Tensor w = op::parameter("w", memory), x = op::input("x", {2});
    const Tensor loss = op::sum(op::square(w * x));
    const Tensor g = grad(loss, {w})[0];
    const Graph step = Graph::trace({{"loss", loss}}, {{w, w - 0.5 * g}});
    CHECK(step.state()[0].name == "w" && step.state()[0].trainable && step.state()[0].mutated);
    CHECK(close(runtime().run(step, {vector({1, 1})})[0], {5}) && close(memory, {0, 0}));
    memory.data<float>()[0] = 3; // the graph reads the same memory
    CHECK(close(runtime().run(step, {vector({1, 0})})[0], {9}));
    CHECK_ERROR(Graph::trace({{"loss", loss}}, {{x, x}}), Error, TSR_ARGUMENT_ERROR, "an update is of a parameter");
    CHECK_ERROR(Graph::trace({{"loss", loss}}, {{w, loss}}), Error, TSR_SHAPE_ERROR, "the new value has type f32[]");
    CHECK_ERROR(Graph::trace({{"a", w}, {"b", op::parameter("w", vector({1}))}}), Error, TSR_ARGUMENT_ERROR,
                "two different parameters are called 'w'");
    CHECK_ERROR(op::parameter("n", Tensor::create({2}, DType::I64)), Error, TSR_DTYPE_ERROR,
                "only floats have gradients");
    CHECK_ERROR(op::parameter("tessera.w", vector({1})), Error, TSR_ARGUMENT_ERROR, "is reserved");
    CHECK_ERROR(op::parameter("", vector({1})), Error, TSR_ARGUMENT_ERROR, "the name is empty");
}

void test_gradients() {
    const Tensor x = op::parameter("x", vector({0.5f, -2}));
    CHECK(close(grad(op::sum(op::tanh(x) * x), {x})[0], {0.8553410f, -1.1053292f}));
    // Through a composite without a rule of its own, and twice.
    const Tensor first = grad(op::sum(op::silu(x)), {x})[0];
    CHECK(close(first, {0.7399612f, -0.0907842f}));
    CHECK(close(grad(op::sum(first), {x})[0], {0.441229f, 0.050062f}, 1e-5f));
    const Tensor unused = op::input("unused", {3});
    CHECK(close(grad(op::sum(x), {unused})[0], {0, 0, 0}));
    CHECK(close(grad({x * x}, {x}, {vector({1, 10})})[0], {1, -40}));
    CHECK_ERROR(grad(x, {x}), Error, TSR_GRADIENT_ERROR, "the loss must be a scalar");
    CHECK_ERROR(grad(op::argmax(x), {x}), Error, TSR_GRADIENT_ERROR, "must be a floating-point scalar");
    CHECK_ERROR(grad(op::sum(x), {vector({1})}), Error, TSR_GRADIENT_ERROR, "make it a parameter");
    const Tensor key = op::cast(op::concat({x}), DType::I64);
    CHECK(close(grad(op::sum(x * op::uniform({2}, 0, 1, DType::F32, key)), {x})[0],
                std::vector<float>(grad(op::sum(x), {x})[0].size(), 0), 1));
    CHECK_ERROR(grad({op::sum(x)}, {x}, {}), Error, TSR_ARGUMENT_ERROR, "one seed for each output");
}

void test_random_state() {
    const Tensor x = op::input("x", {1000});
    const Tensor a = op::dropout(x, 0.5), b = op::dropout(x, 0.5), n = op::normal({4});
    const Tensor g = grad(op::sum(a * a), {x})[0];
    const Graph graph = Graph::trace({{"a", a}, {"b", b}, {"n", n}, {"g", g}});
    CHECK(contains(graph.to_text(), "dropout(%0, %1) {id = 0, p = 0.5}"));
    CHECK(contains(graph.to_text(), "dropout(%0, %1) {id = 1, p = 0.5}") && contains(graph.to_text(),
        "normal(%1) {dtype = f32, id = 2"));
    CHECK(graph.state().size() == 1 && graph.state()[0].name == "tessera.rng");
    const Tensor ones = Tensor::create({1000}, DType::F32);
    for (int i = 0; i < 1000; ++i)
        ones.data<float>()[i] = 1;
    const std::vector<Tensor> first = runtime().run(graph, {ones}), second = runtime().run(graph, {ones});
    int differ_ops = 0, differ_runs = 0, kept = 0;
    for (int i = 0; i < 1000; ++i) {
        const float v = first[0].data<float>()[i];
        kept += v != 0;
        differ_ops += v != first[1].data<float>()[i];
        differ_runs += v != second[0].data<float>()[i];
        CHECK(first[3].data<float>()[i] == 4 * v); // the gradient makes the same choice: 2 a · 2
    }
    CHECK(kept > 400 && kept < 600 && differ_ops > 400 && differ_runs > 400);
    CHECK(graph.state("tessera.rng").data<int64_t>()[1] == 2);
    CHECK_ERROR(close(op::uniform({2}), {0, 0}), Error, TSR_ARGUMENT_ERROR, "a draw without a key");
    CHECK(close(op::uniform({3}, 0, 1, DType::F32, 7) - op::uniform({3}, 0, 1, DType::F32, 7), {0, 0, 0}));
}

void test_errors_name_the_line() {
    const Tensor x = op::input("x", {2, 3});
    CHECK_ERROR(op::matmul(x, x), Error, TSR_SHAPE_ERROR, here(__LINE__));
    CHECK_ERROR(op::zeros({-1}), Error, TSR_SHAPE_ERROR, here(__LINE__));
    CHECK_ERROR(x + vector({1, 2}), Error, TSR_SHAPE_ERROR, here(__LINE__));
    CHECK_ERROR(op::layer_norm(x, vector({1, 2})), Error, TSR_SHAPE_ERROR,
                "[layer_norm] weight has shape (2,); expected (3,)");
    CHECK_ERROR(op::cross_entropy(x, vector({1, 2})), Error, TSR_SHAPE_ERROR,
                "[cross_entropy] logits have shape (2, 3)");
    CHECK_ERROR(op::gelu(x, "fast"), Error, TSR_ARGUMENT_ERROR, "approximate is 'fast'");
    CHECK_ERROR(op::einsum("ij,jk->ik", {x, x}), Error, TSR_SHAPE_ERROR,
                "label 'j' is 3 in one operand and 2 in another");
    tsr_call call{};
    call.size = sizeof call;
    call.function = "no_such";
    tsr_tensor *out = nullptr;
    int32_t count = 0;
    CHECK(tsr_op_call(&call, &out, 1, &count) == TSR_NAME_MISSING_ERROR && !out && count == 0);
    call.function = "softmax";
    call.arguments = "{axis = 0}";
    CHECK(tsr_op_call(&call, &out, 1, &count) == TSR_ARGUMENT_ERROR && contains(tsr_last_error(),
                                                                                "operand 0 is missing"));
}

void test_saving() {
    char folder[] = "/tmp/tessera-front-XXXXXX";
    CHECK(mkdtemp(folder) != nullptr);
    const std::string path = std::string(folder) + "/net.tsr";
    Tensor memory = vector({1, 2, 3});
    std::vector<float> columns = {1, 2, 3, 4};
    const Tensor strided = Tensor::from_blob(columns.data(), {2, 2}, DType::F32, nullptr, {1, 2});
    const Tensor w = op::parameter("w", memory), x = op::input("x", {op::dim("B"), 3});
    const Graph graph = Graph::trace({{"y", op::softmax(x * w)}, {"c", strided + 0}}, {{w, w * 2}}, "net");
    graph.save(path);
    const Graph loaded = Graph::load(path);
    CHECK(loaded.to_text() == graph.to_text() && loaded.target() == "portable" && loaded.state()[0].mutated);
    const Tensor given = Tensor::create({2, 3}, DType::F32);
    const std::vector<Tensor> out = runtime().run(loaded, {given});
    CHECK(close(out[0], std::vector<float>(6, 1.0f / 3)) && close(out[1], {1, 3, 2, 4}));
    CHECK(close(loaded.state("w"), {2, 4, 6}) && close(memory, {1, 2, 3}));
    loaded.save(path); // with the weights of now, over the file that it was loaded from
    CHECK(close(Graph::load(path).state("w"), {2, 4, 6}));
    CHECK_ERROR(graph.save("/no/such/folder/net.tsr"), Error, TSR_FILE_ACCESS_ERROR, "cannot write");
    std::remove(path.c_str());
    rmdir(folder);
}

} // namespace

int main() {
    test_composites_keep_their_names();
    test_symbolic_sizes();
    test_a_step_that_updates_parameters();
    test_gradients();
    test_random_state();
    test_errors_name_the_line();
    test_saving();
    return finish();
}
