// Tensor handles and their exchange through DLPack.
#include "api/device_handles.h"

#include <algorithm>

#include "core/dlpack.h"
#include "core/transfer.h"
#include "device/allocators.h"
#include "device/backend.h"

using namespace tessera::core;

namespace {

struct Described {
    DType dtype;
    std::vector<int64_t> shape;
    DeviceId device;
};

Described read_info(const tsr_tensor_info *info) {
    require(info, "info");
    if (info->size < sizeof(tsr_tensor_info))
        fail(Code::Argument, "tsr_tensor_info.size is %zu, expected at least %zu", info->size, sizeof(tsr_tensor_info));
    if (!is_dtype_code(info->dtype))
        fail(Code::DType, "dtype code %d is unknown", info->dtype);
    if (info->rank < 0 || info->rank > max_rank)
        fail(Code::Shape, "rank %d is outside [0, %lld]", info->rank, static_cast<long long>(max_rank));
    if (info->rank > 0)
        require(info->shape, "shape");
    const DeviceId device{static_cast<DeviceType>(info->device_type), info->device_index};
    backend(device);
    return {static_cast<DType>(info->dtype), std::vector<int64_t>(info->shape, info->shape + info->rank), device};
}

// Uninitialised memory of its own.
Tensor create(Described d) {
    std::shared_ptr<Allocator> allocator = d.device.is_cpu() ? nullptr : make_backend_allocator();
    return Tensor::empty(d.dtype, std::move(d.shape), d.device, std::move(allocator));
}

Tensor from_dl_tensor(const DLTensor &t, Deleter deleter, void *context, bool readonly) {
    DType dtype;
    if (!from_dlpack_dtype(t.dtype, dtype))
        fail(Code::DType, "the DLPack element type (code %d, %d bits, %d lanes) has no Tessera dtype", t.dtype.code,
             t.dtype.bits, t.dtype.lanes);
    const DeviceId device{static_cast<DeviceType>(t.device.device_type), t.device.device_id};
    backend(device);
    if (t.ndim < 0 || t.ndim > max_rank)
        fail(Code::Shape, "the DLPack tensor has rank %d", t.ndim);
    char *data = static_cast<char *>(t.data);
    return Tensor::from_blob(data ? data + t.byte_offset : data, dtype,
                             std::vector<int64_t>(t.shape, t.shape + t.ndim), t.strides, deleter, context, readonly,
                             device);
}

// Takes over a managed tensor of either version.
template <class Managed> tsr_status import_managed(Managed *managed, bool readonly, tsr_tensor **tensor) {
    Deleter deleter = [](void *context) {
        auto *m = static_cast<Managed *>(context);
        if (m->deleter)
            m->deleter(m);
    };
    bool taken = false;
    tsr_status status = guarded([&] {
        require(managed, "managed");
        require(tensor, "tensor");
        Tensor t = from_dl_tensor(managed->dl_tensor, deleter, managed, readonly);
        taken = true;
        *tensor = new tsr_tensor(std::move(t));
    });
    if (status != TSR_OK && managed && !taken)
        deleter(managed);
    return status;
}

// A managed tensor together with what it points to.
template <class Managed> struct Exported {
    Managed managed{};
    Tensor tensor;
    std::vector<int64_t> shape, strides;

    static Managed *make(tsr_tensor *handle) {
        auto *e = new Exported;
        std::unique_ptr<Exported> owner(e);
        e->tensor = handle->concrete();
        e->shape = e->tensor.shape();
        e->strides = e->tensor.strides();
        DLTensor &t = e->managed.dl_tensor;
        t.data = e->tensor.data();
        t.device = {static_cast<int32_t>(e->tensor.device().type), e->tensor.device().index};
        t.ndim = static_cast<int32_t>(e->shape.size());
        t.dtype = dlpack_dtype(e->tensor.dtype());
        t.shape = e->shape.data();
        t.strides = e->strides.data();
        t.byte_offset = 0;
        e->managed.manager_ctx = e;
        e->managed.deleter = [](Managed *self) { delete static_cast<Exported *>(self->manager_ctx); };
        return &owner.release()->managed;
    }
};

} // namespace

Tensor tsr_tensor::concrete() const {
    if (!lazy)
        return tensor;
    Tensor value = lazy->value();
    if (!value)
        fail(Code::Argument, "the tensor %s has not been computed; submit it to a runtime and wait",
             type_text(lazy->dtype(), lazy->shape()).c_str());
    return value;
}

tsr_status tsr_tensor_create(const tsr_tensor_info *info, tsr_tensor **tensor) {
    return guarded([&] {
        require(tensor, "tensor");
        Described d = read_info(info);
        Tensor t = create(std::move(d));
        backend(t.device()).fill(t.data(), t.device().index, 0, t.bytes(), nullptr);
        *tensor = new tsr_tensor(std::move(t));
    });
}

tsr_status tsr_tensor_create_from(const tsr_tensor_info *info, tsr_allocator *allocator, tsr_stream *stream,
                                  tsr_tensor **tensor) {
    return guarded([&] {
        require(allocator, "allocator");
        require(tensor, "tensor");
        Described d = read_info(info);
        // Memory of the CPU does not follow a stream's order: who lets a tensor go has waited for its use.
        std::shared_ptr<Stream> order = d.device.is_cpu() ? nullptr : object_of(stream);
        Tensor t = Tensor::empty(d.dtype, std::move(d.shape), d.device, allocator->object, order);
        if (t.bytes() > 0)
            backend(t.device()).fill(t.data(), t.device().index, 0, t.bytes(), order.get());
        *tensor = new tsr_tensor(std::move(t));
    });
}

tsr_status tsr_tensor_create_uninitialized(const tsr_tensor_info *info, tsr_tensor **tensor) {
    return guarded([&] {
        require(tensor, "tensor");
        Described d = read_info(info);
        *tensor = new tsr_tensor(create(std::move(d)));
    });
}

tsr_status tsr_tensor_from_blob(const tsr_tensor_info *info, tsr_deleter deleter, void *context, tsr_tensor **tensor) {
    return guarded([&] {
        require(tensor, "tensor");
        Described d = read_info(info);
        *tensor = new tsr_tensor(Tensor::from_blob(info->data, d.dtype, std::move(d.shape), info->strides, deleter, context,
                                                   (info->flags & TSR_TENSOR_READONLY) != 0, d.device));
    });
}

tsr_status tsr_tensor_from_dlpack(DLManagedTensor *managed, tsr_tensor **tensor) {
    return import_managed(managed, false, tensor);
}

tsr_status tsr_tensor_from_dlpack_versioned(DLManagedTensorVersioned *managed, tsr_tensor **tensor) {
    if (managed && managed->version.major != 1) {
        tsr_status status =
            record_error(Code::Unsupported, format("DLPack version %u.%u is not supported", managed->version.major,
                                                   managed->version.minor));
        if (managed->deleter)
            managed->deleter(managed);
        return status;
    }
    return import_managed(managed, managed && (managed->flags & dlpack_readonly), tensor);
}

tsr_status tsr_tensor_to_dlpack(tsr_tensor *tensor, DLManagedTensor **managed) {
    return guarded([&] {
        require(tensor, "tensor");
        require(managed, "managed");
        if (tensor->concrete().readonly())
            fail(Code::Argument, "the tensor is read-only, which this version of DLPack cannot express; use DLPack 1 or copy");
        *managed = Exported<DLManagedTensor>::make(tensor);
    });
}

tsr_status tsr_tensor_to_dlpack_versioned(tsr_tensor *tensor, DLManagedTensorVersioned **managed) {
    return guarded([&] {
        require(tensor, "tensor");
        require(managed, "managed");
        DLManagedTensorVersioned *out = Exported<DLManagedTensorVersioned>::make(tensor);
        out->version = {1, 0};
        out->flags = tensor->concrete().readonly() ? dlpack_readonly : 0;
        *managed = out;
    });
}

tsr_status tsr_tensor_describe(const tsr_tensor *tensor, tsr_tensor_info *info) {
    return guarded([&] {
        require(tensor, "tensor");
        require(info, "info");
        if (info->size < sizeof(tsr_tensor_info))
            fail(Code::Argument, "tsr_tensor_info.size is %zu, expected at least %zu", info->size, sizeof(tsr_tensor_info));
        const std::vector<int64_t> &shape = tensor->shape();
        Tensor computed = tensor->lazy ? tensor->lazy->value() : Tensor();
        const Tensor &value = tensor->lazy ? computed : tensor->tensor;
        info->data = value.data();
        info->dtype = static_cast<tsr_dtype>(tensor->dtype());
        const bool symbolic = std::find(shape.begin(), shape.end(), -1) != shape.end(); // of a lazy tensor
        info->bytes = symbolic ? 0 : static_cast<uint64_t>(element_count(shape)) * item_size(tensor->dtype());
        info->shape = shape.data();
        info->strides = tensor->lazy ? nullptr : tensor->tensor.strides().data();
        info->rank = static_cast<int32_t>(shape.size());
        info->device_type = static_cast<int32_t>(value.device().type);
        info->device_index = value.device().index;
        uint32_t flags = 0;
        if (value.readonly())
            flags |= TSR_TENSOR_READONLY;
        if (value.is_contiguous())
            flags |= TSR_TENSOR_CONTIGUOUS;
        if (!value)
            flags |= TSR_TENSOR_LAZY;
        if (symbolic)
            flags |= TSR_TENSOR_SYMBOLIC;
        info->flags = flags;
    });
}

tsr_status tsr_tensor_contiguous(tsr_tensor *tensor, tsr_tensor **contiguous) {
    return guarded([&] {
        require(tensor, "tensor");
        require(contiguous, "contiguous");
        if (tensor->lazy || tensor->tensor.is_contiguous()) {
            tensor->retain();
            *contiguous = tensor;
        } else {
            *contiguous = new tsr_tensor(tensor->tensor.device().is_cpu() ? tensor->tensor.contiguous()
                                                                          : to_device(tensor->tensor, tensor->tensor.device()));
        }
    });
}

void tsr_tensor_retain(tsr_tensor *tensor) {
    if (tensor)
        tensor->retain();
}

void tsr_tensor_release(tsr_tensor *tensor) {
    if (tensor && tensor->release())
        delete tensor;
}
