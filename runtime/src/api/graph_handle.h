// The object behind a graph handle: a program, its texts for the C ABI, and its own input and output tensors.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/handles.h"
#include "exec/program.h"

// A list of tensor specs with the texts of their shapes.
struct SpecTexts {
    std::vector<std::vector<std::string>> texts;
    std::vector<std::vector<const char *>> pointers;
};

// From the C struct, which may be null. ArgumentError.
tessera::core::LoadOptions read_load_options(const tsr_load_options *options);

struct tsr_graph : tessera::core::Counted {
    explicit tsr_graph(std::shared_ptr<tessera::core::Program> p);
    ~tsr_graph();

    const std::vector<tessera::core::TensorSpec> &specs(int32_t kind) const;
    // The graph's own tensor for an input or output; made at the first call.
    tsr_tensor *own_tensor(int32_t kind, size_t index);

    const std::shared_ptr<tessera::core::Program> program;
    SpecTexts texts[4];

  private:
    std::mutex lock_;
    std::vector<std::atomic<tsr_tensor *>> own_[2];
};
