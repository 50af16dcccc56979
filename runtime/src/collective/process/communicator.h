// The devices of a mesh that are processes: collectives made of messages.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "collective/communicator.h"
#include "collective/process/transport.h"

namespace tessera::core {

// Every process has all parts, by rank; their sizes may differ. DeviceError.
std::vector<std::string> all_gather(Transport &transport, const std::vector<int64_t> &ranks, const std::string &part,
                                    const std::string &what);

// Members, chunks and the order of combination are those of devices in one process, so that the bits are the same.
class ProcessCommunicator : public Communicator {
  public:
    // `ranks`: the process of each device of the mesh, in row-major order; this process must be one of them.
    ProcessCommunicator(std::shared_ptr<Transport> transport, MeshAxes mesh, std::vector<int64_t> ranks);
    ~ProcessCommunicator() override;

    const MeshAxes &mesh() const override { return mesh_; }
    int64_t rank() const override { return rank_; }
    void run(const Collective &collective, const TensorView &operand, const TensorView &result) override;
    void agree() override;
    void check() override { transport_->watch("a run on the devices"); }
    void compare(const Describe &describe) override;
    void fail(const std::string &message) noexcept override { transport_->fail(message); }
    std::pair<uint64_t, uint64_t> traffic() const override { return {received_, calls_}; }
    void reset_traffic() override { received_ = calls_ = 0; }

  private:
    // What each member is about to do, and with what.
    struct Post;
    struct Team;

    std::vector<Post> posts(const Team &team, const Collective &collective, const TensorView &operand,
                            const TensorView &result);
    void all_reduce(const Team &team, const TensorView &operand, const TensorView &result);
    void all_gather(const Team &team, const TensorView &operand, const TensorView &result);
    void reduce_scatter(const Team &team, const TensorView &operand, const TensorView &result);
    void all_to_all(const Team &team, const TensorView &operand, const TensorView &result);
    void permute(const Team &team, const TensorView &operand, const TensorView &result);
    // Memory for what arrives, of parts of these sizes; valid until the next call.
    std::vector<char *> room(const std::vector<size_t> &bytes);
    // Sends `give(m)`, an Outgoing, to every other member m, and receives `take(m)`, an Incoming; both without the rank.
    // The bytes that arrive.
    template <class Give, class Take> uint64_t swap(const Team &team, const Give &give, const Take &take);
    void exchange(const Team &team, const std::vector<Outgoing> &out, const std::vector<Incoming> &in);

    const std::shared_ptr<Transport> transport_;
    const MeshAxes mesh_;
    const std::vector<int64_t> ranks_;
    int64_t rank_ = 0; // in the mesh
    std::shared_ptr<char[]> received_data_;
    size_t received_size_ = 0;
    uint64_t received_ = 0, calls_ = 0;
};

} // namespace tessera::core
