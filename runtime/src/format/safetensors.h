// A reader of safetensors files that trusts nothing: every count, offset and name is checked before it is used.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/json.h"
#include "core/tensor.h"
#include "format/mapping.h"

namespace tessera::core {

// Where a tensor lies in the file.
struct TensorEntry {
    std::string name;
    DType dtype = DType::U8;
    std::vector<int64_t> shape;
    size_t offset = 0; // from the start of the file
    size_t bytes = 0;
};

class SafeTensors {
  public:
    // `where` names the file in messages. FormatError when the content is not a valid safetensors file.
    static SafeTensors parse(std::shared_ptr<Mapping> bytes, std::string where);

    const std::string &where() const { return where_; }
    const std::vector<std::pair<std::string, std::string>> &metadata() const { return metadata_; }
    // The metadata entry of that name, or null.
    const std::string *metadata(std::string_view key) const;
    const std::vector<TensorEntry> &tensors() const { return tensors_; }
    // The tensor's entry, or null.
    const TensorEntry *find(std::string_view name) const;
    const char *data(const TensorEntry &entry) const { return bytes_->data() + entry.offset; }
    // The tensor: a read-only view on the file when it is 64-byte aligned there, else (or if `copy`) memory of its own.
    Tensor tensor(const TensorEntry &entry, bool copy) const;

    // Compares the XXH64 of every section with `tessera.hashes`; FormatError names the first that differs or that has
    // no hash. With `required` false, a file without hashes passes. Tensors that `which` leaves out are not read.
    void verify_hashes(bool required, bool (*which)(const TensorEntry &entry) = nullptr) const;

  private:
    void read_metadata(const Json &object);
    TensorEntry read_entry(const std::string &name, const Json &fields, size_t base) const;
    void check_layout(size_t base) const;

    std::shared_ptr<Mapping> bytes_;
    std::string where_;
    std::vector<std::pair<std::string, std::string>> metadata_;
    std::vector<TensorEntry> tensors_;
    std::unordered_map<std::string_view, size_t> by_name_;
};

// One tensor to be written.
struct TensorSection {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    const void *data;
};

// Writes a safetensors file with hashes, tensors at multiples of 64. Atomic: the data go to a temporary file of the
// same folder, reach the disk, and are renamed; on failure (FileAccessError) an older file stays as it was. A symbolic
// link stays: the file that it points to is replaced.
void write_safetensors(const std::string &path, const std::vector<std::pair<std::string, std::string>> &metadata,
                       const std::vector<TensorSection> &sections);

} // namespace tessera::core
