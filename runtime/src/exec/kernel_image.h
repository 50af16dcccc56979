// The machine code of a plan: copied to pages of its own and made executable.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::core {

// Processes the units [begin, end); returns 0 or a positive status (docs/decisions/0001-contracts.md, kernel ABI).
using KernelEntry = int64_t (*)(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch);

class KernelImage {
  public:
    KernelImage() = default;
    KernelImage(const void *code, size_t bytes);
    ~KernelImage();
    KernelImage(const KernelImage &) = delete;
    KernelImage &operator=(const KernelImage &) = delete;

    KernelEntry entry(int64_t offset) const;

  private:
    char *pages_ = nullptr;
    size_t bytes_ = 0;
};

} // namespace tessera::core
