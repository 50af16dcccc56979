// Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011. Counter-based: the numbers of an element depend on its index alone.
#pragma once

#include <array>
#include <cstdint>

namespace tessera::portable {

class Philox {
  public:
    Philox(uint64_t seed, uint64_t counter, uint32_t id)
        : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, id_(id),
          counter_(static_cast<uint32_t>(counter)) {}

    // The four words of an element.
    std::array<uint32_t, 4> operator()(uint64_t element) const {
        std::array<uint32_t, 4> x = {static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32), id_,
                                     counter_};
        uint32_t key0 = key_[0], key1 = key_[1];
        for (int round = 0; round < 10; ++round) {
            const uint64_t a = uint64_t{0xD2511F53} * x[0], b = uint64_t{0xCD9E8D57} * x[2];
            x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(b),
                 static_cast<uint32_t>(a >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(a)};
            key0 += 0x9E3779B9;
            key1 += 0xBB67AE85;
        }
        return x;
    }

  private:
    std::array<uint32_t, 2> key_;
    uint32_t id_, counter_;
};

} // namespace tessera::portable
