// Exchanges between GPUs of one process that reach each other's memory, by their copy engines. No kernel takes part, so
// that the kernels beside an exchange have all of the device, and a persistent one does not keep the exchange waiting.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "collective/communicator.h"
#include "device/gpu/gpu_backend.h"

namespace tessera::core {

class PeerCopies {
  public:
    // `host`: by which the threads meet that drive the devices.
    PeerCopies(Communicator &host, DeviceId device);

    // Whether the members of a group reach each other. All of them call this, at the same place of their programs.
    bool reach(const std::vector<std::string> &axes, int64_t members, int64_t member);

    // Bytes of the operand that go to a member, and where in its result; `whole`: they are all of it.
    struct Piece {
        int64_t member = 0, from = 0, to = 0, bytes = 0;
        bool whole = false;
    };
    // Puts the copies on a stream. What is put there later finds the result whole; all members call this with pieces that
    // fill the results.
    void put(const Collective &collective, int64_t member, const std::vector<Piece> &pieces, const TensorView &operand,
             const TensorView &result, gpu::Handle stream);

  private:
    // A device of a group, and the events by which others wait for it: its result may be written; its copies have ended.
    // Those of a group are recorded anew only when all have put their waits, and live as long as anybody may put one.
    struct Peer {
        int32_t index = 0;
        std::shared_ptr<gpu::GpuEvent> ready, done;
    };
    void send(const Piece &piece, const void *operand, void *result, int32_t index, gpu::Handle stream);

    Communicator &host_;
    const DeviceId device_;
    const gpu::Driver &driver_;
    std::map<std::vector<std::string>, std::vector<Peer>> groups_;
};

} // namespace tessera::core
