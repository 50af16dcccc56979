#include "device/gpu/driver.h"

#include <cstring>

namespace tessera::core::gpu {

namespace {
constexpr int host_memory = 1; // CU_MEMORYTYPE_HOST; HIP counts from 0 before ROCm 6 and from 1 after
}

int Driver::device_of(Address address) const {
    int type = 0, ordinal = -1;
    if (functions_.pointer_attribute(&type, pointer_memory_type, address) != success || type == host_memory)
        return -1;
    return functions_.pointer_attribute(&ordinal, pointer_ordinal, address) == success ? ordinal : -1;
}

std::string Driver::describe(Result result) const {
    const char *name = nullptr, *text = nullptr;
    if (functions_.error_name)
        functions_.error_name(result, &name);
    if (functions_.error_text)
        functions_.error_text(result, &text);
    return format("%s (%d): %s", name ? name : "unknown error", result, text ? text : "the driver does not explain it");
}

bool Driver::is_sticky(Result result) {
    switch (result) {
    case 214: // memory error that could not be corrected
    case 220: // link error
    case 226: // contained error
    case 700: // illegal address
    case 702: // time-out
    case 710: // assertion
    case 714: // hardware stack
    case 715: // illegal instruction
    case 716: // misaligned address
    case 717: // address space
    case 718: // program counter
    case 719: // launch failure
    case 721: // tensor memory
        return true;
    default:
        return false;
    }
}

void Driver::raise(Result result, const std::string &what) const {
    std::string text = what + ": " + name_ + " says " + describe(result);
    if (result == out_of_memory)
        throw Error(Code::OutOfMemory, text);
    if (result == not_initialized)
        text += ". A child of fork cannot use the devices of its parent; start it with spawn";
    else if (is_sticky(result))
        text += ". The device's context is spoilt: nothing more can run on this device in this process, and what is in its "
                "memory is lost. To learn which kernel it was, repeat the run with a trace" +
                (std::strcmp(name_, "CUDA") == 0 ? std::string(" and CUDA_LAUNCH_BLOCKING=1 in the environment") : std::string());
    else if (result == unknown)
        text += ". The device may be lost; the system's log tells more";
    throw Error(Code::Device, text);
}

void Driver::read_version_and_count() {
    Result result = functions_.init(0);
    if (result == no_device) {
        fail(Code::Device, "%s: the driver is there (%s) and finds no device", name_, library_.c_str());
    }
    check(result, "the driver cannot be initialised");
    check(functions_.driver_version(&version_), "the driver's version");
    check(functions_.device_count(&devices_), "the number of devices");
    if (devices_ == 0)
        fail(Code::Device, "%s: the driver is there (%s) and finds no device", name_, library_.c_str());
}

} // namespace tessera::core::gpu
