// The C++ interface on a GPU: tensors there, graphs that run there, streams of the caller's, errors.
#include <tessera/runtime.h>
#include <tessera/stream.h>

#include "artifact_builder.h"
#include "plan_builder.h"

using namespace gpu_test;
namespace t = tessera;

namespace {

t::Device place() { return {static_cast<t::Device::Type>(static_cast<int32_t>(device_type)), 0}; }

t::Graph graph_of(const PlanText &plan, const std::vector<TestTensor> &weights = {}) {
    const std::string which = target() + "." + level(), code = image();
    std::vector<TestTensor> tensors = weights;
    tensors.push_back({"tessera.kernels." + which, "U8", "[" + std::to_string(code.size()) + "]", code});
    const std::string file = build_artifact({{"tessera.format", "1"}, {"tessera.plan." + which, plan.text()}}, tensors);
    return t::Graph::load(file.data(), file.size());
}

t::Tensor filled(int64_t count, float value) {
    t::Tensor out = t::Tensor::create({count}, t::DType::F32);
    for (int64_t i = 0; i < count; ++i)
        out.data<float>()[i] = value + static_cast<float>(i);
    return out;
}

bool holds(const t::Tensor &tensor, float first, float step) {
    t::Tensor host = tensor.to(t::Device{});
    for (int64_t i = 0; i < host.size(); ++i)
        if (host.data<const float>()[i] != first + step * static_cast<float>(i))
            return false;
    return true;
}

template <class Body> std::string what_of(Body &&body, tsr_status code) {
    try {
        body();
    } catch (const t::Error &e) {
        return e.code() == code ? e.what() : std::string("another code: ") + e.what();
    }
    return "";
}

void tensors() {
    t::Tensor zeros = t::Tensor::create({100}, t::DType::F32, place());
    CHECK(zeros.device().type == place().type && zeros.device().index == 0);
    CHECK(holds(zeros, 0, 0));
    t::Tensor there = filled(100, 3).to(place());
    CHECK(holds(there, 3, 1));
    CHECK(there.to(place()).data<void>() == there.data<void>());
    CHECK(contains(what_of([&] { there.data<float>(); }, TSR_DEVICE_ERROR), "to(Device{})"));
    CHECK(contains(what_of([&] { t::Tensor::create({1}, t::DType::F32, {place().type, 55}); }, TSR_DEVICE_ERROR), "does not exist"));
    int deleted = 0;
    {
        t::Tensor blob = t::Tensor::from_blob(there.data<void>(), {50}, t::DType::F32, [&] { ++deleted; }, {2}, place());
        CHECK(holds(blob.contiguous(), 3, 2));
        CHECK(holds(blob.to(t::Device{}), 3, 2));
    }
    CHECK(deleted == 1);
    t::Stream stream(place());
    t::Tensor target = t::Tensor::create({100}, t::DType::F32, place()), host = t::Tensor::create({100}, t::DType::F32);
    t::copy(there, target, stream);
    t::copy(target, host, stream);
    host.wait();
    CHECK(holds(host, 3, 1));
    DLManagedTensor *managed = there.to_dlpack();
    t::Tensor back = t::Tensor::from_dlpack(managed);
    CHECK(back.data<void>() == there.data<void>() && back.device().type == place().type);
}

void runs() {
    t::Graph g = graph_of(double_sum());
    CHECK(g.target() == target() && g.level() == level() && g.device().type == place().type);
    t::Runtime rt(1);
    t::Tensor x = filled(200, 0), y = filled(200, 1);
    // From the host to the host, and from the device to the device.
    t::Tensor out = rt.submit(g, {{"x", x}, {"y", y}}).output("out");
    CHECK(out.device().type == t::Device::CPU && out.data<float>()[10] == 42);
    CHECK(rt.run(g, {x, y})[0].data<float>()[199] == 798);
    t::Tensor a = x.to(place()), b = y.to(place());
    for (int i = 0; i < 4; ++i) {
        out = rt.submit(g, {{"x", a}, {"y", b}}).output();
        CHECK(out.device().type == place().type && holds(out, 2, 4));
        CHECK(holds(rt.run(g, {a, b})[0], 2, 4));
    }
    t::RunOptions options;
    options.outputs_on_device = true;
    CHECK(rt.run(g, {x, y}, options)[0].device().type == place().type);
    // A stream of the caller's.
    t::Stream owner(place());
    options.stream = t::Stream::wrap(place(), owner.native());
    t::Tensor given = t::Tensor::create({200}, t::DType::F32, place());
    t::Run run = rt.submit(g, {{"x", a}, {"y", b}}, {{"out", given}}, options);
    owner.wait();
    CHECK(run.finished());
    CHECK(holds(given, 2, 4));
    auto binding = rt.bind(g, {{"x", a}, {"y", b}}, {{"out", given}});
    for (int i = 0; i < 5; ++i)
        binding();
    rt.wait();
    CHECK(holds(given, 2, 4));
    t::RunOptions wrong;
    wrong.stream = t::Stream();
    CHECK(contains(what_of([&] { rt.run(g, {a, b}, wrong); }, TSR_DEVICE_ERROR), "stream"));
    CHECK(contains(what_of([&] { rt.submit(g, {{"x", a}, {"y", filled(3, 0)}}); }, TSR_SHAPE_ERROR), "N"));
}

void failures_and_state() {
    int64_t start = 7;
    std::string counter(reinterpret_cast<char *>(&start), sizeof start);
    t::Graph g = graph_of(checked_step(), {{"counter", "I64", "[1]", counter}});
    t::Runtime rt(1);
    t::Tensor x = filled(256, 0).to(place()), good = t::Tensor::create({4}, t::DType::I64), bad = t::Tensor::create({4}, t::DType::I64);
    bad.data<int64_t>()[2] = 11;
    rt.submit(g, {{"labels", good}, {"x", x}});
    t::Run run = rt.submit(g, {{"labels", bad}, {"x", x}});
    CHECK(contains(what_of([&] { run.wait(); }, TSR_INDEX_RANGE_ERROR), "position [2]"));
    rt.wait(); // it was told
    rt.submit(g, {{"labels", bad}, {"x", x}});
    rt.submit(g, {{"labels", good}, {"x", x}});
    CHECK(contains(what_of([&] { rt.wait(); }, TSR_INDEX_RANGE_ERROR), "train.py:4"));
    rt.wait();
    CHECK(g.state("counter").device().type == place().type);
    CHECK(g.state("counter").to(t::Device{}).data<int64_t>()[0] == 9);
    t::Tensor other = t::Tensor::create({1}, t::DType::I64); // from the host: it is copied to the device
    other.data<int64_t>()[0] = 100;
    g.bind_state("counter", other);
    rt.run(g, {good, x});
    CHECK(g.state("counter").to(t::Device{}).data<int64_t>()[0] == 101);
    CHECK(other.data<int64_t>()[0] == 100);
}

// Operators that are applied one by one to tensors of a GPU give tensors there.
void operators() {
    t::Tensor a = filled(6, 1).to(place()), b = filled(6, 2);
    t::Tensor sum = a + b; // one on the host
    t::Tensor c = t::op::exp(t::op::matmul(t::op::reshape(sum, {2, 3}), t::op::reshape(a, {3, 2})) * 0.0);
    t::Runtime rt(1);
    rt.submit(c);
    rt.submit(sum);
    rt.wait();
    CHECK(c.device().type == place().type && holds(c, 1, 0));
    CHECK(holds(sum, 3, 2));
}

// `rt.submit(g)` on the graph's own tensors.
void own_tensors() {
    PlanText p = double_sum();
    for (std::string *text : {&p.inputs, &p.outputs, &p.buffers, &p.arena, &p.instructions})
        for (size_t at; (at = text->find("\"N\"")) != std::string::npos;)
            text->replace(at, 3, "16");
    p.dims = "[]";
    p.buffers = R"({"kind": "input", "bytes": 64}, {"kind": "input", "bytes": 64}, {"kind": "output", "bytes": 64},
                   {"kind": "arena", "bytes": 64, "offset": 0})";
    p.arena = "64";
    p.instructions = R"({"kernel": 0, "buffers": [0, 1, 3], "sizes": [16], "grid": [1, 1, 1]},
                        {"kernel": 1, "buffers": [3, 2], "sizes": [16], "grid": [1, 1, 1]})";
    t::Graph g = graph_of(p);
    t::Runtime rt(1);
    CHECK(g.input("x").device().type == place().type);
    t::copy(filled(16, 1), g.input("x"));
    rt.submit(g);
    rt.wait();
    CHECK(holds(g.output("out"), 2, 2));
}

} // namespace

int main(int argc, char **argv) {
    choose(argc, argv);
    tensors();
    runs();
    failures_and_state();
    own_tensors();
    operators();
    CHECK(live_blocks() == 0);
    CHECK(misuses() == "");
    return finish();
}
