#include "core/transfer.h"

#include <algorithm>
#include <cstring>

#include "device/allocators.h"
#include "device/backend.h"

namespace tessera::core {

namespace {

// The backend that copies between two devices.
Backend &between(DeviceId a, DeviceId b) { return backend(a.is_cpu() ? b : a); }

// The elements of a strided tensor, brought to the host as they lie, from the lowest address to the highest.
Tensor gathered_on_host(const Tensor &t) {
    int64_t low = 0, high = 0;
    for (size_t i = 0; i < t.shape().size(); ++i) {
        const int64_t reach = (t.shape()[i] - 1) * t.strides()[i];
        (reach < 0 ? low : high) += reach;
    }
    const auto item = static_cast<int64_t>(item_size(t.dtype()));
    Tensor span = Tensor::empty(t.dtype(), {high - low + 1});
    backend(t.device()).copy(span.data(), {}, static_cast<char *>(t.data()) + low * item, t.device(), span.bytes(), nullptr);
    Tensor view = Tensor::from_blob(static_cast<char *>(span.data()) - low * item, t.dtype(), t.shape(), t.strides().data(),
                                    nullptr, nullptr);
    return view.contiguous();
}

} // namespace

void wait_for(const Tensor &tensor) {
    if (!tensor || tensor.device().is_cpu())
        if (!tensor || !tensor.storage()->completion())
            return;
    if (std::shared_ptr<Completion> work = tensor.storage()->completion())
        work->wait();
}

void copy_elements(const Tensor &source, const Tensor &target) {
    wait_for(source);
    wait_for(target);
    if (source.bytes() == 0)
        return;
    between(source.device(), target.device())
        .copy(target.data(), target.device(), source.data(), source.device(), source.bytes(), nullptr);
}

Tensor to_device(const Tensor &tensor, DeviceId device, std::shared_ptr<Allocator> allocator) {
    wait_for(tensor);
    Tensor source = tensor;
    if (!tensor.is_contiguous())
        source = tensor.device().is_cpu() ? tensor.contiguous() : gathered_on_host(tensor);
    if (source.device() == device && !tensor.is_contiguous())
        return source; // the row-major copy
    if (!allocator && !device.is_cpu())
        allocator = make_backend_allocator();
    Tensor out = Tensor::empty(tensor.dtype(), tensor.shape(), device, std::move(allocator));
    copy_elements(source, out);
    return out;
}

} // namespace tessera::core
