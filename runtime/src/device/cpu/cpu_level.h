// x86-64 micro-architecture levels (System V psABI): which one this CPU has, and how two compare.
#pragma once

#include <string_view>

namespace tessera::core {

// 1 for "x86-64" to 4 for "x86-64-v4"; 0 for an unknown name.
int level_number(std::string_view name);
const char *level_name(int number);
// The highest level that the running CPU and operating system support.
int cpu_level();

} // namespace tessera::core
