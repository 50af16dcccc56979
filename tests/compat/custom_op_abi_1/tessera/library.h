// Libraries of operators: loading one, and calling its operators from C++.
#ifndef TESSERA_LIBRARY_H
#define TESSERA_LIBRARY_H

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tessera/dim.h"
#include "tessera/ops.h"
#include "tessera/tensor.h"

namespace tessera {

// Loads a shared library of operators (tessera/custom_op.h says how to write one) and gives their names. Artefacts and
// graphs that use them can be loaded from now on, for the life of the process. Loading it again does nothing. Throws
// FileAccessError, FormatError for a file that is no such library, VersionError for one that needs a newer Tessera, and
// ArgumentError for an operator whose name is taken.
inline std::vector<std::string> load_library(const std::string &path) {
    tsr_text *text = nullptr;
    check(tsr_library_load(path.c_str(), &text));
    const std::string lines(tsr_text_data(text), tsr_text_size(text));
    tsr_text_release(text);
    std::vector<std::string> names;
    for (size_t at = 0, end; (end = lines.find('\n', at)) != std::string::npos; at = end + 1)
        names.push_back(lines.substr(at, end - at));
    return names;
}

namespace op {

// An attribute of a custom operator.
class AttributeValue {
  public:
    AttributeValue(bool value) : text_(value ? "true" : "false") {} // NOLINT: values convert, here and below
    template <class T, class = std::enable_if_t<std::is_integral<T>::value && !std::is_same<T, bool>::value>>
    AttributeValue(T value) : text_(std::to_string(value)) {}
    AttributeValue(double value) : text_(detail::real_text(value)) {}
    AttributeValue(const char *value) : text_(detail::quoted(value)) {}
    AttributeValue(const std::string &value) : text_(detail::quoted(value)) {}
    AttributeValue(DType value) : text_(tsr_dtype_name(static_cast<tsr_dtype>(value))) {}
    AttributeValue(const Dim &value) : text_(value.text()) {
        if (!value.is_constant()) {
            text_ = "<" + text_ + ">";
            dims_ = {value};
        }
    }
    AttributeValue(std::nullopt_t) : text_("none") {}
    template <class T> AttributeValue(const std::vector<T> &values) {
        for (const T &value : values) {
            const AttributeValue one(value);
            text_ += (text_.empty() ? "[" : ", ") + one.text();
            dims_.insert(dims_.end(), one.dims_.begin(), one.dims_.end());
        }
        text_ += text_.empty() ? "[]" : "]";
    }
    template <class T> AttributeValue(const std::optional<T> &value)
        : AttributeValue(value ? AttributeValue(*value) : AttributeValue(std::nullopt)) {}

    // As text of Graph IR, and the symbolic dimensions in it.
    const std::string &text() const { return text_; }
    const std::vector<Dim> &dims() const { return dims_; }

  private:
    std::string text_;
    std::vector<Dim> dims_;
};

using AttributeList = std::vector<std::pair<std::string, AttributeValue>>;

namespace detail {

inline std::string attributes_text(const AttributeList &attributes) {
    std::string out;
    for (const auto &entry : attributes)
        out += (out.empty() ? "{" : ", ") + entry.first + " = " + entry.second.text();
    return out.empty() ? out : out + "}";
}

} // namespace detail

// All results of a custom operator, lazily: `call_all("mylib::nms", {boxes, scores}, {{"limit", 10}})`. Attributes that
// are not given have their defaults. Throws what the operator's checks throw, with the line of this call.
inline std::vector<Tensor> call_all(const std::string &name, const std::vector<Tensor> &operands,
                                    const AttributeList &attributes = {}, const char *file = __builtin_FILE(),
                                    int line = __builtin_LINE()) {
    tsr_custom_op_info info{};
    info.size = sizeof info;
    check(tsr_custom_op_describe(name.c_str(), &info));
    std::vector<tsr_operand> views;
    for (const Tensor &t : operands) {
        tsr_operand view{};
        view.kind = TSR_OPERAND_TENSOR;
        view.tensor = t.handle();
        views.push_back(view);
    }
    std::vector<tsr_dim *> dims;
    for (const auto &entry : attributes)
        for (const Dim &d : entry.second.dims())
            dims.push_back(d.handle());
    const std::string arguments = detail::attributes_text(attributes);
    tsr_call call{};
    call.size = sizeof call;
    call.function = name.c_str();
    call.arguments = arguments.c_str();
    call.operands = views.data();
    call.operand_count = static_cast<int32_t>(views.size());
    call.dims = dims.data();
    call.dim_count = static_cast<int32_t>(dims.size());
    call.file = file;
    call.line = line;
    std::vector<tsr_tensor *> results(static_cast<size_t>(info.result_count), nullptr);
    int32_t count = 0;
    check(tsr_op_call(&call, results.data(), info.result_count, &count));
    std::vector<Tensor> out;
    for (tsr_tensor *t : results)
        out.push_back(Tensor::adopt(t));
    return out;
}

// The result of a custom operator that has one.
inline Tensor call(const std::string &name, const std::vector<Tensor> &operands, const AttributeList &attributes = {},
                   const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    std::vector<Tensor> results = call_all(name, operands, attributes, file, line);
    if (results.size() != 1)
        throw Error(TSR_ARGUMENT_ERROR, "[" + name + "] has " + std::to_string(results.size()) +
                                            " results; use op::call_all");
    return results[0];
}

} // namespace op
} // namespace tessera

#endif
