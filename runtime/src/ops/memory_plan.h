// Where the values of a program lie in one block of memory, by their lifetimes.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera::portable {

// Gives places in the order of use; a place that was let go is used again. Places are multiples of 64 bytes.
class MemoryPlan {
  public:
    // The offset of `bytes` bytes, in the smallest gap that holds them; -1 for none.
    int64_t take(int64_t bytes);
    // Lets a place go that `take` gave for so many bytes.
    void release(int64_t offset, int64_t bytes);
    // What the block must hold.
    int64_t bytes() const { return bytes_; }

  private:
    struct Gap {
        int64_t offset, bytes;
    };
    std::vector<Gap> gaps_; // by offset; no two touch
    int64_t bytes_ = 0;
};

} // namespace tessera::portable
