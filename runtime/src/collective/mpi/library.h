// What is used of MPI: functions and constants of its standard ABI (MPI 5.0, chapter "Application Binary Interface"),
// which every implementation of it offers in a library of the same name. Loaded at the first use, never needed to build.
#pragma once

#include <cstdint>
#include <string>

namespace tessera::core::mpi {

// Handles are pointers to incomplete types; predefined ones have fixed values (section "Constants" of the ABI).
using Comm = struct CommTag *;
using Datatype = struct DatatypeTag *;
using Request = struct RequestTag *;
using Errhandler = struct ErrhandlerTag *;

inline Comm comm_world() { return reinterpret_cast<Comm>(uintptr_t{0x101}); }
inline Comm comm_null() { return reinterpret_cast<Comm>(uintptr_t{0x100}); }
inline Datatype byte() { return reinterpret_cast<Datatype>(uintptr_t{0x247}); }
inline Request request_null() { return reinterpret_cast<Request>(uintptr_t{0x180}); }
inline Errhandler errors_return() { return reinterpret_cast<Errhandler>(uintptr_t{0x143}); }

struct Status {
    int source, tag, error;
    int internal[5];
};

constexpr int success = 0;
constexpr int any_source = -1;
constexpr int max_error_string = 512;
constexpr int thread_serialized = 2048;
constexpr int thread_multiple = 4096;

struct Library {
    int (*Init_thread)(int *argc, char ***argv, int required, int *provided);
    int (*Initialized)(int *flag);
    int (*Finalized)(int *flag);
    int (*Finalize)();
    int (*Query_thread)(int *provided);
    int (*Comm_dup)(Comm comm, Comm *copy);
    int (*Comm_free)(Comm *comm);
    int (*Comm_rank)(Comm comm, int *rank);
    int (*Comm_size)(Comm comm, int *size);
    int (*Comm_set_errhandler)(Comm comm, Errhandler handler);
    int (*Isend)(const void *data, int count, Datatype type, int to, int tag, Comm comm, Request *request);
    int (*Irecv)(void *data, int count, Datatype type, int from, int tag, Comm comm, Request *request);
    int (*Test)(Request *request, int *flag, Status *status);
    int (*Cancel)(Request *request);
    int (*Request_free)(Request *request);
    int (*Error_string)(int code, char *text, int *length);

    // DeviceError with MPI's words for a code that is not success.
    void check(int code, const char *function) const;
};

// The library, one per process: `file`, or when that is empty the one that the process has loaded already, or that the
// dynamic loader finds under the standard's name. DeviceError says what to install.
const Library &library(const std::string &file);

} // namespace tessera::core::mpi
