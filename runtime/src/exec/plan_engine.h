// Executes a plan's instructions.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "exec/engine.h"
#include "exec/kernel_image.h"
#include "exec/plan.h"
#include "exec/prepared.h"
#include "exec/frame.h"

namespace tessera::core {

class PlanEngine : public Engine {
  public:
    PlanEngine(Plan plan, const void *image, size_t image_bytes) : plan_(std::move(plan)), image_(image, image_bytes) {}

    const Signature &signature() const override { return plan_.signature; }
    void give(std::string_view symbol, int64_t size) override { plan_.signature.give(symbol, size); }
    const std::string &level() const { return plan_.level; }
    void check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs) override;
    void run(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
             Tensor *outputs) override;
    Requirements requirements(const std::vector<int64_t> &sizes) override;

  private:
    struct Lease; // a frame that goes back when the run ends, however it ends
    const Prepared &prepare(Frame &frame, const Tensor *const *inputs, size_t input_count);
    std::shared_ptr<const Prepared> prepare(const std::vector<int64_t> &sizes);
    void execute(RunContext &context, const Prepared &prepared, Frame &frame);
    void execute_instruction(RunContext &context, const Prepared &prepared, const PreparedInstruction &in, Frame &frame);
    void execute_kernel(RunContext &context, const PreparedInstruction &in, Frame &frame);

    Plan plan_;
    KernelImage image_;
    std::mutex lock_; // of `prepared_`, which runs look at for sizes that their frame has not met
    std::vector<std::shared_ptr<const Prepared>> prepared_; // the latest made first
    SlotCache<Frame> idle_;
};

} // namespace tessera::core
