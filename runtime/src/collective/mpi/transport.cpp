#include "collective/mpi/transport.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <new>

#include "collective/mpi/library.h"
#include "core/error.h"

namespace tessera::core {

namespace {

constexpr int data_tag = 7001, note_tag = 7002;

// Memory that outlives everything.
void keep_for_ever(std::shared_ptr<void> memory) noexcept {
    static std::mutex lock;
    static auto *kept = new std::vector<std::shared_ptr<void>>;
    try {
        std::lock_guard<std::mutex> hold(lock);
        kept->push_back(memory);
    } catch (const std::bad_alloc &) {
        new (std::nothrow) std::shared_ptr<void>(std::move(memory));
    }
}

class MpiTransport : public Transport {
  public:
    explicit MpiTransport(const MpiOptions &options)
        : Transport(options.timeout_ms), mpi_(mpi::library(options.library)), piece_(options.piece_bytes) {
        initialize(options.communicator != nullptr);
        mpi::Comm given = options.communicator ? reinterpret_cast<mpi::Comm>(options.communicator) : mpi::comm_world();
        mpi_.check(mpi_.Comm_dup(given, &comm_), "MPI_Comm_dup");
        mpi_.check(mpi_.Comm_set_errhandler(comm_, mpi::errors_return()), "MPI_Comm_set_errhandler");
        mpi_.check(mpi_.Comm_rank(comm_, &rank_), "MPI_Comm_rank");
        mpi_.check(mpi_.Comm_size(comm_, &size_), "MPI_Comm_size");
        expect_note();
    }

    ~MpiTransport() override {
        // What MPI may still write, or read.
        if (in_)
            keep_for_ever(std::move(in_));
        if (!notes_.empty())
            keep_for_ever(std::make_shared<std::list<Sent>>(std::move(notes_)));
    }

    void keep(std::shared_ptr<void> memory) noexcept override {
        if (failed())
            keep_for_ever(std::move(memory));
    }

    int64_t rank() const override { return rank_; }
    int64_t size() const override { return size_; }

  protected:
    void start(const std::vector<Outgoing> &out, const std::vector<Incoming> &in) override {
        pending_.clear();
        for (const Incoming &message : in)
            for_pieces(message.bytes, [&](size_t first, int count) {
                pending_.push_back({mpi::request_null(), message.from, true});
                mpi_.check(mpi_.Irecv(static_cast<char *>(message.data) + first, count, mpi::byte(),
                                      static_cast<int>(message.from), data_tag, comm_, &pending_.back().request),
                           "MPI_Irecv");
            });
        for (const Outgoing &message : out)
            for_pieces(message.bytes, [&](size_t first, int count) {
                pending_.push_back({mpi::request_null(), message.to, false});
                mpi_.check(mpi_.Isend(static_cast<const char *>(message.data) + first, count, mpi::byte(),
                                      static_cast<int>(message.to), data_tag, comm_, &pending_.back().request),
                           "MPI_Isend");
            });
    }

    bool progress(std::vector<int64_t> &waiting) override {
        waiting.clear();
        const size_t before = pending_.size();
        size_t kept = 0;
        for (size_t i = 0; i < pending_.size(); ++i) {
            int done = 0;
            mpi_.check(mpi_.Test(&pending_[i].request, &done, nullptr), "MPI_Test");
            if (!done)
                pending_[kept++] = pending_[i];
        }
        pending_.resize(kept);
        for (const Pending &p : pending_)
            if (!std::count(waiting.begin(), waiting.end(), p.other))
                waiting.push_back(p.other);
        return kept < before;
    }

    void abandon() noexcept override {
        for (Pending &p : pending_) {
            if (p.receives && p.request != mpi::request_null())
                mpi_.Cancel(&p.request);
            if (p.request != mpi::request_null())
                mpi_.Request_free(&p.request);
        }
        pending_.clear();
    }

    void send_note(int64_t to, Note note, const std::string &text) override {
        notes_.emplace_back();
        Sent &sent = notes_.back();
        std::memcpy(sent.data, &note, sizeof note);
        std::memcpy(sent.data + sizeof note, text.data(), text.size());
        mpi_.check(mpi_.Isend(sent.data, static_cast<int>(sizeof note + text.size()), mpi::byte(), static_cast<int>(to),
                              note_tag, comm_, &sent.request),
                   "MPI_Isend");
    }

    bool poll() override {
        for (auto sent = notes_.begin(); sent != notes_.end();) {
            int done = 0;
            mpi_.check(mpi_.Test(&sent->request, &done, nullptr), "MPI_Test");
            sent = done ? notes_.erase(sent) : std::next(sent);
        }
        int done = 0;
        mpi::Status status{};
        mpi_.check(mpi_.Test(&note_request_, &done, &status), "MPI_Test");
        if (!done)
            return false;
        Note note;
        std::memcpy(&note, in_.get(), sizeof note);
        // Texts end with a zero, as the memory was clear.
        noted(status.source, note, in_.get() + sizeof note);
        expect_note();
        return true;
    }

    void disconnect(bool cleanly) noexcept override {
        int finalized = 0;
        mpi_.Finalized(&finalized);
        if (!cleanly || finalized)
            return; // MPI would wait for those that are not there
        mpi_.Cancel(&note_request_);
        for (int done = 0; !done;)
            if (mpi_.Test(&note_request_, &done, nullptr) != mpi::success)
                break;
        in_.reset();
        for (Sent &sent : notes_)
            for (int done = 0; !done;)
                if (mpi_.Test(&sent.request, &done, nullptr) != mpi::success)
                    break;
        notes_.clear();
        mpi_.Comm_free(&comm_);
        if (initialized_here_)
            mpi_.Finalize();
    }

  private:
    struct Pending {
        mpi::Request request;
        int64_t other;
        bool receives;
    };
    struct Sent {
        mpi::Request request = mpi::request_null();
        char data[sizeof(Note) + note_bytes];
    };

    void initialize(bool given) {
        int there = 0, gone = 0, threads = 0;
        mpi_.check(mpi_.Finalized(&gone), "MPI_Finalized");
        if (gone)
            core::fail(Code::Device, "MPI has been finalized in this process; it cannot be used again");
        mpi_.check(mpi_.Initialized(&there), "MPI_Initialized");
        if (given && !there)
            core::fail(Code::Argument, "the communicator is given, but MPI is not initialized in this process (or is another "
                       "library than the one Tessera has loaded); call MPI_Init_thread first");
        if (!there) {
            mpi_.check(mpi_.Init_thread(nullptr, nullptr, mpi::thread_multiple, &threads), "MPI_Init_thread");
            initialized_here_ = true;
        } else {
            mpi_.check(mpi_.Query_thread(&threads), "MPI_Query_thread");
        }
        if (threads < mpi::thread_serialized)
            core::fail(Code::Device, "MPI was initialized for one thread only; initialize it with MPI_Init_thread and at "
                       "least MPI_THREAD_SERIALIZED");
    }

    template <class Piece> void for_pieces(size_t bytes, const Piece &piece) const {
        for (size_t first = 0; first < bytes; first += static_cast<size_t>(piece_))
            piece(first, static_cast<int>(std::min(static_cast<size_t>(piece_), bytes - first)));
        if (bytes == 0)
            piece(0, 0);
    }

    void expect_note() {
        if (!in_)
            in_.reset(new char[sizeof(Note) + note_bytes + 1]);
        std::memset(in_.get(), 0, sizeof(Note) + note_bytes + 1);
        mpi_.check(mpi_.Irecv(in_.get(), static_cast<int>(sizeof(Note) + note_bytes), mpi::byte(), mpi::any_source,
                              note_tag, comm_, &note_request_),
                   "MPI_Irecv");
    }

    const mpi::Library &mpi_;
    const int64_t piece_;
    mpi::Comm comm_ = mpi::comm_null();
    int rank_ = 0, size_ = 0;
    bool initialized_here_ = false;
    std::vector<Pending> pending_;
    std::list<Sent> notes_; // whose memory MPI reads
    std::shared_ptr<char[]> in_;
    mpi::Request note_request_ = mpi::request_null();
};

} // namespace

std::shared_ptr<Transport> make_mpi_transport(const MpiOptions &options) {
    if (options.piece_bytes < 1 || options.piece_bytes > (int64_t{1} << 30))
        fail(Code::Argument, "messages go in pieces of 1 to 2^30 bytes, not %lld", static_cast<long long>(options.piece_bytes));
    return std::make_shared<MpiTransport>(options);
}

} // namespace tessera::core
