#include "format/mapping.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/tensor.h"

namespace tessera::core {

namespace {

[[noreturn]] void fail_to_read(const std::string &path, const char *why) {
    fail(Code::FileAccess, "cannot read %s: %s", path.c_str(), why);
}

// A regular file, open for reading.
struct File {
    int fd;
    size_t size = 0;

    explicit File(const std::string &path)
        : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) { // a named pipe would block
        struct stat status {};
        if (fd < 0 || ::fstat(fd, &status) != 0)
            give_up(path, std::strerror(errno));
        if (!S_ISREG(status.st_mode))
            give_up(path, S_ISDIR(status.st_mode) ? "it is a folder" : "it is not a regular file");
        size = static_cast<size_t>(status.st_size);
    }
    ~File() { close(); }
    File(const File &) = delete;
    File &operator=(const File &) = delete;

  private:
    void close() const {
        if (fd >= 0)
            ::close(fd);
    }
    [[noreturn]] void give_up(const std::string &path, const char *why) const {
        std::string reason = why; // before `close` changes errno's text
        close();
        fail_to_read(path, reason.c_str());
    }
};

char *allocate(size_t bytes) {
    size_t rounded = (bytes + tensor_alignment) & ~(tensor_alignment - 1);
    char *out = rounded < bytes ? nullptr : static_cast<char *>(std::aligned_alloc(tensor_alignment, rounded));
    if (!out)
        fail(Code::OutOfMemory, "%zu bytes could not be allocated", bytes);
    return out;
}

} // namespace

std::shared_ptr<Mapping> Mapping::map_file(const std::string &path) {
    File file(path);
    if (file.size == 0)
        return std::shared_ptr<Mapping>(new Mapping(nullptr, 0, false));
    void *data = ::mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (data == MAP_FAILED)
        fail_to_read(path, std::strerror(errno));
    return std::shared_ptr<Mapping>(new Mapping(static_cast<char *>(data), file.size, true));
}

std::shared_ptr<Mapping> Mapping::read_file(const std::string &path) {
    File file(path);
    std::shared_ptr<Mapping> out(new Mapping(allocate(file.size), file.size, false));
    for (size_t at = 0; at < file.size;) {
        ssize_t got = ::pread(file.fd, out->data_ + at, file.size - at, static_cast<off_t>(at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail_to_read(path, std::strerror(errno));
        if (got == 0)
            fail(Code::FileAccess, "cannot read %s: it became shorter while it was read: %zu bytes of %zu are there",
                 path.c_str(), at, file.size);
        at += static_cast<size_t>(got);
    }
    return out;
}

std::shared_ptr<Mapping> Mapping::copy(const void *data, size_t bytes) {
    std::shared_ptr<Mapping> out(new Mapping(allocate(bytes), bytes, false));
    if (bytes)
        std::memcpy(out->data_, data, bytes);
    return out;
}

void Mapping::drop(const void *data, size_t bytes) const {
    if (!mapped_)
        return;
    // Whole pages of the range, rounded outwards: neighbours are read again too. Only on a mapped file, whose pages hold
    // nothing of their own.
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
    uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes + page - 1) / page * page;
    (void)::madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);
}

Mapping::~Mapping() {
    if (mapped_)
        ::munmap(data_, size_);
    else
        std::free(data_);
}

} // namespace tessera::core
