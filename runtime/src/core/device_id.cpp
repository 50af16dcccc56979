#include "core/device_id.h"

namespace tessera::core {

std::string name(DeviceType type) {
    switch (type) {
    case DeviceType::CPU:
        return "cpu";
    case DeviceType::CUDA:
        return "cuda";
    case DeviceType::ROCM:
        return "rocm";
    }
    return "device type " + std::to_string(static_cast<int32_t>(type));
}

std::string text(DeviceId device) { return name(device.type) + ":" + std::to_string(device.index); }

} // namespace tessera::core
