// The same for a PyTorch AOTInductor package: `aoti_bench FILE ROWS COLUMNS SECONDS`. Each thread has an input of its own;
// the package's runner allocates the outputs.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

int main(int count, char **arguments) {
    if (count != 5)
        return 2;
    const int64_t rows = std::atoll(arguments[2]), columns = std::atoll(arguments[3]);
    const double limit = std::atof(arguments[4]);
    c10::InferenceMode mode;
    at::set_num_threads(1);
    // Four model instances, so that four threads may run at once.
    torch::inductor::AOTIModelPackageLoader loader(arguments[1], "model", false, 4);
    auto call = [&](const std::vector<at::Tensor> &inputs) { loader.run(inputs); };
    std::vector<at::Tensor> inputs = {torch::zeros({rows, columns})};
    std::vector<double> times;
    for (int i = 0; i < 2000; ++i)
        call(inputs);
    for (const Clock::time_point begin = Clock::now(); times.size() < 10 || seconds_since(begin) < limit;) {
        const Clock::time_point once = Clock::now();
        for (int i = 0; i < 200; ++i)
            call(inputs);
        times.push_back(seconds_since(once) / 200 * 1e9);
    }
    std::sort(times.begin(), times.end());
    std::printf("{\"run\": {\"min\": %.1f, \"median\": %.1f}, \"rates\": {", times.front(), times[times.size() / 2]);
    for (int threads_wanted : {1, 2, 4}) {
        std::atomic<bool> go{false}, stop{false};
        std::atomic<long> runs{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < threads_wanted; ++t)
            threads.emplace_back([&] {
                c10::InferenceMode own;
                at::set_num_threads(1);
                std::vector<at::Tensor> mine = {torch::zeros({rows, columns})};
                while (!go)
                    std::this_thread::yield();
                long done = 0;
                for (; !stop.load(std::memory_order_relaxed); ++done)
                    call(mine);
                runs += done;
            });
        const Clock::time_point begin = Clock::now();
        go = true;
        std::this_thread::sleep_for(std::chrono::duration<double>(limit));
        stop = true;
        for (std::thread &t : threads)
            t.join();
        std::printf("%s\"%d\": {\"run\": %.0f}", threads_wanted > 1 ? ", " : "", threads_wanted,
                    static_cast<double>(runs) / seconds_since(begin));
    }
    std::printf("}}\n");
    return 0;
}
