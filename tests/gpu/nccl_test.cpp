// Collectives between GPUs against those between threads of the host: even and uneven parts, failures, communicators handed in.
#include <atomic>
#include <functional>
#include <thread>

#include "collective/local/group.h"
#include "collective/nccl/communicator.h"
#include "core/transfer.h"
#include "device/gpu/gpu_backend.h"
#include "device/allocators.h"
#include "exec/gpu_engine.h"
#include "plan_builder.h"

using namespace gpu_test;

namespace {

constexpr int64_t long_enough = 20000;
int64_t members = 2;

std::shared_ptr<LocalGroup> group_of(int64_t timeout_ms = long_enough) {
    return std::make_shared<LocalGroup>(MeshAxes{{{"dp", members}}}, timeout_ms);
}

// Calls `work` for every device, each on a thread; the errors by device, empty where there was none.
std::vector<std::string> together(const std::function<void(int64_t)> &work) {
    std::vector<std::string> errors(static_cast<size_t>(members));
    std::vector<std::thread> threads;
    for (int64_t r = 0; r < members; ++r)
        threads.emplace_back([&, r] {
            try {
                work(r);
            } catch (const Error &e) {
                errors[static_cast<size_t>(r)] = e.message();
            }
        });
    for (std::thread &t : threads)
        t.join();
    return errors;
}

std::vector<int64_t> parts_of(int64_t size) { // in blocks, the last ones smaller or empty
    const int64_t block = (size + members - 1) / members;
    std::vector<int64_t> out;
    for (int64_t m = 0; m < members; ++m)
        out.push_back(std::min((m + 1) * block, size) - std::min(m * block, size));
    return out;
}

Tensor drawn(DType dtype, std::vector<int64_t> shape, int64_t seed) {
    Tensor t = Tensor::empty(dtype, std::move(shape));
    for (int64_t i = 0; i < t.size(); ++i) {
        const int64_t value = (i * 7 + seed * 5) % 5 - (dtype == DType::U8 ? 0 : 2);
        if (dtype == DType::F32)
            static_cast<float *>(t.data())[i] = static_cast<float>(value);
        else if (dtype == DType::F64)
            static_cast<double *>(t.data())[i] = static_cast<double>(value);
        else if (dtype == DType::I32)
            static_cast<int32_t *>(t.data())[i] = static_cast<int32_t>(value);
        else if (dtype == DType::I64)
            static_cast<int64_t *>(t.data())[i] = value;
        else if (dtype == DType::U8)
            static_cast<uint8_t *>(t.data())[i] = static_cast<uint8_t>(value);
        else { // bf16: small integers
            const auto wide = static_cast<float>(value);
            uint32_t bits;
            std::memcpy(&bits, &wide, sizeof bits);
            static_cast<uint16_t *>(t.data())[i] = static_cast<uint16_t>(bits >> 16);
        }
    }
    return t;
}

TensorView view(const Tensor &t) { return {t.dtype(), t.shape(), const_cast<void *>(t.data())}; }

// One collective on the devices and on the host, of the same operands: the same bytes, and the same traffic.
void same(const Collective &c, DType dtype, const std::vector<int64_t> &whole) {
    auto group = group_of();
    auto shapes = [&](int64_t r, std::vector<int64_t> &in, std::vector<int64_t> &out) {
        in = out = whole;
        const auto dim = static_cast<size_t>(c.dim), split = static_cast<size_t>(c.split_dim);
        if (c.kind == CollectiveKind::AllGather || c.kind == CollectiveKind::AllToAll)
            in[dim] = parts_of(whole[dim])[static_cast<size_t>(r)];
        if (c.kind == CollectiveKind::ReduceScatter)
            out[dim] = parts_of(whole[dim])[static_cast<size_t>(r)];
        if (c.kind == CollectiveKind::AllToAll)
            out[split] = parts_of(whole[split])[static_cast<size_t>(r)];
    };
    std::vector<std::string> errors = together([&](int64_t r) {
        auto host = group->communicator(r);
        NcclCommunicator gpu(host, device(static_cast<int32_t>(r)), nullptr, long_enough);
        std::vector<int64_t> in, out;
        shapes(r, in, out);
        const Tensor operand = drawn(dtype, in, r), expected = Tensor::empty(dtype, out);
        host->run(c, view(operand), view(expected));
        const auto traffic = host->traffic();
        gpu.reset_traffic();

        const DeviceId here = device(static_cast<int32_t>(r));
        auto stream = backend(here).create_stream(here.index);
        const Tensor there = to_device(operand, here), result = to_device(drawn(dtype, out, 99), here);
        const auto bytes = static_cast<int64_t>(NcclCommunicator::scratch(c, view(there), view(result)));
        const Tensor scratch = to_device(Tensor::empty(DType::U8, {std::max<int64_t>(bytes, 1)}), here);
        for (int again = 0; again < 2; ++again) {
            const GpuExchange exchange = gpu.exchange(c, view(there), view(result));
            const gpu::Driver &driver = gpu::gpu_backend(here).driver();
            gpu::Current current(driver, here.index);
            const uint64_t before = gpu.traffic().first - host->traffic().first;
            gpu.put(c, exchange, view(there), view(result), const_cast<void *>(scratch.data()), stream->native());
            CHECK(gpu.traffic().first - host->traffic().first - before == traffic.first);
            gpu.await([&] { return stream->idle(); }, "a test");
        }
        const Tensor found = to_device(result, {});
        CHECK(std::memcmp(found.data(), expected.data(), expected.bytes()) == 0);
    });
    for (const std::string &error : errors)
        if (!error.empty())
            std::printf("%s\n", error.c_str());
    CHECK(std::count(errors.begin(), errors.end(), "") == members);
}

Collective collective(CollectiveKind kind, Combine combine = Combine::Sum, int64_t dim = 0, int64_t split = 0) {
    Collective c;
    c.kind = kind;
    c.axes = {"dp"};
    c.members = members;
    c.combine = combine;
    c.dim = dim;
    c.split_dim = split;
    c.name = "a collective at test.py:7";
    return c;
}

void as_on_the_host() {
    const std::vector<std::vector<int64_t>> shapes{{4, 6}, {3, 5}, {1, 7}, {0, 4}};
    for (const auto &shape : shapes) {
        for (Combine combine : {Combine::Sum, Combine::Prod, Combine::Max, Combine::Min})
            same(collective(CollectiveKind::AllReduce, combine), DType::I32, shape);
        for (int64_t dim : {0, 1}) {
            same(collective(CollectiveKind::AllGather, Combine::Sum, dim), DType::BF16, shape);
            same(collective(CollectiveKind::ReduceScatter, Combine::Sum, dim), DType::F32, shape);
            same(collective(CollectiveKind::AllToAll, Combine::Sum, dim, 1 - dim), DType::F64, shape);
        }
    }
    for (DType dtype : {DType::F32, DType::BF16, DType::F64, DType::I64, DType::U8})
        same(collective(CollectiveKind::AllReduce, Combine::Max), dtype, {3, 4});
    Collective permute = collective(CollectiveKind::Permute);
    permute.pairs = {{1, 0}}; // the second gets what the first has, the first zeros
    same(permute, DType::F32, {3, 4});
}

void a_failed_device_ends_the_others() {
    auto group = group_of();
    const std::vector<std::string> errors = together([&](int64_t r) {
        NcclCommunicator gpu(group->communicator(r), device(static_cast<int32_t>(r)), nullptr, long_enough);
        if (r == 0) {
            gpu.fail("the disk is full");
            return;
        }
        gpu.await([] { return false; }, "a run on GPUs");
    });
    CHECK(errors[0].empty() && contains(errors[1], "another device failed: the disk is full"));
}

void a_device_that_does_not_come() {
    auto group = group_of();
    const std::vector<std::string> errors = together([&](int64_t r) {
        NcclCommunicator gpu(group->communicator(r), device(static_cast<int32_t>(r)), nullptr, 50);
        if (r == 1)
            gpu.await([] { return false; }, "a run on GPUs with all_reduce at model.py:3");
    });
    CHECK(contains(errors[1], "all_reduce at model.py:3: after 0.1 s the devices are not done; one of them hangs or is gone"));
}

// Whoever waits for what has ended does not wait for others that wait.
void several_wait_at_once() {
    auto group = group_of();
    std::atomic<bool> first{false}, waiting{false};
    const std::vector<std::string> errors = together([&](int64_t r) {
        NcclCommunicator gpu(group->communicator(r), device(static_cast<int32_t>(r)), nullptr, long_enough);
        if (r != 0)
            return;
        const std::shared_ptr<NcclCommunicator::Watch> watch = gpu.watch();
        std::thread other([&] {
            watch->await([&] { waiting = true; return first.load(); }, "the first");
        });
        while (!waiting)
            std::this_thread::yield();
        watch->await([] { return true; }, "the second");
        first = true;
        other.join();
    });
    CHECK(errors[0].empty() && errors[1].empty());
}

void wrong_parts_and_elements() {
    auto group = group_of();
    std::vector<std::string> errors = together([&](int64_t r) {
        NcclCommunicator gpu(group->communicator(r), device(static_cast<int32_t>(r)), nullptr, long_enough);
        const Tensor in = Tensor::empty(DType::F32, {2}), out = Tensor::empty(DType::F32, {5});
        gpu.exchange(collective(CollectiveKind::AllGather), view(in), view(out));
    });
    CHECK(contains(errors[0], "the parts of the devices do not make") && contains(errors[1], "test.py:7"));
    group = group_of();
    errors = together([&](int64_t r) {
        const DeviceId here = device(static_cast<int32_t>(r));
        NcclCommunicator gpu(group->communicator(r), here, nullptr, long_enough);
        const Tensor in = to_device(Tensor::empty(DType::I16, {2}), here);
        auto stream = backend(here).create_stream(here.index);
        const Collective c = collective(CollectiveKind::AllReduce);
        gpu.put(c, gpu.exchange(c, view(in), view(in)), view(in), view(in), nullptr, stream->native());
    });
    CHECK(contains(errors[0], "does not combine elements of i16; cast them to i32 or f32"));
}

// What a device has, on the device; exchanged into `result`, which is waited for.
void exchanged(NcclCommunicator &gpu, const Collective &c, const Tensor &operand, const Tensor &result) {
    const DeviceId here = gpu.device();
    auto stream = backend(here).create_stream(here.index);
    const gpu::Driver &driver = gpu::gpu_backend(here).driver();
    gpu::Current current(driver, here.index);
    gpu.put(c, gpu.exchange(c, view(operand), view(result)), view(operand), view(result), nullptr, stream->native());
    gpu.await([&] { return stream->idle(); }, "a test");
}

void after_a_failure_they_begin_anew() {
    auto group = group_of();
    std::vector<std::shared_ptr<NcclCommunicator>> ends;
    for (int64_t r = 0; r < members; ++r)
        ends.push_back(std::make_shared<NcclCommunicator>(group->communicator(r), device(static_cast<int32_t>(r)), nullptr, long_enough));
    auto all = [&](int64_t r) {
        const DeviceId here = device(static_cast<int32_t>(r));
        const Tensor operand = to_device(drawn(DType::F32, {4, 2}, r), here), sum = to_device(drawn(DType::F32, {4, 2}, 9), here);
        const Tensor joined = to_device(drawn(DType::F32, {4 * members, 2}, 9), here);
        exchanged(*ends[static_cast<size_t>(r)], collective(CollectiveKind::AllGather), operand, joined);
        exchanged(*ends[static_cast<size_t>(r)], collective(CollectiveKind::AllReduce), operand, sum);
        float expected = 0, found = 0;
        for (int64_t m = 0; m < members; ++m)
            expected += static_cast<const float *>(drawn(DType::F32, {4, 2}, m).data())[3];
        std::memcpy(&found, static_cast<const float *>(to_device(sum, {}).data()) + 3, sizeof found);
        CHECK(found == expected);
        const Tensor parts = to_device(joined, {});
        CHECK(std::memcmp(static_cast<const char *>(parts.data()) + 32, drawn(DType::F32, {4, 2}, 1).data(), 32) == 0);
    };
    for (int again = 0; again < 3; ++again) {
        for (const std::string &error : together(all))
            CHECK(error == "");
        const std::vector<std::string> errors = together([&](int64_t r) {
            if (r == 0)
                ends[0]->fail("memory is full");
            else
                all(r);
        });
        CHECK(contains(errors[1], "another device failed: memory is full"));
        group->reset();
    }
}

// What the devices say when the first has three rows and the second two, and `to` gets the tensor of the other.
std::vector<std::string> permuted_to(int64_t to) {
    auto group = group_of();
    Collective c = collective(CollectiveKind::Permute);
    c.pairs = {{to, 1 - to}};
    return together([&](int64_t r) {
        const DeviceId here = device(static_cast<int32_t>(r));
        NcclCommunicator gpu(group->communicator(r), here, nullptr, long_enough);
        const std::vector<int64_t> shape{r == 0 ? 3 : 2, 2};
        const Tensor x = to_device(drawn(DType::F32, shape, r), here), y = to_device(drawn(DType::F32, shape, 9), here);
        try {
            exchanged(gpu, c, x, y);
        } catch (const Error &e) {
            gpu.fail(e.message());
            throw;
        }
    });
}

void tensors_that_differ_and_devices_out_of_step() {
    std::vector<std::string> errors = permuted_to(1);
    CHECK(contains(errors[0], "24 bytes go to a device that has room for 16; the devices' tensors differ in size"));
    CHECK(contains(errors[1], "another device failed"));
    errors = permuted_to(0);
    CHECK(contains(errors[1], "16 bytes go to a device that has room for 24; the devices' tensors differ in size"));
    CHECK(contains(errors[0], "another device failed"));

    auto group = group_of();
    errors = together([&](int64_t r) {
        std::vector<int64_t> words(static_cast<size_t>(members));
        const Tensor x = drawn(DType::F32, {2}, r), y = drawn(DType::F32, {2 * members}, r);
        if (r == 0)
            group->communicator(r)->tell({"dp"}, "a copy", words.data(), sizeof(int64_t));
        else
            group->communicator(r)->run(collective(CollectiveKind::AllGather), view(x), view(y));
    });
    CHECK(contains(errors[0], "out of step") || contains(errors[1], "out of step"));
    CHECK(!errors[0].empty() && !errors[1].empty());
}

void a_communicator_handed_in() {
    auto group = group_of();
    NcclId id{};
    nccl(device_type).get_id(&id);
    const std::vector<std::string> errors = together([&](int64_t r) {
        const DeviceId here = device(static_cast<int32_t>(r));
        gpu::gpu_backend(here);
        gpu::Current current(gpu::gpu_backend(here).driver(), here.index);
        gpu::Handle made = nullptr;
        nccl(device_type).connect(&made, static_cast<int>(members), id, static_cast<int>(r));
        {
            NcclCommunicator gpu(group->communicator(r), here, made, long_enough);
            Tensor word = to_device(drawn(DType::I64, {1}, r), here);
            auto stream = backend(here).create_stream(here.index);
            gpu.put_largest(const_cast<void *>(word.data()), stream->native());
            stream->wait();
        }
        std::string wrong;
        try {
            NcclCommunicator gpu(group->communicator(members - 1 - r), here, made, long_enough);
        } catch (const Error &e) {
            wrong = e.message();
        }
        CHECK(contains(wrong, "is that of member"));
        nccl(device_type).destroy(made);
    });
    CHECK(std::count(errors.begin(), errors.end(), "") == members);
}

// a = 2x; its sum over the devices beside c = x + a; a change of a behind the wait; out = sum + c.
PlanText a_sum_beside_a_kernel() {
    PlanText p;
    p.dims = "[]";
    p.inputs = R"({"name": "x", "dtype": "f32", "shape": [256], "buffer": 0})";
    p.outputs = R"({"name": "out", "dtype": "f32", "shape": [256], "buffer": 1})";
    p.buffers = R"({"kind": "input", "bytes": 1024, "label": "x"}, {"kind": "output", "bytes": 1024, "label": "out"},
                   {"kind": "arena", "bytes": 1024, "offset": 0, "label": "a"}, {"kind": "arena", "bytes": 1024, "offset": 1024, "label": "b"},
                   {"kind": "arena", "bytes": 1024, "offset": 2048, "label": "c"})";
    p.arena = "3072";
    p.kernels = kernel("add", add_arguments);
    auto add = [](const char *buffers) {
        return std::string(R"({"kernel": 0, "buffers": )") + buffers + R"(, "sizes": [256], "grid": [2, 1, 1]})";
    };
    p.instructions = add("[0, 0, 2]") + R"(, {"collective": "all_reduce", "axes": ["dp"],
        "attrs": "{axes = [\"dp\"], sizes = [2], combine = \"sum\"}", "operands": [{"buffer": 2, "dtype": "f32", "shape": [256]}],
        "results": [{"buffer": 3, "dtype": "f32", "shape": [256]}], "bytes": 1024, "start": 5, "loc": "model.py:3"}, )" +
                     add("[0, 2, 4]") + R"(, {"wait": 5}, )" + add("[0, 0, 2]") + ", " + add("[3, 4, 1]");
    return p;
}

void an_exchange_beside_a_kernel() {
    auto group = group_of();
    const std::string code = image(), text = a_sum_beside_a_kernel().text();
    const std::vector<std::string> errors = together([&](int64_t r) {
        const DeviceId here = device(static_cast<int32_t>(r));
        NcclCommunicator gpu(group->communicator(r), here, nullptr, long_enough);
        GpuEngine engine(Plan::parse(text, "test.tsr", code, target()), code, here, "test.tsr");
        ThreadPool pool{1};
        auto stream = backend(here).create_stream(here.index);
        RunContext context{pool, make_backend_allocator()};
        context.stream = stream.get();
        context.own_stream = stream;
        context.communicator = &gpu;
        for (int again = 0; again < 3; ++again) {
            Tensor x = Tensor::empty(DType::F32, {256}), out;
            for (int64_t i = 0; i < 256; ++i)
                static_cast<float *>(x.data())[i] = static_cast<float>(i + r * 1000 + again);
            x = to_device(x, here);
            const Tensor *inputs[] = {&x};
            engine.run(context, {}, inputs, 1, &out);
            const Tensor found = to_device(out, {});
            bool right = true;
            for (int64_t i = 0; i < 256; ++i) {
                const auto own = static_cast<float>(i + r * 1000 + again), other = static_cast<float>(i + (1 - r) * 1000 + again);
                right = right && static_cast<const float *>(found.data())[i] == 2 * (own + other) + 3 * own;
            }
            CHECK(right);
        }
    });
    for (const std::string &error : errors)
        if (!error.empty())
            std::printf("%s\n", error.c_str());
    CHECK(std::count(errors.begin(), errors.end(), "") == members);
}

} // namespace

int main(int argc, char **argv) {
    choose(argc, argv);
    if (on_model)
        add_nccl_file(device_type, FAKE_NCCL);
    if (device_type == DeviceType::ROCM && !on_model)
        return finish(); // RCCL does not run on an NVIDIA device
    if (backend(device()).count() < members) {
        std::printf("SKIPPED: needs %lld devices\n", static_cast<long long>(members));
        return finish();
    }
    as_on_the_host();
    a_failed_device_ends_the_others();
    a_device_that_does_not_come();
    several_wait_at_once();
    wrong_parts_and_elements();
    after_a_failure_they_begin_anew();
    tensors_that_differ_and_devices_out_of_step();
    a_communicator_handed_in();
    an_exchange_beside_a_kernel();
    CHECK(misuses() == "");
    return finish();
}
