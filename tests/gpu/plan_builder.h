// Plans for the kernels of kernels.ptx, as text.
#pragma once

#include <string>
#include <vector>

#include "gpu_test.h"

namespace gpu_test {

inline std::string target() { return device_type == DeviceType::CUDA ? "ptx" : "hsaco"; }
inline std::string level() { return device_type == DeviceType::CUDA ? "sm_90" : "gfx90a"; }

// The image: a cubin that no device takes, then the text that is its alternative.
inline std::string image() {
    std::string broken("\x7f"
                       "ELF\x02\x01",
                       6);
    broken.resize(64, '\0');
    return broken + file_text(KERNELS) + '\0'; // as the compiler writes it
}

inline std::string modules() {
    const size_t bytes = image().size() - 64;
    if (device_type == DeviceType::ROCM)
        return R"([{"offset": 64, "bytes": )" + std::to_string(bytes) + R"(, "format": "hsaco"}])";
    return R"([{"offset": 0, "bytes": 64, "format": "cubin"}, {"offset": 64, "bytes": )" + std::to_string(bytes) +
           R"(, "format": "ptx", "alternative": true}])";
}

inline std::string kernel(const char *symbol, const std::string &arguments, int threads = 128, int shared = 0,
                          const std::string &more = "") {
    return std::string(R"({"name": ")") + symbol + R"(", "module": 0, "symbol": ")" + symbol + R"(", "threads": )" +
           std::to_string(threads) + R"(, "shared": )" + std::to_string(shared) + R"(, "arguments": [)" + arguments + "]" + more +
           "}";
}

constexpr const char *add_arguments = R"({"buffer": 0}, {"buffer": 1}, {"buffer": 2}, {"size": 0, "type": "i64"})";

struct PlanText {
    std::string dims = R"([{"name": "N", "min": 0, "max": null, "multiple_of": 1}])";
    std::string inputs, outputs, state, constants = "", buffers, arena = "0", kernels, instructions;

    std::string text() const {
        auto list = [](const std::string &name, const std::string &items) { return ", \"" + name + "\": [" + items + "]"; };
        return R"({"version": 1, "target": ")" + target() + R"(", "level": ")" + level() + R"(", "dims": )" + dims +
               ", \"modules\": " + modules() + list("inputs", inputs) + list("outputs", outputs) + list("state", state) +
               list("constants", constants) + list("buffers", buffers) + ", \"arena\": " + arena + list("kernels", kernels) +
               list("instructions", instructions) + "}";
    }
};

// out = 2 (x + y), with the sum in the arena.
inline PlanText double_sum() {
    PlanText p;
    p.inputs = R"({"name": "x", "dtype": "f32", "shape": ["N"], "buffer": 0}, {"name": "y", "dtype": "f32", "shape": ["N"], "buffer": 1})";
    p.outputs = R"({"name": "out", "dtype": "f32", "shape": ["N"], "buffer": 2})";
    p.buffers = R"({"kind": "input", "bytes": "4*N", "label": "x"}, {"kind": "input", "bytes": "4*N", "label": "y"},
                   {"kind": "output", "bytes": "4*N", "label": "out"},
                   {"kind": "arena", "bytes": "4*N", "offset": 64, "label": "sum of x and y"})";
    p.arena = R"("4*N + 64")";
    p.kernels = kernel("add", add_arguments) + ", " +
                kernel("scale", R"({"buffer": 0}, {"buffer": 1}, {"size": 0, "type": "i32"})", 64);
    p.instructions = R"({"kernel": 0, "buffers": [0, 1, 3], "sizes": ["N"], "grid": ["(N + 127) // 128", 1, 1], "loc": "model.py:7"},
                        {"kernel": 1, "buffers": [3, 2], "sizes": ["N"], "grid": ["(N + 63) // 64", 1, 1], "loc": "model.py:8"})";
    return p;
}

// labels are checked to lie in [0, 9], then out = x + x and the state is incremented.
inline PlanText checked_step() {
    PlanText p;
    p.inputs = R"({"name": "labels", "dtype": "i64", "shape": ["N"], "buffer": 0}, {"name": "x", "dtype": "f32", "shape": [256], "buffer": 1})";
    p.outputs = R"({"name": "out", "dtype": "f32", "shape": [256], "buffer": 2})";
    p.state = R"({"name": "counter", "dtype": "i64", "shape": [1], "trainable": false, "mutated": true, "buffer": 3})";
    p.buffers = R"({"kind": "input", "bytes": "8*N", "label": "labels"}, {"kind": "input", "bytes": 1024, "label": "x"},
                   {"kind": "output", "bytes": 1024, "label": "out"}, {"kind": "state", "bytes": 8, "label": "counter"})";
    p.kernels =
        kernel("check_range", R"({"buffer": 0}, {"size": 0, "type": "i64"}, {"size": 1, "type": "i64"}, {"size": 2, "type": "i64"},
                                 {"status": "flag"}, {"status": "check"})") + ", " +
        kernel("add_checked", std::string(add_arguments) + R"(, {"status": "flag"})") + ", " +
        kernel("increment", R"({"buffer": 0}, {"status": "flag"})", 32);
    p.instructions =
        R"({"check_range": 0, "dtype": "i64", "count": "N", "low": 0, "high": 9, "ignore": null, "what": "label", "loc": "train.py:4",
            "kernel": 0, "buffers": [0], "sizes": ["N", 0, 9], "grid": ["(N + 127) // 128", 1, 1]},
           {"kernel": 1, "buffers": [1, 1, 2], "sizes": [256], "grid": [2, 1, 1], "loc": "train.py:5"},
           {"kernel": 2, "buffers": [3], "sizes": [], "grid": [1, 1, 1], "loc": "train.py:6"})";
    return p;
}

} // namespace gpu_test
