// A server in miniature: clients ask, workers answer in batches on one shared graph, and the weights are replaced while
// they do. Ends when all requests are answered, or cleanly at SIGTERM.
//
//   server MODEL.tsr NEW.safetensors TRACE.json [workers [requests [untrusted]]]
#include <tessera/runtime.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

using namespace tessera;

namespace {

constexpr int64_t max_batch = 16, features = 32, classes = 8;

struct Request {
    std::vector<float> x;
    std::promise<std::vector<float>> scores;
};

// What clients leave and workers take.
class Queue {
  public:
    void push(Request request) {
        std::lock_guard<std::mutex> hold(lock_);
        if (closed_)
            request.scores.set_exception(std::make_exception_ptr(std::runtime_error("the server has stopped")));
        else
            waiting_.push_back(std::move(request));
        changed_.notify_one();
    }
    // Up to `max_batch` requests; none when the queue is closed and empty.
    std::vector<Request> take() {
        std::unique_lock<std::mutex> hold(lock_);
        changed_.wait(hold, [&] { return closed_ || !waiting_.empty(); });
        std::vector<Request> out;
        while (!waiting_.empty() && out.size() < max_batch) {
            out.push_back(std::move(waiting_.front()));
            waiting_.pop_front();
        }
        return out;
    }
    void close() {
        std::lock_guard<std::mutex> hold(lock_);
        closed_ = true;
        changed_.notify_all();
    }

  private:
    std::mutex lock_;
    std::condition_variable changed_;
    std::deque<Request> waiting_;
    bool closed_ = false;
};

RuntimeOptions with(const Allocator &memory, const Trace &trace) {
    // docs: runtime
    RuntimeOptions options;
    options.threads = 1;        // of each run: the workers are the parallelism
    options.allocator = memory; // all memory of all runs, counted
    options.trace = trace;      // told of every kernel
    // docs: end
    return options;
}

Graph load(const std::string &model, bool trusted) {
    if (trusted)
        return Graph::load(model);
    // docs: untrusted
    LoadOptions options;
    options.allow_native_code = false; // the portable form alone, or an error
    options.map = false;               // read the file: whoever can write to it cannot change what has been checked
    return Graph::load(model, options);
    // docs: end
}

class Server {
  public:
    Server(const std::string &model, bool trusted, const Allocator &memory, const Trace &trace)
        : graph_(load(model, trusted)), weights_(Weights::load(model)), runtime_(with(memory, trace)), memory_(memory) {
        weights_.bind(graph_);
    }

    void start(int workers) {
        for (int i = 0; i < workers; ++i)
            workers_.emplace_back([this] { work(); });
    }
    std::future<std::vector<float>> ask(std::vector<float> x) {
        Request request{std::move(x), {}};
        std::future<std::vector<float>> answer = request.scores.get_future();
        queue_.push(std::move(request));
        return answer;
    }
    std::string target() const { return graph_.target(); }
    // docs: swap
    // While requests are answered: each run has all the old or all the new weights.
    void replace_weights(const std::string &path) { weights_.swap(path); }
    // docs: end

    // Answers what waits, then stops; with `now`, what waits fails.
    void stop(bool now) {
        if (now)
            cancel_.cancel();
        queue_.close();
        for (std::thread &t : workers_)
            t.join();
        workers_.clear();
    }

  private:
    void work() {
        // docs: worker
        // Each worker has memory of its own, made once: the runs themselves allocate nothing.
        const Requirements need = graph_.requirements({{"B", max_batch}});
        RunOptions options;
        options.workspace = Workspace(need.workspace(runtime_.threads()), memory_);
        options.cancel = cancel_;
        Tensor x = create({max_batch, features}, DType::F32, memory_);
        Tensor y = create({max_batch, classes}, DType::F32, memory_);
        // docs: end
        for (std::vector<Request> batch = queue_.take(); !batch.empty(); batch = queue_.take())
            try {
                answer(batch, x, y, options);
            } catch (const Error &) { // such as TSR_CANCELLED_ERROR
                for (Request &request : batch)
                    request.scores.set_exception(std::current_exception());
            }
    }

    void answer(std::vector<Request> &batch, const Tensor &x, const Tensor &y, const RunOptions &options) {
        const auto count = static_cast<int64_t>(batch.size());
        for (int64_t i = 0; i < count; ++i)
            std::memcpy(x.data<float>() + i * features, batch[static_cast<size_t>(i)].x.data(), features * sizeof(float));
        // docs: run
        // The first rows of the worker's memory, run with whatever weights are current.
        Tensor in = Tensor::from_blob(x.data<float>(), {count, features}, DType::F32);
        Tensor out = Tensor::from_blob(y.data<float>(), {count, classes}, DType::F32);
        runtime_.submit(graph_, {{"x", in}}, {{"scores", out}}, options).wait();
        // docs: end
        for (int64_t i = 0; i < count; ++i) {
            const float *row = y.data<float>() + i * classes;
            batch[static_cast<size_t>(i)].scores.set_value(std::vector<float>(row, row + classes));
        }
    }

    Graph graph_;
    Weights weights_;
    Runtime runtime_;
    Allocator memory_;
    CancelToken cancel_;
    Queue queue_;
    std::vector<std::thread> workers_;
};

std::atomic<bool> terminated{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

std::vector<float> question(int number) {
    std::vector<float> x(features);
    for (size_t i = 0; i < x.size(); ++i)
        x[i] = static_cast<float>((number * 31 + static_cast<int>(i) * 7) % 19) / 19.0f - 0.5f;
    return x;
}

// Up to the rounding of batches of other sizes; the two sets of weights differ by far more.
bool equal(const std::vector<float> &a, const std::vector<float> &b) {
    for (size_t i = 0; i < a.size(); ++i)
        if (!(std::fabs(a[i] - b[i]) <= 1e-5f))
            return false;
    return true;
}

// The answers to `count` questions with one set of weights.
std::vector<std::vector<float>> answers(Server &server, int count) {
    std::vector<std::vector<float>> out;
    for (int i = 0; i < count; ++i)
        out.push_back(server.ask(question(i)).get());
    return out;
}

int serve(const std::string &model, const std::string &fresh, const std::string &trace_path, int workers, int requests,
          bool trusted) {
    constexpr int questions = 64, clients = 4;
    Allocator memory;
    Trace trace;
    Server server(model, trusted, memory, trace);
    server.start(workers);
    const auto before = answers(server, questions);
    server.replace_weights(fresh);
    const auto after = answers(server, questions);

    std::atomic<int> old_weights{0}, new_weights{0}, wrong{0}, refused{0};
    std::vector<std::thread> threads;
    for (int c = 0; c < clients; ++c)
        threads.emplace_back([&, c] {
            for (int i = c; i < requests && !terminated; i += clients) {
                const size_t asked = static_cast<size_t>(i % questions);
                try {
                    const std::vector<float> scores = server.ask(question(i % questions)).get();
                    ++(equal(scores, before[asked]) ? old_weights : equal(scores, after[asked]) ? new_weights : wrong);
                } catch (const std::exception &) {
                    ++refused;
                }
            }
        });
    std::atomic<bool> swapping{true};
    int swaps = 0;
    std::thread swapper([&] {
        for (; swapping; ++swaps) {
            server.replace_weights(swaps % 2 ? fresh : model);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    for (std::thread &t : threads)
        t.join();
    swapping = false;
    swapper.join();
    server.stop(terminated);

    // docs: trace
    trace.save(trace_path); // for ui.perfetto.dev or chrome://tracing
    // docs: end
    std::printf("old %d new %d mixed %d refused %d swaps %d\n", old_weights.load(), new_weights.load(), wrong.load(),
                refused.load(), swaps);
    const AllocatorStatistics used = memory.statistics();
    std::printf("ran %s with ABI %d\n", server.target().c_str(), tsr_abi_version());
    std::printf("peak %llu bytes in %llu allocations; %lld events in %s\n", static_cast<unsigned long long>(used.peak_bytes),
                static_cast<unsigned long long>(used.allocations), static_cast<long long>(trace.count()),
                trace_path.c_str());
    return wrong == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 4) {
        std::fprintf(stderr, "server MODEL.tsr NEW.safetensors TRACE.json [workers [requests [untrusted]]]\n");
        return 2;
    }
    // docs: version
    if (tsr_abi_version() < TSR_ABI_VERSION) { // of the library that was found, and of the headers of this build
        std::fprintf(stderr, "libtessera.so has ABI %d, this program was built for %d\n", tsr_abi_version(), TSR_ABI_VERSION);
        return 1;
    }
    // docs: end
    std::signal(SIGTERM, [](int) { terminated = true; });
    try {
        const int workers = argc > 4 ? std::atoi(argv[4]) : 4, requests = argc > 5 ? std::atoi(argv[5]) : 2000;
        const bool trusted = argc < 7 || std::strcmp(argv[6], "untrusted") != 0;
        return serve(argv[1], argv[2], argv[3], workers, requests, trusted);
    } catch (const Error &error) {
        std::fprintf(stderr, "server: %s\n", error.what());
        return 1;
    }
}
