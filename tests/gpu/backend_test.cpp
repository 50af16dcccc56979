// Memory, copies, streams and events of a GPU backend.
#include "device/gpu/gpu_backend.h"

#include <numeric>
#include <thread>
#include <vector>

#include "gpu_test.h"

using namespace gpu_test;

namespace {

std::vector<float> ramp(size_t count, float first = 0) {
    std::vector<float> out(count);
    std::iota(out.begin(), out.end(), first);
    return out;
}

void copies_in_the_order_of_a_stream() {
    Backend &b = backend(device());
    auto stream = b.create_stream(0);
    const std::vector<float> x = ramp(1000);
    const size_t bytes = x.size() * sizeof(float);
    void *first = b.allocate(0, bytes, 64, stream.get()), *second = b.allocate(0, bytes, 64, stream.get());
    CHECK(first && second && first != second);
    std::vector<float> out(x.size());
    b.copy(first, device(), x.data(), {}, bytes, stream.get());
    b.copy(second, device(), first, device(), bytes, stream.get());
    b.fill(first, 0, 0, bytes, stream.get());
    b.copy(out.data(), {}, second, device(), bytes, stream.get());
    stream->wait();
    CHECK(out == x);
    CHECK(stream->idle());
    b.copy(out.data(), {}, first, device(), bytes, nullptr); // waited for
    CHECK(out == std::vector<float>(x.size()));
    b.release(0, first, bytes, stream.get());
    b.release(0, second, bytes, stream.get());
    b.copy(nullptr, device(), nullptr, {}, 0, stream.get()); // nothing
    stream->wait();
}

// Without the wait the second stream would read what was there before.
void events_order_streams() {
    Backend &b = backend(device());
    auto one = b.create_stream(0), two = b.create_stream(0);
    const std::vector<float> x = ramp(256, 5);
    const size_t bytes = x.size() * sizeof(float);
    void *memory = b.allocate(0, bytes, 64, nullptr);
    b.fill(memory, 0, 0, bytes, nullptr);
    std::shared_ptr<Event> event = b.create_event(0), start = b.create_event(0);
    CHECK(event->reached()); // never recorded
    start->record(*one);
    b.copy(memory, device(), x.data(), {}, bytes, one.get());
    event->record(*one);
    b.wait(*two, event);
    std::vector<float> out(x.size());
    b.copy(out.data(), {}, memory, device(), bytes, two.get());
    two->wait();
    CHECK(out == x);
    event->wait();
    CHECK(event->reached());
    CHECK(event->nanoseconds_since(*start) >= 0);
    CHECK(contains(error_of([&] { event->nanoseconds_since(*b.create_event(0)); }, Code::Argument), "recorded and reached"));
    b.release(0, memory, bytes, two.get());
    two->wait();
}

void calls_on_the_host() {
    Backend &b = backend(device());
    auto stream = b.create_stream(0);
    int order = 0;
    stream->call([&] { order = order * 10 + 1; });
    stream->call([&] { order = order * 10 + 2; });
    stream->wait();
    CHECK(order == 12);
    // A GPU's stream waits for an event of the CPU.
    Backend &cpu = backend(DeviceType::CPU);
    auto host = cpu.create_stream(0);
    auto event = cpu.create_event(0);
    host->call([&] { order = order * 10 + 3; });
    event->record(*host);
    b.wait(*stream, event);
    stream->call([&] { order = order * 10 + 4; });
    stream->wait();
    CHECK(order == 1234);
}

void devices_and_contexts() {
    auto &b = static_cast<gpu::GpuBackend &>(backend(device()));
    CHECK(b.count() >= 1);
    CHECK(!b.name(0).empty());
    CHECK(b.properties(0).level == (device_type == DeviceType::CUDA ? "sm_90" : "gfx90a"));
    CHECK(b.properties(0).shared_bytes > 64 << 10);
    CHECK(contains(error_of([&] { backend(device(99)); }, Code::Device), "99"));
    auto host = backend(DeviceType::CPU).create_stream(0);
    CHECK(contains(error_of([&] { b.copy(nullptr, device(), nullptr, {}, 8, host.get()); }, Code::Argument), "stream of cpu"));
    auto stream = b.create_stream(0);
    auto wrapped = b.wrap_stream(0, stream->native());
    CHECK(wrapped->native() == stream->native());
    wrapped.reset(); // the caller's stays
    CHECK(stream->idle());
    if (b.count() < 2)
        return;
    CHECK(contains(error_of([&] { b.wrap_stream(1, stream->native()); }, Code::Device), "expected one of"));
    // Between devices.
    const std::vector<float> x = ramp(64);
    const size_t bytes = x.size() * sizeof(float);
    void *there = b.allocate(1, bytes, 64, nullptr), *here = b.allocate(0, bytes, 64, nullptr);
    b.copy(there, device(1), x.data(), {}, bytes, nullptr);
    b.copy(here, device(0), there, device(1), bytes, nullptr);
    std::vector<float> out(x.size());
    b.copy(out.data(), {}, here, device(0), bytes, nullptr);
    CHECK(out == x);
    b.release(1, there, bytes, nullptr);
    b.release(0, here, bytes, nullptr);
    CHECK(contains(error_of([&] { b.create_event(1)->record(*stream); }, Code::Argument), "cannot be recorded"));
}

void many_threads() {
    Backend &b = backend(device());
    std::vector<std::thread> threads;
    std::atomic<int> good{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            auto stream = b.create_stream(0);
            for (int i = 0; i < 50; ++i) {
                std::vector<float> x = ramp(64, static_cast<float>(t * 1000 + i)), out(64);
                void *memory = b.allocate(0, 256, 64, stream.get());
                b.copy(memory, device(), x.data(), {}, 256, stream.get());
                b.copy(out.data(), {}, memory, device(), 256, stream.get());
                b.release(0, memory, 256, stream.get());
                stream->wait();
                good += out == x;
            }
        });
    for (std::thread &t : threads)
        t.join();
    CHECK(good == 200);
}

void memory_that_is_not_there() {
    Backend &b = backend(device());
    CHECK(contains(error_of([&] { b.allocate(0, size_t{1} << 50, 64, nullptr); }, Code::OutOfMemory), " GiB are free"));
    void *some = b.allocate(0, 64, 64, nullptr); // and goes on
    CHECK(some);
    b.release(0, some, 64, nullptr);
    if (!on_model)
        return;
    fail_next("cuMemAllocFromPoolAsync", 2); // what is kept for later runs is given up, and it is tried again
    int64_t trims = calls("cuMemPoolTrimTo");
    void *again = b.allocate(0, 64, 64, nullptr);
    CHECK(again && calls("cuMemPoolTrimTo") == trims + 1);
    b.release(0, again, 64, nullptr);
    fail_next("cuStreamSynchronize", 700);
    auto stream = b.create_stream(0);
    std::string text = error_of([&] { stream->wait(); }, Code::Device);
    CHECK(contains(text, "ILLEGAL_ADDRESS") && contains(text, "nothing more can run"));
}

} // namespace

int main(int argc, char **argv) {
    choose(argc, argv);
    copies_in_the_order_of_a_stream();
    events_order_streams();
    calls_on_the_host();
    devices_and_contexts();
    many_threads();
    memory_that_is_not_there();
    CHECK(contains(error_of([&] { gpu::set_cuda_library("other.so"), gpu::set_hip_library("other.so"); }, Code::Argument), "loaded already"));
    CHECK(live_blocks() == 0);
    CHECK(misuses() == "");
    return finish();
}
