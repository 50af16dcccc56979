// Sleeping until a word changes.
#pragma once

#include <atomic>
#include <cstdint>
#include <ctime>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tessera::core {

// Sleeps while `word` is `expected`, or for shorter; a sleeper is woken by who gives a mask that shares a bit.
inline void futex_wait(std::atomic<uint32_t> &word, uint32_t expected, uint32_t mask = ~0u) {
    syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, expected, nullptr, nullptr, mask);
}

inline void futex_wake(std::atomic<uint32_t> &word, uint32_t mask = ~0u) {
    syscall(SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 0x7fffffff, nullptr, nullptr, mask);
}

// The same, for `nanoseconds` (less than a second) at the most.
inline void futex_wait_for(std::atomic<uint32_t> &word, uint32_t expected, long nanoseconds) {
    const timespec limit{0, nanoseconds};
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, &limit, nullptr, 0);
}

// For loops that wait for another thread for less than a system call takes.
inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

} // namespace tessera::core
