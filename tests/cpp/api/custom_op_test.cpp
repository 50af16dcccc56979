// Custom operators: libraries that are loaded and refused, lazy calls, graphs, errors, threads.
#include "tessera/custom_op.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <thread>
#include <vector>

#include "check.h"
#include "tessera/runtime.h"

using namespace tessera;

namespace {

std::string library(const std::string &name) { return std::string(LIBRARIES) + "/lib" + name + ".so"; }

Tensor floats(const std::vector<int64_t> &shape, float first = 0) {
    Tensor t = Tensor::create(shape, DType::F32);
    for (int64_t i = 0; i < t.size(); ++i)
        t.data<float>()[i] = first + static_cast<float>(i);
    return t;
}

Tensor computed(const Tensor &tensor) {
    Runtime runtime(2);
    return runtime.submit(tensor).output();
}

TESSERA_OPERATOR(program, negated) {
    declare.arguments({"x"})
        .dtypes({DType::F64})
        .shape([](const custom::TensorType &x) { return x; })
        .cpu([](const custom::Context &, const custom::Input &x, const custom::Output &y) {
            for (int64_t i = 0; i < x.size(); ++i)
                y.data<double>()[i] = -x.data<double>()[i];
        });
}

void loading() {
    CHECK_ERROR(op::call("sample::affine", {floats({2})}), Error, TSR_NAME_MISSING_ERROR, "load_library");
    const std::vector<std::string> names = load_library(library("sample_operators"));
    CHECK(names.size() == 7 && names[0] == "sample::affine");
    CHECK(load_library(library("sample_operators")) == names);
    CHECK(std::string(tsr_custom_op_name(0)) == "sample::affine" && !tsr_custom_op_name(-1) && !tsr_custom_op_name(99));
    custom::register_operators("this program");
    CHECK_ERROR(custom::register_operators("this program"), Error, TSR_ARGUMENT_ERROR, "from this program");
    tsr_custom_op_info info{};
    info.size = sizeof info;
    check(tsr_custom_op_describe("sample::affine", &info));
    CHECK(std::string(info.schema) ==
          "(x: tensor(f32|bf16), factor: float = 2.0, shift: float? = none) -> (result)");
    CHECK(info.flags == (TSR_CUSTOM_CPU | TSR_CUSTOM_GRADIENT) && info.result_count == 1 && info.hash != 0);
    CHECK(std::string(info.samples).find("\"attributes\": \"{factor = -1.0, shift = 0.5}\"") != std::string::npos);
}

void refusals() {
    CHECK_ERROR(load_library("/nowhere/lib.so"), Error, TSR_FILE_ACCESS_ERROR, "/nowhere/lib.so");
    CHECK_ERROR(load_library("/proc/self/exe"), Error, TSR_FORMAT_ERROR, "cannot be loaded");
    CHECK_ERROR(load_library(library("broken_no_entry")), Error, TSR_FORMAT_ERROR, "TESSERA_OPERATOR");
    CHECK_ERROR(load_library(library("broken_newer")), Error, TSR_VERSION_ERROR, "update Tessera");
    CHECK_ERROR(load_library(library("broken_no_colons")), Error, TSR_FORMAT_ERROR, "expected library::name");
    CHECK_ERROR(load_library(library("broken_bad_schema")), Error, TSR_FORMAT_ERROR, "default of 'axis' is not of type int");
    CHECK_ERROR(load_library(library("broken_no_shape")), Error, TSR_FORMAT_ERROR, "no shape function");
    CHECK_ERROR(load_library(library("broken_no_kernel")), Error, TSR_FORMAT_ERROR, "no kernel");
    CHECK_ERROR(load_library(library("broken_short")), Error, TSR_FORMAT_ERROR, "16 bytes");
    CHECK_ERROR(load_library(library("broken_twice")), Error, TSR_ARGUMENT_ERROR, "declared twice");
    CHECK_ERROR(load_library(library("broken_taken")), Error, TSR_ARGUMENT_ERROR, "sample_operators.so");
    CHECK_ERROR(load_library(library("broken_failing")), Error, TSR_DEVICE_ERROR, "not there");
    CHECK_ERROR(load_library(library("broken_empty")), Error, TSR_FORMAT_ERROR, "no operator");
}

void calls() {
    const Tensor y = computed(op::call("sample::affine", {floats({2, 3})}, {{"factor", 3.0}, {"shift", 1.0}}));
    CHECK(y.shape() == (std::vector<int64_t>{2, 3}) && y.data<float>()[5] == 16);
    CHECK(computed(op::call("sample::affine", {floats({3})})).data<float>()[2] == 4);
    CHECK(computed(op::call("sample::affine", {floats({0, 4})})).size() == 0);
    const Tensor lazy = op::add(op::call("sample::affine", {op::mul(floats({4}), 2)}), 1);
    CHECK(computed(lazy).data<float>()[3] == 13);

    const std::vector<Tensor> range =
        op::call_all("sample::row_range", {floats({2, 3}), floats({1, 3}, 100), floats({0, 3})}, {{"keep", true}});
    CHECK(range.size() == 2 && range[0].shape() == (std::vector<int64_t>{3, 1}));
    const Tensor high = computed(range[1]), low = computed(range[0]);
    CHECK(high.data<float>()[0] == 2 && high.data<float>()[2] == 102 && low.data<float>()[1] == 3);
    CHECK_ERROR(op::call("sample::row_range", {floats({2, 3})}, {{"keep", true}}), Error, TSR_ARGUMENT_ERROR, "call_all");

    const Tensor echo = computed(op::call("sample::echo", {},
                                          {{"size", 3}, {"flag", true}, {"name", "a\"b\\"}, {"list", std::vector<int64_t>{7}},
                                           {"reals", std::vector<double>{1.5}}, {"maybe", 9}}));
    const std::vector<int64_t> expected = {3, 1, 4, TSR_I64, 7, 15, 9, 0, 0, 0};
    CHECK(std::vector<int64_t>(echo.data<int64_t>(), echo.data<int64_t>() + echo.size()) == expected);

    Tensor numbers = Tensor::create({4}, DType::I64);
    for (int64_t i = 0; i < 4; ++i)
        numbers.data<int64_t>()[i] = (i * 7) % 5;
    CHECK(computed(op::call("sample::sorted", {numbers})).data<int64_t>()[3] == 4);
    CHECK(computed(op::call("program::negated", {op::cast(floats({3}), DType::F64)})).data<double>()[2] == -2);
}

void errors() {
    const Tensor x = floats({3});
    const auto failing = [&](const char *how) { return op::call("sample::failing", {x}, {{"how", how}}); };
    CHECK_ERROR(op::call("sample::affine", {x, x}), Error, TSR_ARGUMENT_ERROR, "[sample::affine] takes 1 tensors, got 2");
    CHECK_ERROR(op::call("sample::affine", {op::cast(x, DType::I32)}), Error, TSR_DTYPE_ERROR,
                "[sample::affine] x has type i32[3]; expected dtype f32, bf16");
    CHECK_ERROR(op::call("sample::affine", {x}, {{"factor", "a"}}), Error, TSR_ARGUMENT_ERROR,
                "the attribute 'factor' is \"a\"; expected float");
    CHECK_ERROR(op::call("sample::affine", {x}, {{"fraction", 1.0}}), Error, TSR_ARGUMENT_ERROR, "no attribute 'fraction'");
    CHECK_ERROR(failing("shape"), Error, TSR_DTYPE_ERROR, "[sample::failing] the shape function fails");
    CHECK_ERROR(failing("negative"), Error, TSR_SHAPE_ERROR, "which is or can be negative");
    CHECK_ERROR(failing("foreign"), Error, TSR_SHAPE_ERROR, "no operand has the size Z");
    CHECK_ERROR(computed(failing("error")), Error, TSR_INDEX_RANGE_ERROR, "[sample::failing] the kernel fails");
    CHECK_ERROR(computed(failing("exception")), Error, TSR_ERROR, "[sample::failing] some exception");
    CHECK_ERROR(computed(failing("int")), Error, TSR_ERROR, "no std::exception");
    CHECK_ERROR(computed(failing("memory")), Error, TSR_OUT_OF_MEMORY_ERROR, "[sample::failing]");
    CHECK_ERROR(computed(failing("range")), Error, TSR_UNSUPPORTED_ERROR, "the first range fails");
    CHECK(computed(failing("not at all")).size() == 3);
    CHECK_ERROR(op::call_all("sample::row_range", {floats({})}, {{"keep", false}}), Error, TSR_ERROR, "[sample::row_range]");
    CHECK_ERROR(op::call_all("sample::row_range", {floats({2, 3}), floats({2, 2})}, {{"keep", false}}), Error, TSR_SHAPE_ERROR,
                "all tensors need 3 columns, one has type f32[2, 2]");
}

void graphs() {
    const Tensor x = op::input("x", {2, 3}, DType::F32);
    const std::vector<Tensor> range = op::call_all("sample::row_range", {op::mul(x, 2)}, {{"keep", false}});
    Graph graph = Graph::trace({{"span", op::sub(range[1], range[0])}, {"low", range[0]}});
    CHECK(graph.to_text().find("= sample::row_range(%") != std::string::npos);
    CHECK(graph.metadata().at("tessera.custom_ops").find("\"name\": \"sample::row_range\"") != std::string::npos);
    Runtime runtime(2);
    const Run run = runtime.submit(graph, {{"x", floats({2, 3})}});
    CHECK(run.output("span").data<float>()[1] == 4 && run.output("low").data<float>()[1] == 6);
}

void gradients() {
    const Tensor x = op::parameter("x", floats({3})); // 0, 1, 2
    const auto slope = [&](const Tensor &loss) { return computed(grad(loss, {x})[0]).data<float>()[2]; };
    CHECK(slope(op::sum(op::call("sample::affine", {op::mul(x, x)}, {{"factor", 3.0}}))) == 12);
    CHECK(slope(op::sum(op::call("sample::cubed", {op::mul(x, 2)}))) == 96); // by another operator
    CHECK_ERROR(grad(op::sum(op::call("sample::failing", {x}, {{"how", "no"}})), {x}), Error, TSR_ERROR, "no gradient today");
    CHECK_ERROR(grad(op::sum(op::call("sample::cubed_slope", {x, x})), {x}), Error, TSR_GRADIENT_ERROR, "one is enough");
}

// The same call from many threads.
void threads() {
    const Tensor x = floats({1000});
    std::atomic<int> wrong{0};
    std::vector<std::thread> all;
    Runtime runtime(2);
    for (int t = 0; t < 8; ++t)
        all.emplace_back([&, t] {
            for (int i = 0; i < 20; ++i) {
                load_library(library("sample_operators"));
                const double factor = t;
                const Tensor y = runtime.submit(op::call("sample::affine", {x}, {{"factor", factor}})).output();
                wrong += y.data<float>()[999] != static_cast<float>(999 * factor);
                try {
                    runtime.submit(op::call("sample::failing", {x}, {{"how", "range"}})).output();
                    ++wrong;
                } catch (const Error &e) {
                    wrong += e.code() != TSR_UNSUPPORTED_ERROR;
                }
            }
        });
    for (std::thread &t : all)
        t.join();
    CHECK(wrong == 0);
}

void small_floats() {
    for (float value : {0.0f, -0.0f, 1.0f, 3.14159f, 1e-40f, 3.4e38f, -2.5f})
        CHECK(std::fabs(custom::bfloat16(value) - value) <= std::fabs(value) / 256 + 1e-40f || value > 3.3e38f);
    CHECK(std::isnan(static_cast<float>(custom::bfloat16(std::numeric_limits<float>::quiet_NaN()))));
    CHECK(custom::bfloat16(1.00390625f).bits == 0x3F80 && custom::bfloat16(1.01171875f).bits == 0x3F82); // halves to even
}

} // namespace

int main() {
    loading();
    refusals();
    calls();
    errors();
    graphs();
    gradients();
    threads();
    small_floats();
    return finish();
}
