// Sockets of the operating system, as far as the transport needs them.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tessera::core::tcp {

using Deadline = std::chrono::steady_clock::time_point;

struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;

    std::string text() const;
    void set_port(uint16_t port);
    bool is_loopback() const;
};

// The address of a host by name or number; DeviceError.
Address resolve(const std::string &host, uint16_t port);

class Socket {
  public:
    Socket() = default;
    explicit Socket(int fd) : fd_(fd) {}
    ~Socket() { close(); }
    Socket(Socket &&o) noexcept : fd_(o.fd_) { o.fd_ = -1; }
    Socket &operator=(Socket &&o) noexcept;

    // Listens at an address; port 0: any. DeviceError.
    static Socket listen(const Address &address);
    // Tries until somebody listens there; DeviceError after the deadline.
    static Socket connect(const Address &address, Deadline deadline);
    // The next that connects; DeviceError after the deadline, which says `missing`.
    Socket accept(Address &from, Deadline deadline, const std::string &missing);

    int fd() const { return fd_; }
    bool is_open() const { return fd_ >= 0; }
    uint16_t port() const;
    void close();
    // All bytes, before the deadline; DeviceError.
    void send_all(const void *data, size_t bytes, Deadline deadline);
    void receive_all(void *data, size_t bytes, Deadline deadline);
    // As many bytes as can be moved at once: 0 when none can. DeviceError when the other side is gone.
    size_t send_some(const void *data, size_t bytes);
    size_t receive_some(void *data, size_t bytes);

  private:
    int fd_ = -1;
};

} // namespace tessera::core::tcp
