// Who outlives whom: arguments that own what they are given to, children of fork, systems without threads to give.
#include "tessera/runtime.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "artifact_builder.h"
#include "check.h"

using namespace tessera;

namespace {

Graph load() {
    std::string bytes = test_artifact();
    return Graph::load(bytes.data(), bytes.size());
}

Tensor create(const std::vector<int64_t> &shape, DType dtype = DType::F32) { return Tensor::create(shape, dtype); }

// The exit status of `body` in a child process: 200 when it does not end.
int in_child(const std::function<int()> &body) {
    pid_t child = ::fork();
    if (child == 0) {
        ::alarm(20);
        ::_exit(body());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
}

void test_tensors_outlive() {
    Tensor y, steps;
    std::vector<Run> runs;
    {
        Graph g = load();
        Runtime rt(2);
        for (int i = 0; i < 20; ++i)
            runs.push_back(rt.submit(g, {{"x", create({8, 4})}, {"labels", create({8}, DType::I64)}}));
        steps = g.state("steps");
    }
    CHECK(runs[19].finished() && runs[19].output("sum").data<float>()[3] == 40);
    CHECK(steps.data<float>()[0] == 1048576);
}

// The owner of a state's memory may use the graph when it learns that the memory is free.
void test_state_owner() {
    Graph g = load();
    float block[4] = {};
    int freed = 0;
    g.bind_state("steps", Tensor::from_blob(block, {4}, DType::F32, [&] { freed += g.state("steps").size() == 4; }));
    g.bind_state("steps", create({4}));
    CHECK(freed == 1);
}

// The last owner of a runtime may be an argument of its own runs.
void test_runtime_owner() {
    static float block[4];
    Graph g = load();
    for (int i = 0; i < 50; ++i) {
        auto rt = std::make_unique<Runtime>(2);
        auto freed = std::make_shared<std::atomic<bool>>(false);
        Tensor x = Tensor::from_blob(block, {1, 4}, DType::F32, [own = std::make_shared<Runtime>(*rt), freed]() mutable {
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            own.reset();
            *freed = true;
        });
        rt->submit(g, {{"x", x}, {"labels", create({1}, DType::I64)}});
        x = Tensor();
        if (i % 2)
            std::this_thread::sleep_for(std::chrono::microseconds(100));
        rt.reset();
        while (!*freed)
            std::this_thread::yield();
    }
    CHECK(true);
}

void test_input_in_state() {
    Graph g = load();
    Runtime rt(1);
    Tensor steps = g.state("steps");
    Tensor x = Tensor::from_blob(steps.data<float>(), {1, 4}, DType::F32);
    std::vector<Tensor> out = rt.run(g, {x, create({1}, DType::I64)});
    CHECK(out[0].data<float>()[3] == 8 && out[1].data<float>()[3] == 44); // of the value before the run
    CHECK(steps.data<float>()[3] == 8);
}

void test_fork() {
    Graph g = load();
    auto rt = std::make_unique<Runtime>(2);
    Tensor x = create({16, 4}), labels = create({16}, DType::I64);
    x.data<float>()[63] = 1;
    rt->submit(g, {{"x", x}, {"labels", labels}}).wait();
    std::this_thread::sleep_for(std::chrono::milliseconds(20)); // its threads sleep
    CHECK(in_child([&] {
              bool right = rt->run(g, {x, labels})[0].data<float>()[63] == 2;
              rt.reset();
              return right ? 7 : 8;
          }) == 7);
    CHECK(rt->run(g, {x, labels})[0].data<float>()[63] == 2);
}

// A child of a process whose runtime was at work: its runs succeed or fail with a typed error, and it ends.
void test_fork_at_work() {
    Graph g = load();
    Runtime rt(2);
    Tensor x = create({32, 4}), labels = create({32}, DType::I64);
    for (int i = 0; i < 20; ++i) {
        for (int k = 0; k < 20; ++k)
            rt.submit(g, {{"x", x}, {"labels", labels}});
        CHECK(in_child([&] {
                  try {
                      Runtime own = std::move(rt);
                      own.wait();
                  } catch (const Error &e) {
                      return e.code() == TSR_UNSUPPORTED_ERROR ? 7 : 8;
                  }
                  return 7;
              }) == 7);
        rt.wait();
    }
}

// Fewer threads than wanted is an error, not the end of the process.
void test_no_threads() {
    CHECK(in_child([] {
              rlimit limit{size_t{2} << 30, size_t{2} << 30};
              ::setrlimit(RLIMIT_AS, &limit);
              try {
                  Runtime rt(4000);
              } catch (const Error &e) {
                  return e.code() == TSR_OUT_OF_MEMORY_ERROR ? 7 : 8;
              }
              return 9;
          }) == 7);
}

} // namespace

int main() {
    test_tensors_outlive();
    test_state_owner();
    test_runtime_owner();
    test_input_in_state();
    test_fork();
    test_fork_at_work();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // whose shadow memory exceeds the limit
    test_no_threads();
#endif
    return finish();
}
