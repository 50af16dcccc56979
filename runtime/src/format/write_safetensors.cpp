#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/hash.h"
#include "format/safetensors.h"

namespace tessera::core {

namespace {

size_t section_bytes(const TensorSection &s) {
    return static_cast<size_t>(element_count(s.shape)) * item_size(s.dtype);
}

size_t padding(size_t bytes) { return (tensor_alignment - bytes % tensor_alignment) % tensor_alignment; }

void append_entry(std::string &out, const std::string &name, const char *dtype, const std::string &shape, size_t start,
                  size_t stop) {
    out += ',';
    append_json_string(out, name);
    out += format(":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", dtype, shape.c_str(), start, stop);
}

// The length prefix and the header, padded so that the data section is aligned.
std::string header_text(const std::vector<std::pair<std::string, std::string>> &metadata,
                        const std::vector<TensorSection> &sections) {
    Json entries = Json::object(), hashes = Json::object();
    auto add_hash = [&](const std::string &name, const void *data, size_t bytes) {
        hashes.set(name, Json::string(format("%016llx", static_cast<unsigned long long>(hash64(data, bytes)))));
    };
    for (const auto &[key, value] : metadata) {
        entries.set(key, Json::string(value));
        add_hash(key, value.data(), value.size());
    }
    for (const TensorSection &s : sections)
        add_hash(s.name, s.data, section_bytes(s));
    entries.set("tessera.hashes", Json::string(hashes.dump()));
    std::string out = "{\"__metadata__\":" + entries.dump();
    size_t at = 0;
    for (size_t i = 0; i < sections.size(); ++i) {
        size_t bytes = section_bytes(sections[i]), gap = padding(bytes);
        append_entry(out, sections[i].name, info(sections[i].dtype).safetensors, shape_text(sections[i].shape), at,
                     at + bytes);
        at += bytes;
        if (gap && i + 1 < sections.size()) {
            append_entry(out, "tessera.pad." + std::to_string(i), "U8", format("[%zu]", gap), at, at + gap);
            at += gap;
        }
    }
    out += '}';
    out.append(padding(out.size() + 8), ' ');
    uint64_t length = out.size();
    std::string prefix(8, '\0');
    for (int i = 0; i < 8; ++i)
        prefix[static_cast<size_t>(i)] = static_cast<char>(length >> (8 * i));
    return prefix + out;
}

// The file that a path means after its symbolic links; it need not exist.
std::string behind_links(std::string path) {
    constexpr int most_links = 40; // as the kernel
    for (int links = 0; links < most_links; ++links) {
        char next[PATH_MAX];
        ssize_t length = ::readlink(path.c_str(), next, sizeof next);
        if (length < 0)
            return path;
        std::string target(next, static_cast<size_t>(length));
        size_t slash = path.rfind('/');
        path = target[0] == '/' || slash == std::string::npos ? target : path.substr(0, slash + 1) + target;
    }
    fail(Code::FileAccess, "cannot write %s: %s", path.c_str(), std::strerror(ELOOP));
}

// A temporary file beside the target, removed unless it was put in place. Where the system can, it has no name until it
// is complete, so that a process that is killed leaves nothing behind.
class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string &target) : target_(behind_links(target)) {
        size_t slash = target_.rfind('/');
        folder_ = slash == std::string::npos ? "." : slash == 0 ? "/" : target_.substr(0, slash);
        base_ = slash == std::string::npos ? target_ : target_.substr(slash + 1);
#ifdef O_TMPFILE
        if (::access("/proc/self/fd", X_OK) == 0)
            fd_ = ::open(folder_.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
#endif
        if (fd_ >= 0)
            return;
        path_ = folder_ + "/." + base_ + ".XXXXXX";
        fd_ = ::mkostemp(path_.data(), O_CLOEXEC);
        if (fd_ < 0) {
            path_.clear();
            fail_to_write();
        }
    }

    ~TemporaryFile() {
        if (fd_ >= 0)
            ::close(fd_);
        if (!path_.empty())
            ::unlink(path_.c_str());
    }

    TemporaryFile(const TemporaryFile &) = delete;
    TemporaryFile &operator=(const TemporaryFile &) = delete;

    void write(const void *data, size_t bytes) {
        auto *p = static_cast<const char *>(data);
        while (bytes > 0) {
            ssize_t done = ::write(fd_, p, bytes);
            if (done < 0 && errno == EINTR)
                continue;
            if (done < 0)
                fail_to_write();
            p += done;
            bytes -= static_cast<size_t>(done);
        }
    }

    void put_in_place() {
        struct stat old {};
        mode_t mode = 0644;
        if (::stat(target_.c_str(), &old) == 0)
            mode = old.st_mode & 07777;
        if (::fchmod(fd_, mode) != 0 || ::fsync(fd_) != 0)
            fail_to_write();
        if (path_.empty())
            give_name();
        int fd = fd_;
        fd_ = -1;
        if (::close(fd) != 0 || ::rename(path_.c_str(), target_.c_str()) != 0)
            fail_to_write();
        path_.clear();
        // The rename is durable once the folder is; file systems that cannot sync a folder are left alone.
        if (int folder = ::open(folder_.c_str(), O_RDONLY | O_CLOEXEC); folder >= 0) {
            (void)::fsync(folder);
            ::close(folder);
        }
    }

  private:
    // A rename replaces an older file, which giving a name cannot: a name of its own comes first.
    void give_name() {
        const std::string source = "/proc/self/fd/" + std::to_string(fd_);
        for (unsigned attempt = 0;; ++attempt) {
            std::string name = format("%s/.%s.%ld-%u", folder_.c_str(), base_.c_str(), static_cast<long>(::getpid()), attempt);
            if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
                path_ = std::move(name);
                return;
            }
            if (errno != EEXIST)
                fail_to_write();
        }
    }

    [[noreturn]] void fail_to_write() const {
        fail(Code::FileAccess, "cannot write %s: %s", target_.c_str(), std::strerror(errno));
    }

    std::string target_, folder_, base_;
    std::string path_; // of the temporary file; empty when it has none
    int fd_ = -1;
};

} // namespace

void write_safetensors(const std::string &path, const std::vector<std::pair<std::string, std::string>> &metadata,
                       const std::vector<TensorSection> &sections) {
    TemporaryFile file(path);
    std::string header = header_text(metadata, sections);
    file.write(header.data(), header.size());
    const char zeros[tensor_alignment] = {};
    for (size_t i = 0; i < sections.size(); ++i) {
        size_t bytes = section_bytes(sections[i]);
        file.write(sections[i].data, bytes);
        if (i + 1 < sections.size())
            file.write(zeros, padding(bytes));
    }
    file.put_in_place();
}

} // namespace tessera::core
