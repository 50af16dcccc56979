#include "core/hash.h"

#include <algorithm>
#include <cstring>

namespace tessera::core {

namespace {

constexpr uint64_t prime1 = 0x9E3779B185EBCA87ULL;
constexpr uint64_t prime2 = 0xC2B2AE3D27D4EB4FULL;
constexpr uint64_t prime3 = 0x165667B19E3779F9ULL;
constexpr uint64_t prime4 = 0x85EBCA77C2B2AE63ULL;
constexpr uint64_t prime5 = 0x27D4EB2F165667C5ULL;

constexpr size_t progress_bytes = size_t{16} << 20;

inline uint64_t rotate(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

inline uint64_t read64(const unsigned char *p) {
    uint64_t x;
    std::memcpy(&x, p, 8);
    return x;
}

inline uint32_t read32(const unsigned char *p) {
    uint32_t x;
    std::memcpy(&x, p, 4);
    return x;
}

inline uint64_t round_of(uint64_t lane, uint64_t input) { return rotate(lane + input * prime2, 31) * prime1; }
inline uint64_t merge(uint64_t h, uint64_t lane) { return (h ^ round_of(0, lane)) * prime1 + prime4; }

} // namespace

uint64_t hash64(const void *data, size_t bytes, uint64_t seed, HashProgress progress, void *context) {
    auto *p = static_cast<const unsigned char *>(data);
    size_t left = bytes;
    uint64_t h;
    if (left >= 32) {
        uint64_t a = seed + prime1 + prime2, b = seed + prime2, c = seed, d = seed - prime1;
        while (left >= 32) {
            const size_t piece = std::min(left / 32 * 32, progress_bytes);
            for (const unsigned char *end = p + piece; p != end; p += 32) {
                a = round_of(a, read64(p));
                b = round_of(b, read64(p + 8));
                c = round_of(c, read64(p + 16));
                d = round_of(d, read64(p + 24));
            }
            left -= piece;
            if (progress)
                progress(context, p - piece, piece);
        }
        h = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
        h = merge(merge(merge(merge(h, a), b), c), d);
    } else {
        h = seed + prime5;
    }
    h += bytes;
    for (; left >= 8; left -= 8, p += 8)
        h = rotate(h ^ round_of(0, read64(p)), 27) * prime1 + prime4;
    if (left >= 4) {
        h = rotate(h ^ (read32(p) * prime1), 23) * prime2 + prime3;
        left -= 4, p += 4;
    }
    for (; left; --left, ++p)
        h = rotate(h ^ (*p * prime5), 11) * prime1;
    h = (h ^ (h >> 33)) * prime2;
    h = (h ^ (h >> 29)) * prime3;
    return h ^ (h >> 32);
}

} // namespace tessera::core
