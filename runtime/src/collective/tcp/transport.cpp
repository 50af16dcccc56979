#include "collective/tcp/transport.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <deque>

#include "collective/tcp/socket.h"
#include "core/error.h"

namespace tessera::core {

namespace {

using Number = long long;

constexpr char magic[8] = {'T', 'S', 'R', 'T', 'C', 'P', '0', '1'};

// What a process says first when it connects.
struct Hello {
    char magic[8];
    uint32_t rank, size;
    uint32_t port; // where it listens
    uint32_t reserved;
};

struct Header {
    uint32_t type; // 0: data; else a note
    uint32_t reserved;
    uint64_t bytes;
};

// A stretch of a connection's outgoing bytes.
struct Segment {
    std::string own;            // or
    const char *data = nullptr; // the caller's memory
    size_t bytes = 0, sent = 0;

    const char *begin() const { return data ? data : own.data(); }
};

struct Peer {
    tcp::Socket socket;
    std::deque<Segment> out;
    std::deque<Incoming> expected;
    Header header{};
    size_t header_bytes = 0, body_bytes = 0;
    std::string note;
    bool dropping = false; // the rest of a message that nobody wants any more

    // The next message is here, but nobody has asked for it yet.
    bool is_held() const { return header_bytes == sizeof header && header.type == 0 && expected.empty() && !dropping; }
};

class TcpTransport : public Transport {
  public:
    explicit TcpTransport(const TcpOptions &options)
        : Transport(options.timeout_ms), rank_(options.rank), size_(options.size), peers_(static_cast<size_t>(size_)) {
        const auto deadline = Clock::now() + std::chrono::milliseconds(options.timeout_ms);
        if (size_ == 1)
            return;
        const tcp::Address root = tcp::resolve(options.host, static_cast<uint16_t>(options.port));
        if (rank_ == 0)
            gather(root, static_cast<uint16_t>(options.port), deadline);
        else
            join(root, deadline);
    }

    int64_t rank() const override { return rank_; }
    int64_t size() const override { return size_; }

  protected:
    void start(const std::vector<Outgoing> &out, const std::vector<Incoming> &in) override {
        for (const Incoming &message : in)
            peers_[static_cast<size_t>(message.from)].expected.push_back(message);
        for (const Outgoing &message : out)
            enqueue(peers_[static_cast<size_t>(message.to)], 0, message.data, message.bytes, false);
    }

    bool progress(std::vector<int64_t> &waiting) override {
        const bool moved = pump();
        waiting.clear();
        for (int64_t i = 0; i < size_; ++i) {
            const Peer &peer = peers_[static_cast<size_t>(i)];
            if (!peer.expected.empty() || !peer.out.empty())
                waiting.push_back(i);
        }
        return moved;
    }

    void abandon() noexcept override {
        for (Peer &peer : peers_) {
            if (!peer.expected.empty() && peer.header_bytes == sizeof peer.header && peer.header.type == 0)
                peer.dropping = true;
            peer.expected.clear();
            try {
                keep_what_was_begun(peer);
            } catch (const std::exception &) {
                peer.socket.close();
            }
        }
    }

    void send_note(int64_t to, Note note, const std::string &text) override {
        Peer &peer = peers_[static_cast<size_t>(to)];
        if (!peer.socket.is_open())
            return;
        enqueue(peer, static_cast<uint32_t>(note), text.data(), text.size(), true);
        send(to);
    }

    bool poll() override {
        pump();
        const bool found = has_notes_;
        has_notes_ = false;
        return found;
    }

    void pause(int64_t idle) override {
        if (idle < 20)
            return;
        std::vector<pollfd> waiting;
        for (const Peer &peer : peers_)
            if (peer.socket.is_open()) {
                const int events = (peer.is_held() ? 0 : POLLIN) | (peer.out.empty() ? 0 : POLLOUT);
                if (events)
                    waiting.push_back({peer.socket.fd(), static_cast<short>(events), 0});
            }
        ::poll(waiting.data(), waiting.size(), 20);
    }

    void ignore_data() noexcept override { ignores_data_ = true; }

    void disconnect(bool) noexcept override {
        const auto deadline = Clock::now() + std::chrono::seconds(1);
        try { // what was said last
            while (std::any_of(peers_.begin(), peers_.end(), [](const Peer &p) { return !p.out.empty(); }) &&
                   Clock::now() < deadline) {
                pump();
                pause(100);
            }
        } catch (const std::exception &) {
        }
        for (Peer &peer : peers_)
            peer.socket.close();
    }

  private:
    // Rank 0: every other process connects, says where it listens, and is told where the others do.
    void gather(const tcp::Address &root, uint16_t port, tcp::Deadline deadline) {
        tcp::Socket listener = tcp::Socket::listen(everywhere(root, port));
        std::vector<tcp::Address> table(static_cast<size_t>(size_));
        for (int64_t found = 1; found < size_; ++found)
            greet(listener, 0, deadline, &table);
        for (int64_t other = 1; other < size_; ++other)
            peers_[static_cast<size_t>(other)].socket.send_all(table.data(), table.size() * sizeof table[0], deadline);
    }

    void join(const tcp::Address &root, tcp::Deadline deadline) {
        Peer &first = peers_[0];
        try {
            first.socket = tcp::Socket::connect(root, deadline);
        } catch (const Error &error) {
            core::fail(Code::Device, "rank %lld does not find rank 0: %s", Number(rank_), error.message().c_str());
        }
        tcp::Socket listener = tcp::Socket::listen(everywhere(root, 0));
        say_hello(first.socket, listener.port(), deadline);
        std::vector<tcp::Address> table(static_cast<size_t>(size_));
        try {
            first.socket.receive_all(table.data(), table.size() * sizeof table[0], deadline);
        } catch (const Error &error) {
            core::fail(Code::Device, "rank 0 has not told rank %lld where the others are: %s", Number(rank_),
                       error.message().c_str());
        }
        for (int64_t other = 1; other < rank_; ++other) {
            Peer &peer = peers_[static_cast<size_t>(other)];
            peer.socket = tcp::Socket::connect(table[static_cast<size_t>(other)], deadline);
            say_hello(peer.socket, 0, deadline);
        }
        for (int64_t found = rank_ + 1; found < size_; ++found)
            greet(listener, rank_, deadline, nullptr);
    }

    // Where to listen: on this machine only when rank 0 is there, else on all its networks.
    static tcp::Address everywhere(const tcp::Address &root, uint16_t port) {
        tcp::Address out = root;
        if (!root.is_loopback()) {
            out = tcp::Address{};
            out.storage.ss_family = root.storage.ss_family;
            out.length = root.length;
        }
        out.set_port(port);
        return out;
    }

    void say_hello(tcp::Socket &socket, uint16_t port, tcp::Deadline deadline) const {
        Hello hello{};
        std::memcpy(hello.magic, magic, sizeof magic);
        hello.rank = static_cast<uint32_t>(rank_);
        hello.size = static_cast<uint32_t>(size_);
        hello.port = port;
        socket.send_all(&hello, sizeof hello, deadline);
    }

    // Takes the next process that connects; it must be one of a higher rank than `above`.
    void greet(tcp::Socket &listener, int64_t above, tcp::Deadline deadline, std::vector<tcp::Address> *table) {
        std::string missing = format("rank %lld waits for others that have not connected:", Number(rank_));
        for (int64_t other = above + 1; other < size_; ++other)
            if (!peers_[static_cast<size_t>(other)].socket.is_open())
                missing += format(" %lld", Number(other));
        for (;;) {
            tcp::Address from;
            tcp::Socket socket = listener.accept(from, deadline, missing);
            Hello hello{};
            try {
                socket.receive_all(&hello, sizeof hello, std::min(deadline, Clock::now() + std::chrono::seconds(5)));
            } catch (const Error &) {
                continue; // somebody else, who tries ports
            }
            if (std::memcmp(hello.magic, magic, sizeof magic) != 0)
                continue;
            if (hello.size != static_cast<uint32_t>(size_) || hello.rank <= static_cast<uint32_t>(above) ||
                hello.rank >= hello.size || peers_[hello.rank].socket.is_open())
                core::fail(Code::Device, "a process connects as rank %u of %u; this one is rank %lld of %lld%s", hello.rank,
                           hello.size, Number(rank_), Number(size_),
                           hello.size == static_cast<uint32_t>(size_) ? ", and has that rank already" : "");
            peers_[hello.rank].socket = std::move(socket);
            if (table) {
                from.set_port(static_cast<uint16_t>(hello.port));
                (*table)[hello.rank] = from;
            }
            return;
        }
    }

    static void enqueue(Peer &peer, uint32_t type, const void *data, size_t bytes, bool copy) {
        const Header header{type, 0, bytes};
        Segment head;
        head.own.assign(reinterpret_cast<const char *>(&header), sizeof header);
        if (copy)
            head.own.append(static_cast<const char *>(data), bytes);
        head.bytes = head.own.size();
        peer.out.push_back(std::move(head));
        if (!copy && bytes) {
            Segment body;
            body.data = static_cast<const char *>(data);
            body.bytes = bytes;
            peer.out.push_back(std::move(body));
        }
    }

    // Of what was to be sent, messages of which a part has gone must go to their end, or no note could follow.
    static void keep_what_was_begun(Peer &peer) {
        std::deque<Segment> kept;
        bool begun = false;
        for (Segment &s : peer.out) {
            const bool is_body = s.data != nullptr;
            if (!is_body)
                begun = s.sent > 0 || !is_data(s);
            else
                begun = begun || s.sent > 0;
            if (!begun)
                continue;
            if (is_body) {
                s.own.assign(s.data + s.sent, s.bytes - s.sent);
                s.data = nullptr;
                s.bytes = s.own.size();
                s.sent = 0;
            }
            kept.push_back(std::move(s));
        }
        peer.out = std::move(kept);
    }

    static bool is_data(const Segment &s) {
        uint32_t type = 0;
        std::memcpy(&type, s.own.data(), sizeof type);
        return type == 0;
    }

    bool pump() {
        bool moved = false;
        for (int64_t i = 0; i < size_; ++i) {
            if (!peers_[static_cast<size_t>(i)].socket.is_open())
                continue;
            moved = send(i) || moved;
            moved = receive(i) || moved;
        }
        return moved;
    }

    void drop(int64_t from, const std::string &why) {
        Peer &peer = peers_[static_cast<size_t>(from)];
        peer.socket.close();
        peer.out.clear();
        lost(from, why);
        has_notes_ = true;
    }

    bool send(int64_t to) {
        Peer &peer = peers_[static_cast<size_t>(to)];
        bool moved = false;
        try {
            while (!peer.out.empty()) {
                Segment &s = peer.out.front();
                const size_t done = peer.socket.send_some(s.begin() + s.sent, s.bytes - s.sent);
                s.sent += done;
                moved = moved || done;
                if (s.sent < s.bytes)
                    break;
                peer.out.pop_front();
            }
        } catch (const Error &) { // what it has said before it went is read first
            peer.out.clear();
        }
        return moved;
    }

    bool receive(int64_t from) {
        Peer &peer = peers_[static_cast<size_t>(from)];
        bool moved = false;
        try {
            peer.dropping = peer.dropping || (ignores_data_ && peer.is_held());
            while (peer.socket.is_open() && !peer.is_held()) {
                const size_t done = receive_step(from, peer);
                if (!done)
                    break;
                moved = true;
                peer.dropping = peer.dropping || (ignores_data_ && peer.is_held());
            }
        } catch (const Error &error) {
            drop(from, error.message());
        }
        return moved;
    }

    // Some bytes of the present message, or its end: how much went on.
    size_t receive_step(int64_t from, Peer &peer) {
        if (peer.header_bytes < sizeof peer.header) {
            const size_t done = peer.socket.receive_some(reinterpret_cast<char *>(&peer.header) + peer.header_bytes,
                                                         sizeof peer.header - peer.header_bytes);
            peer.header_bytes += done;
            if (peer.header_bytes == sizeof peer.header)
                begin_body(from, peer);
            return done;
        }
        const size_t left = static_cast<size_t>(peer.header.bytes) - peer.body_bytes;
        if (left) {
            char dropped[4096];
            const bool is_data = peer.header.type == 0;
            char *target = peer.dropping ? dropped
                           : is_data     ? static_cast<char *>(peer.expected.front().data) + peer.body_bytes
                                         : peer.note.data() + peer.body_bytes;
            if (is_data && !peer.dropping && peer.body_bytes == 0)
                check_size(from, peer);
            const size_t done = peer.socket.receive_some(target, peer.dropping ? std::min(left, sizeof dropped) : left);
            peer.body_bytes += done;
            if (peer.body_bytes < peer.header.bytes)
                return done;
        } else if (peer.header.type == 0 && !peer.dropping) {
            check_size(from, peer);
        }
        end_message(from, peer);
        return 1;
    }

    static void begin_body(int64_t from, Peer &peer) {
        peer.body_bytes = 0;
        peer.note.clear();
        if (peer.header.type == 0)
            return;
        if (peer.header.bytes > note_bytes)
            core::fail(Code::Device, "rank %lld sends what is no message", Number(from));
        peer.note.resize(static_cast<size_t>(peer.header.bytes));
    }

    static void check_size(int64_t from, const Peer &peer) {
        if (peer.header.bytes != peer.expected.front().bytes)
            core::fail(Code::Device, "rank %lld sends %llu bytes where %zu are expected", Number(from),
                       static_cast<unsigned long long>(peer.header.bytes), peer.expected.front().bytes);
    }

    void end_message(int64_t from, Peer &peer) {
        const Header header = peer.header;
        peer.header_bytes = 0;
        if (header.type == 0) {
            if (!peer.dropping)
                peer.expected.pop_front();
            peer.dropping = false;
            return;
        }
        noted(from, static_cast<Note>(header.type), peer.note);
        has_notes_ = true;
    }

    const int64_t rank_, size_;
    std::vector<Peer> peers_; // by rank; this process's own is never open
    bool has_notes_ = false, ignores_data_ = false;
};

} // namespace

std::shared_ptr<Transport> make_tcp_transport(const TcpOptions &options) {
    if (options.size < 1 || options.rank < 0 || options.rank >= options.size)
        fail(Code::Argument, "there is no rank %lld of %lld processes", Number(options.rank), Number(options.size));
    if (options.port < 1 || options.port > 65535)
        fail(Code::Argument, "%lld is no port; use 1 to 65535", Number(options.port));
    return std::make_shared<TcpTransport>(options);
}

} // namespace tessera::core
