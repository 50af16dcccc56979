// The library itself: version, errors, dtypes, hashing, the machine.
#include <cstring>

#include "api/handles.h"
#include "core/hash.h"
#include "device/cpu/cpu_level.h"
#include "device/doctor.h"

using namespace tessera::core;

namespace {

thread_local std::string last_error;

} // namespace

namespace tessera::core {

tsr_status record_error(Code code, const std::string &message) noexcept {
    try {
        last_error = message;
    } catch (...) {
        last_error.clear();
    }
    return static_cast<tsr_status>(code);
}

} // namespace tessera::core

const char *tsr_version(void) { return TESSERA_VERSION; }
int32_t tsr_abi_version(void) { return TSR_ABI_VERSION; }
const char *tsr_last_error(void) { return last_error.c_str(); }

tsr_status tsr_set_error(tsr_status status, const char *message) {
    return record_error(static_cast<Code>(status), message ? message : "");
}

const char *tsr_dtype_name(tsr_dtype dtype) { return is_dtype_code(dtype) ? name(static_cast<DType>(dtype)) : nullptr; }
size_t tsr_dtype_size(tsr_dtype dtype) { return is_dtype_code(dtype) ? item_size(static_cast<DType>(dtype)) : 0; }

tsr_status tsr_dtype_parse(const char *text, tsr_dtype *dtype) {
    return guarded([&] {
        require(text, "name");
        require(dtype, "dtype");
        DType found;
        if (!parse_dtype(text, found))
            fail(Code::DType, "unknown dtype '%s'", shown(text).c_str());
        *dtype = static_cast<tsr_dtype>(found);
    });
}

uint64_t tsr_hash64(const void *data, size_t bytes) { return hash64(data, bytes); }
const char *tsr_cpu_level(void) { return level_name(cpu_level()); }

const char *tsr_doctor(void) {
    thread_local std::string report;
    return guarded([&] { report = doctor_report(); }) == TSR_OK ? report.c_str() : "";
}
