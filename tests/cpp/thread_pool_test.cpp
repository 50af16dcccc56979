#include "core/thread_pool.h"

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"
#include "core/error.h"

using namespace tessera::core;

// Every unit is visited once, on threads below the pool's number, in ranges no smaller than the grain.
static void test_coverage(ThreadPool &pool, int64_t units, int64_t grain) {
    std::vector<std::atomic<int>> visits(static_cast<size_t>(units));
    std::atomic<bool> legal{true};
    pool.parallel_for(units, grain, [&](int64_t begin, int64_t end, int thread) {
        if (thread < 0 || thread >= pool.threads() || begin >= end)
            legal = false;
        for (int64_t i = begin; i < end; ++i)
            visits[static_cast<size_t>(i)]++;
    });
    bool once = true;
    for (auto &v : visits)
        once = once && v == 1;
    CHECK(once);
    CHECK(legal);
}

static void test_many_submitters(ThreadPool &pool) {
    std::atomic<int64_t> total{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < 4; ++t)
        callers.emplace_back([&] {
            for (int k = 0; k < 500; ++k)
                pool.parallel_for(100, 7, [&](int64_t begin, int64_t end, int) { total += end - begin; });
        });
    for (auto &c : callers)
        c.join();
    CHECK(total == 4 * 500 * 100);
}

static void test_nested(ThreadPool &pool) {
    std::atomic<int64_t> total{0};
    pool.parallel_for(16, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
            pool.parallel_for(10, 1, [&](int64_t b, int64_t e, int) { total += e - b; });
    });
    CHECK(total == 160);
}

static void test_exceptions(ThreadPool &pool) {
    for (int round = 0; round < 50; ++round)
        CHECK_ERROR(pool.parallel_for(1000, 10,
                                      [](int64_t begin, int64_t end, int) {
                                          for (int64_t i = begin; i < end; ++i)
                                              if (i >= 300)
                                                  fail(Code::IndexRange, "unit %lld", static_cast<long long>(i));
                                      }),
                    Error, Code::IndexRange, "unit 300");
    test_coverage(pool, 1000, 10);
}

static void test_after_sleep(ThreadPool &pool) {
    for (int round = 0; round < 5; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        test_coverage(pool, 4096, 1);
    }
}

int main() {
    for (int threads : {1, 2, 3, 8}) {
        ThreadPool pool(threads);
        CHECK(pool.threads() == threads);
        for (int64_t units : {0, 1, 2, 7, 64, 1000, 100000})
            for (int64_t grain : {1, 3, 1000})
                test_coverage(pool, units, grain);
        test_many_submitters(pool);
        test_nested(pool);
        test_exceptions(pool);
        test_after_sleep(pool);
    }
    CHECK(available_cores() >= 1);
    CHECK(ThreadPool(0).threads() == available_cores());
    return finish();
}
