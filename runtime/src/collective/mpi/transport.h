// Processes connected by MPI.
#pragma once

#include <memory>
#include <string>

#include "collective/process/transport.h"

namespace tessera::core {

struct MpiOptions {
    std::string library;          // file; empty: see mpi::library
    void *communicator = nullptr; // an MPI_Comm of the standard ABI, copied; null: MPI_COMM_WORLD
    int64_t timeout_ms = 300000;
    int64_t piece_bytes = int64_t{1} << 26; // longer messages go in pieces; the counts of MPI's functions are ints
};

// All processes of the communicator together. Initialises MPI when nobody has, and then finalises it in `close`.
// DeviceError without MPI, or when it was initialised without threads.
std::shared_ptr<Transport> make_mpi_transport(const MpiOptions &options);

} // namespace tessera::core
