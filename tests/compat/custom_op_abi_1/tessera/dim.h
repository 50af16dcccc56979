// Dimensions of tensors: header-only C++17 over the C ABI.
#ifndef TESSERA_DIM_H
#define TESSERA_DIM_H

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "tessera/tensor.h"

namespace tessera {

// A size: an integer, or an integer expression over symbolic sizes (`B`, `2*B + 1`, `min(B, 8)`) that a run gives their
// values. Comparisons between expressions hold for all legal sizes, or are false.
class Dim {
  public:
    Dim() = default;
    template <class T, class = std::enable_if_t<std::is_integral<T>::value>>
    Dim(T value) : value_(static_cast<int64_t>(value)) {} // NOLINT: an integer is a dimension

    // A size that a run gives: at least `min`, at most `max` (-1: unbounded), a multiple of `multiple_of`.
    static Dim symbol(const std::string &name, int64_t min = 0, int64_t max = -1, int64_t multiple_of = 1) {
        tsr_dim *out = nullptr;
        check(tsr_dim_symbol(name.c_str(), min, max, multiple_of, &out));
        return adopt(out);
    }

    // Takes over one reference to a handle of the C ABI.
    static Dim adopt(tsr_dim *handle) {
        detail::Handle<tsr_dim, tsr_dim_retain, tsr_dim_release> owned(handle);
        Dim out;
        if (!tsr_dim_constant(handle, &out.value_))
            out.handle_ = owned;
        return out;
    }
    // One more reference to a handle that somebody else owns.
    static Dim share(const tsr_dim *handle) {
        tsr_dim *mine = const_cast<tsr_dim *>(handle);
        tsr_dim_retain(mine);
        return adopt(mine);
    }

    bool is_constant() const { return !handle_.get(); }
    // The integer; ShapeError for an expression.
    int64_t value() const {
        if (!is_constant())
            throw Error(TSR_SHAPE_ERROR, "the size " + text() + " is symbolic; a number is needed here");
        return value_;
    }
    // "64", "2*B + 1"
    std::string text() const { return is_constant() ? std::to_string(value_) : tsr_dim_text(handle_.get()); }
    // Whether this is certainly at least 0 for all legal sizes.
    bool is_nonnegative() const { return is_constant() ? value_ >= 0 : tsr_dim_nonnegative(handle_.get()) != 0; }
    // The handle of an expression; null for an integer.
    tsr_dim *handle() const noexcept { return handle_.get(); }

    friend Dim operator+(const Dim &a, const Dim &b) { return apply(TSR_DIM_ADD, a, b); }
    friend Dim operator-(const Dim &a, const Dim &b) { return apply(TSR_DIM_SUB, a, b); }
    friend Dim operator*(const Dim &a, const Dim &b) { return apply(TSR_DIM_MUL, a, b); }
    // Rounded down; ShapeError for a division by zero.
    friend Dim floordiv(const Dim &a, const Dim &b) { return apply(TSR_DIM_FLOORDIV, a, b); }
    friend Dim ceildiv(const Dim &a, const Dim &b) { return floordiv(a + b - Dim(1), b); }
    friend Dim mod(const Dim &a, const Dim &b) { return apply(TSR_DIM_MOD, a, b); }
    friend Dim max(const Dim &a, const Dim &b) { return apply(TSR_DIM_MAX, a, b); }
    friend Dim min(const Dim &a, const Dim &b) { return apply(TSR_DIM_MIN, a, b); }
    friend bool operator==(const Dim &a, const Dim &b) {
        if (a.is_constant() || b.is_constant())
            return a.is_constant() && b.is_constant() && a.value_ == b.value_;
        return tsr_dim_equal(a.handle(), b.handle()) != 0;
    }
    friend bool operator!=(const Dim &a, const Dim &b) { return !(a == b); }

    // A handle of the C ABI, for integers too; the caller releases it.
    tsr_dim *to_handle() const {
        tsr_dim *out = handle();
        if (out)
            tsr_dim_retain(out);
        else
            check(tsr_dim_integer(value_, &out));
        return out;
    }

  private:
    static Dim apply(int32_t function, const Dim &a, const Dim &b) {
        detail::Handle<tsr_dim, tsr_dim_retain, tsr_dim_release> left(a.to_handle()), right(b.to_handle());
        tsr_dim *out = nullptr;
        check(tsr_dim_apply(function, left.get(), right.get(), &out));
        return adopt(out);
    }

    int64_t value_ = 0;
    detail::Handle<tsr_dim, tsr_dim_retain, tsr_dim_release> handle_; // of an expression
};

// "[B, 64]"
inline std::string text(const std::vector<Dim> &shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); ++i)
        out += (i ? ", " : "") + shape[i].text();
    return out + "]";
}

} // namespace tessera

#endif
