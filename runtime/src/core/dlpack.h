// The structs of DLPack (version 1.0), the in-memory exchange format for tensors.
#pragma once

#include <cstdint>

#include "core/dtype.h"

struct DLDevice {
    int32_t device_type;
    int32_t device_id;
};

struct DLDataType {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
};

struct DLTensor {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape;
    int64_t *strides; // in elements; null: row-major
    uint64_t byte_offset;
};

struct DLManagedTensor {
    DLTensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(DLManagedTensor *self);
};

struct DLPackVersion {
    uint32_t major;
    uint32_t minor;
};

struct DLManagedTensorVersioned {
    DLPackVersion version;
    void *manager_ctx;
    void (*deleter)(DLManagedTensorVersioned *self);
    uint64_t flags; // bit 0: read-only
    DLTensor dl_tensor;
};

namespace tessera::core {

inline constexpr int32_t dlpack_cpu = 1;
inline constexpr uint64_t dlpack_readonly = 1;

inline DLDataType dlpack_dtype(DType d) {
    return {info(d).dlpack_code, static_cast<uint8_t>(item_size(d) * 8), 1};
}

inline bool from_dlpack_dtype(const DLDataType &d, DType &out) {
    for (int32_t i = 0; i < dtype_count; ++i) {
        DLDataType mine = dlpack_dtype(static_cast<DType>(i));
        if (mine.code == d.code && mine.bits == d.bits && d.lanes == 1) {
            out = static_cast<DType>(i);
            return true;
        }
    }
    return false;
}

} // namespace tessera::core
