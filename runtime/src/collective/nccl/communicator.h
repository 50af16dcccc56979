// Collectives between GPUs, each of which a thread or a process of the host drives. The hosts meet by a communicator of
// their own (threads of one process, or processes), which carries what is not on the devices: sizes, failures, agreement.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "collective/communicator.h"
#include "collective/nccl/library.h"
#include "collective/nccl/peers.h"
#include "collective/parts.h"

namespace tessera::core {

// What the members of one collective bring and get, in elements along the dimensions that are joined and split.
struct GpuExchange {
    std::vector<int64_t> brought, got; // by member: along `dim` of the operand; along `dim` or `split_dim` of the result
    bool known = false;
};

class NcclCommunicator final : public Communicator {
  public:
    // `existing`: a communicator of the caller's over all devices of the mesh, in order; it stays the caller's. Null: made
    // when they are first needed.
    NcclCommunicator(std::shared_ptr<Communicator> host, DeviceId device, void *existing, int64_t timeout_ms);
    ~NcclCommunicator() override;

    const MeshAxes &mesh() const override { return host_->mesh(); }
    int64_t rank() const override { return host_->rank(); }
    DeviceId device() const { return device_; }
    // Of tensors in host memory.
    void run(const Collective &collective, const TensorView &operand, const TensorView &result) override {
        host_->run(collective, operand, result);
    }
    void agree() override { host_->agree(); }
    void compare(const Describe &describe) override { host_->compare(describe); }
    void fail(const std::string &message) noexcept override;
    void check() override { host_->check(); }
    std::pair<uint64_t, uint64_t> traffic() const override;
    void reset_traffic() override;

    // Bytes of memory on the device that a collective needs beside its tensors, at most.
    static int64_t scratch(const Collective &collective, const TensorView &operand, const TensorView &result);
    // The hosts tell each other their sizes: all members call this, in the same order.
    GpuExchange exchange(const Collective &collective, const TensorView &operand, const TensorView &result);
    // Puts a collective on a stream. `operand`, `result` and `scratch` are on the device.
    void put(const Collective &collective, const GpuExchange &exchange, const TensorView &operand, const TensorView &result,
             void *scratch, gpu::Handle stream);
    // The largest of a word of all devices, in place: whether a check failed anywhere.
    void put_largest(void *word, gpu::Handle stream);
    // Returns when `reached` gives true; DeviceError when another device failed, or none went on for the timeout.
    void await(const std::function<bool()> &reached, const std::string &what);

    // The same for those who may wait when the communicator is gone: then what is on the device comes to its end or not.
    class Watch {
      public:
        explicit Watch(NcclCommunicator *group) : group_(group) {}
        void await(const std::function<bool()> &reached, const std::string &what);

      private:
        friend class NcclCommunicator;
        std::shared_mutex lock_; // shared while somebody waits, so that the communicator stays
        NcclCommunicator *group_;
    };
    const std::shared_ptr<Watch> &watch() const { return watch_; }

  private:
    struct Team {
        gpu::Handle communicator = nullptr; // made when it is first needed
        int64_t members = 1, member = 0;
        bool copies = false; // what is contiguous goes by copies
    };
    int reduced_type(const Collective &c, DType dtype) const;
    Team &team(const std::vector<std::string> &axes);
    void connect(Team &team, const std::vector<std::string> &axes);
    // Does an exchange by copies; false where it takes more than that, and NCCL has to do it.
    bool put_copies(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand, const TensorView &result,
                    gpu::Handle stream);
    void abort() noexcept;
    void drop(Team &team);
    CopyBytes copier(gpu::Handle stream) const;
    void gather(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand, const TensorView &result,
                void *scratch, gpu::Handle stream);
    void scatter(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand, const TensorView &result,
                 void *scratch, gpu::Handle stream);
    void permute(const Team &t, const Collective &c, const TensorView &operand, const TensorView &result, gpu::Handle stream);
    void swap(const Team &t, const Collective &c, const GpuExchange &e, const TensorView &operand, const TensorView &result,
              void *scratch, gpu::Handle stream);

    const std::shared_ptr<Communicator> host_;
    const DeviceId device_;
    const gpu::Driver &driver_;
    const Nccl &library_;
    void *const existing_;
    const int64_t timeout_ms_;
    PeerCopies peers_;
    const std::shared_ptr<Watch> watch_;
    std::mutex lock_; // of the list
    std::map<std::vector<std::string>, Team> teams_; // none is ever taken out
    uint64_t epoch_ = 0;
    std::atomic<uint64_t> received_{0}, calls_{0};
};

} // namespace tessera::core
