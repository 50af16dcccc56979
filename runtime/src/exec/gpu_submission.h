// One run of a GPU engine while it is put on its stream.
#pragma once

#include "exec/gpu_engine.h"

namespace tessera::core {

struct GpuEngine::Submission {
    RunContext &context;
    const StateTable &table;
    const Tensor *const *inputs;
    size_t input_count;
    Tensor *outputs;
    gpu::Handle stream;
    std::shared_ptr<const GpuPrepared> prepared;
    std::shared_ptr<GpuRun> run;
    GpuFrame *frame = nullptr;
    BoundPlan *bound = nullptr;
};

} // namespace tessera::core
