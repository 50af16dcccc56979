// Concrete tensors: reference-counted storage on a device, a dtype, a shape and strides.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/checked.h"
#include "core/completion.h"
#include "core/dtype.h"

namespace tessera::core {

inline constexpr size_t tensor_alignment = 64;
inline constexpr int64_t max_rank = 64;

// A contiguous row-major tensor that owns nothing: what operator kernels see.
struct TensorView {
    DType dtype = DType::F32;
    std::vector<int64_t> shape;
    void *data = nullptr;

    int64_t size() const { return element_count(shape); }
    template <class T> T *as() const { return static_cast<T *>(data); }
};

// Called once when the last tensor that uses a foreign block of memory is gone.
using Deleter = void (*)(void *context);

// A block of memory, Tessera's own (64-byte aligned) or the caller's.
class Storage {
  public:
    // From `allocator`, which is kept as long as the memory, in the order of `stream`; null: the heap of the process, for the CPU alone.
    static std::shared_ptr<Storage> allocate(size_t bytes, DeviceId device = {},
                                             std::shared_ptr<Allocator> allocator = nullptr,
                                             std::shared_ptr<Stream> stream = nullptr);
    static std::shared_ptr<Storage> adopt(void *data, size_t bytes, Deleter deleter, void *context, DeviceId device = {});
    ~Storage();
    Storage(const Storage &) = delete;
    Storage &operator=(const Storage &) = delete;

    void *data() const { return data_; }
    size_t bytes() const { return bytes_; }
    DeviceId device() const { return device_; }
    // The stream in whose order the memory was made and will be released; null: none.
    const Stream *stream() const { return stream_.get(); }
    // The last work that writes the memory; null when nothing does or did. May be called by several threads at once.
    std::shared_ptr<Completion> completion() const { return std::atomic_load(&completion_); }
    void set_completion(std::shared_ptr<Completion> completion) { std::atomic_store(&completion_, std::move(completion)); }

  private:
    Storage(void *data, size_t bytes, DeviceId device) : data_(data), bytes_(bytes), device_(device) {}
    void *data_;
    size_t bytes_;
    DeviceId device_;
    std::shared_ptr<Allocator> allocator_; // null: the heap, or a deleter's
    std::shared_ptr<Stream> stream_;       // in whose order the memory is released; null: at once
    std::shared_ptr<Completion> completion_;
    bool heap_ = false;
    Deleter deleter_ = nullptr;
    void *context_ = nullptr;
};

class Tensor {
  public:
    Tensor() = default;
    // Uninitialised memory of its own.
    static Tensor empty(DType dtype, std::vector<int64_t> shape, DeviceId device = {},
                        std::shared_ptr<Allocator> allocator = nullptr,
                        std::shared_ptr<Stream> stream = nullptr);
    // A dtype and a shape without memory, and tensors made after it, row-major, that share their layout with it.
    static Tensor prototype(DType dtype, std::vector<int64_t> shape);
    static Tensor empty_like(const Tensor &prototype, std::shared_ptr<Allocator> allocator);
    // On the CPU.
    static Tensor zeros(DType dtype, std::vector<int64_t> shape);
    // The caller's memory; strides in elements, row-major when `strides` is null.
    static Tensor from_blob(void *data, DType dtype, std::vector<int64_t> shape, const int64_t *strides,
                            Deleter deleter, void *context, bool readonly = false, DeviceId device = {});

    explicit operator bool() const { return storage_ != nullptr; }
    DType dtype() const { return dtype_; }
    const std::vector<int64_t> &shape() const { return layout_ ? layout_->shape : no_sizes; }
    const std::vector<int64_t> &strides() const { return layout_ ? layout_->strides : no_sizes; }
    int64_t rank() const { return static_cast<int64_t>(shape().size()); }
    int64_t size() const { return size_; }
    size_t bytes() const { return static_cast<size_t>(size_) * item_size(dtype_); }
    void *data() const { return data_; }
    DeviceId device() const { return storage_ ? storage_->device() : DeviceId{}; }
    bool readonly() const { return readonly_; }
    bool is_contiguous() const { return contiguous_; }
    // This tensor if it is contiguous, else a row-major copy; of the CPU.
    Tensor contiguous() const;
    // Copies the elements to contiguous row-major memory of `bytes()` bytes.
    void copy_to(void *target) const;
    // The same memory in another shape; this tensor must be contiguous.
    Tensor reshaped(std::vector<int64_t> shape) const;
    const std::shared_ptr<Storage> &storage() const { return storage_; }
    // A view for operator kernels; this tensor must be contiguous.
    TensorView view() const;

  private:
    struct Layout {
        std::vector<int64_t> shape, strides;
    };
    inline static const std::vector<int64_t> no_sizes;
    void set_layout(std::vector<int64_t> shape, std::vector<int64_t> strides);
    DType dtype_ = DType::F32;
    bool readonly_ = false;
    bool contiguous_ = true;
    int64_t size_ = 0;
    void *data_ = nullptr;
    std::shared_ptr<const Layout> layout_; // shared by copies, so that to copy a tensor allocates nothing
    std::shared_ptr<Storage> storage_;
};

// The addresses that a tensor's elements lie in.
struct AddressRange {
    const char *begin, *end;
    bool overlaps(const AddressRange &o) const { return begin < o.end && o.begin < end; }
};
AddressRange address_range(const Tensor &t);

// "[2, 3]"
std::string shape_text(const std::vector<int64_t> &shape);
// "f32[2, 3]"
std::string type_text(DType dtype, const std::vector<int64_t> &shape);

} // namespace tessera::core
