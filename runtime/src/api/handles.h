// The objects behind the handles of the C ABI, and the guard that turns exceptions into status codes.
#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <string>

#include "core/dims.h"
#include "core/error.h"
#include "core/lazy.h"
#include "core/tensor.h"
#include "tessera/c_api.h"

namespace tessera::core {

// Reference count of a handle; starts at one, the creator's.
class Counted {
  public:
    void retain() { count_.fetch_add(1, std::memory_order_relaxed); }
    // True when the last reference is gone.
    bool release() { return count_.fetch_sub(1, std::memory_order_acq_rel) == 1; }

  private:
    std::atomic<int64_t> count_{1};
};

tsr_status record_error(Code code, const std::string &message) noexcept;

// Runs `body`; an exception becomes this thread's last error and its code.
template <class Body> tsr_status guarded(Body &&body) noexcept {
    try {
        body();
        return TSR_OK;
    } catch (const Error &e) {
        return record_error(e.code(), e.message());
    } catch (const std::bad_alloc &) {
        return record_error(Code::OutOfMemory, "memory could not be allocated");
    } catch (const std::exception &e) {
        return record_error(Code::Internal, e.what());
    } catch (...) {
        return record_error(Code::Internal, "unknown exception");
    }
}

// Fails with ArgumentError when a required pointer is null.
inline void require(const void *pointer, const char *what) {
    if (!pointer)
        fail(Code::Argument, "%s is null", what);
}

} // namespace tessera::core

// A tensor handle: concrete, or lazy with a result that may be there already.
struct tsr_tensor : tessera::core::Counted {
    explicit tsr_tensor(tessera::core::Tensor t) : tensor(std::move(t)) {}
    explicit tsr_tensor(std::shared_ptr<tessera::core::Lazy> l) : lazy(std::move(l)) {}

    tessera::core::DType dtype() const { return lazy ? lazy->dtype() : tensor.dtype(); }
    const std::vector<int64_t> &shape() const { return lazy ? lazy->shape() : tensor.shape(); }
    // The concrete tensor; ArgumentError when this is lazy and has not run.
    tessera::core::Tensor concrete() const;

    const tessera::core::Tensor tensor; // empty when lazy
    const std::shared_ptr<tessera::core::Lazy> lazy;
};

struct tsr_text {
    const std::string text;
};

struct tsr_dim : tessera::core::Counted {
    explicit tsr_dim(tessera::core::Dim d) : dim(std::move(d)), text(dim.text()), symbols(dim.symbols()) {}

    const tessera::core::Dim dim;
    const std::string text;
    const tessera::core::SymbolTable symbols;
};
