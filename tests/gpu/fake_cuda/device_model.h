// A model of GPUs for tests: memory in host RAM, streams whose work waits until something waits for it.
//
// Work is as late as the rules of CUDA allow, and streams advance one after the other: a copy that was not waited for,
// or a stream that did not wait for another's event, shows as a wrong number. Every access is checked against the blocks
// that are alive at that point of the stream, on the right device; what a real driver would leave undefined is noted as
// misuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace fake {

enum : int {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    no_device = 100,
    invalid_device = 101,
    no_binary = 209,
    invalid_context = 201,
    invalid_ptx = 218,
    invalid_handle = 400,
    not_found = 500,
    not_ready = 600,
    illegal_address = 700,
    capture_unsupported = 900,
    update_failure = 910,
};

struct Stream;

struct Operation {
    std::string kind;            // what a graph update compares: "copy", "launch add 3x1x1 …"
    std::function<void()> work;
};

// A point in a stream; shared by the events recorded there.
struct Point {
    Stream *stream;
    uint64_t sequence;
};

struct Stream {
    int device = 0;
    std::deque<Operation> queue;
    uint64_t put = 0, done = 0;
    bool running = false;
    struct Graph *capture = nullptr;
};

struct Graph {
    std::vector<Operation> operations;
};

struct Event {
    int device = 0;
    bool timed = false;
    std::unique_ptr<Point> point; // none: never recorded
};

struct Block {
    size_t bytes = 0;
    int device = 0;
    bool alive = false;          // as far as work has been executed
    bool released = false;       // a release has been asked for
    Stream *order = nullptr;     // of the release
    int pending = 0;             // allocations and releases that were asked for and not executed
};

class Model {
  public:
    static Model &get();

    std::recursive_mutex lock;
    int devices = 2;
    size_t memory = size_t{1} << 30; // of a device
    std::set<Stream *> streams;
    std::map<void *, std::shared_ptr<void>> kept; // what handles stand for, until it is destroyed
    std::map<int, std::unique_ptr<Stream>> default_streams;
    std::map<uintptr_t, Block> blocks; // by address
    std::map<uintptr_t, size_t> pinned;
    std::map<int, int> sticky;         // device → error that spoils it
    std::map<std::string, int64_t> calls;
    std::map<std::string, int> failures; // function → result of its next call
    std::vector<std::string> misuses;
    size_t used = 0;

    template <class T> T *keep(T *object) {
        kept.emplace(object, std::shared_ptr<T>(object));
        return object;
    }
    void misuse(const std::string &what) { misuses.push_back(what); }
    // The stream behind a handle; null when there is none. 0: the current device's default stream.
    Stream *stream(void *handle);
    void put(Stream &stream, Operation operation);
    // Executes the stream's work up to `sequence`.
    void run(Stream &stream, uint64_t sequence);
    void run(Stream &stream) { run(stream, stream.put); }
    bool step(Stream &stream);

    int allocate(uintptr_t &address, size_t bytes, int device, Stream &stream);
    int release(uintptr_t address, Stream &stream);
    // Whether [address, +bytes) lies in a block of the device that is alive now; notes misuse if not.
    bool access(uintptr_t address, size_t bytes, int device, const char *what);
    const Block *block_of(uintptr_t address) const;
    bool is_pinned(uintptr_t address) const;
    size_t live_blocks() const;

  private:
    Model();
    Block *find(uintptr_t address);
};

// A kernel that the model can execute. `parameters`: 'p' address, 'l' i64, 'i' i32, 'm' tensor map.
struct Arguments {
    std::vector<std::vector<char>> values;
    int device = 0;
    uint32_t blocks = 1, threads = 1;

    template <class T> T value(size_t i) const {
        T out;
        __builtin_memcpy(&out, values[i].data(), sizeof out);
        return out;
    }
    // The elements at an address argument; null, and a fault of the device, when they are not all there.
    template <class T> T *elements(size_t i, int64_t count, const char *what) const {
        auto address = value<uintptr_t>(i);
        return Model::get().access(address, static_cast<size_t>(count) * sizeof(T), device, what)
                   ? reinterpret_cast<T *>(address)
                   : nullptr;
    }
};

struct Kernel {
    const char *name;
    const char *parameters;
    void (*run)(const Arguments &);
};

const Kernel *find_kernel(const std::string &name);

// What the model keeps in a tensor map.
struct ModelTensorMap {
    uint64_t base, rank, shape[2], stride, box[2], type;
};

} // namespace fake
