// The C++ interface as a program sees it: public headers and the shared library alone.
#include "tessera/runtime.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <unistd.h>

#include "artifact_builder.h"
#include "check.h"

using namespace tessera;

namespace {

std::string folder;

std::string write_file(const std::string &name, const std::string &bytes) {
    std::string path = folder + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
}

Tensor filled(const std::vector<int64_t> &shape, float first) {
    Tensor t = Tensor::create(shape, DType::F32);
    for (int64_t i = 0; i < t.size(); ++i)
        t.data<float>()[i] = first + static_cast<float>(i);
    return t;
}

Tensor labels(int64_t count, int64_t value = 0) {
    Tensor t = Tensor::create({count}, DType::I64);
    for (int64_t i = 0; i < count; ++i)
        t.data<int64_t>()[i] = value;
    return t;
}

void test_tensors() {
    Tensor t = Tensor::create({2, 3}, DType::BF16);
    CHECK(t.dtype() == DType::BF16 && t.size() == 6 && t.bytes() == 12 && t.shape() == (std::vector<int64_t>{2, 3}));
    CHECK(t.data<uint16_t>()[5] == 0 && t.data<void>() == t.data<uint16_t>());
    CHECK(t.device().type == Device::CPU && t.is_contiguous() && !t.is_lazy());
    CHECK_ERROR(t.data<float>(), Error, TSR_DTYPE_ERROR, "the elements are bf16");
    CHECK_ERROR(Tensor::create({2}, DType::F32, {static_cast<Device::Type>(7), 0}), Error, TSR_DEVICE_ERROR, "device type 7");
    CHECK_ERROR(Tensor::create({-2}, DType::F32), Error, TSR_SHAPE_ERROR, "-2");
    CHECK(Tensor::create({}, DType::F64).size() == 1 && Tensor::create({0, 5}, DType::Bool).size() == 0);
    CHECK(!Tensor());
    CHECK_ERROR(Tensor().dtype(), Error, TSR_ARGUMENT_ERROR, "null");

    int freed = 0;
    float block[6] = {0, 1, 2, 3, 4, 5};
    {
        Tensor b = Tensor::from_blob(block, {3, 2}, DType::F32, [&] { ++freed; }, {1, 3});
        Tensor copy = b;
        b = Tensor();
        CHECK(freed == 0 && !copy.is_contiguous());
        CHECK(copy.contiguous().data<float>()[1] == 3);
        CHECK_ERROR(Tensor::from_blob(nullptr, {1}, DType::F32, [&] { ++freed; }), Error, TSR_ARGUMENT_ERROR, "null");
    }
    CHECK(freed == 1);

    Tensor shared = Tensor::from_dlpack(filled({2, 2}, 1).to_dlpack());
    CHECK(shared.data<float>()[3] == 4);
}

void test_graph(Runtime &rt, const std::string &path) {
    Graph g = Graph::load(path);
    CHECK(g.target() == "cpu" && g.level() == "x86-64-v2" && g.metadata()["user.note"] == "hello");
    CHECK(g.inputs().size() == 2 && g.inputs()[0].name == "x" && g.inputs()[0].shape == (std::vector<std::string>{"B", "4"}));
    CHECK(g.outputs()[1].name == "sum" && g.state()[0].mutated && !g.state()[0].trainable);
    CHECK(g.symbols()[0].name == "B" && g.symbols()[0].max == 64);
    CHECK(g.requirements({{"B", 8}}).arena == 192);
    CHECK_ERROR(g.input("x"), Error, TSR_SHAPE_ERROR, "symbolic shape [B, 4]");
    CHECK_ERROR(g.input("z"), Error, TSR_NAME_MISSING_ERROR, "there is no input 'z'; the inputs are: x, labels");

    Run run = rt.submit(g, {{"labels", labels(3)}, {"x", filled({3, 4}, 0)}});
    CHECK(run.output("y").data<float>()[11] == 22 && run.output("sum").data<float>()[4] == 14);
    CHECK(run.finished() && run.seconds() > 0);
    Tensor y = Tensor::create({3, 4}, DType::F32);
    rt.submit(g, {{"x", filled({3, 4}, 1)}, {"labels", labels(3)}}, {{"y", y}});
    rt.wait();
    CHECK(y.data<float>()[0] == 2);
    CHECK(rt.run(g, {filled({1, 4}, 5), labels(1)})[0].data<float>()[3] == 16);
    CHECK(g.state("steps").data<float>()[0] == 8); // three runs

    CHECK_ERROR(rt.submit(g, {{"x", y}}), Error, TSR_NAME_MISSING_ERROR, "input 'labels' is missing");
    CHECK_ERROR(rt.submit(g, {{"x", y}, {"x", y}}), Error, TSR_ARGUMENT_ERROR, "'x' is given twice");
    CHECK_ERROR(rt.submit(g, {{"z", y}}), Error, TSR_NAME_MISSING_ERROR, "'z'");
    CHECK_ERROR(rt.submit(g, {{"x", y}, {"labels", labels(2)}}), Error, TSR_SHAPE_ERROR, "dimension B is 2 here but 3");
    CHECK_ERROR(rt.submit(g, {{"x", y}, {"labels", Tensor()}}), Error, TSR_ARGUMENT_ERROR, "empty Tensor");
    CHECK_ERROR(rt.submit(g), Error, TSR_SHAPE_ERROR, "symbolic");
    CHECK_ERROR(rt.run(g, {}), Error, TSR_NAME_MISSING_ERROR, "no inputs");
    rt.submit(g, {{"x", y}, {"labels", labels(3, 77)}});
    CHECK_ERROR(rt.wait(), Error, TSR_INDEX_RANGE_ERROR, "labels at position [0] is 77");
    rt.wait();
}

void test_state(Runtime &rt, const std::string &path) {
    Graph g = Graph::load(path), h = Graph::load(path);
    rt.run(g, {filled({1, 4}, 0), labels(1)});
    std::string file = folder + "/state.safetensors";
    g.save_state(file);
    h.load_state(file);
    CHECK(h.state("steps").data<float>()[3] == 8);
    h.bind_state("steps", g.state("steps"));
    rt.run(h, {filled({1, 4}, 0), labels(1)});
    CHECK(g.state("steps").data<float>()[3] == 16);
    CHECK_ERROR(h.load_state(folder + "/nothing"), Error, TSR_FILE_ACCESS_ERROR, "cannot read");
    CHECK_ERROR(Graph::load(folder + "/nothing.tsr"), Error, TSR_FILE_ACCESS_ERROR, "No such file");
    Graph untouched = Graph::load(path); // runs write to memory, never to the file
    CHECK(untouched.state("steps").data<float>()[3] == 4);
}

void test_binding(Runtime &rt, const std::string &path) {
    Graph g = Graph::load(path);
    Tensor x = filled({2, 4}, 0), y = Tensor::create({2, 4}, DType::F32), sum = Tensor::create({2, 4}, DType::F32);
    Binding call = rt.bind(g, {{"x", x}, {"labels", labels(2)}}, {{"y", y}, {"sum", sum}});
    call();
    CHECK(y.data<float>()[7] == 14);
    x.data<float>()[7] = 100;
    call();
    CHECK(y.data<float>()[7] == 200 && sum.data<float>()[7] == 140);
    CHECK_ERROR(rt.bind(g, {{"x", x}, {"labels", labels(2)}}, {{"y", y}}), Error, TSR_NAME_MISSING_ERROR, "'sum'");
}

// A graph without symbolic sizes runs on its own tensors, as in the guide.
void test_own_tensors(Runtime &rt) {
    std::string plan = test_plan;
    for (size_t at; (at = plan.find("\"B\", 4]")) != std::string::npos;)
        plan.replace(at, 3, "2");
    for (size_t at; (at = plan.find("[\"B\"]")) != std::string::npos;)
        plan.replace(at, 5, "[2]");
    size_t dims = plan.find("{\"name\": \"B\"");
    plan.erase(dims, plan.find('}', dims) + 1 - dims);
    for (size_t at; (at = plan.find("\"64 - 2*B\"")) != std::string::npos;)
        plan.replace(at, 10, "0");
    for (size_t at; (at = plan.find('B')) != std::string::npos;)
        plan.replace(at, 1, "2");
    std::string path = write_file("fixed.tsr", test_artifact(plan));
    Graph g = Graph::load(path);
    rt.submit(g);
    rt.wait();
    CHECK(g.output("sum").data<float>()[5] == 20);
    g.input("x").data<float>()[5] = 3;
    rt.submit(g).wait();
    CHECK(g.output("y").data<float>()[5] == 6 && g.output("sum").data<float>()[5] == 23);
}

void test_lazy(Runtime &rt) {
    Tensor a = filled({2, 2}, 1), b = filled({2, 2}, 1);
    Tensor c = op::matmul(a, b);
    CHECK(c.is_lazy() && c.shape() == (std::vector<int64_t>{2, 2}));
    CHECK_ERROR(c.data<float>(), Error, TSR_ARGUMENT_ERROR, "has not been computed");
    rt.submit(c);
    rt.wait();
    CHECK(!c.is_lazy() && c.data<float>()[3] == 22);
}

void test_threads(const std::string &path) {
    Runtime rt(2);
    Graph g = Graph::load(path);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < 4; ++t)
        callers.emplace_back([&, t] {
            for (int k = 0; k < 100; ++k) {
                int64_t batch = 1 + (k + t) % 5;
                Run run = rt.submit(g, {{"x", filled({batch, 4}, static_cast<float>(t))}, {"labels", labels(batch)}});
                wrong += run.output("y").data<float>()[batch * 4 - 1] != 2 * static_cast<float>(t + batch * 4 - 1);
            }
        });
    for (auto &c : callers)
        c.join();
    CHECK(wrong == 0 && std::isinf(g.state("steps").data<float>()[0]));
    CHECK(rt.threads() == 2);
    CHECK_ERROR(Runtime(-1), Error, TSR_ARGUMENT_ERROR, "threads = -1");
}

} // namespace

int main() {
    namespace fs = std::filesystem;
    folder = (fs::temp_directory_path() / ("tessera_api_" + std::to_string(::getpid()))).string();
    fs::create_directory(folder);
    std::string path = write_file("program.tsr", test_artifact());
    {
        Runtime rt;
        test_tensors();
        test_graph(rt, path);
        test_state(rt, path);
        test_binding(rt, path);
        test_own_tensors(rt);
        test_lazy(rt);
    }
    test_threads(path);
    fs::remove_all(folder);
    return finish();
}
