// The devices of a mesh that are threads of this process.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "collective/communicator.h"

namespace tessera::core {

// Members meet here: each posts where its data is, reads the others' when all have posted, and leaves when all have read.
class LocalGroup : public std::enable_shared_from_this<LocalGroup> {
  public:
    // `timeout_ms`: how long a device waits for the others before it takes one of them for dead.
    LocalGroup(MeshAxes mesh, int64_t timeout_ms);

    // The end of device `rank`; each is used by one thread at a time.
    std::shared_ptr<Communicator> communicator(int64_t rank);
    const MeshAxes &mesh() const { return mesh_; }
    // All devices that wait fail with this message, and all that come later, until `reset`.
    void fail(const std::string &message) noexcept;
    // DeviceError after a failure.
    void check();
    // Ready for the next run, when no device is in one.
    void reset();
    uint64_t epoch();

  private:
    friend class LocalCommunicator;
    struct Post {
        const Collective *collective = nullptr;
        const TensorView *operand = nullptr;
        const TensorView *result = nullptr;
        const void *told = nullptr; // `bytes` of them, where there is no collective
        size_t bytes = 0;
        const std::string *what = nullptr;
    };
    // The devices that agree in all coordinates but those of some axes.
    struct Team {
        explicit Team(size_t members) : posts(members) {}
        std::vector<Post> posts;
        std::condition_variable changed;
        size_t arrived = 0, reading = 0; // at the meeting point; in each other's data
        uint64_t round = 0;
    };
    Team &team(const std::vector<std::string> &axes, int64_t rank, size_t &member);
    // Waits for all members; with `opens` their data may then be read until each of them has called `leave`.
    void meet(Team &team, const std::string &what, bool opens = false);
    // Waits until no member reads another's data any more: they only copy memory, so that this ends.
    void leave(Team &team) noexcept;

    const MeshAxes mesh_;
    const int64_t timeout_ms_;
    std::mutex lock_; // of everything below
    std::map<std::pair<std::vector<std::string>, std::vector<int64_t>>, std::unique_ptr<Team>> teams_;
    bool failed_ = false;
    uint64_t epoch_ = 0; // counts `reset`
    std::string message_;
};

} // namespace tessera::core
