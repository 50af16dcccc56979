// Engines on a device, run without a runtime.
#pragma once

#include <memory>

#include "device/allocators.h"
#include "exec/gpu_engine.h"
#include "gpu_test.h"

namespace gpu_test {

// What a runtime gives a run.
struct Host {
    ThreadPool pool{1};
    std::shared_ptr<Allocator> allocator = make_backend_allocator();
    std::shared_ptr<Stream> stream = backend(device()).create_stream(0);

    RunContext context() {
        RunContext c{pool, allocator};
        c.stream = stream.get();
        c.own_stream = stream;
        return c;
    }
    // On a stream of the caller's.
    RunContext context_on(Stream &callers) {
        RunContext c{pool, allocator};
        c.stream = &callers;
        return c;
    }
};

} // namespace gpu_test
