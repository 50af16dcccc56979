#include "array.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

namespace tessera::python {

namespace {

tsr_dtype parse_dtype(const std::string &name) {
    tsr_dtype dtype = 0;
    check(tsr_dtype_parse(name.c_str(), &dtype));
    return dtype;
}

// "cpu", "cuda", "cuda:1", "rocm:0"
void parse_device(const std::string &text, int32_t &type, int32_t &index) {
    const size_t colon = text.find(':');
    const std::string name = text.substr(0, colon);
    type = name == "cpu" ? TSR_CPU : name == "cuda" ? TSR_CUDA : name == "rocm" ? TSR_ROCM : 0;
    index = 0;
    bool number = colon == std::string::npos;
    if (!number && colon + 1 < text.size() && text.size() - colon < 6) {
        number = text.find_first_not_of("0123456789", colon + 1) == std::string::npos;
        if (number)
            index = std::stoi(text.substr(colon + 1));
    }
    if (type == 0 || !number) {
        std::string message = "device '" + text + "' is not known; give \"cpu\", \"cuda:0\" or \"rocm:0\"";
        raise_error(TSR_DEVICE_ERROR, message.c_str());
    }
}

nb::str device_text(const tsr_tensor_info &info) {
    const char *name = info.device_type == TSR_CPU ? "cpu" : info.device_type == TSR_CUDA ? "cuda" : "rocm";
    std::string text = name;
    if (info.device_type != TSR_CPU)
        text += ":" + std::to_string(info.device_index);
    return nb::str(text.c_str());
}

tsr_tensor_info describe(const std::vector<int64_t> &shape, tsr_dtype dtype) {
    tsr_tensor_info info{};
    info.size = sizeof info;
    info.shape = shape.data();
    info.rank = static_cast<int32_t>(shape.size());
    info.dtype = dtype;
    info.device_type = TSR_CPU;
    return info;
}

Array empty(const std::vector<int64_t> &shape, const std::string &dtype, const std::string &device) {
    tsr_tensor_info info = describe(shape, parse_dtype(dtype));
    parse_device(device, info.device_type, info.device_index);
    TensorOwner owner;
    check(tsr_tensor_create_uninitialized(&info, owner.out()));
    return Array(std::move(owner));
}

// Lets go of a Python object from any thread.
void release_object(void *object) {
    if (!Py_IsInitialized())
        return; // the interpreter, and its memory, are gone
    nb::gil_scoped_acquire locked;
    Py_DECREF(static_cast<PyObject *>(object));
}

// A tensor on the memory of a Python object, which it keeps alive.
Array from_memory(tsr_tensor_info &info, nb::handle owner) {
    TensorOwner tensor;
    check(tsr_tensor_from_blob(&info, release_object, owner.ptr(), tensor.out()));
    owner.inc_ref();
    return Array(std::move(tensor));
}

Array from_buffer(uintptr_t pointer, const std::vector<int64_t> &shape, nb::object strides, const std::string &dtype,
                  nb::object owner, bool readonly) {
    tsr_tensor_info info = describe(shape, parse_dtype(dtype));
    info.data = reinterpret_cast<void *>(pointer);
    info.flags = readonly ? TSR_TENSOR_READONLY : 0;
    std::vector<int64_t> steps;
    if (!strides.is_none()) {
        steps = nb::cast<std::vector<int64_t>>(strides);
        if (steps.size() != shape.size())
            raise_error(TSR_ARGUMENT_ERROR, "from_buffer: shape and strides have different lengths");
        info.strides = steps.data();
    }
    return from_memory(info, owner);
}

// The C side of NumPy's array interface, version 3.
struct ArrayInterface {
    int two;
    int nd;
    char kind;
    int item_size;
    int flags;
    Py_intptr_t *shape;
    Py_intptr_t *strides; // in bytes
    void *data;
    PyObject *description;
};
constexpr int numpy_aligned = 0x100, numpy_native = 0x200, numpy_writeable = 0x400;

std::string text_of(nb::object object) { return nb::cast<std::string>(nb::steal<nb::str>(PyObject_Str(object.ptr()))); }

// The dtype of a NumPy array; -1 when Tessera has none. Types from ml_dtypes are known by name alone.
tsr_dtype dtype_of(const ArrayInterface &a, nb::handle object) {
    if (a.kind == 'f' && a.item_size > 1) // float8_e5m2 calls itself an 'f' too
        return a.item_size == 4 ? TSR_F32 : a.item_size == 8 ? TSR_F64 : a.item_size == 2 ? TSR_F16 : -1;
    if (a.kind == 'i')
        return a.item_size == 8 ? TSR_I64 : a.item_size == 4 ? TSR_I32 : a.item_size == 2 ? TSR_I16 : TSR_I8;
    if (a.kind == 'u')
        return a.item_size == 1 ? TSR_U8 : -1;
    if (a.kind == 'b')
        return TSR_BOOL;
    std::string name = text_of(object.attr("dtype").attr("name"));
    return name == "bfloat16" ? TSR_BF16 : name == "float8_e4m3fn" ? TSR_F8E4M3 : name == "float8_e5m2" ? TSR_F8E5M2 : -1;
}

Array from_numpy(nb::object object) {
    nb::object capsule = nb::getattr(object, "__array_struct__", nb::none());
    if (capsule.is_none())
        raise_error(TSR_ARGUMENT_ERROR, "from_numpy: the object is no NumPy array");
    auto *a = static_cast<ArrayInterface *>(PyCapsule_GetPointer(capsule.ptr(), nullptr));
    if (!a)
        throw nb::python_error();
    tsr_dtype dtype = dtype_of(*a, object);
    if (dtype < 0) {
        std::string message = "from_numpy: NumPy dtype " + text_of(object.attr("dtype")) + " has no Tessera dtype";
        raise_error(TSR_DTYPE_ERROR, message.c_str());
    }
    std::vector<int64_t> shape(a->shape, a->shape + a->nd), strides(static_cast<size_t>(a->nd));
    bool usable = (a->flags & numpy_aligned) && (a->flags & numpy_native);
    for (size_t i = 0; i < strides.size(); ++i) {
        usable = usable && a->strides[i] % a->item_size == 0;
        strides[i] = a->strides[i] / a->item_size;
    }
    if (!usable) { // unaligned, byte-swapped or a field of a record: NumPy makes a plain copy
        nb::object plain = object.attr("astype")(object.attr("dtype").attr("newbyteorder")("="), nb::arg("order") = "C",
                                                 nb::arg("copy") = true);
        return from_numpy(plain);
    }
    tsr_tensor_info info = describe(shape, dtype);
    info.data = a->data;
    info.strides = strides.data();
    info.flags = a->flags & numpy_writeable ? 0 : TSR_TENSOR_READONLY;
    return from_memory(info, object);
}

constexpr const char *plain_name = "dltensor", *versioned_name = "dltensor_versioned";

Array from_capsule(nb::handle capsule) {
    TensorOwner tensor;
    if (PyCapsule_IsValid(capsule.ptr(), versioned_name)) {
        void *managed = PyCapsule_GetPointer(capsule.ptr(), versioned_name);
        PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
        check(tsr_tensor_from_dlpack_versioned(static_cast<DLManagedTensorVersioned *>(managed), tensor.out()));
    } else if (PyCapsule_IsValid(capsule.ptr(), plain_name)) {
        void *managed = PyCapsule_GetPointer(capsule.ptr(), plain_name);
        PyCapsule_SetName(capsule.ptr(), "used_dltensor");
        check(tsr_tensor_from_dlpack(static_cast<DLManagedTensor *>(managed), tensor.out()));
    } else {
        raise_error(TSR_ARGUMENT_ERROR, "from_dlpack: the capsule holds no DLPack tensor, or it was used before");
    }
    return Array(std::move(tensor));
}

Array from_dlpack(nb::object object) {
    if (PyCapsule_CheckExact(object.ptr()))
        return from_capsule(object);
    nb::object method = nb::getattr(object, "__dlpack__", nb::none());
    if (method.is_none())
        raise_error(TSR_ARGUMENT_ERROR, "from_dlpack: the object has no __dlpack__");
    nb::object stream = nb::none();
    if (nb::object device = nb::getattr(object, "__dlpack_device__", nb::none()); !device.is_none()) {
        nb::object place = device();
        int type = nb::cast<int>(nb::int_(nb::object(place[0]))), index = nb::cast<int>(nb::int_(nb::object(place[1])));
        constexpr int cuda_host = 3, rocm_host = 11; // pinned memory is memory of the host
        if (type != TSR_CPU && type != cuda_host && type != rocm_host) {
            void *native = nullptr;
            check(tsr_device_stream(type, index, &native)); // the producer makes the tensor ready on it
            stream = nb::int_(reinterpret_cast<uintptr_t>(native));
        }
    }
    Array out = [&] {
        nb::dict arguments;
        if (!stream.is_none())
            arguments["stream"] = stream;
        try {
            nb::dict newer(arguments);
            newer["max_version"] = nb::make_tuple(1, 0);
            return from_capsule(method(**newer));
        } catch (nb::python_error &e) {
            if (!e.matches(PyExc_TypeError)) // a producer from before DLPack 1 does not know the argument
                throw;
        }
        return from_capsule(method(**arguments));
    }();
    if (!stream.is_none())
        check(tsr_tensor_written_on(out.tensor.get(), reinterpret_cast<void *>(nb::cast<uintptr_t>(stream))));
    return out;
}

Array to(const Array &self, const std::string &device) {
    int32_t type = 0, index = 0;
    parse_device(device, type, index);
    TensorOwner out;
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_tensor_to(self.tensor.get(), type, index, out.out());
    }
    check(status);
    return Array(std::move(out));
}

void copy_from(const Array &self, const Array &source) {
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_tensor_wait(self.tensor.get());
        if (status == TSR_OK)
            status = tsr_tensor_wait(source.tensor.get());
        if (status == TSR_OK)
            status = tsr_tensor_copy(source.tensor.get(), self.tensor.get(), nullptr);
    }
    check(status);
}

void wait(const Array &self) {
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_tensor_wait(self.tensor.get());
    }
    check(status);
}

// A capsule whose tensor is freed with it unless a consumer took it over.
template <class Managed, const char *const &name> nb::object capsule_of(Managed *managed, void (*destroy)(Managed *)) {
    PyObject *capsule = PyCapsule_New(managed, name, [](PyObject *self) {
        if (!PyCapsule_IsValid(self, name))
            return;
        auto *m = static_cast<Managed *>(PyCapsule_GetPointer(self, name));
        // The tensor comes back to this library, which calls its deleter.
        TensorOwner back;
        if constexpr (std::is_same_v<Managed, DLManagedTensor>)
            tsr_tensor_from_dlpack(m, back.out());
        else
            tsr_tensor_from_dlpack_versioned(m, back.out());
    });
    if (!capsule) {
        destroy(managed);
        throw nb::python_error();
    }
    return nb::steal(capsule);
}

nb::object to_dlpack(const Array &self, nb::object stream, nb::object max_version, nb::object dl_device, nb::object copy) {
    const bool on_cpu = self.info.device_type == TSR_CPU;
    const int64_t wanted = stream.is_none() ? 0 : nb::cast<int64_t>(stream);
    if (on_cpu && !stream.is_none() && wanted != -1)
        raise_error(TSR_ARGUMENT_ERROR, "__dlpack__: a tensor in CPU memory has no stream");
    if (!dl_device.is_none() && (nb::cast<int>(nb::int_(nb::object(dl_device[0]))) != self.info.device_type ||
                                 nb::cast<int>(nb::int_(nb::object(dl_device[1]))) != self.info.device_index)) {
        std::string message = "__dlpack__: the tensor is on " + std::string(device_text(self.info).c_str()) +
                              "; copying it elsewhere is not supported, use .to(device) first";
        raise_error(TSR_DEVICE_ERROR, message.c_str());
    }
    if (!on_cpu && wanted != -1) // none is the default stream, as for CUDA's own 0; -1: the consumer takes care
        check(tsr_tensor_order_after(self.tensor.get(), reinterpret_cast<void *>(wanted)));
    if (!copy.is_none() && nb::cast<bool>(copy))
        raise_error(TSR_ARGUMENT_ERROR, "__dlpack__: copy=True is not supported; copy the array first");
    bool versioned = !max_version.is_none() && nb::cast<int>(nb::object(max_version[0])) >= 1;
    if (versioned) {
        DLManagedTensorVersioned *managed = nullptr;
        check(tsr_tensor_to_dlpack_versioned(self.tensor.get(), &managed));
        return capsule_of<DLManagedTensorVersioned, versioned_name>(
            managed, [](DLManagedTensorVersioned *m) { TensorOwner back; tsr_tensor_from_dlpack_versioned(m, back.out()); });
    }
    DLManagedTensor *managed = nullptr;
    check(tsr_tensor_to_dlpack(self.tensor.get(), &managed));
    return capsule_of<DLManagedTensor, plain_name>(
        managed, [](DLManagedTensor *m) { TensorOwner back; tsr_tensor_from_dlpack(m, back.out()); });
}

nb::tuple tuple_of(const int64_t *values, int32_t count) {
    PyObject *out = PyTuple_New(count);
    if (!out)
        throw nb::python_error();
    for (int32_t i = 0; i < count; ++i)
        PyTuple_SET_ITEM(out, i, PyLong_FromLongLong(values[i]));
    return nb::steal<nb::tuple>(out);
}

} // namespace

void bind_array(nb::module_ &m) {
    nb::class_<Array>(m, "Array", nb::is_weak_referenceable(), "A concrete tensor, in memory of the CPU or of a GPU.")
        .def_static("empty", &empty, nb::arg("shape"), nb::arg("dtype"), nb::arg("device") = "cpu",
                    "Uninitialised memory, 64-byte aligned.")
        .def_prop_ro("device", [](const Array &a) { return device_text(a.info); }, "Where the memory is: ``cpu``, ``cuda:0``, ``rocm:0``.")
        .def("to", &to, nb::arg("device"),
             "A row-major copy on a device (``cpu``, ``cuda:0``, ``rocm:0``), or the array itself when it is that already.")
        .def("copy_from", &copy_from, nb::arg("source"), "Copies the elements of an array of the same dtype and shape, on any device.")
        .def("wait", &wait, "Waits for the work that writes the array; raises what made it fail.")
        .def_static("from_numpy", &from_numpy, nb::arg("array"),
                    "Shares a NumPy array's memory; copies only what cannot be shared (unaligned or byte-swapped).")
        .def_static("from_buffer", &from_buffer, nb::arg("pointer"), nb::arg("shape"), nb::arg("strides").none(),
                    nb::arg("dtype"), nb::arg("owner").none(), nb::arg("readonly") = false,
                    "Memory at an address, kept alive by `owner`; strides in elements, None: row-major.")
        .def_static("from_dlpack", &from_dlpack, nb::arg("object"), "Shares the memory of any object with __dlpack__.")
        .def_prop_ro("shape", [](const Array &a) { return tuple_of(a.info.shape, a.info.rank); }, "Sizes.")
        .def_prop_ro("strides", [](const Array &a) { return tuple_of(a.info.strides, a.info.rank); }, "In elements.")
        .def_prop_ro("dtype", [](const Array &a) { return nb::str(tsr_dtype_name(a.info.dtype)); }, "Short name.")
        .def_prop_ro("nbytes", [](const Array &a) { return a.info.bytes; }, "Bytes of all elements.")
        .def_prop_ro("data_ptr", [](const Array &a) { return reinterpret_cast<uintptr_t>(a.info.data); }, "Address.")
        .def_prop_ro("readonly", [](const Array &a) { return a.has(TSR_TENSOR_READONLY); }, "Whether it must not be written.")
        .def("is_contiguous", [](const Array &a) { return a.has(TSR_TENSOR_CONTIGUOUS); }, "Whether it is row-major.")
        .def("contiguous",
             [](const Array &a) {
                 TensorOwner out;
                 check(tsr_tensor_contiguous(a.tensor.get(), out.out()));
                 return Array(std::move(out));
             },
             "This array's memory if it is row-major, else a row-major copy.")
        .def("__dlpack__", &to_dlpack, nb::kw_only(), nb::arg("stream").none() = nb::none(),
             nb::arg("max_version").none() = nb::none(), nb::arg("dl_device").none() = nb::none(),
             nb::arg("copy").none() = nb::none(), "A DLPack capsule that shares the memory.")
        .def("__dlpack_device__", [](const Array &a) { return nb::make_tuple(a.info.device_type, a.info.device_index); },
             "DLPack's device type and the number of the device.");
}

} // namespace tessera::python
