// What the three programs measure: the time of a call, and calls per second of several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <cstdio>

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The median and least nanoseconds of a call, as JSON, by batches of 200 calls until `limit` seconds are over.
template <class Call> std::string time_of(double limit, Call &&call) {
    std::vector<double> times;
    const int batch = 200;
    for (int i = 0; i < 2000; ++i)
        call();
    for (const Clock::time_point begin = Clock::now(); times.size() < 10 || seconds_since(begin) < limit;) {
        const Clock::time_point once = Clock::now();
        for (int i = 0; i < batch; ++i)
            call();
        times.push_back(seconds_since(once) / batch * 1e9);
    }
    std::sort(times.begin(), times.end());
    char out[80];
    std::snprintf(out, sizeof out, "{\"min\": %.1f, \"median\": %.1f}", times.front(), times[times.size() / 2]);
    return out;
}

// Calls per second of `count` threads, each with a caller of its own that `make_caller` gives it, after one call each.
template <class MakeCaller> double rate(int count, double limit, MakeCaller make_caller) {
    std::atomic<bool> go{false}, stop{false};
    std::atomic<long> calls{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < count; ++t)
        threads.emplace_back([&] {
            auto call = make_caller();
            call();
            while (!go)
                std::this_thread::yield();
            long mine = 0;
            for (; !stop.load(std::memory_order_relaxed); ++mine)
                call();
            calls += mine;
        });
    const Clock::time_point begin = Clock::now();
    go = true;
    std::this_thread::sleep_for(std::chrono::duration<double>(limit));
    stop = true;
    for (std::thread &t : threads)
        t.join();
    return static_cast<double>(calls) / seconds_since(begin);
}
