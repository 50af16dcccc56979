// What a run of a plan needs besides memory: the sizes met before, and the table of buffer addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "exec/engine.h"
#include "exec/plan.h"
#include "exec/prepared.h"

namespace tessera::core {

// Belongs to one thread at a time; kept between runs, so that nothing is looked up under a lock in the steady state.
class Frame {
  public:
    // The plan prepared for inputs of these types, if this frame has met them; else null.
    const Prepared *find(const Signature &signature, const Tensor *const *inputs, size_t count);
    const Prepared *remember(std::shared_ptr<const Prepared> prepared);

    // Makes the addresses of arena, state and constants ready; cheap when the last run was of the same.
    void set_up(const Plan &plan, const Prepared &prepared, const StateTable &table, char *memory);
    void **addresses() { return addresses_.data(); }
    char *scratch(int thread) const { return scratch_base_ + static_cast<size_t>(thread) * scratch_stride_; }

  private:
    std::vector<std::shared_ptr<const Prepared>> known_; // the latest used first
    const Prepared *current_ = nullptr;                  // what the addresses are for; one of `known_`
    uint64_t version_ = 0;
    char *memory_ = nullptr;
    char *scratch_base_ = nullptr;
    size_t scratch_stride_ = 0;
    std::vector<void *> addresses_;
};

} // namespace tessera::core
