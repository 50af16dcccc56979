// Processes connected by TCP, for launchers without MPI.
#pragma once

#include <memory>
#include <string>

#include "collective/process/transport.h"

namespace tessera::core {

struct TcpOptions {
    int64_t rank = 0, size = 1;
    std::string host; // of rank 0, where the others find it
    int64_t port = 0; // on which rank 0 listens while the job starts
    int64_t timeout_ms = 300000;
};

// A connection between every two processes of a job. DeviceError when they do not come together within the timeout, or
// have different ideas of their number. The connections are not encrypted: for networks that are the job's own.
std::shared_ptr<Transport> make_tcp_transport(const TcpOptions &options);

} // namespace tessera::core
