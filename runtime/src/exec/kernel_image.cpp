#include "exec/kernel_image.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

#include "core/error.h"

namespace tessera::core {

KernelImage::KernelImage(const void *code, size_t bytes) : bytes_(bytes) {
    if (bytes == 0)
        return;
    void *pages = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        fail(Code::OutOfMemory, "%zu bytes for kernels could not be allocated", bytes);
    std::memcpy(pages, code, bytes);
    if (::mprotect(pages, bytes, PROT_READ | PROT_EXEC) != 0) {
        int reason = errno;
        ::munmap(pages, bytes);
        fail(Code::Device, "the system does not let memory be made executable (%s); load with target \"portable\"",
             std::strerror(reason));
    }
    pages_ = static_cast<char *>(pages);
}

KernelImage::~KernelImage() {
    if (pages_)
        ::munmap(pages_, bytes_);
}

KernelEntry KernelImage::entry(int64_t offset) const { return reinterpret_cast<KernelEntry>(pages_ + offset); }

} // namespace tessera::core
