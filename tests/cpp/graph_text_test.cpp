// Graph IR in C++: text, verification, portable programs; and text that was damaged at random.
#include <cstring>
#include <random>

#include "check.h"
#include "core/error.h"
#include "graph/infer.h"
#include "graph/parser.h"
#include "graph/printer.h"
#include "graph/verify.h"
#include "ops/program.h"

using namespace tessera;
using core::Code;
using core::DType;
using core::Error;
using core::Tensor;

namespace {

const std::string head = "tessera.graph 1\ngraph \"main\" {\n";

std::string body(const std::string &statements) { return head + statements + "}\n"; }

// A training step in small: matmul, broadcast, reduction, symbolic batch, state that is updated.
const std::string step = body(R"(  dim B in [1, 64] multiple_of 1
  %0 = input {name = "x"} : f32[B, 3]
  %1 = param {name = "w", trainable = true} : f32[3, 2]
  %2 = constant {name = "scale"} : f32[2]
  %3 = matmul(%0, %1) : f32[B, 2] at "train.py":3
  %4 = mul(%3, %2) : f32[B, 2] at "train.py":4
  %5 = sum(%4) {axes = [0, 1], keepdims = false} : f32[] at "train.py":5
  %6 = full {dtype = f32, shape = [3, 2], value = <B>} : f32[3, 2]
  %7 = sub(%1, %6) : f32[3, 2]
  %8 = reshape(%4) {shape = [<2*B>]} : f32[2*B]
  %9 = slice(%8) {start = [1], step = [1], stop = [<2*B>]} : f32[2*B - 1]
  output "loss" = %5
  output "tail" = %9
  update %1 = %7
)");

Tensor filled(std::vector<int64_t> shape, float first, float stride) {
    Tensor t = Tensor::empty(DType::F32, std::move(shape));
    for (int64_t i = 0; i < t.size(); ++i)
        static_cast<float *>(t.data())[i] = first + stride * static_cast<float>(i);
    return t;
}

void test_round_trip() {
    const graph::Graph g = graph::parse_graph(step);
    graph::verify(g);
    CHECK(graph::to_text(g) == step);
    CHECK(g.symbols.size() == 1 && g.nodes.size() == 10 && g.nodes[3].loc->text() == "train.py:3");
    CHECK(graph::real_text(0.1) == "0.1" && graph::real_text(1e16) == "1e+16" &&
          graph::real_text(123456.0) == "123456.0");
    CHECK(graph::real_text(-0.0) == "-0.0" && graph::real_text(5e-324) == "5e-324" &&
          graph::real_text(1e-5) == "1e-05");
    CHECK(graph::to_text(graph::parse_attributes("{b = [1, <3>], a = none}")) == "{a = none, b = [1, 3]}");
    CHECK(graph::parse_attributes("  # nothing\n").items().empty());
    CHECK_ERROR(graph::parse_attributes("{a = 1} x"), Error, Code::Graph, "text after the attributes");
}

void test_program() {
    const portable::Program program = portable::Program::parse(step);
    const core::Signature &signature = program.signature();
    CHECK(signature.inputs.size() == 1 && signature.state.size() == 1 && signature.constants.size() == 1);
    CHECK(signature.state[0].mutated && signature.state[0].trainable && signature.outputs[1].type() == "f32[2*B - 1]");
    core::ThreadPool pool(2);
    const Tensor x = filled({2, 3}, 1, 1), w = filled({3, 2}, 0, 1), scale = filled({2}, 1, 1);
    const Tensor *inputs[] = {&x};
    const std::vector<int64_t> sizes = signature.solve(inputs, 1);
    CHECK(sizes == std::vector<int64_t>{2});
    // x @ w = [[16, 22], [34, 49]]... checked by hand: rows (1 2 3) and (4 5 6) with columns (0 2 4) and (1 3 5).
    std::vector<Tensor> outputs(2);
    program.run(sizes, {x}, {w}, {scale}, outputs, &pool);
    CHECK(*static_cast<float *>(outputs[0].data()) == 16 + 2 * 22 + 34 + 2 * 49);
    const float tail[] = {44, 34, 98};
    CHECK(outputs[1].size() == 3 && std::memcmp(outputs[1].data(), tail, sizeof tail) == 0);
    CHECK(static_cast<float *>(w.data())[5] == 3); // 5 - B
    // A given output is written.
    const void *given = outputs[1].data();
    program.run(sizes, {x}, {w}, {scale}, outputs, nullptr);
    CHECK(outputs[1].data() == given);
}

// Two parameters exchange their values; a failed check leaves the state as it was.
void test_updates() {
    const portable::Program swap = portable::Program::parse(body(R"(  %0 = param {name = "a", trainable = true} : f32[1]
  %1 = param {name = "b", trainable = false} : f32[1]
  output "a" = %0
  update %0 = %1
  update %1 = %0
)"));
    const Tensor a = filled({1}, 1, 0), b = filled({1}, 2, 0);
    std::vector<Tensor> outputs;
    swap.run({}, {}, {a, b}, {}, outputs, nullptr);
    CHECK(*static_cast<float *>(a.data()) == 2 && *static_cast<float *>(b.data()) == 1);
    CHECK(*static_cast<float *>(outputs[0].data()) == 1 && outputs[0].data() != a.data());
    const portable::Program checked =
        portable::Program::parse(body(R"(  %0 = param {name = "a", trainable = true} : f32[1]
  %1 = input {name = "label"} : i64[1]
  %2 = add(%0, %0) : f32[1]
  %3 = check_range(%1) {high = 9, ignore = none, low = 0, what = "label"} : i64[1] at "train.py":7
  output "label" = %3
  update %0 = %2
)"));
    Tensor label = Tensor::zeros(DType::I64, {1});
    *static_cast<int64_t *>(label.data()) = 10;
    std::vector<Tensor> results(1);
    CHECK_ERROR(checked.run({}, {label}, {a}, {}, results, nullptr), Error, Code::IndexRange,
                "[check_range] label at position [0] is 10; expected 0 to 9\n  at train.py:7");
    CHECK(*static_cast<float *>(a.data()) == 2 && !results[0]);
}

void test_verification() {
    const auto verify = [](const std::string &statements) { graph::verify(graph::parse_graph(body(statements))); };
    const std::string x = "  %0 = input {name = \"x\"} : f32[2, 3]\n";
    verify(x + "  %1 = neg(%0) : f32[2, 3]\n");
    CHECK_ERROR(verify(x + "  %1 = neg(%0) : f32[3, 2] at \"a.py\":1\n"), Error, Code::Graph,
                "neg: the stated type is f32[3, 2] but the operator gives f32[2, 3]\n  at a.py:1");
    CHECK_ERROR(verify(x + "  %1 = softmax(%0) : f32[2, 3]\n"), Error, Code::NameMissing, "unknown operator 'softmax'");
    CHECK_ERROR(verify(x + "  %1 = input {name = \"x\"} : f32[]\n"), Error, Code::Graph, "two of input 'x'");
    CHECK_ERROR(verify("  %0 = input : f32[]\n"), Error, Code::Graph, "attribute 'name' is missing");
    CHECK_ERROR(verify(x + "  %1 = constant(%0) {name = \"c\"} : f32[]\n"), Error, Code::Graph, "has no operands");
    CHECK_ERROR(verify(x + "  %1, %2 = neg(%0) : (f32[2, 3], f32[])\n"), Error, Code::Graph, "the operator gives f32[2, 3]");
    CHECK_ERROR(verify(x + "  %1 = param {name = \"w\", trainable = true} : f32[3]\n  update %1 = %0\n"), Error,
                Code::Graph, "the parameter has type f32[3] but the new value has type f32[2, 3]");
    CHECK_ERROR(verify(x + "  %1 = reshape(%0) {shape = [4611686018427387904, 4]} : f32[4611686018427387904, 4]\n"),
                Error, Code::Shape, "64 bits");
    CHECK_ERROR(verify("  dim B in [0, 9] multiple_of 1\n  %0 = input {name = \"x\"} : f32[B]\n"
                       "  %1 = slice(%0) {start = [1], step = [1], stop = [<B>]} : f32[B - 1]\n"),
                Error, Code::Shape, "must hold for all legal sizes");
    CHECK(graph::primitive_names().size() > 80 && graph::is_primitive("matmul") && !graph::is_primitive("softmax"));
}

// What a damaged text does: it is refused with an Error, or it is a graph that prints to what it was read from, and
// that runs or is refused. Sizes are kept small by the dimension's range and the number of digits that damage can add.
void run_damaged(const std::string &text, int &read, int &ran) {
    try {
        const graph::Graph g = graph::parse_graph(text);
        ++read;
        const std::string once = graph::to_text(g);
        CHECK(graph::to_text(graph::parse_graph(once)) == once);
        const portable::Program program = portable::Program::parse(text);
        const core::Signature &signature = program.signature();
        std::vector<int64_t> sizes;
        int64_t total = 0;
        for (const core::SymbolPtr &symbol : signature.symbols)
            sizes.push_back(std::max<int64_t>(symbol->min, 2));
        for (const graph::Node &node : program.graph().nodes)
            for (const core::Dim &d : node.types[0].shape)
                total = std::max(total, d.evaluate(sizes));
        if (total > 4096)
            return;
        const auto tensors = [&](const std::vector<core::TensorSpec> &specs) {
            std::vector<Tensor> out;
            for (const core::TensorSpec &spec : specs)
                out.push_back(Tensor::zeros(spec.dtype, spec.concrete_shape(sizes)));
            return out;
        };
        std::vector<Tensor> outputs;
        program.run(sizes, tensors(signature.inputs), tensors(signature.state), tensors(signature.constants), outputs,
                    nullptr);
        ++ran;
    } catch (const Error &) {
    }
}

void test_damaged_text() {
    const std::string indexed = body(R"(  %0 = input {name = "x"} : f32[4, 3]
  %1 = input {name = "i"} : i64[2]
  %2 = check_range(%1) {high = 3, ignore = none, low = 0, what = "row"} : i64[2]
  %3 = take(%0, %2) {axis = 0} : f32[2, 3]
  %4 = index_add(%0, %2, %3) {axis = 0} : f32[4, 3]
  %5 = pad(%4) {high = [1, 0], low = [0, 2], value = 0.5} : f32[5, 5]
  %6 = flip(%5) {axes = [1]} : f32[5, 5]
  %7 = argmax(%6) {axis = 1, keepdims = false} : i64[5]
  %8 = cast(%7) {dtype = bf16} : bf16[5]
  %9 = cumsum(%8) {axis = 0} : bf16[5]
  %10 = random_uniform(%1) {dtype = f64, id = 3, shape = [2, 2]} : f64[2, 2]
  %11 = concat(%10, %10) {axis = 1} : f64[2, 4]
  output "a" = %9
  output "b" = %11
)");
    const std::string seeds[] = {step, indexed};
    const char *pieces[] = {
        "%0",    "%3",       "[",   "]",   "{",     "}",  "(",      ")",  ", ",   "<",    ">",
        "\"",    "\\u00",    "inf", "nan", "1e999", "-1", "0",      "1",  "2",    "3",    "B",
        " // 2", " % 3",     "\n",  "#",   "bool",  "i8", "f8e4m3", "u8", "true", "axis", "99999999999999999999",
        "\xff",  "max(B, 2)"};
    std::mt19937 random(7);
    const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
    int read = 0, ran = 0;
    for (int i = 0; i < 20000; ++i) {
        std::string text = seeds[below(2)];
        for (size_t k = below(4) + 1; k > 0; --k) {
            const size_t at = below(text.size());
            text.replace(at, below(5), below(3) ? pieces[below(std::size(pieces))] : "");
        }
        run_damaged(text, read, ran);
    }
    for (const std::string &seed : seeds)
        for (size_t size = 0; size < seed.size(); ++size)
            run_damaged(seed.substr(0, size), read, ran);
    std::printf("damaged texts: %d read, %d ran\n", read, ran);
    CHECK(read > 100 && ran > 10);
}

void test_custom_names() {
    const std::string text = body("  %0 = input {name = \"x\"} : f32[2]\n"
                                  "  %1, %2 = my_lib::two_results(%0) {beta = 1.0} : (f32[2], i64[])\n"
                                  "  output \"y\" = %1\n");
    CHECK(graph::to_text(graph::parse_graph(text)) == text);
    for (const char *name : {"my_lib::", "my_lib::2", "::a", "my_lib:: a", "my_lib::a::b", "my_lib:a"})
        CHECK_ERROR(graph::parse_graph(body(std::string("  %0 = ") + name + " : f32[2]\n")), Error, Code::Graph,
                    "graph text, line");
}

void test_limits() {
    graph::Limits limits;
    limits.nodes = 2;
    CHECK_ERROR(graph::parse_graph(step, limits), Error, Code::Graph, "line 6, column 3: too many nodes");
    limits = {};
    limits.text_bytes = 10;
    CHECK_ERROR(graph::parse_graph(step, limits), Error, Code::Graph, "bytes; at most 10 are read");
    limits = {};
    limits.operands = 1;
    CHECK_ERROR(graph::parse_graph(step, limits), Error, Code::Graph, "too many operands");
    limits = {};
    limits.list_items = 1;
    CHECK_ERROR(graph::parse_graph(step, limits), Error, Code::Graph, "too long");
    limits = {};
    limits.attributes = 1;
    CHECK_ERROR(graph::parse_graph(step, limits), Error, Code::Graph, "too many attributes");
    limits = {};
    limits.string_bytes = 2;
    CHECK_ERROR(graph::parse_graph(step, limits), Error, Code::Graph, "longer than 2 bytes");
    limits = {};
    limits.symbols = 0;
    CHECK_ERROR(graph::parse_graph(step, limits), Error, Code::Graph, "too many dimensions");
    limits = {};
    limits.results = 1;
    CHECK_ERROR(graph::parse_graph(body("  %0, %1 = a : (f32[], f32[])\n"), limits), Error, Code::Graph,
                "too many results");
}

} // namespace

int main() {
    test_round_trip();
    test_program();
    test_updates();
    test_verification();
    test_damaged_text();
    test_custom_names();
    test_limits();
    return finish();
}
