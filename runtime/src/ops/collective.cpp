// Collectives applied by themselves, outside a program on a mesh: in a group of one device they copy.
#include "collective/communicator.h"
#include "ops/kernel.h"

namespace tessera::portable {

namespace {

void alone(const KernelCall &call) {
    core::run_alone(core::Collective::read(call.op, call.attrs, ""), call.operands[0], call.result);
}

} // namespace

const KernelTable &collective_kernels() {
    static const KernelTable table = {
        {"all_reduce", alone}, {"all_gather", alone}, {"reduce_scatter", alone}, {"all_to_all", alone},
        {"collective_permute", alone},
    };
    return table;
}

} // namespace tessera::portable
