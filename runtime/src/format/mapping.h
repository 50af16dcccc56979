// The bytes of a file: mapped, or a copy of a block of memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace tessera::core {

class Mapping {
  public:
    // Maps a regular file, read-only: a file larger than the memory can be mapped. FileAccessError on failure.
    static std::shared_ptr<Mapping> map_file(const std::string &path);
    // Reads a regular file into memory of its own: nothing that happens to the file afterwards shows. FileAccessError,
    // also when the file becomes shorter meanwhile.
    static std::shared_ptr<Mapping> read_file(const std::string &path);
    // A copy, 64-byte aligned.
    static std::shared_ptr<Mapping> copy(const void *data, size_t bytes);
    ~Mapping();
    Mapping(const Mapping &) = delete;
    Mapping &operator=(const Mapping &) = delete;

    char *data() const { return data_; }
    size_t size() const { return size_; }
    // Gives back the memory that holds part of a mapped file; it is read again when it is used again.
    void drop(const void *data, size_t bytes) const;

  private:
    Mapping(char *data, size_t size, bool mapped) : data_(data), size_(size), mapped_(mapped) {}
    char *data_;
    size_t size_;
    bool mapped_;
};

} // namespace tessera::core
