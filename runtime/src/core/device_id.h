// Where memory is: a kind of device and which of them.
#pragma once

#include <cstdint>
#include <string>

namespace tessera::core {

// Numbered as in DLPack.
enum class DeviceType : int32_t { CPU = 1, CUDA = 2, ROCM = 10 };

struct DeviceId {
    DeviceType type = DeviceType::CPU;
    int32_t index = 0;

    bool is_cpu() const { return type == DeviceType::CPU; }
    friend bool operator==(const DeviceId &a, const DeviceId &b) { return a.type == b.type && a.index == b.index; }
    friend bool operator!=(const DeviceId &a, const DeviceId &b) { return !(a == b); }
};

// "cpu", "cuda", "rocm"; "device type 7" for a number that is none of them.
std::string name(DeviceType type);
// "cuda:1"
std::string text(DeviceId device);

} // namespace tessera::core
