#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "array.h"
#include "handles.h"
#include "mesh.h"

namespace tessera::python {

namespace {

struct Runtime {
    explicit Runtime(int threads) {
        tsr_runtime_options options{};
        options.size = sizeof options;
        options.threads = threads;
        check(tsr_runtime_create(&options, runtime.out()));
    }
    RuntimeOwner runtime;
};

struct Trace {
    Trace() { check(tsr_trace_create(nullptr, trace.out())); }
    TraceOwner trace;
};

struct Program {
    explicit Program(GraphOwner owner)
        : graph(std::move(owner)), inputs(tsr_graph_value_count(graph.get(), TSR_INPUT)),
          outputs(tsr_graph_value_count(graph.get(), TSR_OUTPUT)) {}
    GraphOwner graph;
    int32_t inputs, outputs;
};

tsr_load_options load_options(bool verify, bool allow_native_code, const std::optional<std::string> &target,
                              bool map = true) {
    tsr_load_options options{};
    options.size = sizeof options;
    options.target = target ? target->c_str() : nullptr;
    options.flags = (verify ? 0u : unsigned(TSR_LOAD_SKIP_HASHES)) |
                    (allow_native_code ? 0u : unsigned(TSR_LOAD_NO_NATIVE_CODE)) | (map ? 0u : unsigned(TSR_LOAD_COPY));
    return options;
}

// A path as the system takes it, as bytes.
nb::object path_bytes(nb::object path) {
    nb::object text = nb::steal(PyOS_FSPath(path.ptr()));
    if (!text.is_valid())
        throw nb::python_error();
    nb::object bytes = PyUnicode_Check(text.ptr()) ? nb::steal(PyUnicode_EncodeFSDefault(text.ptr())) : text;
    if (!bytes.is_valid())
        throw nb::python_error();
    return bytes;
}

void verify_file(nb::object path) {
    nb::object bytes = path_bytes(path);
    tsr_status status;
    {
        const char *name = PyBytes_AsString(bytes.ptr());
        nb::gil_scoped_release unlocked;
        status = tsr_file_verify(name);
    }
    check(status);
}

Program load_file(nb::object path, bool verify, bool allow_native_code, std::optional<std::string> target, bool map) {
    nb::object bytes = path_bytes(path);
    tsr_load_options options = load_options(verify, allow_native_code, target, map);
    GraphOwner graph;
    tsr_status status;
    {
        const char *name = PyBytes_AsString(bytes.ptr());
        nb::gil_scoped_release unlocked;
        status = tsr_graph_load_file(name, &options, graph.out());
    }
    check(status);
    return Program(std::move(graph));
}

Program load_bytes(nb::object buffer, bool verify, bool allow_native_code, std::optional<std::string> target) {
    Bytes bytes(buffer);
    tsr_load_options options = load_options(verify, allow_native_code, target);
    GraphOwner graph;
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_graph_load_memory(bytes.data(), bytes.size(), &options, graph.out());
    }
    check(status);
    return Program(std::move(graph));
}

nb::list values(const Program &p, int32_t kind) {
    nb::list out;
    for (int32_t i = 0; i < tsr_graph_value_count(p.graph.get(), kind); ++i) {
        tsr_value_info info{};
        info.size = sizeof info;
        check(tsr_graph_value(p.graph.get(), kind, i, &info));
        nb::list shape;
        for (int32_t k = 0; k < info.rank; ++k)
            shape.append(nb::str(info.shape[k]));
        out.append(nb::make_tuple(nb::str(info.name), nb::str(tsr_dtype_name(info.dtype)), shape));
    }
    return out;
}

nb::dict metadata(const Program &p) {
    nb::dict out;
    for (int32_t i = 0; i < tsr_graph_metadata_count(p.graph.get()); ++i) {
        const char *key = nullptr, *value = nullptr;
        size_t bytes = 0;
        check(tsr_graph_metadata(p.graph.get(), i, &key, &value, &bytes));
        out[nb::str(key)] = nb::str(value, bytes);
    }
    return out;
}

nb::list symbols(const Program &p) {
    nb::list out;
    for (int32_t i = 0; i < tsr_graph_symbol_count(p.graph.get()); ++i) {
        tsr_symbol_info info{};
        info.size = sizeof info;
        check(tsr_graph_symbol(p.graph.get(), i, &info));
        nb::object max = info.max < 0 ? nb::none() : nb::object(nb::int_(info.max));
        out.append(nb::make_tuple(nb::str(info.name), info.min, max, info.multiple_of));
    }
    return out;
}

nb::object default_runtime(); // below

nb::dict requirements(const Program &p, const std::map<std::string, int64_t> &sizes) {
    std::vector<const char *> names;
    std::vector<int64_t> values;
    for (const auto &[name, size] : sizes) {
        names.push_back(name.c_str());
        values.push_back(size);
    }
    tsr_requirements r{};
    r.size = sizeof r;
    check(tsr_graph_requirements(p.graph.get(), names.data(), values.data(), static_cast<int32_t>(names.size()), &r));
    auto threads = static_cast<uint64_t>(tsr_runtime_threads(nb::cast<Runtime &>(default_runtime()).runtime.get()));
    nb::dict out;
    out["arena"] = r.arena;
    out["scratch"] = r.scratch * threads;
    out["scratch_per_thread"] = r.scratch;
    out["inputs"] = r.inputs;
    out["outputs"] = r.outputs;
    out["state"] = r.state;
    return out;
}

// The tensors of a Python list, without a heap allocation when they are few.
class HandleList {
  public:
    explicit HandleList(size_t count) : count_(count) {
        if (count > few)
            many_.resize(count);
    }
    tsr_tensor **data() { return count_ > few ? many_.data() : few_; }

  private:
    static constexpr size_t few = 16;
    size_t count_;
    tsr_tensor *few_[few] = {};
    std::vector<tsr_tensor *> many_;
};

tsr_tensor *handle_of(nb::handle object, const char *kind, Py_ssize_t index) {
    if (!nb::isinstance<Array>(object)) {
        std::string message = std::string(kind) + " " + std::to_string(index) + " is a " +
                              nb::cast<std::string>(object.type().attr("__name__")) + ", expected an Array";
        raise_error(TSR_ARGUMENT_ERROR, message.c_str());
    }
    return nb::inst_ptr<Array>(object)->tensor.get();
}

// A caller's stream and trace for one run.
class CallerOptions {
  public:
    CallerOptions(const Program &p, nb::handle native, const Trace *trace) {
        options.size = sizeof options;
        options.flags = TSR_RUN_OUTPUTS_ON_DEVICE;
        options.trace = trace ? trace->trace.get() : nullptr;
        if (native.is_none())
            return;
        int32_t type = 0, index = 0;
        check(tsr_graph_device(p.graph.get(), &type, &index));
        check(tsr_stream_wrap(type, index, reinterpret_cast<void *>(nb::cast<uintptr_t>(native)), &options.stream));
    }
    ~CallerOptions() { tsr_stream_release(options.stream); }
    CallerOptions(const CallerOptions &) = delete;
    CallerOptions &operator=(const CallerOptions &) = delete;
    tsr_run_options options{};
};

nb::list run(const Program &p, const Runtime &runtime, nb::list inputs, nb::object outputs, nb::object stream,
             const Trace *trace) {
    PyObject *given = inputs.ptr();
    const Py_ssize_t input_count = PyList_GET_SIZE(given), output_count = p.outputs;
    HandleList in(static_cast<size_t>(input_count)), out(static_cast<size_t>(output_count));
    for (Py_ssize_t i = 0; i < input_count; ++i)
        in.data()[i] = handle_of(PyList_GET_ITEM(given, i), "input", i);
    nb::list wanted;
    if (!outputs.is_none()) {
        wanted = PyList_CheckExact(outputs.ptr()) ? nb::borrow<nb::list>(outputs) : nb::list(outputs);
        if (PyList_GET_SIZE(wanted.ptr()) != output_count) {
            std::string message = std::to_string(PyList_GET_SIZE(wanted.ptr())) + " outputs are given, " +
                                  std::to_string(output_count) + " are expected";
            raise_error(TSR_ARGUMENT_ERROR, message.c_str());
        }
        for (Py_ssize_t i = 0; i < output_count; ++i)
            if (nb::handle o = PyList_GET_ITEM(wanted.ptr(), i); !o.is_none())
                out.data()[i] = handle_of(o, "output", i);
    }
    // A program with inputs that is given none must not fall back to its own tensors.
    if (input_count == 0 && p.inputs > 0)
        raise_error(TSR_NAME_MISSING_ERROR, "no inputs are given");
    CallerOptions with(p, stream, trace);
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_runtime_run_with(runtime.runtime.get(), p.graph.get(), &with.options, in.data(),
                                      static_cast<int32_t>(input_count), out.data(), static_cast<int32_t>(output_count));
    }
    check(status);
    nb::list results;
    for (Py_ssize_t i = 0; i < output_count; ++i) {
        bool own = outputs.is_none() || nb::handle(PyList_GET_ITEM(wanted.ptr(), i)).is_none();
        if (own)
            results.append(Array(TensorOwner(out.data()[i])));
        else
            results.append(nb::handle(PyList_GET_ITEM(wanted.ptr(), i)));
    }
    return results;
}

nb::str text_of(const Trace &trace) {
    tsr_text *text = nullptr;
    tsr_status status;
    {
        nb::gil_scoped_release unlocked;
        status = tsr_trace_text(trace.trace.get(), &text);
    }
    check(status);
    return taken(text);
}

// A call on the graph with a path or nothing that may take long.
template <class Call> void unlocked(Call &&call) {
    tsr_status status;
    {
        nb::gil_scoped_release released;
        status = call();
    }
    check(status);
}

nb::object default_runtime() {
    nb::module_ self = nb::module_::import_("tessera._core");
    nb::object found = nb::getattr(self, "_default_runtime", nb::none());
    if (found.is_none()) {
        int threads = nb::cast<int>(nb::module_::import_("tessera.config").attr("THREADS").attr("integer")());
        found = nb::cast(Runtime(threads));
        self.attr("_default_runtime") = found;
    }
    return found;
}

} // namespace

void bind_program(nb::module_ &m) {
    nb::class_<Runtime>(m, "Runtime", "Threads that run programs.")
        .def(nb::init<int>(), nb::arg("threads") = 0)
        .def("wait", [](const Runtime &r) { unlocked([&] { return tsr_runtime_wait(r.runtime.get()); }); },
             "Waits for all runs, also those on GPUs; raises the first failure that nobody has seen.")
        .def_prop_ro("threads", [](const Runtime &r) { return tsr_runtime_threads(r.runtime.get()); },
                     "Threads that take part in a run, the caller's included.");

    nb::class_<Trace>(m, "Trace", "What runs did, event by event.")
        .def(nb::init<>())
        .def("__len__", [](const Trace &t) { return tsr_trace_count(t.trace.get()); }, "The events kept.")
        .def("clear", [](Trace &t) { check(tsr_trace_clear(t.trace.get())); }, "Forgets them.")
        .def("to_json", &text_of, "The JSON form of Chrome and Perfetto.")
        .def("save",
             [](const Trace &t, nb::object path) {
                 nb::object bytes = path_bytes(path);
                 const char *name = PyBytes_AsString(bytes.ptr());
                 unlocked([&] { return tsr_trace_save(t.trace.get(), name); });
             },
             nb::arg("path"), "Writes the JSON form.");

    auto kind = [](int32_t k) { return [k](const Program &p) { return values(p, k); }; };
    nb::class_<Program>(m, "Program", nb::is_weak_referenceable(), "A loaded artefact.")
        .def_static("load_file", &load_file, nb::arg("path"), nb::arg("verify") = true, nb::arg("allow_native_code") = true,
                    nb::arg("target").none() = nb::none(), nb::arg("map") = true, "Loads a .tsr file.")
        .def_static("load_bytes", &load_bytes, nb::arg("buffer"), nb::arg("verify") = true,
                    nb::arg("allow_native_code") = true, nb::arg("target").none() = nb::none(),
                    "Loads an artefact from memory; weights that it leaves out are bound later.")
        .def_prop_ro("target", [](const Program &p) { return nb::str(tsr_graph_target(p.graph.get())); })
        .def_prop_ro("level", [](const Program &p) { return nb::str(tsr_graph_level(p.graph.get())); })
        .def("metadata", &metadata, "The file's metadata entries.")
        .def("inputs", kind(TSR_INPUT), "[(name, dtype, shape texts)]")
        .def("outputs", kind(TSR_OUTPUT), "[(name, dtype, shape texts)]")
        .def("state", kind(TSR_STATE), "[(name, dtype, shape texts)]")
        .def("constants", kind(TSR_CONSTANT), "[(name, dtype, shape texts)]")
        .def("symbols", &symbols, "[(name, min, max or None, multiple_of)]")
        .def("bind_state",
             [](Program &p, const std::string &name, const Array &a) {
                 check(tsr_graph_bind_state(p.graph.get(), name.c_str(), a.tensor.get()));
             },
             nb::arg("name"), nb::arg("array"), "From now on the state lives in this array.")
        .def("set_constant",
             [](Program &p, const std::string &name, const Array &a) {
                 check(tsr_graph_set_constant(p.graph.get(), name.c_str(), a.tensor.get()));
             },
             nb::arg("name"), nb::arg("array"), "Gives the data of a constant that the artefact left out.")
        .def("set_communicator",
             [](Program &p, const Communicator &c) {
                 check(tsr_graph_set_communicator(p.graph.get(), c.handle.get()));
             },
             nb::arg("communicator"), "This program is the one of the communicator's device from now on.")
        .def("set_size",
             [](Program &p, const std::string &symbol, int64_t size) {
                 check(tsr_graph_set_size(p.graph.get(), symbol.c_str(), size));
             },
             nb::arg("symbol"), nb::arg("size"), "A symbolic dimension has this size from now on.")
        .def("state_array",
             [](const Program &p, const std::string &name) {
                 TensorOwner out;
                 check(tsr_graph_state(p.graph.get(), name.c_str(), out.out()));
                 return Array(std::move(out));
             },
             nb::arg("name"), "The array of a state: what a run updates shows in it.")
        .def("requirements", &requirements, nb::arg("sizes"),
             "Bytes that one run on the default runtime needs, for sizes of the symbolic dimensions by name.")
        .def("run", &run, nb::arg("runtime"), nb::arg("inputs"), nb::arg("outputs").none() = nb::none(),
             nb::arg("stream").none() = nb::none(), nb::arg("trace").none() = nb::none(),
             "Runs on the calling thread; outputs that are None are made. On a GPU the run is put on `stream`, a CUstream or "
             "hipStream_t as an integer, or on the runtime's own, and not waited for; `trace` is told what it did.")
        .def_prop_ro("device",
                     [](const Program &p) {
                         int32_t type = 0, index = 0;
                         check(tsr_graph_device(p.graph.get(), &type, &index));
                         std::string text = type == TSR_CPU ? "cpu" : type == TSR_CUDA ? "cuda" : "rocm";
                         return nb::str((type == TSR_CPU ? text : text + ":" + std::to_string(index)).c_str());
                     },
                     "Where runs take place: ``cpu``, ``cuda:0``, ``rocm:0``.")
        .def("save_state",
             [](Program &p, const std::string &path) { unlocked([&] { return tsr_graph_save_state(p.graph.get(), path.c_str()); }); },
             nb::arg("path"), "All state as a safetensors file, written atomically.")
        .def("load_state",
             [](Program &p, const std::string &path) { unlocked([&] { return tsr_graph_load_state(p.graph.get(), path.c_str()); }); },
             nb::arg("path"), "Reads state back; nothing changes unless the whole file fits.");

    m.def("verify_file", &verify_file, nb::arg("path"), "Compares every section of a .tsr file with its hash.");
    m.def("default_runtime", &default_runtime, "The runtime of this process; its threads: TESSERA_THREADS.");
}

} // namespace tessera::python
