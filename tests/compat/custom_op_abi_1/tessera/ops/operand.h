// What operators take, and how they are called: tensors and numbers, shapes, axes.
#ifndef TESSERA_OPS_OPERAND_H
#define TESSERA_OPS_OPERAND_H

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/dim.h"
#include "tessera/tensor.h"

namespace tessera {

// The sizes of a tensor, symbolic ones too.
inline std::vector<Dim> dims(const Tensor &x) {
    std::vector<Dim> out;
    for (size_t i = 0; i < x.shape().size(); ++i) {
        tsr_dim *dim = nullptr;
        check(tsr_tensor_dim(x.handle(), static_cast<int32_t>(i), &dim));
        out.push_back(Dim::adopt(dim));
    }
    return out;
}

namespace op {

// The file and line of a call: where an operand or a shape was made for it.
struct CallSite {
    const char *file = nullptr;
    int line = 0;
};

// Sizes: integers and symbolic dimensions.
class Shape {
  public:
    Shape(const char *file = __builtin_FILE(), int line = __builtin_LINE()) : site_{file, line} {}
    Shape(std::initializer_list<Dim> sizes, const char *file = __builtin_FILE(), int line = __builtin_LINE())
        : sizes_(sizes), site_{file, line} {}
    Shape(std::vector<Dim> sizes, const char *file = __builtin_FILE(), int line = __builtin_LINE()) // NOLINT
        : sizes_(std::move(sizes)), site_{file, line} {}
    Shape(const std::vector<int64_t> &sizes, const char *file = __builtin_FILE(), int line = __builtin_LINE()) // NOLINT
        : sizes_(sizes.begin(), sizes.end()), site_{file, line} {}
    Shape(const SizeView &sizes, const char *file = __builtin_FILE(), int line = __builtin_LINE()) // NOLINT
        : sizes_(sizes.begin(), sizes.end()), site_{file, line} {}

    const std::vector<Dim> &sizes() const { return sizes_; }
    const CallSite &site() const { return site_; }

  private:
    std::vector<Dim> sizes_;
    CallSite site_;
};

// Dimensions of a tensor: all by default (std::nullopt), one, or several; negative ones count from the end.
class Axes {
  public:
    Axes() : all_(true) {}
    Axes(std::nullopt_t) : all_(true) {} // NOLINT
    template <class T, class = std::enable_if_t<std::is_integral<T>::value>>
    Axes(T axis) : axes_{static_cast<int64_t>(axis)} {}         // NOLINT: an axis is a list of one
    Axes(std::initializer_list<int64_t> axes) : axes_(axes) {}  // NOLINT
    Axes(std::vector<int64_t> axes) : axes_(std::move(axes)) {} // NOLINT

    bool all() const { return all_; }
    const std::vector<int64_t> &list() const { return axes_; }

  private:
    bool all_ = false;
    std::vector<int64_t> axes_;
};

// A tensor; or a number, which takes the dtype of the tensor it meets unless its kind is higher, a float with integers
// giving f32 and an integer with bool giving i64; or a size; or nothing ({} or std::nullopt).
class Operand {
  public:
    Operand() = default;
    Operand(std::nullopt_t) {} // NOLINT: all of these are operands
    Operand(const Tensor &tensor, const char *file = __builtin_FILE(), int line = __builtin_LINE()) // NOLINT
        : kind_(tensor ? TSR_OPERAND_TENSOR : TSR_OPERAND_NONE), tensor_(tensor), site_{file, line} {}
    Operand(const Dim &size, const char *file = __builtin_FILE(), int line = __builtin_LINE()) // NOLINT
        : kind_(size.is_constant() ? TSR_OPERAND_INTEGER : TSR_OPERAND_DIM), dim_(size),
          integer_(size.is_constant() ? size.value() : 0), site_{file, line} {}
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    Operand(T value, const char *file = __builtin_FILE(), int line = __builtin_LINE()) // NOLINT
        : kind_(std::is_same<T, bool>::value ? TSR_OPERAND_BOOL
                : std::is_integral<T>::value ? TSR_OPERAND_INTEGER
                                             : TSR_OPERAND_REAL),
          real_(static_cast<double>(value)), integer_(static_cast<int64_t>(std::is_integral<T>::value ? value : T(0))),
          site_{file, line} {}

    bool is_none() const { return kind_ == TSR_OPERAND_NONE; }
    bool is_tensor() const { return kind_ == TSR_OPERAND_TENSOR; }
    const Tensor &tensor() const { return tensor_; }
    const CallSite &site() const { return site_; }
    // As the C ABI takes it; valid as long as this.
    tsr_operand view() const {
        tsr_operand out{};
        out.kind = kind_;
        out.tensor = tensor_.handle();
        out.dim = dim_.handle();
        out.real = real_;
        out.integer = integer_;
        return out;
    }

  private:
    int32_t kind_ = TSR_OPERAND_NONE;
    Tensor tensor_;
    Dim dim_;
    double real_ = 0;
    int64_t integer_ = 0;
    CallSite site_;
};

// Several operands, for those that take a list.
class Operands {
  public:
    Operands(std::initializer_list<Operand> list) : list_(list) {}                                  // NOLINT
    Operands(std::vector<Operand> list) : list_(std::move(list)) {}                                 // NOLINT
    Operands(const std::vector<Tensor> &tensors, const char *file = __builtin_FILE(),
             int line = __builtin_LINE()) { // NOLINT
        for (const Tensor &t : tensors)
            list_.emplace_back(t, file, line);
    }
    const std::vector<Operand> &list() const { return list_; }

  private:
    std::vector<Operand> list_;
};

namespace detail {

inline std::string real_text(double value) {
    if (value != value)
        return "nan";
    if (value - value != 0)
        return value < 0 ? "-inf" : "inf";
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "%.17g", value);
    std::string text(buffer);
    for (char &c : text)
        if (c == ',') // a locale's decimal point
            c = '.';
    return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

inline std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\')
            out += '\\';
        if (static_cast<unsigned char>(c) < 0x20) {
            char buffer[8];
            std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(c));
            out += buffer;
        } else {
            out += c;
        }
    }
    return out + "\"";
}

// One call of a function of the library: its operands, and its other arguments in text of Graph IR.
class Call {
  public:
    explicit Call(const char *function) : function_(function) {}
    Call(const char *function, std::initializer_list<Operand> operands) : function_(function), operands_(operands) {
        for (const Operand &x : operands_)
            at(x.site());
    }
    Call(const char *function, std::vector<Operand> operands) : function_(function), operands_(std::move(operands)) {
        for (const Operand &x : operands_)
            at(x.site());
    }

    // The first place that is known counts.
    Call &at(const CallSite &site) {
        if (!site_.file)
            site_ = site;
        return *this;
    }

    Call &set(const char *name, int64_t value) { return add(name, std::to_string(value)); }
    Call &set(const char *name, bool value) { return add(name, value ? "true" : "false"); }
    Call &set(const char *name, double value) { return add(name, real_text(value)); }
    Call &set(const char *name, const std::string &value) { return add(name, quoted(value)); }
    Call &set(const char *name, DType value) { return add(name, tsr_dtype_name(static_cast<tsr_dtype>(value))); }
    Call &set(const char *name, const Dim &value) { return add(name, dim_text(value)); }
    template <class T> Call &set(const char *name, const std::optional<T> &value) {
        return value ? set(name, *value) : add(name, "none");
    }
    Call &set(const char *name, const std::vector<int64_t> &values) {
        std::string list = "[";
        for (size_t i = 0; i < values.size(); ++i)
            list += (i ? ", " : "") + std::to_string(values[i]);
        return add(name, list + "]");
    }
    Call &set(const char *name, const std::vector<Dim> &values) {
        std::string list = "[";
        for (size_t i = 0; i < values.size(); ++i)
            list += (i ? ", " : "") + dim_text(values[i]);
        return add(name, list + "]");
    }
    Call &set(const char *name, const Shape &shape) { return at(shape.site()).set(name, shape.sizes()); }
    Call &set(const char *name, const Axes &axes) { return axes.all() ? add(name, "none") : set(name, axes.list()); }
    Call &set(const char *, const char *) = delete; // a string is a std::string

    Tensor result() const {
        tsr_tensor *out = nullptr;
        run(&out, 1);
        return Tensor::adopt(out);
    }

    std::vector<Tensor> results(size_t most) const {
        std::vector<tsr_tensor *> handles(most);
        const int32_t count = run(handles.data(), static_cast<int32_t>(most));
        std::vector<Tensor> out;
        for (int32_t i = 0; i < count; ++i)
            out.push_back(Tensor::adopt(handles[static_cast<size_t>(i)]));
        return out;
    }

  private:
    Call &add(const char *name, const std::string &text) {
        arguments_ += (arguments_.empty() ? "{" : ", ") + std::string(name) + " = " + text;
        return *this;
    }

    std::string dim_text(const Dim &value) {
        if (value.is_constant())
            return value.text();
        dims_.push_back(value);
        return "<" + value.text() + ">";
    }

    int32_t run(tsr_tensor **results, int32_t capacity) const {
        std::vector<tsr_operand> operands;
        for (const Operand &x : operands_)
            operands.push_back(x.view());
        std::vector<tsr_dim *> dims;
        for (const Dim &d : dims_)
            dims.push_back(d.handle());
        const std::string arguments = arguments_.empty() ? arguments_ : arguments_ + "}";
        tsr_call call{};
        call.size = sizeof call;
        call.function = function_;
        call.arguments = arguments.c_str();
        call.operands = operands.data();
        call.operand_count = static_cast<int32_t>(operands.size());
        call.dims = dims.data();
        call.dim_count = static_cast<int32_t>(dims.size());
        call.file = site_.file;
        call.line = site_.line;
        int32_t count = 0;
        check(tsr_op_call(&call, results, capacity, &count));
        return count;
    }

    const char *function_;
    std::vector<Operand> operands_;
    std::string arguments_;
    std::vector<Dim> dims_; // whose symbols the arguments use
    CallSite site_;
};

} // namespace detail
} // namespace op
} // namespace tessera

#endif
