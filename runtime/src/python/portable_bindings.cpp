// Single primitives and graph text from Python: how tests reach the portable kernels and the C++ parser.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "array.h"
#include "handles.h"

namespace tessera::python {

namespace {

nb::list run_primitive(const std::string &name, const std::string &attributes, nb::list operands, int threads,
                       size_t result_count) {
    std::vector<tsr_tensor *> handles;
    for (nb::handle operand : operands)
        handles.push_back(nb::cast<const Array &>(operand).tensor.get());
    tsr_runtime_options options{};
    options.size = sizeof options;
    options.threads = threads;
    std::vector<tsr_tensor *> lazy(result_count, nullptr);
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_op_apply(name.c_str(), attributes.c_str(), handles.data(), static_cast<int32_t>(handles.size()),
                              lazy.data(), static_cast<int32_t>(result_count));
        tsr_runtime *runtime = nullptr;
        if (status == TSR_OK)
            status = tsr_runtime_create(&options, &runtime);
        if (status == TSR_OK) {
            status = tsr_runtime_submit_tensors(runtime, lazy.data(), static_cast<int32_t>(result_count), nullptr);
            if (status == TSR_OK)
                status = tsr_runtime_wait(runtime);
            tsr_runtime_release(runtime);
        }
    }
    std::vector<TensorOwner> owners;
    for (tsr_tensor *tensor : lazy)
        owners.emplace_back(tensor);
    check(status);
    nb::list results;
    for (const TensorOwner &result : owners) {
        // A plain tensor with the memory of the one that was lazy.
        DLManagedTensor *managed = nullptr;
        TensorOwner computed;
        check(tsr_tensor_to_dlpack(result.get(), &managed));
        check(tsr_tensor_from_dlpack(managed, computed.out()));
        results.append(Array(std::move(computed)));
    }
    return results;
}

// Text to text through the C ABI. Halves of surrogate pairs, which file names may hold, go through as they are.
template <class Function> nb::str text_to_text(nb::handle text, Function function) {
    nb::object bytes = text.attr("encode")("utf-8", "surrogatepass");
    tsr_text *made = nullptr;
    check(function(PyBytes_AsString(bytes.ptr()), static_cast<size_t>(PyBytes_Size(bytes.ptr())), &made));
    nb::object out = nb::steal(PyUnicode_DecodeUTF8(tsr_text_data(made), static_cast<Py_ssize_t>(tsr_text_size(made)),
                                                    "surrogatepass"));
    tsr_text_release(made);
    if (!out.is_valid())
        throw nb::python_error();
    return nb::cast<nb::str>(out);
}

nb::str normalize_graph_text(nb::handle text) { return text_to_text(text, tsr_graph_text_normalize); }

nb::str decompose_graph_text(nb::handle text, bool merge) {
    return text_to_text(text, [=](const char *data, size_t bytes, tsr_text **out) {
        return tsr_graph_text_decompose(data, bytes, merge, out);
    });
}

nb::str gradient_graph_text(nb::handle text, const std::vector<std::string> &wrt) {
    std::vector<const char *> names;
    for (const std::string &name : wrt)
        names.push_back(name.c_str());
    return text_to_text(text, [&](const char *data, size_t bytes, tsr_text **out) {
        return tsr_graph_text_gradient(data, bytes, names.data(), static_cast<int32_t>(names.size()), out);
    });
}

nb::list primitive_names() {
    nb::list out;
    for (int32_t i = 0; const char *name = tsr_op_name(i); ++i)
        out.append(nb::str(name));
    return out;
}

} // namespace

void bind_portable(nb::module_ &m) {
    m.def("run_primitive", &run_primitive, nb::arg("name"), nb::arg("attributes"), nb::arg("operands"),
          nb::arg("threads") = 0, nb::arg("results") = 1,
          "The results of one primitive or custom operator by its kernel; attributes as text of Graph IR.");
    m.def("normalize_graph_text", &normalize_graph_text, nb::arg("text"),
          "Text of Graph IR, read and printed in C++; operators and types are not judged.");
    m.def("decompose_graph_text", &decompose_graph_text, nb::arg("text"), nb::arg("merge") = false,
          "Text of Graph IR with composites replaced by what they are made of, by the C++ front end.");
    m.def("gradient_graph_text", &gradient_graph_text, nb::arg("text"), nb::arg("wrt"),
          "Text of Graph IR with the gradients with respect to inputs or parameters, by the C++ front end.");
    m.def("primitive_names", &primitive_names, "The primitives of the portable kernels, sorted.");
}

} // namespace tessera::python
