// What this machine has: CPU, and which optional devices and libraries can be loaded.
#pragma once

#include <string>

namespace tessera::core {

// JSON: {"cpu": {"level", "cores"}, "libraries": [{"name", "file", "found", "why"}]}.
std::string doctor_report();

} // namespace tessera::core
