// Operators from C++ (tessera::op): values, promotion, laziness, errors, traced graphs.
#include <cmath>
#include <limits>
#include <numeric>
#include <regex>
#include <thread>

#include "check.h"
#include "tessera/runtime.h"

using namespace tessera;

// Under the address sanitizer, an allocation that cannot be had fails as it does without.
extern "C" const char *__asan_default_options();
extern "C" const char *__asan_default_options() { return "allocator_may_return_null=1"; }

namespace {

template <class T> DType dtype_of() {
    if (std::is_same<T, float>::value)
        return DType::F32;
    if (std::is_same<T, double>::value)
        return DType::F64;
    if (std::is_same<T, int64_t>::value)
        return DType::I64;
    if (std::is_same<T, int32_t>::value)
        return DType::I32;
    if (std::is_same<T, int8_t>::value)
        return DType::I8;
    return DType::Bool;
}

template <class T> Tensor tensor(const std::vector<T> &values, const std::vector<int64_t> &shape) {
    Tensor out = Tensor::create(shape, dtype_of<T>());
    std::copy(values.begin(), values.end(), out.data<T>());
    return out;
}

template <class T> Tensor vector(const std::vector<T> &values) {
    return tensor(values, {static_cast<int64_t>(values.size())});
}

Tensor flags(const std::vector<int> &values) {
    Tensor out = Tensor::create({static_cast<int64_t>(values.size())}, DType::Bool);
    for (size_t i = 0; i < values.size(); ++i)
        out.data<bool>()[i] = values[i] != 0;
    return out;
}

Runtime &runtime() {
    static Runtime rt(2);
    return rt;
}

// The elements of a tensor, computed if need be, as doubles.
std::vector<double> values(const Tensor &x) {
    Tensor wide = op::cast(x, DType::F64);
    if (wide.is_lazy()) {
        runtime().submit(wide);
        runtime().wait();
    }
    const double *data = wide.data<const double>();
    return std::vector<double>(data, data + wide.size());
}

using Values = std::vector<double>;
using Shape = std::vector<int64_t>;
const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

bool close(const Tensor &x, const Values &expected) {
    const Values actual = values(x);
    bool same = actual.size() == expected.size();
    for (size_t i = 0; same && i < expected.size(); ++i)
        same = actual[i] == expected[i] || (std::isnan(actual[i]) && std::isnan(expected[i])) ||
               std::fabs(actual[i] - expected[i]) <= 1e-6 * std::fabs(expected[i]);
    if (!same)
        for (double v : actual)
            std::printf(" %.9g", v);
    return same;
}

void test_guide_program() {
    Tensor A = Tensor::create({1024, 1024}, DType::BF16);
    Tensor B = Tensor::create({1024, 1024}, DType::BF16);
    Tensor C = op::matmul(A, B);
    // The elements are read when the operator runs. 0x3F80 is 1, 0x3F00 is 0.5.
    std::fill_n(A.data<uint16_t>(), A.size(), uint16_t{0x3F80});
    std::fill_n(B.data<uint16_t>(), B.size(), uint16_t{0x3F00});
    CHECK(C.is_lazy() && C.dtype() == DType::BF16 && C.shape() == Shape({1024, 1024}));
    CHECK_ERROR(C.data<uint16_t>(), Error, TSR_ARGUMENT_ERROR, "has not been computed");
    Runtime rt;
    rt.submit(C);
    rt.wait();
    CHECK(!C.is_lazy());
    bool all = true;
    for (int64_t i = 0; i < C.size(); ++i)
        all = all && C.data<uint16_t>()[i] == 0x4400; // 512
    CHECK(all);
}

void test_every_unary() {
    const Tensor x = vector<float>({0.25f, -0.5f});
    const Values v = {0.25, -0.5};
    const auto each = [&](double (*f)(double)) { return Values{f(v[0]), f(v[1])}; };
    CHECK(close(op::neg(x), {-0.25, 0.5}));
    CHECK(close(op::abs(x), {0.25, 0.5}));
    CHECK(close(op::sign(x), {1, -1}));
    CHECK(close(op::floor(x), {0, -1}));
    CHECK(close(op::ceil(x), {1, 0}));
    CHECK(close(op::round(vector<float>({0.5f, 1.5f, -2.5f})), {0, 2, -2}));
    CHECK(close(op::trunc(vector<float>({1.7f, -1.7f})), {1, -1}));
    CHECK(close(op::sqrt(x), {0.5, nan}));
    CHECK(close(op::rsqrt(x), {2, nan}));
    CHECK(close(op::reciprocal(x), {4, -2}));
    CHECK(close(op::exp(x), each(std::exp)));
    CHECK(close(op::exp2(x), each(std::exp2)));
    CHECK(close(op::expm1(x), each(std::expm1)));
    CHECK(close(op::log(x), {std::log(0.25), nan}));
    CHECK(close(op::log2(x), {-2, nan}));
    CHECK(close(op::log1p(x), each(std::log1p)));
    CHECK(close(op::sin(x), each(std::sin)));
    CHECK(close(op::cos(x), each(std::cos)));
    CHECK(close(op::tan(x), each(std::tan)));
    CHECK(close(op::asin(x), each(std::asin)));
    CHECK(close(op::acos(x), each(std::acos)));
    CHECK(close(op::atan(x), each(std::atan)));
    CHECK(close(op::sinh(x), each(std::sinh)));
    CHECK(close(op::cosh(x), each(std::cosh)));
    CHECK(close(op::tanh(x), each(std::tanh)));
    CHECK(close(op::erf(x), each(std::erf)));
    CHECK(close(op::sigmoid(x), {1 / (1 + std::exp(-0.25)), 1 / (1 + std::exp(0.5))}));
    CHECK(close(op::stop_gradient(x), v));
    const Tensor special = vector<float>({1, NAN, INFINITY, -INFINITY});
    CHECK(close(op::isnan(special), {0, 1, 0, 0}));
    CHECK(close(op::isinf(special), {0, 0, 1, 1}));
    CHECK(close(op::isfinite(special), {1, 0, 0, 0}));
    CHECK(close(op::logical_not(vector<float>({0, 2})), {1, 0}));
    CHECK(close(op::bitwise_not(vector<int32_t>({0, 5})), {-1, -6}));
    CHECK(close(op::bitwise_not(flags({0, 1})), {1, 0}));
    // Mathematical functions of integers are f32; rounding returns them.
    CHECK(op::sqrt(vector<int64_t>({4})).dtype() == DType::F32 && close(op::sqrt(vector<int64_t>({4})), {2}));
    CHECK(op::floor(vector<int64_t>({4})).dtype() == DType::I64);
    CHECK(close(op::exp(special), {std::exp(1.0), nan, inf, 0}));
}

void test_every_binary() {
    const Tensor a = vector<float>({7, -7, 2}), b = vector<float>({2, 2, -3});
    CHECK(close(op::add(a, b), {9, -5, -1}) && close(a + b, {9, -5, -1}));
    CHECK(close(op::sub(a, b), {5, -9, 5}) && close(a - b, {5, -9, 5}));
    CHECK(close(op::mul(a, b), {14, -14, -6}) && close(a * b, {14, -14, -6}));
    CHECK(close(op::div(a, b), {3.5, -3.5, -2.0 / 3}) && close(a / b, {3.5, -3.5, -2.0 / 3}));
    CHECK(close(op::floordiv(a, b), {3, -4, -1}));
    CHECK(close(op::mod(a, b), {1, 1, -1}));
    CHECK(close(op::pow(vector<float>({2, 9}), vector<float>({-1, 0.5f})), {0.5, 3}));
    CHECK(close(op::maximum(a, b), {7, 2, 2}) && close(op::minimum(a, b), {2, -7, -3}));
    CHECK(close(op::maximum(vector<float>({NAN, 1}), vector<float>({1, NAN})), {nan, nan}));
    CHECK(close(op::atan2(a, b), {std::atan2(7, 2), std::atan2(-7, 2), std::atan2(2, -3)}));
    CHECK(close(op::eq(a, 2), {0, 0, 1}) && close(op::ne(a, 2), {1, 1, 0}));
    CHECK(close(op::lt(a, b), {0, 1, 0}) && close(op::le(a, 2), {0, 1, 1}));
    CHECK(close(op::gt(a, b), {1, 0, 1}) && close(op::ge(a, 2), {1, 0, 1}));
    CHECK(close(op::logical_and(flags({0, 1, 1}), flags({1, 0, 1})), {0, 0, 1}));
    CHECK(close(op::logical_or(flags({0, 1, 0}), flags({1, 0, 0})), {1, 1, 0}));
    CHECK(close(op::logical_xor(flags({0, 1, 1}), vector<int64_t>({5, 0, 5})), {1, 1, 0}));
    const Tensor i = vector<int32_t>({6, -6}), j = vector<int32_t>({3, 3});
    CHECK(close(op::bitwise_and(i, j), {2, 2}) && close(op::bitwise_or(i, j), {7, -5}) &&
          close(op::bitwise_xor(i, j), {5, -7}));
    CHECK(close(op::shift_left(i, 1), {12, -12}) && close(op::shift_right(i, 1), {3, -3}));
    CHECK(close(op::where(op::gt(a, 0), a, 0), {7, 0, 2}));
    CHECK(close(op::floordiv(i, 0), {0, 0}) && close(op::mod(i, 0), {0, 0}));
}

void test_promotion() {
    const auto dtype = [](DType x, DType y) {
        return op::add(Tensor::create({1}, x), Tensor::create({1}, y)).dtype();
    };
    CHECK(dtype(DType::F32, DType::F64) == DType::F64);
    CHECK(dtype(DType::BF16, DType::F16) == DType::F32);
    CHECK(dtype(DType::BF16, DType::I64) == DType::BF16);
    CHECK(dtype(DType::U8, DType::I8) == DType::I16);
    CHECK(dtype(DType::U8, DType::I32) == DType::I32);
    CHECK(dtype(DType::Bool, DType::U8) == DType::U8);
    CHECK(dtype(DType::Bool, DType::Bool) == DType::Bool); // the logical or
    CHECK(dtype(DType::F8E4M3, DType::F8E5M2) == DType::BF16);
    const Tensor i = vector<int32_t>({3}), h = Tensor::create({1}, DType::BF16);
    CHECK((i + 1).dtype() == DType::I32 && (i + 1.0).dtype() == DType::F32 && (i + true).dtype() == DType::I32);
    CHECK((h * 2.0).dtype() == DType::BF16 && (1 - h).dtype() == DType::BF16 && (flags({1}) + 1).dtype() == DType::I64);
    CHECK((i / 2).dtype() == DType::F32 && close(i / 2, {1.5}) && close(2 / i, {2.0 / 3}) && close(2 - i, {-1}));
    CHECK(close(-i, {-3}) && close(1 + i, {4}) && close(3 * i, {9}));
    CHECK_ERROR(i + 3000000000, Error, TSR_ARGUMENT_ERROR, "[add] the value 3000000000 does not fit i32");
    CHECK(close(op::cast(vector<float>({300, -1e9f, NAN, 2.9f}), DType::I8), {127, -128, 0, 2}));
    CHECK(op::cast(i, DType::I32).data<void>() == i.data<void>());
}

void test_shapes() {
    std::vector<float> numbers(6);
    std::iota(numbers.begin(), numbers.end(), 0.0f);
    const Tensor x = tensor(numbers, {2, 3});
    CHECK(op::reshape(x, {3, -1}).shape() == Shape({3, 2}) && close(op::reshape(x, {-1}), {0, 1, 2, 3, 4, 5}));
    CHECK(close(op::transpose(x), {0, 3, 1, 4, 2, 5}) && op::transpose(x).shape() == Shape({3, 2}));
    CHECK(close(op::transpose(x, {0, -1}), {0, 1, 2, 3, 4, 5}));
    CHECK(close(op::broadcast_to(vector<float>({1, 2}), {2, 2}), {1, 2, 1, 2}));
    CHECK(close(op::slice(x, {0, 1}, {2, 3}), {1, 2, 4, 5}) && close(op::slice(x, {1, -3}, {2, 3}, {1, 2}), {3, 5}));
    CHECK(close(op::flip(x, 1), {2, 1, 0, 5, 4, 3}) && close(op::flip(x), {5, 4, 3, 2, 1, 0}));
    CHECK(close(op::pad(vector<float>({1, 2}), {{1, 2}}, "constant", 9), {9, 1, 2, 9, 9}));
    CHECK(close(op::concat({x, op::neg(x)}, -1), {0, 1, 2, 0, -1, -2, 3, 4, 5, -3, -4, -5}));
    CHECK(op::concat({vector<int32_t>({1}), vector<double>({2})}).dtype() == DType::F64);
    CHECK(close(op::iota({2, 2}, -1), {0, 1, 0, 1}) && op::iota({2}).dtype() == DType::I64);
    CHECK(close(op::full({2}, 0.5), {0.5, 0.5}) && op::full({}, true).dtype() == DType::Bool);
    CHECK(op::full({0, 3}, 1, DType::BF16).size() == 0 && values(op::full({0, 3}, 1, DType::BF16)).empty());
}

void test_reductions() {
    const Tensor x = tensor<float>({1, 5, 2, 4, 3, 6}, {2, 3});
    CHECK(close(op::sum(x), {21}) && op::sum(x).shape() == Shape({}));
    CHECK(close(op::sum(x, {0, 1}, true), {21}) && op::sum(x, {0, 1}, true).shape() == Shape({1, 1}));
    CHECK(close(op::sum(x, 0), {5, 8, 8}) && close(op::sum(x, {-1}), {8, 13}));
    CHECK(close(op::prod(x, 1), {10, 72}) && close(op::max(x, 1), {5, 6}) && close(op::min(x, 0, true), {1, 3, 2}));
    CHECK(close(op::argmax(x, 1), {1, 2}) && close(op::argmin(x), {0}) && close(op::argmax(x), {5}));
    CHECK(op::argmax(x, std::nullopt, true).shape() == Shape({1, 1}) &&
          op::argmax(x, -1, true).shape() == Shape({2, 1}));
    CHECK(close(op::cumsum(x, 1), {1, 6, 8, 4, 7, 13}));
    CHECK(op::sum(vector<int8_t>({100, 100})).dtype() == DType::I64 &&
          close(op::sum(vector<int8_t>({100, 100})), {200}));
    CHECK(close(op::max(vector<float>({1, NAN})), {nan}) && close(op::sum(Tensor::create({0}, DType::F32)), {0}));
    CHECK_ERROR(op::max(Tensor::create({0}, DType::F32)), Error, TSR_SHAPE_ERROR, "is empty and has no extremum");
    CHECK_ERROR(op::sum(x, {0, 0}), Error, TSR_ARGUMENT_ERROR, "[sum] axis 0 is given twice");
    CHECK_ERROR(op::sum(x, 2), Error, TSR_ARGUMENT_ERROR, "[sum] axis 2 is out of range");
}

void test_products() {
    const Tensor a = tensor<float>({1, 2, 3, 4}, {2, 2}), v = vector<float>({1, -1});
    CHECK(close(op::matmul(a, a), {7, 10, 15, 22}) && close(op::matmul(a, v), {-1, -1}) &&
          close(op::matmul(v, a), {-2, -2}));
    CHECK(close(op::matmul(v, v), {2}) && op::matmul(v, v).shape() == Shape({}));
    const Tensor small = op::cast(a, DType::F8E4M3), scaled = op::scaled_matmul(small, small, 0.5, 2.0, DType::F32);
    CHECK(close(scaled, {7, 10, 15, 22}) && scaled.dtype() == DType::F32);
    CHECK(close(op::scaled_matmul(small, op::cast(a, DType::F8E5M2), op::reshape(v, {2, 1})), {7, 10, -15, -22}) &&
          op::scaled_matmul(small, small).dtype() == DType::BF16);
    CHECK_ERROR(op::scaled_matmul(a, small), Error, TSR_DTYPE_ERROR, "[scaled_matmul] a is f32; expected f8e4m3 or f8e5m2");
    CHECK_ERROR(op::scaled_matmul(small, small, vector<float>({1, 2, 3})), Error, TSR_SHAPE_ERROR,
                "scale_a has shape (3,), which does not broadcast to the product's (2, 2)");
    const Tensor matrices = op::reshape(op::iota({8}, 0, DType::F32), {2, 2, 2}), rows = vector<float>({1, 1, 1, 0, 0, 1});
    const Tensor grouped = op::grouped_matmul(op::reshape(rows, {3, 2}), matrices, vector<int64_t>({1, 1}));
    CHECK(close(grouped, {2, 4, 4, 5, 0, 0}) && grouped.shape() == Shape({3, 2}));
    CHECK_ERROR(op::grouped_matmul(a, matrices, vector<int64_t>({1, 1, 0})), Error, TSR_SHAPE_ERROR,
                "[grouped_matmul] group_sizes has shape (3,); expected (2,), one per group of w");
    CHECK_ERROR(op::grouped_matmul(a, a, vector<int64_t>({2})), Error, TSR_SHAPE_ERROR,
                "expected x (rows, in) and w (groups, in, out)");
    const Tensor batch = op::reshape(op::iota({8}, 0, DType::F32), {2, 2, 2});
    CHECK(close(op::matmul(batch, v), {-1, -1, -1, -1}) && op::matmul(v, batch).shape() == Shape({2, 2}));
    CHECK(op::matmul(a, vector<double>({1, 1})).dtype() == DType::F64);
    CHECK(op::matmul(Tensor::create({3, 0}, DType::F32), Tensor::create({0, 2}, DType::F32)).shape() == Shape({3, 2}));
    CHECK_ERROR(op::matmul(a, vector<float>({1, 2, 3})), Error, TSR_SHAPE_ERROR,
                "the last dimension of a (2) must equal");
    CHECK_ERROR(op::matmul(flags({1}), flags({1})), Error, TSR_DTYPE_ERROR, "[matmul] both operands are bool");
}

void test_indexing() {
    const Tensor x = tensor<float>({0, 1, 2, 3, 4, 5}, {3, 2}), rows = vector<int64_t>({2, -3});
    CHECK(close(op::take(x, rows), {4, 5, 0, 1}) && close(op::take(x, vector<int8_t>({1}), -1), {1, 3, 5}));
    CHECK(close(op::take_along_axis(x, tensor<int32_t>({1, 0, -1, 0, 1, 1}, {3, 2}), 1), {1, 0, 3, 2, 5, 5}));
    CHECK(close(op::index_add(x, vector<int64_t>({0, 0}), tensor<float>({1, 2, 3, 4}, {2, 2})), {4, 7, 2, 3, 4, 5}));
    CHECK(close(op::index_add(x, vector<int64_t>({1}), 10), {0, 1, 12, 13, 4, 5}));
    CHECK(close(op::scatter_add(x, tensor<int64_t>({0, 2}, {1, 2}), 1, 0), {1, 1, 2, 3, 4, 6}));
    CHECK(close(op::check_range(vector<int64_t>({1, -100, 3}), 0, 3, -100, "label"), {1, -100, 3}));
    CHECK_ERROR(values(op::take(x, vector<int64_t>({3}))), Error, TSR_INDEX_RANGE_ERROR,
                "[check_range] take: index into dimension 0 of size 3 at position [0] is 3; expected 0 to 2");
    CHECK_ERROR(values(op::check_range(vector<int64_t>({7}), 0, 3, std::nullopt, "la\"bel\n")), Error,
                TSR_INDEX_RANGE_ERROR, "is 7; expected 0 to 3");
    CHECK_ERROR(op::take(x, x), Error, TSR_DTYPE_ERROR, "[take] the index has dtype f32");
    const Tensor key = vector<int64_t>({42, 0});
    const Values first = values(op::random_uniform(key, {4})),
                 second = values(op::random_uniform(key, {2}, DType::F32, 0));
    CHECK(first[0] == second[0] && first[1] == second[1] && first[0] != first[1] && first[0] >= 0 && first[0] < 1);
    CHECK(values(op::random_uniform(key, {1}, DType::F64, 1))[0] != first[0]);
}

void test_errors() {
    const Tensor a = Tensor::create({2, 3}, DType::F32), b = Tensor::create({4}, DType::F32);
    CHECK_ERROR(op::add(a, b), Error, TSR_SHAPE_ERROR,
                "[add] operand 0 with shape [2, 3] and operand 1 with shape [4] do not broadcast");
    CHECK_ERROR(op::bitwise_and(a, 1), Error, TSR_DTYPE_ERROR, "[bitwise_and] operand 0 has dtype f32");
    CHECK_ERROR(op::sub(flags({1}), flags({1})), Error, TSR_DTYPE_ERROR, "[sub] both operands have dtype bool");
    CHECK_ERROR(op::exp(Tensor()), Error, TSR_ARGUMENT_ERROR, "[exp] an operand is missing");
    CHECK_ERROR(op::concat({}), Error, TSR_ARGUMENT_ERROR, "[concat] the first argument must be a list of one or more tensors");
    CHECK_ERROR(op::full({2}, a, DType::F32), Error, TSR_ARGUMENT_ERROR, "[full] value must be a number");
    CHECK_ERROR(op::full({-1}, 0), Error, TSR_SHAPE_ERROR, "is or can be negative");
    CHECK_ERROR(op::full({int64_t{1} << 40, int64_t{1} << 40}, 0), Error, TSR_SHAPE_ERROR, "64 bits");
    CHECK_ERROR(values(op::full({int64_t{1} << 44}, 0)), Error, TSR_OUT_OF_MEMORY_ERROR, "could not be allocated");
    CHECK_ERROR(op::reshape(a, {4, -1}), Error, TSR_SHAPE_ERROR, "which the other dimensions of (4, -1) do not divide");
    tsr_tensor *out = nullptr;
    CHECK(tsr_op_apply("no_such", "", nullptr, 0, &out, 1) == TSR_NAME_MISSING_ERROR && !out);
    CHECK(tsr_op_apply("full", "{shape = [", nullptr, 0, &out, 1) == TSR_GRAPH_ERROR && !out);
    tsr_tensor *operand = a.handle();
    CHECK(tsr_op_apply("neg", "", &operand, 1, &out, 2) == TSR_ARGUMENT_ERROR && !out);
    CHECK(tsr_op_apply("neg", "", nullptr, 1, &out, 1) == TSR_ARGUMENT_ERROR &&
          tsr_op_apply(nullptr, "", nullptr, 0, &out, 1));
}

void test_evaluation() {
    // A long chain neither recurses when it runs nor when it is dropped.
    Tensor x = op::full({4}, 0.0, DType::F64);
    for (int i = 0; i < 20000; ++i)
        x = x + 1;
    CHECK(close(x, {20000, 20000, 20000, 20000}));
    Tensor dropped = op::full({4}, 0.0);
    for (int i = 0; i < 200000; ++i)
        dropped = -dropped;
    dropped = Tensor();
    // A graph in which every value is used twice is computed once per value.
    Tensor y = op::full({1}, 1.0, DType::F64);
    for (int i = 0; i < 60; ++i)
        y = y + y;
    CHECK(close(y, {std::pow(2.0, 60)}));
    // One value from several threads and runtimes at once.
    Tensor shared = op::sum(op::exp(op::iota({1000}, 0, DType::F32) / 1000.0));
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            Runtime own(1);
            own.submit(shared);
            own.wait();
        });
    for (std::thread &t : threads)
        t.join();
    CHECK(!shared.is_lazy());
    // A failed operator fails whatever needs it, and nothing else.
    const Tensor bad = op::take(vector<float>({1}), vector<int64_t>({5})) + 1;
    CHECK_ERROR(values(bad), Error, TSR_INDEX_RANGE_ERROR, "is 5");
    CHECK(bad.is_lazy());
    // Strided operands.
    std::vector<float> memory = {0, 1, 2, 3, 4, 5};
    const Tensor strided = Tensor::from_blob(memory.data(), {3, 2}, DType::F32, nullptr, {1, 3});
    CHECK(close(strided + 0, {0, 3, 1, 4, 2, 5}));
}

// Text of Graph IR without the user's lines, of which it must have some in this file.
std::string without_locations(const std::string &text) {
    static const std::regex location(" at \"[^\"]*ops_test.cpp\":[0-9]+");
    const std::string out = std::regex_replace(text, location, "");
    CHECK(out != text);
    return out;
}

void test_traced_graphs() {
    const Tensor x = op::input("x", {2, 3}, DType::F32), w = tensor<float>({1, 0, 0, 1, 1, 1}, {3, 2});
    const Tensor h = op::maximum(op::matmul(x, w), 0), y = h + h;
    const Graph graph = Graph::trace({{"y", y}, {"h", h}}, "net");
    CHECK(without_locations(graph.to_text()) == "tessera.graph 1\n"
                             "graph \"net\" {\n"
                             "  %0 = input {name = \"x\"} : f32[2, 3]\n"
                             "  %1 = constant {name = \"constant_0\"} : f32[3, 2]\n"
                             "  %2 = matmul(%0, %1) : f32[2, 2]\n"
                             "  %3 = full {dtype = f32, shape = [], value = 0.0} : f32[]\n"
                             "  %4 = maximum(%2, %3) : f32[2, 2]\n"
                             "  %5 = add(%4, %4) : f32[2, 2]\n"
                             "  output \"y\" = %5\n"
                             "  output \"h\" = %4\n"
                             "}\n");
    CHECK(graph.target() == "portable" && graph.inputs().size() == 1 && graph.outputs()[1].name == "h");
    const std::vector<Tensor> out = runtime().run(graph, {tensor<float>({1, 2, 3, -4, -5, -6}, {2, 3})});
    CHECK(close(out[0], {8, 10, 0, 0}) && close(out[1], {4, 5, 0, 0}));
    CHECK_ERROR(runtime().run(graph, {Tensor::create({3, 2}, DType::F32)}), Error, TSR_SHAPE_ERROR, "input 'x'");
    CHECK_ERROR(Graph::trace({{"y", y}, {"y", h}}), Error, TSR_ARGUMENT_ERROR, "two outputs named 'y'");
    const Tensor same = op::input("x", {}, DType::F32);
    CHECK_ERROR(Graph::trace({{"y", y}, {"z", same + 1}}), Error, TSR_ARGUMENT_ERROR, "two inputs named 'x'");
    CHECK_ERROR(values(y), Error, TSR_NAME_MISSING_ERROR, "the input 'x' has no elements");
    // An input or a constant may be an output; each output has memory of its own.
    const Graph plain = Graph::trace({{"a", x}, {"b", x}, {"c", w}});
    const std::vector<Tensor> copies = runtime().run(plain, {Tensor::create({2, 3}, DType::F32)});
    CHECK(copies[0].data<float>() != copies[1].data<float>() && copies[2].data<float>() != w.data<float>());
}

} // namespace

int main() {
    test_guide_program();
    test_every_unary();
    test_every_binary();
    test_promotion();
    test_shapes();
    test_reductions();
    test_products();
    test_indexing();
    test_errors();
    test_evaluation();
    test_traced_graphs();
    return finish();
}
