// What the tests of the GPU runtime share: which device they run on, and the model's counters.
//
//   test [cuda | hip] [model | real] [no-faults]
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "check.h"
#include "core/error.h"
#include "device/backend.h"
#include "device/gpu/driver.h"

namespace gpu_test {

using namespace tessera::core;

inline DeviceType device_type = DeviceType::CUDA;
inline bool on_model = true;
inline bool with_faults = true; // that spoil the device for the process

inline DeviceId device(int32_t index = 0) { return {device_type, index}; }

inline void *model_symbol(const char *name) {
    static void *library = ::dlopen(FAKE_CUDA, RTLD_NOW | RTLD_LOCAL);
    void *found = library ? ::dlsym(library, name) : nullptr;
    CHECK(found != nullptr);
    return found;
}

// Numbers of the model; 0 on a real device, where they are not known.
inline int64_t calls(const char *function) {
    return on_model ? reinterpret_cast<int64_t (*)(const char *)>(model_symbol("fake_calls"))(function) : 0;
}
inline int64_t live_blocks() {
    return on_model ? reinterpret_cast<int64_t (*)()>(model_symbol("fake_live_blocks"))() : 0;
}
inline std::string misuses() {
    return on_model ? reinterpret_cast<const char *(*)()>(model_symbol("fake_misuses"))() : "";
}
inline void fail_next(const char *function, int result) {
    reinterpret_cast<void (*)(const char *, int)>(model_symbol("fake_fail_next"))(function, result);
}
inline void repair(int index = 0) { reinterpret_cast<void (*)(int)>(model_symbol("fake_repair"))(index); }

// Reads the command line and names the driver libraries. Gives whether there is something to test on.
inline void choose(int argc, char **argv) {
    if (argc > 1 && std::strcmp(argv[1], "hip") == 0)
        device_type = DeviceType::ROCM;
    on_model = argc < 3 || std::strcmp(argv[2], "real") != 0;
    with_faults = argc < 4;
    if (on_model) {
        gpu::set_cuda_library(FAKE_CUDA);
        ::setenv("HIP_SHIM_CUDA", FAKE_CUDA, 1);
    }
    gpu::set_hip_library(HIP_SHIM);
}

inline std::string file_text(const char *path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

// The error that `body` throws; "" when it throws none.
template <class Body> std::string error_of(Body &&body, Code code) {
    try {
        body();
    } catch (const Error &e) {
        if (e.code() != code)
            return "another code: " + e.message();
        return e.message();
    }
    return "";
}

inline bool contains(const std::string &text, const char *part) { return text.find(part) != std::string::npos; }

} // namespace gpu_test
