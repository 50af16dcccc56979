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

struct Descriptor {
    int fd;
    ~Descriptor() {
        if (fd >= 0)
            ::close(fd);
    }
};

} // namespace

std::shared_ptr<Mapping> Mapping::map_file(const std::string &path) {
    Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)}; // a named pipe would block
    struct stat status {};
    if (file.fd < 0 || ::fstat(file.fd, &status) != 0)
        fail_to_read(path, std::strerror(errno));
    if (!S_ISREG(status.st_mode))
        fail_to_read(path, S_ISDIR(status.st_mode) ? "it is a folder" : "it is not a regular file");
    size_t size = static_cast<size_t>(status.st_size);
    if (size == 0)
        return std::shared_ptr<Mapping>(new Mapping(nullptr, 0, false));
    void *data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (data == MAP_FAILED)
        fail_to_read(path, std::strerror(errno));
    return std::shared_ptr<Mapping>(new Mapping(static_cast<char *>(data), size, true));
}

std::shared_ptr<Mapping> Mapping::copy(const void *data, size_t bytes) {
    size_t rounded = (bytes + tensor_alignment) & ~(tensor_alignment - 1);
    char *target = static_cast<char *>(std::aligned_alloc(tensor_alignment, rounded));
    if (!target)
        fail(Code::OutOfMemory, "%zu bytes could not be allocated", bytes);
    if (bytes)
        std::memcpy(target, data, bytes);
    return std::shared_ptr<Mapping>(new Mapping(target, bytes, false));
}

Mapping::~Mapping() {
    if (mapped_)
        ::munmap(data_, size_);
    else
        std::free(data_);
}

} // namespace tessera::core
