// What the fuzz targets share: each defines LLVMFuzzerTestOneInput. A target may throw nothing: Tessera's own errors are
// the right answer to bad input and end here; any other exception, a crash or a sanitizer's report is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Runs `body`; false when it threw a typed error. An internal error is a finding: it says that a check is missing.
template <class Body> bool accepted(Body &&body) {
    try {
        body();
        return true;
    } catch (const tessera::core::Error &error) {
        if (error.code() != tessera::core::Code::Internal)
            return false;
        std::fprintf(stderr, "internal error: %s\n", error.what());
        std::abort();
    }
}

// A property that holds for all input.
inline void must(bool condition, const char *what, const std::string &detail = {}) {
    if (condition)
        return;
    std::fprintf(stderr, "broken property: %s\n%s\n", what, detail.c_str());
    std::abort();
}

inline std::string_view text_of(const uint8_t *data, size_t size) {
    return {reinterpret_cast<const char *>(data), size};
}
