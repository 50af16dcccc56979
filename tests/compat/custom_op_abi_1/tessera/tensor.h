// Tensors and errors: header-only C++17 over the C ABI.
#ifndef TESSERA_TENSOR_H
#define TESSERA_TENSOR_H

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/c_api.h"

namespace tessera {

// What Tessera throws. `code()` is a tsr_status, the same number as in Python's tessera.errors.
class Error : public std::runtime_error {
  public:
    Error(tsr_status code, const std::string &message) : std::runtime_error(message), code_(code) {}
    tsr_status code() const noexcept { return code_; }

  private:
    tsr_status code_;
};

// Throws this thread's last error unless `status` is TSR_OK.
inline void check(tsr_status status) {
    if (status != TSR_OK)
        throw Error(status, tsr_last_error());
}

enum class DType : int32_t {
    F64 = TSR_F64,
    F32 = TSR_F32,
    BF16 = TSR_BF16,
    F16 = TSR_F16,
    F8E4M3 = TSR_F8E4M3,
    F8E5M2 = TSR_F8E5M2,
    I64 = TSR_I64,
    I32 = TSR_I32,
    I16 = TSR_I16,
    I8 = TSR_I8,
    U8 = TSR_U8,
    Bool = TSR_BOOL,
};

// The short name: "f32".
inline const char *name(DType dtype) { return tsr_dtype_name(static_cast<tsr_dtype>(dtype)); }
// Bytes of one element.
inline size_t item_size(DType dtype) { return tsr_dtype_size(static_cast<tsr_dtype>(dtype)); }

// Where a tensor's memory is.
struct Device {
    enum Type : int32_t { CPU = TSR_CPU, CUDA = TSR_CUDA, ROCM = TSR_ROCM };
    Type type = CPU;
    int32_t index = 0;
};

// Sizes or strides of a tensor; valid as long as the tensor.
class SizeView {
  public:
    SizeView(const int64_t *data, size_t count) : data_(data), count_(count) {}
    const int64_t *begin() const { return data_; }
    const int64_t *end() const { return data_ + count_; }
    size_t size() const { return count_; }
    bool empty() const { return count_ == 0; }
    int64_t operator[](size_t i) const { return data_[i]; }
    std::vector<int64_t> vector() const { return std::vector<int64_t>(begin(), end()); }
    friend bool operator==(const SizeView &a, const std::vector<int64_t> &b) { return a.vector() == b; }
    friend bool operator!=(const SizeView &a, const std::vector<int64_t> &b) { return !(a == b); }

  private:
    const int64_t *data_;
    size_t count_;
};

namespace detail {

// One reference to a handle of the C ABI; copies share it.
template <class T, void (*retain)(T *), void (*release)(T *)> class Handle {
  public:
    Handle() noexcept = default;
    explicit Handle(T *handle) noexcept : handle_(handle) {} // takes the reference over
    ~Handle() { release(handle_); }
    Handle(const Handle &o) noexcept : handle_(o.handle_) { retain(handle_); }
    Handle(Handle &&o) noexcept : handle_(std::exchange(o.handle_, nullptr)) {}
    Handle &operator=(Handle o) noexcept {
        std::swap(handle_, o.handle_);
        return *this;
    }
    T *get() const noexcept { return handle_; }

  private:
    T *handle_ = nullptr;
};

// Whether elements of `dtype` may be seen as T. bf16, f16 and 8-bit floats are seen as their bits.
template <class T> bool is_element(DType dtype) {
    switch (dtype) {
    case DType::F64:
        return std::is_same<T, double>::value;
    case DType::F32:
        return std::is_same<T, float>::value;
    case DType::BF16:
    case DType::F16:
        return std::is_same<T, uint16_t>::value;
    case DType::F8E4M3:
    case DType::F8E5M2:
        return std::is_same<T, uint8_t>::value;
    case DType::I64:
        return std::is_integral<T>::value && std::is_signed<T>::value && sizeof(T) == 8;
    case DType::I32:
        return std::is_same<T, int32_t>::value;
    case DType::I16:
        return std::is_same<T, int16_t>::value;
    case DType::I8:
        return std::is_same<T, int8_t>::value;
    case DType::U8:
        return std::is_same<T, uint8_t>::value;
    case DType::Bool:
        return std::is_same<T, bool>::value;
    }
    return false;
}

inline void call_deleter(void *context) {
    std::unique_ptr<std::function<void()>> deleter(static_cast<std::function<void()> *>(context));
    (*deleter)();
}

} // namespace detail

// A tensor: concrete, or the result of an operator that is still to run. Copies share the memory.
class Tensor {
  public:
    // No tensor.
    Tensor() = default;

    // New memory, 64-byte aligned, all zero.
    static Tensor create(const std::vector<int64_t> &shape, DType dtype, Device device = {}) {
        tsr_tensor_info info = describe(shape, dtype, device);
        tsr_tensor *handle = nullptr;
        check(tsr_tensor_create(&info, &handle));
        return adopt(handle);
    }

    // The caller's memory, row-major or with `strides` in elements. `deleter` is called once, when no tensor uses the
    // memory any more; without one the caller keeps it alive. If this throws, the deleter is not called.
    static Tensor from_blob(void *data, const std::vector<int64_t> &shape, DType dtype,
                            std::function<void()> deleter = nullptr, const std::vector<int64_t> &strides = {}) {
        tsr_tensor_info info = describe(shape, dtype, {});
        info.data = data;
        if (!strides.empty()) {
            if (strides.size() != shape.size())
                throw Error(TSR_ARGUMENT_ERROR, "from_blob: shape and strides have different lengths");
            info.strides = strides.data();
        }
        std::unique_ptr<std::function<void()>> context;
        if (deleter)
            context = std::make_unique<std::function<void()>>(std::move(deleter));
        tsr_tensor *handle = nullptr;
        check(tsr_tensor_from_blob(&info, context ? detail::call_deleter : nullptr, context.get(), &handle));
        context.release();
        return adopt(handle);
    }

    // Takes over a DLPack tensor in CPU memory without copying; its deleter is called at the end, on failure too.
    static Tensor from_dlpack(DLManagedTensor *managed) {
        tsr_tensor *handle = nullptr;
        check(tsr_tensor_from_dlpack(managed, &handle));
        return adopt(handle);
    }

    // A DLPack tensor that shares the memory; the receiver calls its deleter.
    DLManagedTensor *to_dlpack() const {
        DLManagedTensor *managed = nullptr;
        check(tsr_tensor_to_dlpack(handle(), &managed));
        return managed;
    }

    // Takes over one reference to a handle of the C ABI.
    static Tensor adopt(tsr_tensor *handle) {
        Tensor t;
        t.handle_ = detail::Handle<tsr_tensor, tsr_tensor_retain, tsr_tensor_release>(handle);
        return t;
    }
    tsr_tensor *handle() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle() != nullptr; }

    DType dtype() const { return static_cast<DType>(info().dtype); }
    SizeView shape() const {
        tsr_tensor_info i = info();
        return {i.shape, static_cast<size_t>(i.rank)};
    }
    // In elements; empty for the result of an operator.
    SizeView strides() const {
        tsr_tensor_info i = info();
        return {i.strides, i.strides ? static_cast<size_t>(i.rank) : 0};
    }
    // The number of elements.
    int64_t size() const {
        tsr_tensor_info i = info();
        return static_cast<int64_t>(i.bytes / tsr_dtype_size(i.dtype));
    }
    size_t bytes() const { return static_cast<size_t>(info().bytes); }
    Device device() const {
        tsr_tensor_info i = info();
        return {static_cast<Device::Type>(i.device_type), i.device_index};
    }
    bool is_contiguous() const { return (info().flags & TSR_TENSOR_CONTIGUOUS) != 0; }
    // Whether this is the result of an operator that has not run.
    bool is_lazy() const { return (info().flags & TSR_TENSOR_LAZY) != 0; }

    // The elements. T must fit the dtype (uint16_t for bf16 and f16, uint8_t for 8-bit floats); void fits all.
    template <class T> T *data() const {
        tsr_tensor_info i = info();
        if constexpr (!std::is_void<T>::value)
            if (!detail::is_element<std::remove_cv_t<T>>(static_cast<DType>(i.dtype)))
                throw Error(TSR_DTYPE_ERROR, std::string("data: the elements are ") + tsr_dtype_name(i.dtype) +
                                                 ", which is not the type asked for");
        if (i.flags & TSR_TENSOR_LAZY)
            throw Error(TSR_ARGUMENT_ERROR, "data: the tensor has not been computed; submit it to a Runtime and wait");
        if ((i.flags & TSR_TENSOR_READONLY) && !std::is_const<T>::value)
            throw Error(TSR_ARGUMENT_ERROR, "data: the tensor is read-only; ask for data<const T>()");
        return static_cast<T *>(i.data);
    }

    // This tensor if it is row-major, else a row-major copy.
    Tensor contiguous() const {
        tsr_tensor *out = nullptr;
        check(tsr_tensor_contiguous(handle(), &out));
        return adopt(out);
    }

  private:
    static tsr_tensor_info describe(const std::vector<int64_t> &shape, DType dtype, Device device) {
        tsr_tensor_info info{};
        info.size = sizeof info;
        info.shape = shape.data();
        info.rank = static_cast<int32_t>(shape.size());
        info.dtype = static_cast<tsr_dtype>(dtype);
        info.device_type = device.type;
        info.device_index = device.index;
        return info;
    }

    tsr_tensor_info info() const {
        tsr_tensor_info info{};
        info.size = sizeof info;
        check(tsr_tensor_describe(handle(), &info));
        return info;
    }

    detail::Handle<tsr_tensor, tsr_tensor_retain, tsr_tensor_release> handle_;
};

} // namespace tessera

#endif
