// Executes a GPU's plan: puts its launches on a stream, or replays them as a captured graph when shapes and addresses are
// those of an earlier run.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "exec/engine.h"
#include "exec/gpu_code.h"
#include "exec/gpu_frame.h"
#include "exec/gpu_prepared.h"
#include "exec/gpu_run.h"

namespace tessera::core {

class GpuEngine final : public Engine {
  public:
    // Loads the plan's code into `device`. `where` names the artefact. DeviceError, FormatError.
    GpuEngine(Plan plan, std::string_view image, DeviceId device, const std::string &where);
    ~GpuEngine() override;

    const Signature &signature() const override { return plan_->signature; }
    DeviceId device() const override { return device_; }
    const std::string &level() const { return plan_->level; }
    void give(std::string_view symbol, int64_t size) override;
    void check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs) override;
    // Puts the run on context.stream. Inputs and given outputs may lie on the device or in host memory; outputs that are
    // made lie on the device. What was computed is there, and a failed range check is thrown, when the outputs'
    // completion has been waited for.
    void run(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
             Tensor *outputs) override;
    Requirements requirements(const std::vector<int64_t> &sizes) override;
    Tensor place(const Tensor &tensor) const override;

  private:
    struct Submission; // one run while it is put on its stream
    std::shared_ptr<const GpuPrepared> prepare(const Tensor *const *inputs, size_t input_count);
    std::shared_ptr<const GpuPrepared> prepare(const std::vector<int64_t> &sizes);
    void check_devices(const Tensor *const *inputs, size_t input_count) const;
    GpuFrame &take_frame(void *native_stream, const GpuPrepared *prepared);
    std::shared_ptr<GpuRun> take_run();
    void make_outputs(Submission &s) const;
    void bind_inputs(Submission &s) const;
    void bind_outputs(Submission &s) const;
    void fill_in_addresses(Submission &s) const;
    void encode_maps(BoundPlan &bound) const;
    void order(Submission &s) const;
    void order_after(Submission &s, const Tensor &tensor) const;
    void execute(Submission &s);
    void run_custom(const Submission &s, const GpuStep &step, gpu::Handle stream) const;
    // `put` on the stream of exchanges when `stream` has come here; `waits`: and `stream` goes on when it is done.
    void put_beside(const Submission &s, gpu::Handle stream, int64_t number, bool waits,
                    const std::function<void(gpu::Handle)> &put) const;
    // The stream goes on when exchange `number` of the plan is done.
    void wait_for_exchange(const Submission &s, int64_t number, gpu::Handle stream) const;
    void run_collective(const Submission &s, const GpuStep &step, gpu::Handle stream) const;
    NcclCommunicator *devices(const RunContext &context) const;
    void watch(NcclCommunicator &group, GpuRun &run) const;
    void leave(NcclCommunicator &group, const Submission &s, const char *why) const;
    void run_library(const Submission &s, const GpuStep &step, gpu::Handle stream) const;
    gpu::Result put(const Submission &s, const GpuStep &step, gpu::Handle stream) const;
    // `marks`: receives an event behind each step.
    void launch_all(Submission &s, gpu::Handle stream, const std::vector<std::shared_ptr<Event>> *marks = nullptr) const;
    void launch_traced(Submission &s) const;
    bool is_captured(const RunContext &context) const;
    void run_in_capture(Submission &s);
    CapturedGraph *find_graph(BoundPlan &bound) const;
    CapturedGraph &capture(Submission &s);
    void copy_back(Submission &s) const;
    void mark(Submission &s) const;

    std::shared_ptr<Plan> changing_; // the same: sizes may be given
    std::shared_ptr<const Plan> plan_;
    DeviceId device_;
    gpu::GpuBackend &backend_;
    const gpu::Driver &driver_;
    GpuCode code_;
    Libraries libraries_;
    size_t checks_ = 0;
    std::string exchanges_;
    std::mutex lock_; // of all below; held while a run is put on its stream
    std::vector<std::shared_ptr<const GpuPrepared>> prepared_; // the latest used first
    std::vector<std::unique_ptr<GpuFrame>> frames_;
    std::vector<std::unique_ptr<GpuFrame>> captured_frames_; // memory that belongs to graphs of the callers
    std::shared_ptr<GpuRun> watched_; // the last run with other devices
    std::vector<std::shared_ptr<GpuRun>> runs_; // a ring in the order of submission
    size_t oldest_ = 0;
    std::shared_ptr<Stream> capture_stream_;
    uint64_t uses_ = 0;
};

} // namespace tessera::core
