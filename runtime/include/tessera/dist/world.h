// The processes of a job, which a launcher has started: header-only C++17 over the C ABI.
#ifndef TESSERA_DIST_WORLD_H
#define TESSERA_DIST_WORLD_H

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tessera/tensor.h"

namespace tessera {

// How processes find each other.
struct MpiOptions {
    void *communicator = nullptr; // an MPI_Comm of the standard ABI, copied; null: MPI_COMM_WORLD
    std::string library;          // file; empty: the library that is loaded, or that the dynamic loader finds
    double timeout = 300;         // seconds that a process waits for another before it takes it for dead
};

struct TcpOptions {
    int64_t rank = 0, size = 1;
    std::string host;
    int64_t port = 0;
    double timeout = 300;
};

// The processes of a job. Copies are the same world; it ends with the last one, or with `close`.
class World {
  public:
    // Initialises MPI if it is not, and then finalises it at the end.
    static World mpi(const MpiOptions &options = {}) {
        tsr_world *handle = nullptr;
        check(tsr_world_create_mpi(options.library.empty() ? nullptr : options.library.c_str(), options.communicator,
                                   milliseconds(options.timeout), &handle));
        return World(handle);
    }
    static World tcp(const TcpOptions &options) {
        tsr_world *handle = nullptr;
        check(tsr_world_create_tcp(options.rank, options.size, options.host.c_str(), options.port,
                                   milliseconds(options.timeout), &handle));
        return World(handle);
    }

    int64_t rank() const { return place().first; }
    int64_t size() const { return place().second; }
    // What every process gives, by rank; with `ranks`, of those, which all call this.
    std::vector<std::string> all_gather(const void *data, size_t bytes, const std::vector<int64_t> &ranks = {}) const {
        const size_t count = ranks.empty() ? static_cast<size_t>(size()) : ranks.size();
        std::vector<uint64_t> sizes(count);
        tsr_text *joined = nullptr;
        check(tsr_world_all_gather(handle(), ranks.empty() ? nullptr : ranks.data(), static_cast<int32_t>(count), data, bytes,
                                   sizes.data(), &joined));
        std::unique_ptr<tsr_text, void (*)(tsr_text *)> owner(joined, tsr_text_release);
        std::vector<std::string> out;
        const char *at = tsr_text_data(joined);
        for (uint64_t n : sizes) {
            out.emplace_back(at, static_cast<size_t>(n));
            at += n;
        }
        return out;
    }
    void barrier() const { all_gather("", 0); }
    // The other processes fail where they wait for this one, with this message.
    void fail(const std::string &message) const { check(tsr_world_fail(handle(), message.c_str())); }
    // The end of this process's part; waits for the others' (after a failure only briefly).
    void close() const { check(tsr_world_close(handle())); }
    tsr_world *handle() const noexcept { return handle_.get(); }

  private:
    explicit World(tsr_world *handle) : handle_(handle) {}
    static int64_t milliseconds(double seconds) { return static_cast<int64_t>(seconds * 1000 + 0.5); }
    std::pair<int64_t, int64_t> place() const {
        int64_t rank = 0, size = 0;
        check(tsr_world_place(handle(), &rank, &size));
        return {rank, size};
    }
    detail::Handle<tsr_world, tsr_world_retain, tsr_world_release> handle_;
};

} // namespace tessera

#endif
