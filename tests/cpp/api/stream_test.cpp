// Allocators, streams, events and copies, as a program sees them.
#include "tessera/stream.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "check.h"

using namespace tessera;

namespace {

Tensor numbered(const std::vector<int64_t> &shape) {
    Tensor t = Tensor::create(shape, DType::F32);
    for (int64_t i = 0; i < t.size(); ++i)
        t.data<float>()[i] = static_cast<float>(i);
    return t;
}

void test_devices() {
    CHECK(device_count(Device::CPU) == 1);
    CHECK_ERROR(device_count(static_cast<Device::Type>(7)), Error, TSR_DEVICE_ERROR, "device type 7");
    CHECK_ERROR(Stream(Device{Device::CPU, 3}), Error, TSR_DEVICE_ERROR, "cpu:3");
    CHECK_ERROR(Tensor::create({2}, DType::F32, {Device::CPU, 1}), Error, TSR_DEVICE_ERROR, "cpu:1");
    CHECK_ERROR(Stream::wrap({}, nullptr), Error, TSR_UNSUPPORTED_ERROR, "native");
    CHECK(Stream().native() == nullptr && Stream().device().type == Device::CPU);
}

// The caller's memory: counts what it is asked for, gives no more than a limit.
struct Counting final : Allocator::Functions {
    std::shared_ptr<std::atomic<int64_t>> live;
    size_t limit;
    Counting(std::shared_ptr<std::atomic<int64_t>> l, size_t m) : live(std::move(l)), limit(m) {}
    ~Counting() override { *live -= 1000000; }
    void *allocate(Device device, size_t bytes, size_t alignment, void *stream) noexcept override {
        if (bytes > limit || device.type != Device::CPU || stream)
            return nullptr;
        ++*live;
        return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    }
    void release(Device, void *pointer, size_t, void *) noexcept override {
        --*live;
        std::free(pointer);
    }
};

void test_allocator() {
    auto live = std::make_shared<std::atomic<int64_t>>(0);
    Tensor kept;
    {
        Allocator allocator(std::make_unique<Counting>(live, 4096));
        kept = create({10}, DType::F32, allocator);
        {
            Tensor b = create({3, 5}, DType::I8, allocator);
            CHECK(b.data<int8_t>()[14] == 0 && *live == 2);
            AllocatorStatistics s = allocator.statistics();
            CHECK(s.bytes_in_use == 55 && s.peak_bytes == 55 && s.allocations == 2 && s.releases == 0);
        }
        Tensor empty = create({0, 5}, DType::F64, allocator); // has an address, and no memory
        CHECK(empty.data<double>() != nullptr && *live == 1);
        CHECK_ERROR(create({2000}, DType::F32, allocator), Error, TSR_OUT_OF_MEMORY_ERROR, "8000 bytes");
        AllocatorStatistics s = allocator.statistics();
        CHECK(s.bytes_in_use == 40 && s.peak_bytes == 55 && s.allocations == 2 && s.releases == 1);
        allocator.reset_peak();
        CHECK(allocator.statistics().peak_bytes == 40);
    }
    kept.data<float>()[9] = 1; // the memory keeps its allocator alive
    CHECK(*live == 1);
    kept = Tensor();
    CHECK(*live == -1000000); // released, then destroyed

    Allocator counted;
    Tensor t = create({7}, DType::U8, counted);
    CHECK(counted.statistics().bytes_in_use == 7 && reinterpret_cast<uintptr_t>(t.data<void>()) % 64 == 0);
}

void test_order() {
    Stream stream;
    std::vector<int> order; // written by the stream's work only, one at a time
    for (int i = 0; i < 1000; ++i)
        stream.call([&order, i] { order.push_back(i); });
    stream.wait();
    bool sorted = order.size() == 1000;
    for (size_t i = 0; sorted && i < order.size(); ++i)
        sorted = order[i] == static_cast<int>(i);
    CHECK(sorted && stream.idle());

    // Several threads on one stream: each thread's work in its order, all of it done.
    std::vector<std::vector<int>> seen(4);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 500; ++i) {
                stream.call([&seen, t, i] { seen[static_cast<size_t>(t)].push_back(i); });
                if (i % 100 == 99)
                    stream.wait();
            }
        });
    for (std::thread &t : threads)
        t.join();
    stream.wait();
    bool right = true;
    for (const std::vector<int> &list : seen)
        for (size_t i = 0; i < 500; ++i)
            right = right && list.size() == 500 && list[i] == static_cast<int>(i);
    CHECK(right);
}

void test_events() {
    Stream first, second;
    Event never, start, go, end;
    CHECK(never.reached());
    never.wait();
    second.wait(never);
    std::atomic<bool> release{false};
    std::atomic<int> step{0};
    start.record(first);
    start.wait();
    first.call([&] {
        while (!release)
            std::this_thread::yield();
        step = 1;
    });
    go.record(first);
    CHECK(!go.reached() && !first.idle());
    second.wait(go);
    second.call([&] { step = step == 1 ? 2 : -1; });
    end.record(second);
    CHECK_ERROR(end.seconds_since(start), Error, TSR_ARGUMENT_ERROR, "reached");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(step == 0 && !end.reached());
    release = true;
    end.wait();
    CHECK(step == 2 && go.reached());
    CHECK(end.seconds_since(start) > 0.004 && end.seconds_since(start) < 100);
    CHECK(end.seconds_since(end) == 0);
    // Recorded again, an event is the new point; who waited for the old one is not held up.
    go.record(first);
    go.wait();
    CHECK(go.seconds_since(start) >= 0);
}

// A stream that is let go waits for its work; one let go by its own work does not wait for itself.
void test_lifetime() {
    std::atomic<int> done{0};
    {
        Stream stream;
        stream.call([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            ++done;
        });
    }
    CHECK(done == 1);
    {
        auto own = std::make_shared<Stream>();
        Stream *raw = own.get();
        raw->call([own, &done]() mutable {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            own.reset();
            ++done;
        });
        own.reset();
    }
    while (done != 2)
        std::this_thread::yield();
    {
        auto own = std::make_shared<Stream>();
        Stream *raw = own.get();
        std::atomic<bool> go{false};
        raw->call([own, &go]() mutable {
            while (!go)
                std::this_thread::yield();
            try {
                own->wait(); // for itself
            } catch (const Error &e) {
                CHECK(e.code() == TSR_ARGUMENT_ERROR);
            }
            own.reset();
        });
        raw->call([&] { ++done; }); // done although the stream is gone by then
        own.reset();
        go = true;
        while (done != 3)
            std::this_thread::yield();
    }
}

void test_copies() {
    Tensor x = numbered({3, 4}), y = Tensor::create({3, 4}, DType::F32);
    copy(x, y);
    CHECK(std::memcmp(x.data<float>(), y.data<float>(), 48) == 0);
    // Strided to strided: the transpose of x into every second column of a wider block.
    Tensor turned = Tensor::from_blob(x.data<float>(), {4, 3}, DType::F32, nullptr, {1, 4});
    std::vector<float> block(24, -1.0f);
    Tensor wide = Tensor::from_blob(block.data(), {4, 3}, DType::F32, nullptr, {6, 2});
    Stream stream;
    copy(turned, wide, stream);
    stream.wait();
    bool right = true;
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 6; ++k)
            right = right && block[static_cast<size_t>(6 * i + k)] ==
                                 (k % 2 ? -1.0f : x.data<float>()[4 * (k / 2) + i]);
    CHECK(right);
    // A negative stride: the rows reversed.
    Tensor reversed = Tensor::from_blob(x.data<float>() + 8, {3, 4}, DType::F32, nullptr, {-4, 1});
    copy(reversed, y);
    CHECK(y.data<float>()[0] == 8 && y.data<float>()[11] == 3);
    copy(numbered({}), Tensor::create({}, DType::F32));
    copy(Tensor::create({0, 3}, DType::F32), Tensor::create({0, 3}, DType::F32));

    CHECK_ERROR(copy(x, Tensor::create({3, 4}, DType::F64)), Error, TSR_DTYPE_ERROR, "f64[3, 4]");
    CHECK_ERROR(copy(x, Tensor::create({4, 3}, DType::F32)), Error, TSR_SHAPE_ERROR, "[4, 3]");
    CHECK_ERROR(copy(x, Tensor()), Error, TSR_ARGUMENT_ERROR, "target is null");
    Tensor shifted = Tensor::from_blob(x.data<float>() + 1, {3, 2}, DType::F32, nullptr, {4, 1});
    Tensor there = Tensor::from_blob(x.data<float>(), {3, 2}, DType::F32, nullptr, {4, 1});
    CHECK_ERROR(copy(there, shifted), Error, TSR_ARGUMENT_ERROR, "overlap");
    // Both tensors are kept until the copy is done.
    Tensor target = Tensor::create({1000}, DType::F32);
    for (int i = 0; i < 50; ++i)
        copy(numbered({1000}), target, stream);
    stream.wait();
    CHECK(target.data<float>()[999] == 999);
}

} // namespace

int main() {
    test_devices();
    test_allocator();
    test_order();
    test_events();
    test_lifetime();
    test_copies();
    return finish();
}
