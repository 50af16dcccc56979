// Which of an artefact's programs runs here.
#pragma once

#include <string>

#include "core/device_id.h"
#include "format/safetensors.h"

namespace tessera::core {

struct LoadOptions {
    bool verify_hashes = true;
    bool allow_native_code = true;
    bool map = true; // false: the file is read into memory of its own (by whoever makes the Mapping)
    // Empty: the best that runs here. "cpu", "cpu.<level>", "portable"; "ptx", "hsaco", also with a level ("ptx.sm_90a") and
    // with the number of the device at the end ("ptx:1").
    std::string target;
};

struct Target {
    std::string name;  // "cpu", "ptx", "hsaco", "portable"
    std::string level; // "" for portable
    DeviceId device;
};

// Without a wish: a GPU for whose architecture there is a plan, else the highest CPU level that runs here, else the
// portable form. DeviceError, UnsupportedError.
Target choose_target(const SafeTensors &file, const LoadOptions &options);

} // namespace tessera::core
