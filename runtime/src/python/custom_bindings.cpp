// Custom operators: those of libraries, and those whose functions are Python's.
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "array.h"
#include "handles.h"
#include "tessera/custom_op_abi.h"

namespace tessera::python {

namespace {

nb::list load_library(nb::object path) {
    nb::object text = nb::steal(PyOS_FSPath(path.ptr()));
    if (!text.is_valid())
        throw nb::python_error();
    nb::object bytes = PyUnicode_Check(text.ptr()) ? nb::steal(PyUnicode_EncodeFSDefault(text.ptr())) : text;
    if (!bytes.is_valid())
        throw nb::python_error();
    tsr_text *names = nullptr;
    tsr_status status;
    {
        const char *file = PyBytes_AsString(bytes.ptr());
        nb::gil_scoped_release unlocked;
        status = tsr_library_load(file, &names);
    }
    check(status);
    return nb::cast<nb::list>(taken(names).attr("splitlines")());
}

nb::dict describe(const std::string &name) {
    tsr_custom_op_info info{};
    info.size = sizeof info;
    check(tsr_custom_op_describe(name.c_str(), &info));
    nb::dict out;
    out["name"] = info.name;
    out["schema"] = info.schema;
    out["doc"] = info.doc;
    out["version"] = info.version;
    out["shard"] = info.shard;
    out["samples"] = info.samples;
    out["gradient_op"] = info.gradient_op;
    out["no_gradient"] = info.no_gradient;
    out["library"] = info.library;
    out["hash"] = info.hash;
    nb::list devices;
    if (info.flags & TSR_CUSTOM_CPU)
        devices.append("cpu");
    if (info.flags & TSR_CUSTOM_CUDA)
        devices.append("cuda");
    if (info.flags & TSR_CUSTOM_HIP)
        devices.append("hip");
    out["devices"] = devices;
    return out;
}

nb::str infer(const std::string &name, const std::string &inputs, const std::string &attributes) {
    tsr_text *types = nullptr;
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_custom_op_infer(name.c_str(), inputs.c_str(), attributes.c_str(), &types);
    }
    check(status);
    return taken(types);
}

nb::str gradient(const std::string &name, const std::string &inputs, const std::string &attributes,
                 const std::string &cotangents) {
    tsr_text *graph = nullptr;
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status =
            tsr_custom_op_gradient(name.c_str(), inputs.c_str(), attributes.c_str(), cotangents.c_str(), &graph);
    }
    check(status);
    return taken(graph);
}

// An operator whose functions are Python's; owned by the runtime's registry.
struct PythonOperator {
    nb::object infer, kernel;
};

// A Python exception as status and text: the codes of tessera.errors, others TSR_ERROR with the class in front.
tsr_status status_of(nb::python_error &error) {
    nb::object value = nb::borrow(error.value());
    std::string text = nb::cast<std::string>(nb::str(value));
    tsr_status status = TSR_ERROR;
    if (nb::hasattr(value, "code") && nb::isinstance(value, nb::module_::import_("tessera.errors").attr("TesseraError")))
        status = nb::cast<tsr_status>(value.attr("code"));
    else
        text = nb::cast<std::string>(nb::object(value.type().attr("__name__"))) + (text.empty() ? "" : ": " + text);
    return tsr_set_error(status, text.c_str());
}

// Runs `body` with the interpreter's lock; nothing is thrown.
template <class Body> tsr_status with_python(Body &&body) noexcept {
    if (!Py_IsInitialized())
        return tsr_set_error(TSR_ERROR, "the Python interpreter has ended; operators written in Python no longer run");
    nb::gil_scoped_acquire locked;
    try {
        body();
        return TSR_OK;
    } catch (nb::python_error &error) {
        try {
            return status_of(error);
        } catch (...) {
            return tsr_set_error(TSR_ERROR, "a Python exception whose text cannot be read");
        }
    } catch (const std::exception &error) {
        return tsr_set_error(TSR_ERROR, error.what());
    }
}

nb::object value_of(const tsr_attribute &a) {
    switch (a.kind) {
    case TSR_ATTRIBUTE_BOOL: return nb::bool_(a.integer != 0);
    case TSR_ATTRIBUTE_INTEGER: return nb::int_(a.integer);
    case TSR_ATTRIBUTE_REAL: return nb::float_(a.real);
    case TSR_ATTRIBUTE_STRING: return nb::str(a.text);
    case TSR_ATTRIBUTE_DTYPE:
        return nb::module_::import_("tessera.ir.dtype").attr("DTYPES")[nb::str(tsr_dtype_name(static_cast<tsr_dtype>(a.integer)))];
    case TSR_ATTRIBUTE_DIM: return nb::make_tuple("dim", tsr_dim_text(a.dim));
    case TSR_ATTRIBUTE_LIST: {
        nb::list out;
        for (int32_t i = 0; i < a.count; ++i)
            out.append(value_of(*a.items[i]));
        return out;
    }
    default: return nb::none();
    }
}

nb::list values_of(const tsr_attribute *const *attributes, int32_t count) {
    nb::list out;
    for (int32_t i = 0; i < count; ++i)
        out.append(value_of(*attributes[i]));
    return out;
}

// The dimensions of a call, for results to be read over their symbols, and their symbols for Python.
struct Known {
    std::vector<const tsr_dim *> dims;
    nb::list symbols;

    void add(const tsr_dim *dim) {
        dims.push_back(dim);
        tsr_symbol_info info{};
        info.size = sizeof info;
        for (int32_t i = 0; tsr_dim_symbol_at(dim, i, &info); ++i)
            symbols.append(nb::make_tuple(info.name, info.min, info.max, info.multiple_of));
    }
    void add(const tsr_attribute &a) {
        if (a.kind == TSR_ATTRIBUTE_DIM)
            add(a.dim);
        for (int32_t i = 0; a.kind == TSR_ATTRIBUTE_LIST && i < a.count; ++i)
            add(*a.items[i]);
    }
};

using DimOwner = Owner<tsr_dim, tsr_dim_release>;

// infer(operand types as text, attributes, symbols) gives (dtype, sizes as text) of each result.
tsr_status infer_callback(void *context, const tsr_custom_types *call) {
    return with_python([&] {
        const auto *self = static_cast<const PythonOperator *>(context);
        Known known;
        nb::list types;
        for (int32_t i = 0; i < call->operand_count; ++i) {
            const tsr_custom_type &type = *call->operands[i];
            std::string text = std::string(tsr_dtype_name(type.dtype)) + "[";
            for (int32_t k = 0; k < type.rank; ++k) {
                known.add(type.shape[k]);
                text += (k ? ", " : "") + std::string(tsr_dim_text(type.shape[k]));
            }
            types.append(nb::str((text + "]").c_str()));
        }
        for (int32_t i = 0; i < call->attribute_count; ++i)
            known.add(*call->attributes[i]);
        nb::object results = self->infer(types, values_of(call->attributes, call->attribute_count), known.symbols);
        for (nb::handle result : results) {
            nb::tuple pair = nb::cast<nb::tuple>(result);
            tsr_dtype dtype = 0;
            check(tsr_dtype_parse(nb::cast<std::string>(pair[0]).c_str(), &dtype));
            std::vector<DimOwner> owned;
            std::vector<const tsr_dim *> shape;
            for (nb::handle size : pair[1]) {
                owned.emplace_back();
                check(tsr_dim_parse(nb::cast<std::string>(size).c_str(), known.dims.data(),
                                    static_cast<int32_t>(known.dims.size()), owned.back().out()));
                shape.push_back(owned.back().get());
            }
            check(call->give_result(call, dtype, static_cast<int32_t>(shape.size()), shape.data()));
        }
    });
}

void no_deleter(void *) {}

// The memory of a call's tensor as an Array, valid while the call lasts.
nb::object view(const tsr_custom_tensor &tensor, bool readonly) {
    tsr_tensor_info info{};
    info.size = sizeof info;
    info.data = tensor.data;
    info.shape = tensor.shape;
    info.rank = tensor.rank;
    info.dtype = tensor.dtype;
    info.device_type = TSR_CPU;
    info.flags = readonly ? TSR_TENSOR_READONLY : 0;
    TensorOwner owner;
    check(tsr_tensor_from_blob(&info, no_deleter, nullptr, owner.out()));
    return nb::cast(Array(std::move(owner)), nb::rv_policy::move);
}

// kernel(operands, attributes, results): Arrays on the run's own memory.
tsr_status kernel_callback(void *context, const tsr_custom_call *call) {
    return with_python([&] {
        nb::list operands, results;
        for (int32_t i = 0; i < call->operand_count; ++i)
            operands.append(view(*call->operands[i], true));
        for (int32_t i = 0; i < call->result_count; ++i)
            results.append(view(*call->results[i], false));
        static_cast<const PythonOperator *>(context)->kernel(
            operands, values_of(call->attributes, call->attribute_count), results);
    });
}

void release_callback(void *context) {
    if (!Py_IsInitialized())
        return;
    nb::gil_scoped_acquire locked;
    delete static_cast<PythonOperator *>(context);
}

void register_operator(const std::string &name, const std::string &schema, const std::string &doc,
                       const std::string &version, const std::string &shard, const std::string &library, bool gradient,
                       nb::object infer_function, nb::object kernel) {
    tsr_custom_op op{};
    op.size = sizeof op;
    op.name = name.c_str();
    op.schema = schema.c_str();
    op.doc = doc.c_str();
    op.version = version.c_str();
    op.shard = shard.empty() ? nullptr : shard.c_str();
    op.no_gradient = gradient ? "its gradient is a Python function, which C++ cannot build" : nullptr;
    op.infer = infer_callback;
    op.cpu = kernel_callback;
    op.release = release_callback;
    op.context = new PythonOperator{std::move(infer_function), std::move(kernel)};
    check(tsr_custom_op_register(&op, library.c_str()));
}

} // namespace

void bind_custom(nb::module_ &m) {
    m.def("load_library", &load_library, nb::arg("path"), "Loads a library of operators; their names.");
    m.def("custom_op_describe", &describe, nb::arg("name"), "What an operator declares.");
    m.def("custom_op_infer", &infer, nb::arg("name"), nb::arg("inputs"), nb::arg("attributes"),
          "Result types, one a line, an empty line, and the bytes of scratch memory.");
    m.def("custom_op_gradient", &gradient, nb::arg("name"), nb::arg("inputs"), nb::arg("attributes"),
          nb::arg("cotangents"), "The graph of a call's gradient, as text.");
    m.def("register_operator", &register_operator, nb::arg("name"), nb::arg("schema"), nb::arg("doc"),
          nb::arg("version"), nb::arg("shard"), nb::arg("library"), nb::arg("gradient"), nb::arg("infer"),
          nb::arg("kernel"), "Registers an operator whose functions are Python's.");
}

} // namespace tessera::python
