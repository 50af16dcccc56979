#include "core/process.h"

#include <sys/mman.h>
#include <unistd.h>

#include "core/error.h"

namespace tessera::core {

namespace {
constexpr size_t page_bytes = 4096;
}

ProcessMark::ProcessMark() : process_(::getpid()) {
    void *page = ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return;
    if (::madvise(page, page_bytes, MADV_WIPEONFORK) != 0) {
        ::munmap(page, page_bytes);
        return;
    }
    page_ = static_cast<volatile char *>(page);
    *page_ = 1;
}

ProcessMark::~ProcessMark() {
    if (page_)
        ::munmap(const_cast<char *>(page_), page_bytes);
}

bool ProcessMark::is_same_process() const { return ::getpid() == process_; }

void ProcessMark::check(const char *what) const {
    if (!is_here())
        fail(Code::Unsupported, "the process was forked, and the threads of this %s are the parent's; make a new %s in the child",
             what, what);
}

} // namespace tessera::core
