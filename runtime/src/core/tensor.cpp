#include "core/tensor.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "device/backend.h"

namespace tessera::core {

namespace {

// An empty tensor has an address too, so that null always means "none".
alignas(tensor_alignment) char no_elements[tensor_alignment];

void *from_heap(size_t bytes) {
    size_t rounded = (bytes + tensor_alignment) & ~(tensor_alignment - 1);
    void *data = rounded < bytes ? nullptr : std::aligned_alloc(tensor_alignment, rounded);
    if (!data)
        fail(Code::OutOfMemory, "%zu bytes could not be allocated", bytes);
    return data;
}

} // namespace

namespace {

// Memory is released after the work that writes it, which may be on a stream other than its own. Gives whether it can be:
// not where the work may never end, and would write to memory that somebody else has by then.
bool comes_after(Completion &work, DeviceId device, Stream *stream) noexcept {
    try {
        if (stream && stream->native() == work.native_stream())
            return true;
        if (stream)
            backend(device).wait(*stream, work.event());
        else if (!work.reached())
            work.finish();
        return true;
    } catch (...) { // a device has failed: the own one writes nothing any more
        return stream || work.reached();
    }
}

} // namespace

std::shared_ptr<Storage> Storage::allocate(size_t bytes, DeviceId device, std::shared_ptr<Allocator> allocator,
                                           std::shared_ptr<Stream> stream) {
    if (!allocator && !device.is_cpu())
        fail(Code::Internal, "memory on %s without an allocator", text(device).c_str());
    std::shared_ptr<Storage> out(new Storage(no_elements, bytes, device));
    if (bytes == 0)
        return out;
    if (allocator) {
        out->data_ = allocator->allocate(device, bytes, tensor_alignment, stream.get());
        out->allocator_ = std::move(allocator);
        out->stream_ = std::move(stream);
    } else {
        out->data_ = from_heap(bytes);
        out->heap_ = true;
    }
    return out;
}

std::shared_ptr<Storage> Storage::adopt(void *data, size_t bytes, Deleter deleter, void *context, DeviceId device) {
    std::shared_ptr<Storage> out(new Storage(data, bytes, device));
    out->deleter_ = deleter;
    out->context_ = context;
    return out;
}

Storage::~Storage() {
    if (allocator_ && completion_ && !comes_after(*completion_, device_, stream_.get()))
        return;
    if (allocator_)
        allocator_->release(device_, data_, bytes_, stream_.get());
    else if (heap_)
        std::free(data_);
    else if (deleter_)
        deleter_(context_);
}

namespace {

std::vector<int64_t> row_major(const std::vector<int64_t> &shape) {
    std::vector<int64_t> strides(shape.size());
    int64_t step = 1;
    for (size_t i = shape.size(); i-- > 0;) {
        strides[i] = step;
        step *= shape[i] > 0 ? shape[i] : 1;
    }
    return strides;
}

// Offsets in bytes fit in 64 bits, in empty tensors too, whose other sizes nothing else limits.
void check_offsets(const std::vector<int64_t> &shape) {
    element_count(shape);
    int64_t bytes = 8;
    for (int64_t size : shape)
        bytes = checked_mul(bytes, std::max<int64_t>(1, size));
}

void check_rank(const std::vector<int64_t> &shape) {
    if (static_cast<int64_t>(shape.size()) > max_rank)
        fail(Code::Shape, "a tensor of rank %zu; the highest rank is %lld", shape.size(),
             static_cast<long long>(max_rank));
}

// Copies the sub-tensor of dimensions [axis, rank) in row-major order; returns the end of what was written.
char *copy_strided(char *target, const char *source, const Tensor &t, size_t axis, size_t item) {
    int64_t count = t.shape()[axis], step = t.strides()[axis] * static_cast<int64_t>(item);
    if (axis + 1 < t.shape().size()) {
        for (int64_t i = 0; i < count; ++i, source += step)
            target = copy_strided(target, source, t, axis + 1, item);
        return target;
    }
    if (step == static_cast<int64_t>(item)) {
        std::memcpy(target, source, static_cast<size_t>(count) * item);
        return target + static_cast<size_t>(count) * item;
    }
    for (int64_t i = 0; i < count; ++i, source += step, target += item)
        std::memcpy(target, source, item);
    return target;
}

} // namespace

void Tensor::set_layout(std::vector<int64_t> shape, std::vector<int64_t> strides) {
    size_ = element_count(shape);
    checked_mul(size_, static_cast<int64_t>(item_size(dtype_)));
    int64_t step = 1;
    contiguous_ = true;
    if (size_ > 0)
        for (size_t i = shape.size(); i-- > 0; step *= shape[i])
            if (shape[i] != 1 && strides[i] != step)
                contiguous_ = false;
    layout_ = std::make_shared<const Layout>(Layout{std::move(shape), std::move(strides)});
}

Tensor Tensor::empty(DType dtype, std::vector<int64_t> shape, DeviceId device, std::shared_ptr<Allocator> allocator,
                     std::shared_ptr<Stream> stream) {
    Tensor t = prototype(dtype, std::move(shape));
    t.storage_ = Storage::allocate(t.bytes(), device, std::move(allocator), std::move(stream));
    t.data_ = t.storage_->data();
    return t;
}

Tensor Tensor::prototype(DType dtype, std::vector<int64_t> shape) {
    check_rank(shape);
    check_offsets(shape);
    Tensor t;
    t.dtype_ = dtype;
    std::vector<int64_t> strides = row_major(shape);
    t.set_layout(std::move(shape), std::move(strides));
    return t;
}

Tensor Tensor::empty_like(const Tensor &prototype, std::shared_ptr<Allocator> allocator) {
    Tensor t = prototype;
    t.readonly_ = false;
    t.storage_ = Storage::allocate(t.bytes(), {}, std::move(allocator));
    t.data_ = t.storage_->data();
    return t;
}

Tensor Tensor::zeros(DType dtype, std::vector<int64_t> shape) {
    Tensor t = empty(dtype, std::move(shape));
    std::memset(t.data_, 0, t.bytes());
    return t;
}

Tensor Tensor::from_blob(void *data, DType dtype, std::vector<int64_t> shape, const int64_t *strides, Deleter deleter,
                         void *context, bool readonly, DeviceId device) {
    check_rank(shape);
    check_offsets(shape);
    Tensor t;
    t.dtype_ = dtype;
    t.readonly_ = readonly;
    std::vector<int64_t> steps = strides ? std::vector<int64_t>(strides, strides + shape.size()) : row_major(shape);
    t.set_layout(std::move(shape), std::move(steps));
    if (!data && t.size_ > 0)
        fail(Code::Argument, "from_blob: the address is null but the tensor has %lld elements",
             static_cast<long long>(t.size_));
    if (reinterpret_cast<uintptr_t>(data) % item_size(dtype))
        fail(Code::Argument, "from_blob: the address %p is not aligned to the %zu bytes of a %s", data,
             item_size(dtype), name(dtype));
    t.storage_ = Storage::adopt(data, t.bytes(), deleter, context, device);
    t.data_ = data;
    return t;
}

Tensor Tensor::contiguous() const {
    if (contiguous_)
        return *this;
    Tensor out = empty(dtype_, shape());
    copy_to(out.data_);
    return out;
}

void Tensor::copy_to(void *target) const {
    if (size_ == 0)
        return;
    if (contiguous_)
        std::memcpy(target, data_, bytes());
    else
        copy_strided(static_cast<char *>(target), static_cast<const char *>(data_), *this, 0, item_size(dtype_));
}

Tensor Tensor::reshaped(std::vector<int64_t> shape) const {
    if (!contiguous_)
        fail(Code::Argument, "reshape: the tensor is not contiguous");
    check_rank(shape);
    if (element_count(shape) != size_)
        fail(Code::Shape, "reshape: %s has another number of elements than %s", shape_text(shape).c_str(),
             shape_text(this->shape()).c_str());
    Tensor out = *this;
    std::vector<int64_t> strides = row_major(shape);
    out.set_layout(std::move(shape), std::move(strides));
    return out;
}

TensorView Tensor::view() const {
    if (!device().is_cpu())
        fail(Code::Device, "the tensor %s is on %s, where operators do not run one by one; copy it to the CPU, or compile the "
                           "graph for that device", type_text(dtype_, shape()).c_str(), text(device()).c_str());
    if (!contiguous_)
        fail(Code::Internal, "view of a tensor that is not contiguous");
    return {dtype_, shape(), data_};
}

AddressRange address_range(const Tensor &t) {
    auto *data = static_cast<const char *>(t.data());
    if (!t || t.size() == 0)
        return {data, data};
    if (t.is_contiguous())
        return {data, data + t.bytes()};
    int64_t low = 0, high = 0, item = static_cast<int64_t>(item_size(t.dtype()));
    for (size_t i = 0; i < t.shape().size(); ++i) {
        int64_t reach = (t.shape()[i] - 1) * t.strides()[i] * item;
        (reach < 0 ? low : high) += reach;
    }
    return {data + low, data + high + item};
}

std::string shape_text(const std::vector<int64_t> &shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); ++i)
        out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

std::string type_text(DType dtype, const std::vector<int64_t> &shape) { return name(dtype) + shape_text(shape); }

} // namespace tessera::core
