// XXH64 (Yann Collet, the xxHash specification 0.1.1): the hash of the sections of a .tsr file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::core {

// Told of the memory that has been read, piece by piece.
using HashProgress = void (*)(void *context, const void *data, size_t bytes);

uint64_t hash64(const void *data, size_t bytes, uint64_t seed = 0, HashProgress progress = nullptr,
                void *context = nullptr);

} // namespace tessera::core
