// What functions of a custom operator get: types, tensors, attributes, and the deduction of a signature. Part of
// tessera/custom_op.h, which says how they are used.
#ifndef TESSERA_CUSTOM_CALL_H
#define TESSERA_CUSTOM_CALL_H

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/custom_op_abi.h"
#include "tessera/dim.h"
#include "tessera/ops.h"
#include "tessera/tensor.h"

namespace tessera {
namespace custom __attribute__((visibility("hidden"))) {

// Half-precision numbers as elements; arithmetic is that of float.
struct bfloat16 {
    bfloat16() = default;
    explicit bfloat16(float value) {
        uint32_t word;
        std::memcpy(&word, &value, sizeof word);
        // To the nearest, halves to even; a NaN stays one.
        bits = value != value ? uint16_t(0x7FC0) : static_cast<uint16_t>((word + 0x7FFF + ((word >> 16) & 1)) >> 16);
    }
    operator float() const { // NOLINT: a number
        const uint32_t word = static_cast<uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &word, sizeof value);
        return value;
    }
    uint16_t bits;
};

// The dtype of an element type.
template <class T> constexpr DType dtype_of() {
    if constexpr (std::is_same<T, double>::value)
        return DType::F64;
    else if constexpr (std::is_same<T, float>::value)
        return DType::F32;
    else if constexpr (std::is_same<T, bfloat16>::value)
        return DType::BF16;
    else if constexpr (std::is_same<T, bool>::value)
        return DType::Bool;
    else if constexpr (std::is_integral<T>::value && std::is_signed<T>::value)
        return sizeof(T) == 8 ? DType::I64 : sizeof(T) == 4 ? DType::I32 : sizeof(T) == 2 ? DType::I16 : DType::I8;
    else
        return DType::U8;
}

// function(T()) with the first of the types that is the dtype's; DTypeError when none is.
template <class... Types, class F> void dispatch(DType dtype, F &&function) {
    const bool found = ((dtype == dtype_of<Types>() ? (function(Types()), true) : false) || ...);
    if (!found)
        throw Error(TSR_DTYPE_ERROR, std::string("there is no kernel for ") + name(dtype));
}

// dtype and shape of a tensor; sizes may be symbolic.
struct TensorType {
    DType dtype = DType::F32;
    std::vector<Dim> shape;

    size_t rank() const { return shape.size(); }
    // "f32[B, 64]"
    std::string text() const { return tessera::name(dtype) + tessera::text(shape); }
    friend bool operator==(const TensorType &a, const TensorType &b) { return a.dtype == b.dtype && a.shape == b.shape; }
    friend bool operator!=(const TensorType &a, const TensorType &b) { return !(a == b); }
};

namespace detail {

// A row-major tensor in memory.
class View {
  public:
    explicit View(const tsr_custom_tensor *tensor) : tensor_(tensor) {}
    DType dtype() const { return static_cast<DType>(tensor_->dtype); }
    SizeView shape() const { return {tensor_->shape, static_cast<size_t>(tensor_->rank)}; }
    int64_t size(size_t axis) const { return tensor_->shape[axis]; }
    // The number of elements.
    int64_t size() const {
        int64_t out = 1;
        for (int64_t n : shape())
            out *= n;
        return out;
    }

  protected:
    template <class T> T *elements() const {
        using Element = std::remove_cv_t<T>;
        if constexpr (!std::is_void<T>::value)
            if (dtype() != dtype_of<Element>() && !tessera::detail::is_element<Element>(dtype()))
                throw Error(TSR_DTYPE_ERROR, std::string("data: the elements are ") + tessera::name(dtype()) +
                                                 ", which is not the type asked for");
        return static_cast<T *>(tensor_->data);
    }

  private:
    const tsr_custom_tensor *tensor_;
};

} // namespace detail

// An operand of a kernel.
class Input : public detail::View {
  public:
    using View::View;
    // The elements, or their address on a GPU. T must fit the dtype; void fits all.
    template <class T> const T *data() const { return elements<const T>(); }
};

// A result of a kernel, to be written.
class Output : public detail::View {
  public:
    using View::View;
    template <class T> T *data() const { return elements<T>(); }
};

namespace detail {

// Runs a function of the library; what it throws becomes a status.
template <class F> tsr_status guarded(F &&function) noexcept {
    try {
        function();
        return TSR_OK;
    } catch (const Error &e) {
        return tsr_set_error(e.code() == TSR_OK ? static_cast<tsr_status>(TSR_ERROR) : e.code(), e.what());
    } catch (const std::bad_alloc &) {
        return tsr_set_error(TSR_OUT_OF_MEMORY_ERROR, "memory could not be allocated");
    } catch (const std::exception &e) {
        return tsr_set_error(TSR_ERROR, e.what());
    } catch (...) {
        return tsr_set_error(TSR_ERROR, "an exception that is no std::exception was thrown");
    }
}

} // namespace detail

// Where and with what a kernel runs.
class Context {
  public:
    explicit Context(const tsr_custom_call *call) : call_(call) {}

    // function(begin, end) or function(begin, end, thread) on disjoint ranges that cover [0, units), none split below
    // `grain` units (give a range some 10 microseconds of work or more), on the runtime's threads. Returns when all are
    // done; rethrows.
    template <class F> void parallel_for(int64_t units, int64_t grain, F &&function) const {
        using Range = std::remove_reference_t<F>;
        const tsr_range_function range = [](void *context, int64_t begin, int64_t end, int32_t thread) {
            return detail::guarded([&] {
                if constexpr (std::is_invocable<Range &, int64_t, int64_t, int32_t>::value)
                    (*static_cast<Range *>(context))(begin, end, thread);
                else
                    (*static_cast<Range *>(context))(begin, end);
            });
        };
        check(call_->parallel_for(call_, units, grain, range,
                                  const_cast<void *>(static_cast<const void *>(std::addressof(function)))));
    }
    // That take part in parallel_for, at most.
    int32_t threads() const { return call_->threads; }
    // The scratch memory that was asked for: 64-byte aligned, uninitialised.
    template <class T> T *scratch() const { return static_cast<T *>(call_->scratch); }
    size_t scratch_bytes() const { return static_cast<size_t>(call_->scratch_bytes); }
    Device device() const { return {static_cast<Device::Type>(call_->device_type), call_->device_index}; }
    // On a GPU: the stream for the kernel's work (CUstream, cudaStream_t or hipStream_t), which is not waited for.
    template <class Stream = void *> Stream stream() const { return static_cast<Stream>(call_->stream); }
    // Whether the run was cancelled: a long kernel may stop early then.
    bool cancelled() const { return call_->cancelled(call_) != 0; }

  private:
    const tsr_custom_call *call_;
};

// The call whose gradient is wanted.
class Gradient {
  public:
    explicit Gradient(const tsr_custom_gradient *call) : call_(call) {}
    // Whether the gradient of a result is not zero.
    bool has(int32_t result = 0) const { return call_->cotangents[result] != nullptr; }
    // The gradient of a result.
    Tensor of(int32_t i = 0) const { return has(i) ? share(call_->cotangents[i]) : op::zeros_like(result(i)); }
    // A result of the operator.
    Tensor result(int32_t i = 0) const { return share(call_->results[i]); }

    static Tensor share(tsr_tensor *handle) {
        tsr_tensor_retain(handle);
        return Tensor::adopt(handle);
    }

  private:
    const tsr_custom_gradient *call_;
};

namespace detail {

// The type of an attribute in a schema, and its value.
template <class T, class = void> struct Attribute {
    static_assert(sizeof(T) == 0, "an attribute is bool, an integer, a float, std::string, DType, Dim, or a std::vector "
                                  "or std::optional of these");
};
template <> struct Attribute<bool> {
    static std::string type() { return "bool"; }
    static bool read(const tsr_attribute &a) { return a.integer != 0; }
};
template <class T> struct Attribute<T, std::enable_if_t<std::is_integral<T>::value && !std::is_same<T, bool>::value>> {
    static std::string type() { return "int"; }
    static T read(const tsr_attribute &a) { return static_cast<T>(a.integer); }
};
template <class T> struct Attribute<T, std::enable_if_t<std::is_floating_point<T>::value>> {
    static std::string type() { return "float"; }
    static T read(const tsr_attribute &a) { return static_cast<T>(a.real); }
};
template <> struct Attribute<std::string> {
    static std::string type() { return "str"; }
    static std::string read(const tsr_attribute &a) { return a.text; }
};
template <> struct Attribute<DType> {
    static std::string type() { return "dtype"; }
    static DType read(const tsr_attribute &a) { return static_cast<DType>(a.integer); }
};
template <> struct Attribute<Dim> {
    static std::string type() { return "dim"; }
    static Dim read(const tsr_attribute &a) { return a.kind == TSR_ATTRIBUTE_DIM ? Dim::share(a.dim) : Dim(a.integer); }
};
template <class T> struct Attribute<std::vector<T>> {
    static std::string type() { return Attribute<T>::type() + "[]"; }
    static std::vector<T> read(const tsr_attribute &a) {
        std::vector<T> out;
        for (int32_t i = 0; i < a.count; ++i)
            out.push_back(Attribute<T>::read(*a.items[i]));
        return out;
    }
};
template <class T> struct Attribute<std::optional<T>> {
    static std::string type() { return Attribute<T>::type() + "?"; }
    static std::optional<T> read(const tsr_attribute &a) {
        return a.kind == TSR_ATTRIBUTE_NONE ? std::nullopt : std::optional<T>(Attribute<T>::read(a));
    }
};

// Parameters that are operands, results, or neither.
template <class T> struct IsTensor : std::false_type {};
template <> struct IsTensor<TensorType> : std::true_type {};
template <> struct IsTensor<Input> : std::true_type {};
template <> struct IsTensor<Tensor> : std::true_type {};
template <class T> struct IsTensorList : std::false_type {};
template <class T> struct IsTensorList<std::vector<T>> : IsTensor<T> {};
template <class T> struct IsOutput : std::is_same<T, Output> {};
template <class T> struct IsContext : std::integral_constant<bool, std::is_same<T, Context>::value ||
                                                                       std::is_same<T, Gradient>::value> {};

template <class T> void append_type(std::vector<std::string> &out) {
    if constexpr (IsTensor<T>::value)
        out.push_back("tensor");
    else if constexpr (IsTensorList<T>::value)
        out.push_back("tensor[]");
    else if constexpr (!IsOutput<T>::value && !IsContext<T>::value)
        out.push_back(Attribute<T>::type());
}

// Result and parameters of a function or lambda.
template <class F> struct Function : Function<decltype(&F::operator())> {};
template <class R, class... A> struct Function<R (*)(A...)> {
    using Result = std::decay_t<R>;
    using Parameters = std::tuple<std::decay_t<A>...>;
    static std::vector<std::string> signature() {
        std::vector<std::string> out;
        (append_type<std::decay_t<A>>(out), ...);
        return out;
    }
    static constexpr size_t tensors = (size_t(IsTensor<std::decay_t<A>>::value) + ... + 0);
    static constexpr size_t outputs = (size_t(IsOutput<std::decay_t<A>>::value) + ... + 0);
    template <class Reader> static Parameters read(Reader &reader) {
        return Parameters{reader.template next<std::decay_t<A>>()...}; // braces: from left to right
    }
};
template <class R, class... A> struct Function<R (*)(A...) noexcept> : Function<R (*)(A...)> {};
template <class C, class R, class... A> struct Function<R (C::*)(A...) const> : Function<R (*)(A...)> {};
template <class C, class R, class... A> struct Function<R (C::*)(A...) const noexcept> : Function<R (*)(A...)> {};

// "tensor", "float", ... of each parameter that is an operand or attribute.
template <class F> std::vector<std::string> signature_of() { return Function<F>::signature(); }
template <class F> constexpr size_t tensor_count() { return Function<F>::tensors; }
template <class F> constexpr size_t output_count() { return Function<F>::outputs; }

template <class F, class Reader> decltype(auto) invoke(const F &function, Reader &reader) {
    typename Function<F>::Parameters parameters = Function<F>::read(reader);
    return std::apply(function, parameters);
}

// How a function's signature differs from that of the shape function; empty when it fits. Sizes are integers in kernels.
inline std::string difference(const std::vector<std::string> &shape, const std::vector<std::string> &other) {
    const auto list = [](const std::vector<std::string> &signature) {
        std::string out;
        for (const std::string &type : signature)
            out += (out.empty() ? "" : ", ") + type;
        return "(" + out + ")";
    };
    bool equal = shape.size() == other.size();
    for (size_t i = 0; equal && i < shape.size(); ++i) {
        const bool size = shape[i].compare(0, 3, "dim") == 0 && other[i].compare(0, 3, "int") == 0;
        equal = shape[i] == other[i] || (size && shape[i].substr(3) == other[i].substr(3));
    }
    return equal ? "" : "takes " + list(other) + ", the shape function takes " + list(shape);
}

// Reads operands and attributes in order. `Call` is one of the structs of the ABI, `Make` makes an operand of it.
template <class Call, class Single, class Make> class Reader {
  public:
    Reader(const Call &call, size_t tensors) : call_(call), list_(static_cast<size_t>(call.operand_count) - tensors) {}

    template <class T> T next() {
        if constexpr (std::is_same<T, Single>::value) {
            return Make()(call_.operands[operand_++]);
        } else if constexpr (std::is_same<T, std::vector<Single>>::value) {
            T out;
            for (size_t i = 0; i < list_; ++i)
                out.push_back(Make()(call_.operands[operand_++]));
            return out;
        } else if constexpr (IsOutput<T>::value) {
            return Output(call_.results[output_++]);
        } else if constexpr (IsContext<T>::value) {
            return T(&call_);
        } else {
            return Attribute<T>::read(*call_.attributes[attribute_++]);
        }
    }

  private:
    const Call &call_;
    size_t list_, operand_ = 0, attribute_ = 0, output_ = 0;
};

struct MakeType {
    TensorType operator()(const tsr_custom_type *type) const {
        TensorType out;
        out.dtype = static_cast<DType>(type->dtype);
        for (int32_t i = 0; i < type->rank; ++i)
            out.shape.push_back(Dim::share(type->shape[i]));
        return out;
    }
};
struct MakeInput {
    Input operator()(const tsr_custom_tensor *tensor) const { return Input(tensor); }
};
struct MakeTensor {
    Tensor operator()(tsr_tensor *tensor) const { return Gradient::share(tensor); }
};
using TypesReader = Reader<tsr_custom_types, TensorType, MakeType>;
using CallReader = Reader<tsr_custom_call, Input, MakeInput>;
using GradientReader = Reader<tsr_custom_gradient, Tensor, MakeTensor>;

template <class T> struct ResultCount {
    static_assert(sizeof(T) == 0, "a shape function returns a TensorType, or a std::array, std::pair or std::tuple of them");
};
template <> struct ResultCount<TensorType> : std::integral_constant<size_t, 1> {};
template <size_t n> struct ResultCount<std::array<TensorType, n>> : std::integral_constant<size_t, n> {};
template <> struct ResultCount<std::pair<TensorType, TensorType>> : std::integral_constant<size_t, 2> {};
template <class... T> struct ResultCount<std::tuple<T...>> : std::integral_constant<size_t, sizeof...(T)> {};

inline void give_results(const tsr_custom_types &call, const TensorType &type) {
    std::vector<tessera::detail::Handle<tsr_dim, tsr_dim_retain, tsr_dim_release>> owned;
    std::vector<const tsr_dim *> shape;
    for (const Dim &d : type.shape) {
        owned.emplace_back(d.to_handle());
        shape.push_back(owned.back().get());
    }
    check(call.give_result(&call, static_cast<tsr_dtype>(type.dtype), static_cast<int32_t>(shape.size()), shape.data()));
}
template <class T> void give_results(const tsr_custom_types &call, const T &several) {
    std::apply([&](const auto &...type) { (give_results(call, type), ...); }, several);
}

inline void give_gradients(const tsr_custom_gradient &call, const std::vector<Tensor> &gradients) {
    if (gradients.size() != static_cast<size_t>(call.operand_count))
        throw Error(TSR_GRADIENT_ERROR, "the gradient function gives " + std::to_string(gradients.size()) +
                                            " gradients for " + std::to_string(call.operand_count) + " operands");
    for (size_t i = 0; i < gradients.size(); ++i) {
        tsr_tensor_retain(gradients[i].handle());
        call.gradients[i] = gradients[i].handle();
    }
}
inline void give_gradients(const tsr_custom_gradient &call, const Tensor &gradient) {
    give_gradients(call, std::vector<Tensor>{gradient});
}
template <class T> void give_gradients(const tsr_custom_gradient &call, const T &several) {
    std::apply([&](const auto &...gradient) { give_gradients(call, std::vector<Tensor>{gradient...}); }, several);
}

} // namespace detail
} // namespace custom
} // namespace tessera

#endif
