// The checks of the C++ tests: a failed one prints itself and the test goes on; main returns whether all held.
#pragma once

#include <atomic>
#include <cstdio>
#include <string>

inline std::atomic<int> failures{0}, checks{0}; // threads of a test check too

inline void report(bool held, const char *text, const char *file, int line) {
    ++checks;
    if (held)
        return;
    ++failures;
    std::printf("%s:%d: failed: %s\n", file, line, text);
}

#define CHECK(condition) report(static_cast<bool>(condition), #condition, __FILE__, __LINE__)

// `expression` must throw `Exception`, with `words` in its text and the given code.
#define CHECK_ERROR(expression, Exception, expected, words)                                                            \
    do {                                                                                                               \
        try {                                                                                                          \
            (void)(expression);                                                                                        \
            report(false, #expression " does not throw", __FILE__, __LINE__);                                          \
        } catch (const Exception &error) {                                                                             \
            bool fits = static_cast<int>(error.code()) == static_cast<int>(expected) &&                                \
                        std::string(error.what()).find(words) != std::string::npos;                                    \
            if (!fits)                                                                                                 \
                std::printf("code %d: %s\n", static_cast<int>(error.code()), error.what());                            \
            report(fits, #expression " throws another error", __FILE__, __LINE__);                                     \
        }                                                                                                              \
    } while (0)

inline int finish() {
    std::printf("%d checks, %d failures\n", checks.load(), failures.load());
    return failures ? 1 : 0;
}
