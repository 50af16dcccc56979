// The few functions of the CUDA driver that the program itself calls, found at run time: nothing of CUDA is needed to
// build. A program that includes <cuda.h> or <cuda_runtime.h> uses those; a cudaStream_t is a CUstream.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>
#include <string>

using CUstream = struct CUstream_st *;
using CUfunction = struct CUfunc_st *;
using CUmodule = struct CUmod_st *;
using CUcontext = struct CUctx_st *;
using CUdeviceptr = std::uint64_t;

class Cuda {
  public:
    // Loads the driver and makes the first device's primary context current on this thread: the one that the CUDA
    // runtime and Tessera use, too.
    explicit Cuda(const char *file) {
        library_ = ::dlopen(file, RTLD_NOW);
        if (!library_)
            throw std::runtime_error(std::string("there is no CUDA driver: ") + ::dlerror());
        find_ = reinterpret_cast<Find>(::dlsym(library_, "cuGetProcAddress_v2"));
        if (!find_)
            throw std::runtime_error("the CUDA driver is older than 12.0");
        int device = 0;
        CUcontext context = nullptr;
        call<unsigned>("cuInit", 0);
        call<int *, int>("cuDeviceGet", &device, 0);
        call<CUcontext *, int>("cuDevicePrimaryCtxRetain", &context, device);
        call<CUcontext>("cuCtxPushCurrent", context);
    }

    // Calls a function of the driver by its name; throws what it says when it fails.
    template <class... Parameters> void call(const char *name, Parameters... arguments) {
        void *function = nullptr;
        int found = 0;
        if (find_(name, &function, 12000, 0, &found) != 0 || !function)
            throw std::runtime_error(std::string("the CUDA driver has no ") + name);
        const int result = reinterpret_cast<int (*)(Parameters...)>(function)(arguments...);
        if (result != 0)
            throw std::runtime_error(std::string(name) + " fails with " + std::to_string(result));
    }

    CUdeviceptr allocate(std::size_t bytes, CUstream stream) {
        CUdeviceptr out = 0;
        call<CUdeviceptr *, std::size_t, CUstream>("cuMemAllocAsync", &out, bytes, stream);
        return out;
    }

    CUfunction function(CUmodule module, const char *name) {
        CUfunction out = nullptr;
        call<CUfunction *, CUmodule, const char *>("cuModuleGetFunction", &out, module, name);
        return out;
    }

    // One thread for each of `count` things, in blocks of 128.
    template <class... Arguments> void launch(CUfunction function, unsigned count, CUstream stream, Arguments... arguments) {
        void *addresses[] = {&arguments...};
        call<CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **>(
            "cuLaunchKernel", function, (count + 127) / 128, 1, 1, 128, 1, 1, 0, stream, addresses, nullptr);
    }

  private:
    using Find = int (*)(const char *, void **, int, std::uint64_t, int *);
    void *library_ = nullptr;
    Find find_ = nullptr;
};
