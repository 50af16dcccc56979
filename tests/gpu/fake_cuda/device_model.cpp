#include "device_model.h"

#include <cstdlib>
#include <cstring>

namespace fake {

Model &Model::get() {
    static Model *model = new Model; // used until the process has ended
    return *model;
}

Model::Model() {
    if (const char *count = std::getenv("FAKE_CUDA_DEVICES"))
        devices = std::atoi(count);
    if (const char *bytes = std::getenv("FAKE_CUDA_MEMORY"))
        memory = static_cast<size_t>(std::atoll(bytes));
    for (int i = 0; i < devices; ++i) {
        default_streams[i] = std::make_unique<Stream>();
        default_streams[i]->device = i;
    }
}

void Model::put(Stream &stream, Operation operation) {
    if (stream.capture) {
        stream.capture->operations.push_back(std::move(operation));
        return;
    }
    stream.queue.push_back(std::move(operation));
    ++stream.put;
}

bool Model::step(Stream &stream) {
    if (stream.queue.empty() || stream.running)
        return false;
    Operation next = std::move(stream.queue.front());
    stream.queue.pop_front();
    stream.running = true; // a wait for its own later point would be a deadlock
    if (!sticky.count(stream.device))
        next.work();
    stream.running = false;
    ++stream.done;
    return true;
}

void Model::run(Stream &stream, uint64_t sequence) {
    while (stream.done < sequence)
        if (!step(stream)) {
            misuse("a stream waits for itself");
            return;
        }
}

Block *Model::find(uintptr_t address) {
    auto next = blocks.upper_bound(address);
    if (next == blocks.begin())
        return nullptr;
    --next;
    return address < next->first + next->second.bytes || address == next->first ? &next->second : nullptr;
}

const Block *Model::block_of(uintptr_t address) const { return const_cast<Model *>(this)->find(address); }

bool Model::is_pinned(uintptr_t address) const {
    auto next = pinned.upper_bound(address);
    if (next == pinned.begin())
        return false;
    --next;
    return address < next->first + next->second;
}

size_t Model::live_blocks() const {
    size_t count = 0;
    for (const auto &entry : blocks)
        count += !entry.second.released;
    return count;
}

int Model::allocate(uintptr_t &address, size_t bytes, int device, Stream &stream) {
    if (bytes == 0)
        return invalid_value;
    if (used + bytes > memory)
        return out_of_memory;
    uintptr_t found = 0;
    // As in a real pool: what was released in this stream's order comes back at once, other memory when it is free.
    for (auto &[start, block] : blocks)
        if (block.released && block.bytes == bytes && block.device == device && (block.order == &stream || !block.pending)) {
            found = start;
            break;
        }
    if (!found) {
        found = reinterpret_cast<uintptr_t>(std::aligned_alloc(512, (bytes + 511) / 512 * 512));
        blocks[found].bytes = bytes;
        blocks[found].device = device;
    }
    blocks[found].released = false;
    ++blocks[found].pending;
    used += bytes;
    address = found;
    put(stream, {"allocate", [this, found, bytes] {
                     blocks[found].alive = true;
                     --blocks[found].pending;
                     std::memset(reinterpret_cast<void *>(found), 0xA5, bytes);
                 }});
    return success;
}

int Model::release(uintptr_t address, Stream &stream) {
    auto place = blocks.find(address);
    if (place == blocks.end() || place->second.released) {
        misuse("release of an address that is not allocated");
        return invalid_value;
    }
    Block &block = place->second;
    block.released = true;
    ++block.pending;
    block.order = &stream;
    used -= block.bytes;
    put(stream, {"release", [&block, address] {
                     block.alive = false;
                     --block.pending;
                     std::memset(reinterpret_cast<void *>(address), 0xDD, block.bytes);
                 }});
    return success;
}

bool Model::access(uintptr_t address, size_t bytes, int device, const char *what) {
    if (bytes == 0)
        return true;
    auto next = blocks.upper_bound(address);
    bool good = next != blocks.begin();
    if (good) {
        --next;
        const Block &b = next->second;
        good = b.alive && b.device == device && address + bytes <= next->first + b.bytes;
    }
    if (!good) {
        misuse(std::string(what) + ": access to memory that is not allocated at this point of the stream");
        sticky[device] = illegal_address;
    }
    return good;
}

} // namespace fake
