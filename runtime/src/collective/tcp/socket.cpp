#include "collective/tcp/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "core/error.h"

namespace tessera::core::tcp {

namespace {

std::string error_text(int code) { return std::generic_category().message(code); }

[[noreturn]] void failed(const char *what, int code) { fail(Code::Device, "%s: %s", what, error_text(code).c_str()); }

// Waits for events; false after the deadline.
bool wait_for(int fd, short events, Deadline deadline) {
    for (;;) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0)
            return false;
        pollfd p{fd, events, 0};
        const int ready = ::poll(&p, 1, static_cast<int>(std::min<int64_t>(left.count() + 1, 1000)));
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR)
            failed("poll", errno);
    }
}

int make(int family) {
    const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        failed("socket", errno);
    return fd;
}

void set_option(int fd, int level, int name) {
    const int on = 1;
    ::setsockopt(fd, level, name, &on, sizeof on);
}

} // namespace

std::string Address::text() const {
    char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "";
    ::getnameinfo(reinterpret_cast<const sockaddr *>(&storage), length, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV);
    return std::string(host) + " port " + port;
}

void Address::set_port(uint16_t port) {
    if (storage.ss_family == AF_INET6)
        reinterpret_cast<sockaddr_in6 *>(&storage)->sin6_port = htons(port);
    else
        reinterpret_cast<sockaddr_in *>(&storage)->sin_port = htons(port);
}

bool Address::is_loopback() const {
    if (storage.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6 *>(&storage)->sin6_addr);
    return (ntohl(reinterpret_cast<const sockaddr_in *>(&storage)->sin_addr.s_addr) >> 24) == 127;
}

Address resolve(const std::string &host, uint16_t port) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    const int code = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
    if (code != 0 || !found)
        fail(Code::Device, "the host '%s' of rank 0 is not known here: %s", shown(host).c_str(), ::gai_strerror(code));
    Address out;
    const addrinfo *chosen = found;
    for (const addrinfo *a = found; a; a = a->ai_next)
        if (a->ai_family == AF_INET) { // what clusters have everywhere
            chosen = a;
            break;
        }
    std::memcpy(&out.storage, chosen->ai_addr, chosen->ai_addrlen);
    out.length = static_cast<socklen_t>(chosen->ai_addrlen);
    ::freeaddrinfo(found);
    out.set_port(port);
    return out;
}

Socket &Socket::operator=(Socket &&o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
}

void Socket::close() {
    if (fd_ >= 0)
        ::close(fd_);
    fd_ = -1;
}

Socket Socket::listen(const Address &address) {
    Socket out(make(address.storage.ss_family));
    set_option(out.fd_, SOL_SOCKET, SO_REUSEADDR);
    if (::bind(out.fd_, reinterpret_cast<const sockaddr *>(&address.storage), address.length) != 0 ||
        ::listen(out.fd_, 1024) != 0)
        fail(Code::Device, "nobody can listen at %s: %s; choose another port", address.text().c_str(),
             error_text(errno).c_str());
    return out;
}

Socket Socket::connect(const Address &address, Deadline deadline) {
    for (;;) {
        Socket out(make(address.storage.ss_family));
        int code = 0;
        if (::connect(out.fd_, reinterpret_cast<const sockaddr *>(&address.storage), address.length) != 0)
            code = errno;
        if (code == EINPROGRESS && wait_for(out.fd_, POLLOUT, deadline)) {
            socklen_t length = sizeof code;
            ::getsockopt(out.fd_, SOL_SOCKET, SO_ERROR, &code, &length);
        }
        if (code == 0) {
            set_option(out.fd_, IPPROTO_TCP, TCP_NODELAY);
            return out;
        }
        if (std::chrono::steady_clock::now() > deadline)
            fail(Code::Device, "nobody listens at %s: %s", address.text().c_str(), error_text(code).c_str());
        std::this_thread::sleep_for(std::chrono::milliseconds(50)); // the process may not have started yet
    }
}

Socket Socket::accept(Address &from, Deadline deadline, const std::string &missing) {
    for (;;) {
        if (!wait_for(fd_, POLLIN, deadline))
            fail(Code::Device, "%s", missing.c_str());
        from.length = sizeof from.storage;
        Socket out(::accept4(fd_, reinterpret_cast<sockaddr *>(&from.storage), &from.length, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (out.fd_ >= 0) {
            set_option(out.fd_, IPPROTO_TCP, TCP_NODELAY);
            return out;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            failed("accept", errno);
    }
}

uint16_t Socket::port() const {
    Address own;
    own.length = sizeof own.storage;
    if (::getsockname(fd_, reinterpret_cast<sockaddr *>(&own.storage), &own.length) != 0)
        failed("getsockname", errno);
    return ntohs(own.storage.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6 *>(&own.storage)->sin6_port
                                                   : reinterpret_cast<sockaddr_in *>(&own.storage)->sin_port);
}

size_t Socket::send_some(const void *data, size_t bytes) {
    const ssize_t done = ::send(fd_, data, bytes, MSG_NOSIGNAL);
    if (done >= 0)
        return static_cast<size_t>(done);
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return 0;
    failed("the connection is broken", errno);
}

size_t Socket::receive_some(void *data, size_t bytes) {
    const ssize_t done = ::recv(fd_, data, bytes, 0);
    if (done > 0)
        return static_cast<size_t>(done);
    if (done == 0 && bytes)
        fail(Code::Device, "the connection was closed");
    if (done == 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return 0;
    failed("the connection is broken", errno);
}

void Socket::send_all(const void *data, size_t bytes, Deadline deadline) {
    const char *at = static_cast<const char *>(data);
    while (bytes) {
        const size_t done = send_some(at, bytes);
        at += done;
        bytes -= done;
        if (!done && !wait_for(fd_, POLLOUT, deadline))
            fail(Code::Device, "the other side takes nothing");
    }
}

void Socket::receive_all(void *data, size_t bytes, Deadline deadline) {
    char *at = static_cast<char *>(data);
    while (bytes) {
        const size_t done = receive_some(at, bytes);
        at += done;
        bytes -= done;
        if (!done && !wait_for(fd_, POLLIN, deadline))
            fail(Code::Device, "the other side sends nothing");
    }
}

} // namespace tessera::core::tcp
