// A bound graph allocates nothing once it has run: every allocation of the process is counted.
#include <atomic>
#include <cstdlib>
#include <new>

#include "artifact_builder.h"
#include "check.h"
#include "tessera/runtime.h"

namespace {

std::atomic<long> allocations{0};

[[maybe_unused]] void *allocate(std::size_t bytes) {
    ++allocations;
    if (void *p = std::malloc(bytes ? bytes : 1))
        return p;
    throw std::bad_alloc();
}

} // namespace

// The address sanitizer has allocation functions of its own, which must not be mixed with others.
#ifndef __SANITIZE_ADDRESS__
void *operator new(std::size_t bytes) { return allocate(bytes); }
void *operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void *p) noexcept { std::free(p); }
void operator delete[](void *p) noexcept { std::free(p); }
void operator delete(void *p, std::size_t) noexcept { std::free(p); }
void operator delete[](void *p, std::size_t) noexcept { std::free(p); }
#endif

using namespace tessera;

namespace {

// y = 2x over f32[B, 4], by way of the arena.
const char *plan = R"json({
 "version": 1, "target": "cpu", "level": "x86-64-v2",
 "dims": [{"name": "B", "min": 1, "max": 64, "multiple_of": 1}],
 "inputs": [{"name": "x", "dtype": "f32", "shape": ["B", 4], "buffer": 0}],
 "outputs": [{"name": "y", "dtype": "f32", "shape": ["B", 4], "buffer": 1}],
 "state": [], "constants": [],
 "buffers": [{"kind": "input", "bytes": "16*B"}, {"kind": "output", "bytes": "16*B"},
             {"kind": "arena", "bytes": "16*B", "offset": 0}],
 "arena": "64*((B + 3) // 4)",
 "kernels": [{"name": "double", "entry": 16}],
 "instructions": [{"kernel": 0, "buffers": [0, 2], "sizes": ["B"], "grid": "4*B", "grain": 8, "scratch": 128},
                  {"copy": [2, 1], "bytes": "16*B"}],
 "peak": 0, "checks": []})json";

struct Call {
    Tensor x, y;
    Binding run;

    Call(Runtime &runtime, const Graph &graph, int64_t batch)
        : x(Tensor::create({batch, 4}, DType::F32)), y(Tensor::create({batch, 4}, DType::F32)),
          run(runtime.bind(graph, {{"x", x}}, {{"y", y}})) {
        x.data<float>()[4 * batch - 1] = 21;
    }
};

} // namespace

int main() {
    std::string bytes = build_artifact({{"tessera.format", "1"}, {"tessera.plan.cpu.x86-64-v2", plan}},
                                       {{"tessera.kernels.cpu.x86-64-v2", "U8", "[51]", double_kernel}});
    Graph graph = Graph::load(bytes.data(), bytes.size());
    for (int32_t threads : {1, 2}) {
        Runtime runtime(threads);
        Call small(runtime, graph, 3), large(runtime, graph, 64);
        for (int i = 0; i < 3; ++i) {
            small.run();
            large.run();
        }
        long before = allocations;
        for (int i = 0; i < 200; ++i) {
            small.run();
            large.run();
        }
        CHECK(allocations == before);
        CHECK(small.y.data<float>()[11] == 42 && large.y.data<float>()[255] == 42);
    }
    return finish();
}
