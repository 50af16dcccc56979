// The memory of one run in flight: arena, kernel scratch and the table of buffer addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "exec/engine.h"
#include "exec/plan.h"
#include "exec/prepared.h"

namespace tessera::core {

// Uninitialised memory that only grows.
class Block {
  public:
    Block() = default;
    ~Block();
    Block(const Block &) = delete;
    Block &operator=(const Block &) = delete;
    // At least `bytes` of memory; what it held is lost when it has to grow.
    char *reserve(size_t bytes);

  private:
    char *data_ = nullptr;
    size_t bytes_ = 0;
};

class Frame {
  public:
    // Makes memory and addresses ready for a run of `prepared`; cheap when the last run was of the same.
    void set_up(const Plan &plan, const std::shared_ptr<const Prepared> &prepared, const StateTable &table, int threads);
    const Prepared *prepared() const { return prepared_.get(); }
    void **addresses() { return addresses_.data(); }
    char *scratch(int thread) { return scratch_base_ + static_cast<size_t>(thread) * scratch_stride_; }

  private:
    Block arena_, scratch_;
    std::shared_ptr<const Prepared> prepared_;
    uint64_t version_ = 0;
    int threads_ = 0;
    char *scratch_base_ = nullptr;
    size_t scratch_stride_ = 0;
    std::vector<void *> addresses_;
};

} // namespace tessera::core
