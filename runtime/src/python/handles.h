// Owners of C ABI handles for the Python classes, and the translation of errors.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>

#include "tessera/c_api.h"

namespace nb = nanobind;

namespace tessera::python {

// Raises the class of tessera.errors that belongs to a status, with this thread's last error as text.
[[noreturn]] void raise_status(tsr_status status);
[[noreturn]] void raise_error(tsr_status status, const char *message);

inline void check(tsr_status status) {
    if (status != TSR_OK)
        raise_status(status);
}

// One reference to a handle.
template <class T, void (*release)(T *)> class Owner {
  public:
    Owner() = default;
    explicit Owner(T *handle) : handle_(handle) {}
    ~Owner() { release(handle_); }
    Owner(Owner &&o) noexcept : handle_(std::exchange(o.handle_, nullptr)) {}
    Owner &operator=(Owner &&o) noexcept {
        std::swap(handle_, o.handle_);
        return *this;
    }
    Owner(const Owner &) = delete;
    Owner &operator=(const Owner &) = delete;
    T *get() const { return handle_; }
    T **out() { return &handle_; }
    T *take() { return std::exchange(handle_, nullptr); }

  private:
    T *handle_ = nullptr;
};

// Handles whose release may wait for work or run the caller's code: the interpreter's lock is given up for it.
template <class T, void (*release)(T *)> void release_unlocked(T *handle) {
    if (!handle)
        return;
    nb::gil_scoped_release unlocked;
    release(handle);
}

using TensorOwner = Owner<tsr_tensor, tsr_tensor_release>;
using GraphOwner = Owner<tsr_graph, release_unlocked<tsr_graph, tsr_graph_release>>;
using TraceOwner = Owner<tsr_trace, tsr_trace_release>;
using RuntimeOwner = Owner<tsr_runtime, release_unlocked<tsr_runtime, tsr_runtime_release>>;

// A text of the library's, given up.
inline nb::str taken(tsr_text *text) {
    nb::str out(tsr_text_data(text), tsr_text_size(text));
    tsr_text_release(text);
    return out;
}

// A contiguous view of a Python object's bytes.
class Bytes {
  public:
    explicit Bytes(nb::handle object);
    ~Bytes() { PyBuffer_Release(&view_); }
    Bytes(const Bytes &) = delete;
    Bytes &operator=(const Bytes &) = delete;
    const void *data() const { return view_.buf; }
    size_t size() const { return static_cast<size_t>(view_.len); }

  private:
    Py_buffer view_;
};

void bind_array(nb::module_ &m);
void bind_program(nb::module_ &m);
void bind_portable(nb::module_ &m);
void bind_mesh(nb::module_ &m);
void bind_custom(nb::module_ &m);

} // namespace tessera::python
