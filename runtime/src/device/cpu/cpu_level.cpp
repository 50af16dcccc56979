#include "device/cpu/cpu_level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tessera::core {

namespace {

constexpr std::string_view names[] = {"", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"};

#if defined(__x86_64__)

// Register state that the operating system saves (XCR0).
unsigned saved_state() {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool has(unsigned value, unsigned bits) { return (value & bits) == bits; }

int detect() {
    unsigned a, b, c1, d1;
    if (!__get_cpuid(1, &a, &b, &c1, &d1))
        return 1;
    unsigned extended_c = 0, d = 0;
    __get_cpuid(0x80000001, &a, &b, &extended_c, &d);
    // v2: SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT, LAHF.
    if (!has(c1, 1u | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23) || !has(extended_c, 1u))
        return 1;
    unsigned b7 = 0, c7 = 0, d7 = 0;
    __get_cpuid_count(7, 0, &a, &b7, &c7, &d7);
    bool saves_registers = has(c1, 1u << 27);
    // v3: FMA, MOVBE, AVX, F16C, AVX2, BMI1, BMI2, LZCNT, and YMM state saved.
    if (!has(c1, 1u << 12 | 1u << 22 | 1u << 28 | 1u << 29) || !has(b7, 1u << 3 | 1u << 5 | 1u << 8) ||
        !has(extended_c, 1u << 5) || !saves_registers || !has(saved_state(), 0x6))
        return 2;
    // v4: AVX-512 F, DQ, CD, BW, VL, and ZMM state saved.
    if (!has(b7, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) || !has(saved_state(), 0xe6))
        return 3;
    return 4;
}

#else

int detect() { return 0; }

#endif

} // namespace

int level_number(std::string_view name) {
    for (int i = 1; i <= 4; ++i)
        if (name == names[i])
            return i;
    return 0;
}

const char *level_name(int number) { return number >= 1 && number <= 4 ? names[number].data() : "none"; }

int cpu_level() {
    static const int level = detect();
    return level;
}

} // namespace tessera::core
