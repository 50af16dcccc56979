// Collectives between the devices of a mesh, each of which runs the same program.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "graph/attribute.h"

namespace tessera::core {

enum class CollectiveKind : uint8_t { AllReduce, AllGather, ReduceScatter, AllToAll, Permute };
enum class Combine : uint8_t { Sum, Prod, Max, Min };

// One collective as a program states it.
struct Collective {
    CollectiveKind kind = CollectiveKind::AllReduce;
    std::vector<std::string> axes; // of the mesh, the first one varying slowest over the members
    int64_t members = 1;
    Combine combine = Combine::Sum;
    int64_t dim = 0;       // along which parts are joined, or of which each member gets a part
    int64_t split_dim = 0; // all_to_all: of which each member gets a part
    std::vector<std::pair<int64_t, int64_t>> pairs; // permute: member and whose tensor it gets, by member
    std::string name;      // the operator and the user's line, for messages

    // permute: whose tensor a member gets, or -1 for zeros.
    int64_t source(size_t member) const;
    static bool is_collective(std::string_view op);
    // From an operator's attributes; GraphError when they make no sense.
    static Collective read(std::string_view op, const graph::Attributes &attrs, const std::string &loc);
};

// Axes of a mesh by name and size, the first one varying slowest over the devices.
struct MeshAxes {
    std::vector<std::pair<std::string, int64_t>> axes;

    int64_t devices() const;
    // The coordinate of a device along each axis.
    std::vector<int64_t> coordinates(int64_t rank) const;
    // "dp=2, tp=4"
    std::string text() const;
    // "dp=1, tp=0"
    std::string place_text(int64_t rank) const;
    // The place of an axis; NameMissingError.
    size_t index(std::string_view axis) const;
    // The devices that agree with `rank` in all coordinates but those of some axes, the first axis varying slowest.
    std::vector<int64_t> team(const std::vector<std::string> &names, int64_t rank) const;
};

// One device's end of the connections between all devices of a mesh. A failure of one device (`fail`) makes all others
// fail where they wait.
class Communicator {
  public:
    virtual ~Communicator() = default;
    virtual const MeshAxes &mesh() const = 0;
    virtual int64_t rank() const = 0;
    // Takes part in a collective. Operand and result are contiguous; the members' parts may differ in size.
    virtual void run(const Collective &collective, const TensorView &operand, const TensorView &result) = 0;
    // Returns when all devices have come here: before a run changes state.
    virtual void agree() = 0;
    // Once before the first run: all devices must have the same program. `describe` gives its pieces as text; DeviceError
    // names the first that differs. Devices of one process share theirs.
    using Describe = std::function<std::vector<std::string>()>;
    virtual void compare(const Describe &describe) { (void)describe; }
    // Members of a group that are threads of one process tell each other `bytes` each: `all` has a place for each, in order,
    // its own filled. Returns when all have come; DeviceError when one is at something else. False where members are other
    // processes; then nothing is told.
    virtual bool tell(const std::vector<std::string> &axes, const std::string &what, void *all, size_t bytes) {
        (void)axes, (void)what, (void)all, (void)bytes;
        return false;
    }
    // How often the members have begun anew after a failure: what they have made together before is of no use any more.
    virtual uint64_t epoch() { return 0; }
    // DeviceError when another device is known to have failed; for those who wait for something else meanwhile.
    virtual void check() {}
    // This device's run has failed.
    virtual void fail(const std::string &message) noexcept = 0;
    // Bytes received from other devices, and collectives done, since the last `reset_traffic`.
    virtual std::pair<uint64_t, uint64_t> traffic() const = 0;
    virtual void reset_traffic() = 0;
};

// Without a communicator: a copy for a group of one device, else DeviceError.
void run_alone(const Collective &collective, const TensorView &operand, const TensorView &result);
void check_alone(const Collective &collective, const TensorView &operand, const TensorView &result);

} // namespace tessera::core
