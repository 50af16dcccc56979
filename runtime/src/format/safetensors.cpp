#include "format/safetensors.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/hash.h"

namespace tessera::core {

namespace {
constexpr uint64_t max_header = 100'000'000; // as the reference reader
constexpr size_t resident_bytes = size_t{256} << 20; // of a file that is kept in memory when its hashes are compared
constexpr size_t max_tensors = 1'000'000;
constexpr const char *hashes_key = "tessera.hashes";
constexpr std::string_view pad_prefix = "tessera.pad.";

uint64_t little_endian(const char *p) {
    uint64_t x = 0;
    for (int i = 7; i >= 0; --i)
        x = x << 8 | static_cast<unsigned char>(p[i]);
    return x;
}

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

} // namespace

SafeTensors SafeTensors::parse(std::shared_ptr<Mapping> bytes, std::string where) {
    SafeTensors file;
    file.bytes_ = std::move(bytes);
    file.where_ = std::move(where);
    const char *w = file.where_.c_str();
    size_t size = file.bytes_->size();
    if (size < 8)
        fail(Code::Format, "%s: the file has %zu bytes, too few for a safetensors header", w, size);
    uint64_t length = little_endian(file.bytes_->data());
    if (length > max_header)
        fail(Code::Format, "%s: the header claims %llu bytes; at most %llu are accepted", w,
             static_cast<unsigned long long>(length), static_cast<unsigned long long>(max_header));
    if (length > size - 8)
        fail(Code::Format, "%s: the file is truncated: the header needs %llu bytes, there are %zu", w,
             static_cast<unsigned long long>(length) + 8, size);
    size_t base = 8 + static_cast<size_t>(length);
    Json header = Json::parse({file.bytes_->data() + 8, static_cast<size_t>(length)}, file.where_ + ": header", 8);
    if (!header.is_object())
        fail(Code::Format, "%s: the header is %s, not an object", w, header.kind_name());
    if (header.members().size() > max_tensors)
        fail(Code::Format, "%s: %zu tensors; at most %zu are accepted", w, header.members().size(), max_tensors);
    for (const auto &[name, fields] : header.members()) {
        if (name == "__metadata__")
            file.read_metadata(fields);
        else
            file.tensors_.push_back(file.read_entry(name, fields, base));
    }
    for (size_t i = 0; i < file.tensors_.size(); ++i)
        file.by_name_.emplace(file.tensors_[i].name, i);
    file.check_layout(base);
    return file;
}

void SafeTensors::read_metadata(const Json &object) {
    if (!object.is_object())
        fail(Code::Format, "%s: '__metadata__' is %s, not an object", where_.c_str(), object.kind_name());
    for (const auto &[key, value] : object.members()) {
        if (!value.is_string())
            fail(Code::Format, "%s: metadata '%s' is %s, not text", where_.c_str(), shown(key).c_str(), value.kind_name());
        metadata_.emplace_back(key, value.as_string());
    }
}

TensorEntry SafeTensors::read_entry(const std::string &name, const Json &fields, size_t base) const {
    auto malformed = [&](const std::string &why) {
        fail(Code::Format, "%s: tensor '%s': %s", where_.c_str(), shown(name).c_str(), why.c_str());
    };
    const Json *dtype = fields.find("dtype"), *shape = fields.find("shape"), *offsets = fields.find("data_offsets");
    if (!dtype || !shape || !offsets || fields.members().size() != 3)
        malformed("its entry must have exactly dtype, shape and data_offsets");
    TensorEntry entry;
    entry.name = name;
    if (!dtype->is_string() || !parse_safetensors_dtype(dtype->as_string(), entry.dtype))
        malformed("unknown dtype " + (dtype->is_string() ? "'" + shown(dtype->as_string()) + "'" : std::string("entry")));
    auto is_count = [](const Json &j) { return j.is_integer() && j.as_integer() >= 0; };
    if (!shape->is_array() || !std::all_of(shape->items().begin(), shape->items().end(), is_count))
        malformed("the shape is not a list of sizes");
    if (shape->items().size() > static_cast<size_t>(max_rank))
        malformed(format("rank %zu; the highest is %lld", shape->items().size(), static_cast<long long>(max_rank)));
    if (!offsets->is_array() || offsets->items().size() != 2 ||
        !std::all_of(offsets->items().begin(), offsets->items().end(), is_count))
        malformed("data_offsets are not two offsets");
    for (const Json &n : shape->items())
        entry.shape.push_back(n.as_integer());
    int64_t start = offsets->items()[0].as_integer(), stop = offsets->items()[1].as_integer();
    int64_t needed = 0;
    try {
        needed = checked_mul(element_count(entry.shape), static_cast<int64_t>(item_size(entry.dtype)));
    } catch (const Error &) {
        malformed("the size of its shape does not fit in 64 bits");
    }
    if (stop < start || stop - start != needed)
        malformed(format("%s needs %lld bytes, its offsets are [%lld, %lld)", type_text(entry.dtype, entry.shape).c_str(),
                         static_cast<long long>(needed), static_cast<long long>(start), static_cast<long long>(stop)));
    if (static_cast<uint64_t>(stop) > bytes_->size() - base)
        fail(Code::Format, "%s: the file is truncated: tensor '%s' ends at byte %llu, the file at %zu", where_.c_str(),
             shown(name).c_str(), static_cast<unsigned long long>(base) + static_cast<unsigned long long>(stop),
             bytes_->size());
    entry.offset = base + static_cast<size_t>(start);
    entry.bytes = static_cast<size_t>(needed);
    return entry;
}

// The tensors must cover the data section without gap or overlap.
void SafeTensors::check_layout(size_t base) const {
    std::vector<const TensorEntry *> sorted;
    sorted.reserve(tensors_.size());
    for (const TensorEntry &e : tensors_)
        sorted.push_back(&e);
    std::sort(sorted.begin(), sorted.end(), [](const TensorEntry *a, const TensorEntry *b) {
        return a->offset != b->offset ? a->offset < b->offset : a->bytes < b->bytes;
    });
    size_t at = base;
    for (const TensorEntry *e : sorted) {
        if (e->offset != at)
            fail(Code::Format, "%s: tensor '%s' starts at byte %zu, expected %zu: %s", where_.c_str(),
                 shown(e->name).c_str(), e->offset, at, e->offset > at ? "a gap" : "an overlap");
        at += e->bytes;
    }
    if (at != bytes_->size())
        fail(Code::Format, "%s: %zu bytes after the last tensor belong to nothing", where_.c_str(), bytes_->size() - at);
}

const std::string *SafeTensors::metadata(std::string_view key) const {
    for (const auto &[k, value] : metadata_)
        if (k == key)
            return &value;
    return nullptr;
}

const TensorEntry *SafeTensors::find(std::string_view name) const {
    auto place = by_name_.find(name);
    return place == by_name_.end() ? nullptr : &tensors_[place->second];
}

Tensor SafeTensors::tensor(const TensorEntry &entry, bool copy) const {
    char *data = bytes_->data() + entry.offset;
    if (copy || reinterpret_cast<uintptr_t>(data) % tensor_alignment != 0 || entry.bytes == 0) {
        Tensor t = Tensor::empty(entry.dtype, entry.shape);
        if (entry.bytes)
            std::memcpy(t.data(), data, entry.bytes);
        return t;
    }
    auto *owner = new std::shared_ptr<Mapping>(bytes_);
    return Tensor::from_blob(data, entry.dtype, entry.shape, nullptr,
                             [](void *context) { delete static_cast<std::shared_ptr<Mapping> *>(context); }, owner, true);
}

void SafeTensors::verify_hashes(bool required, bool (*which)(const TensorEntry &entry)) const {
    const char *w = where_.c_str();
    const std::string *text = metadata(hashes_key);
    if (!text) {
        if (required)
            fail(Code::Format, "%s: the entry '%s' is missing", w, hashes_key);
        return;
    }
    Json hashes = Json::parse(*text, where_ + ": " + hashes_key, 2);
    if (!hashes.is_object())
        fail(Code::Format, "%s: '%s' is %s, not an object", w, hashes_key, hashes.kind_name());
    std::unordered_map<std::string_view, const Json *> expected;
    for (const auto &[name, value] : hashes.members())
        expected.emplace(name, &value);
    // What has been compared is let go: the memory in use stays small, however large the file. Small files stay.
    const bool large = bytes_->size() > resident_bytes;
    auto drop = [](void *mapping, const void *data, size_t bytes) { static_cast<Mapping *>(mapping)->drop(data, bytes); };
    auto check = [&](const std::string &name, const void *data, size_t bytes, bool in_file) {
        auto place = expected.find(name);
        if (place == expected.end())
            fail(Code::Format, "%s: '%s' has no hash", w, shown(name).c_str());
        std::string found = format("%016llx", static_cast<unsigned long long>(
                                                   hash64(data, bytes, 0, large && in_file ? +drop : nullptr, bytes_.get())));
        if (!place->second->is_string() || place->second->as_string() != found)
            fail(Code::Format, "%s: the content of '%s' does not match its hash; the file is corrupted", w,
                 shown(name).c_str());
        expected.erase(place);
    };
    for (const auto &[key, value] : metadata_)
        if (key != hashes_key && starts_with(key, "tessera."))
            check(key, value.data(), value.size(), false);
    for (const TensorEntry &e : tensors_)
        if (which && !which(e))
            expected.erase(e.name);
        else if (!starts_with(e.name, pad_prefix))
            check(e.name, data(e), e.bytes, true);
    if (!expected.empty())
        fail(Code::Format, "%s: '%s' has a hash but is missing from the file", w,
             shown(std::string(expected.begin()->first)).c_str());
}

} // namespace tessera::core
