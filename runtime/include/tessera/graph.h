// Loaded artefacts: header-only C++17 over the C ABI.
#ifndef TESSERA_GRAPH_H
#define TESSERA_GRAPH_H

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tessera/tensor.h"

namespace tessera {

// How to load an artefact.
struct LoadOptions {
    std::string target;            // empty: the best that runs here; "cpu", "cpu.x86-64-v3", "portable"
    bool verify_hashes = true;     // compare all sections with their hashes
    bool allow_native_code = true; // false: refuse compiled kernels, run the portable form
    bool map = true;               // false: read the file into memory, so that later changes to it do no harm
};

namespace detail {

inline tsr_load_options read(const LoadOptions &options) {
    tsr_load_options c{};
    c.size = sizeof c;
    c.target = options.target.empty() ? nullptr : options.target.c_str();
    c.flags = (options.verify_hashes ? 0u : static_cast<uint32_t>(TSR_LOAD_SKIP_HASHES)) |
              (options.allow_native_code ? 0u : static_cast<uint32_t>(TSR_LOAD_NO_NATIVE_CODE)) |
              (options.map ? 0u : static_cast<uint32_t>(TSR_LOAD_COPY));
    return c;
}

} // namespace detail

// Compares every section of a .tsr file with its hash, in bounded memory. The error names the first that differs.
inline void verify_file(const std::string &path) { check(tsr_file_verify(path.c_str())); }

// A named input, output or state of a graph. Dimensions are text: integers or expressions over symbols.
struct ValueInfo {
    std::string name;
    DType dtype = DType::F32;
    std::vector<std::string> shape;
    bool trainable = false;
    bool mutated = false;
};

// A symbolic dimension; max -1: unbounded.
struct SymbolInfo {
    std::string name;
    int64_t min = 0, max = -1, multiple_of = 1;
};

// Bytes that one run needs, to the byte. Inputs that are not row-major need their copies in addition.
struct Requirements {
    uint64_t arena = 0, scratch_per_thread = 0, inputs = 0, outputs = 0, state = 0;
    // What the runtime allocates for a run, or a Workspace must have, with so many threads (Runtime::threads).
    uint64_t workspace(int32_t threads) const { return arena + scratch_per_thread * static_cast<uint64_t>(threads); }
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
// Parameters (op::parameter) and what replaces the state of each when a graph has run.
using Updates = std::vector<std::pair<Tensor, Tensor>>;

// A program with its weights. Copies share both.
class Graph {
  public:
    Graph() = default;

    // Loads a .tsr file.
    static Graph load(const std::string &path, const LoadOptions &options = {}) {
        tsr_load_options c = detail::read(options);
        tsr_graph *handle = nullptr;
        check(tsr_graph_load_file(path.c_str(), &c, &handle));
        return adopt(handle);
    }

    // Loads from memory, which is copied. Weights that the artefact leaves out are given with `bind_state`.
    static Graph load(const void *data, size_t bytes, const LoadOptions &options = {}) {
        tsr_load_options c = detail::read(options);
        tsr_graph *handle = nullptr;
        check(tsr_graph_load_memory(data, bytes, &c, &handle));
        return adopt(handle);
    }

    // The graph that computes named lazy tensors (see tessera/ops.h) from the op::input and op::parameter tensors they
    // depend on. Parameters are its state, other tensors that exist its constants; both share their memory with it.
    static Graph trace(const NamedTensors &outputs, const std::string &name = "main") {
        std::vector<const char *> names;
        std::vector<tsr_tensor *> handles;
        for (const auto &output : outputs) {
            names.push_back(output.first.c_str());
            handles.push_back(output.second.handle());
        }
        tsr_graph *handle = nullptr;
        check(tsr_graph_trace(name.c_str(), names.data(), handles.data(), static_cast<int32_t>(names.size()), &handle));
        return adopt(handle);
    }

    // The same for a graph that updates parameters, such as a training step.
    static Graph trace(const NamedTensors &outputs, const Updates &updates, const std::string &name = "main") {
        std::vector<const char *> names;
        std::vector<tsr_tensor *> values, parameters, replacements;
        for (const auto &output : outputs) {
            names.push_back(output.first.c_str());
            values.push_back(output.second.handle());
        }
        for (const auto &update : updates) {
            parameters.push_back(update.first.handle());
            replacements.push_back(update.second.handle());
        }
        tsr_graph_trace_options options{};
        options.size = sizeof options;
        options.name = name.c_str();
        options.output_names = names.data();
        options.outputs = values.data();
        options.output_count = static_cast<int32_t>(names.size());
        options.parameters = parameters.data();
        options.updates = replacements.data();
        options.update_count = static_cast<int32_t>(parameters.size());
        tsr_graph *handle = nullptr;
        check(tsr_graph_trace_with(&options, &handle));
        return adopt(handle);
    }

    static Graph adopt(tsr_graph *handle) {
        Graph g;
        g.handle_ = detail::Handle<tsr_graph, tsr_graph_retain, tsr_graph_release>(handle);
        return g;
    }
    tsr_graph *handle() const noexcept { return handle_.get(); }

    // The graph with its present weights as a .tsr file, written atomically. Python loads it with graph.load.
    void save(const std::string &path) const { check(tsr_graph_save(handle(), path.c_str())); }

    // Graph IR as text, as the graph was written.
    std::string to_text() const {
        std::map<std::string, std::string> entries = metadata();
        return entries["tessera.graph"];
    }
    std::string target() const { return tsr_graph_target(handle()); }
    std::string level() const { return tsr_graph_level(handle()); }
    // Where its runs take place.
    Device device() const {
        int32_t type = TSR_CPU, index = 0;
        check(tsr_graph_device(handle(), &type, &index));
        return {static_cast<Device::Type>(type), index};
    }
    std::vector<ValueInfo> inputs() const { return values(TSR_INPUT); }
    std::vector<ValueInfo> outputs() const { return values(TSR_OUTPUT); }
    std::vector<ValueInfo> state() const { return values(TSR_STATE); }

    std::vector<SymbolInfo> symbols() const {
        std::vector<SymbolInfo> out;
        for (int32_t i = 0; i < tsr_graph_symbol_count(handle()); ++i) {
            tsr_symbol_info info{};
            info.size = sizeof info;
            check(tsr_graph_symbol(handle(), i, &info));
            out.push_back({info.name, info.min, info.max, info.multiple_of});
        }
        return out;
    }

    // Metadata entries of the file, such as those the user added under "user.".
    std::map<std::string, std::string> metadata() const {
        std::map<std::string, std::string> out;
        for (int32_t i = 0; i < tsr_graph_metadata_count(handle()); ++i) {
            const char *key = nullptr, *value = nullptr;
            size_t bytes = 0;
            check(tsr_graph_metadata(handle(), i, &key, &value, &bytes));
            out.emplace(key, std::string(value, bytes));
        }
        return out;
    }

    // The graph's own tensor for an input or output of constant shape: zero until written, used when the graph is
    // submitted without inputs or outputs.
    Tensor input(const std::string &name) const { return own(TSR_INPUT, name); }
    Tensor output(const std::string &name) const { return own(TSR_OUTPUT, name); }

    // A state's tensor; what a run updates shows in it.
    Tensor state(const std::string &name) const {
        tsr_tensor *out = nullptr;
        check(tsr_graph_state(handle(), name.c_str(), &out));
        return Tensor::adopt(out);
    }
    // From now on the state lives in this tensor.
    void bind_state(const std::string &name, const Tensor &tensor) {
        check(tsr_graph_bind_state(handle(), name.c_str(), tensor.handle()));
    }
    // All state as a safetensors file, written atomically: a reader sees the old file or the whole new one.
    void save_state(const std::string &path) const { check(tsr_graph_save_state(handle(), path.c_str())); }
    // Reads state back; nothing changes unless the whole file fits.
    void load_state(const std::string &path) { check(tsr_graph_load_state(handle(), path.c_str())); }

    // Memory that one run needs, for sizes of the symbolic dimensions by name.
    Requirements requirements(const std::map<std::string, int64_t> &sizes = {}) const {
        std::vector<const char *> names;
        std::vector<int64_t> values;
        for (const auto &entry : sizes) {
            names.push_back(entry.first.c_str());
            values.push_back(entry.second);
        }
        tsr_requirements r{};
        r.size = sizeof r;
        check(tsr_graph_requirements(handle(), names.data(), values.data(), static_cast<int32_t>(names.size()), &r));
        return {r.arena, r.scratch, r.inputs, r.outputs, r.state};
    }

    // The place of an input or output in the graph's order.
    int32_t input_index(const std::string &name) const { return find(TSR_INPUT, name); }
    int32_t output_index(const std::string &name) const { return find(TSR_OUTPUT, name); }

  private:
    std::vector<ValueInfo> values(int32_t kind) const {
        std::vector<ValueInfo> out;
        for (int32_t i = 0; i < tsr_graph_value_count(handle(), kind); ++i) {
            tsr_value_info info{};
            info.size = sizeof info;
            check(tsr_graph_value(handle(), kind, i, &info));
            out.push_back({info.name, static_cast<DType>(info.dtype),
                           std::vector<std::string>(info.shape, info.shape + info.rank),
                           (info.flags & TSR_VALUE_TRAINABLE) != 0, (info.flags & TSR_VALUE_MUTATED) != 0});
        }
        return out;
    }

    int32_t find(int32_t kind, const std::string &name) const {
        int32_t index = 0;
        check(tsr_graph_find(handle(), kind, name.c_str(), &index));
        return index;
    }

    Tensor own(int32_t kind, const std::string &name) const {
        tsr_tensor *out = nullptr;
        check(tsr_graph_tensor(handle(), kind, find(kind, name), &out));
        return Tensor::adopt(out);
    }

    detail::Handle<tsr_graph, tsr_graph_retain, tsr_graph_release> handle_;
};

// Weights that several graphs share, and that are replaced as a whole while they run. Copies are the same set.
class Weights {
  public:
    explicit Weights(const NamedTensors &tensors) {
        List list(tensors);
        tsr_weights *handle = nullptr;
        check(tsr_weights_create(list.names.data(), list.handles.data(), list.count(), &handle));
        handle_ = detail::Handle<tsr_weights, tsr_weights_retain, tsr_weights_release>(handle);
    }
    // The tensors of a safetensors file, mapped; the state of a .tsr file.
    static Weights load(const std::string &path, bool verify_hashes = true) {
        tsr_weights *handle = nullptr;
        check(tsr_weights_load_file(path.c_str(), verify_hashes ? 0u : static_cast<uint32_t>(TSR_LOAD_SKIP_HASHES), &handle));
        return Weights(handle);
    }

    // From now on the graph's states of these names are this set's, now and after each swap. Their dtypes and shapes must
    // fit, and runs of the graph must not change them.
    void bind(const Graph &graph) { check(tsr_weights_bind(handle(), graph.handle())); }
    // Replaces all tensors by others of the same names, dtypes and shapes, while runs go on: each run has all the old or
    // all the new ones, and a run that begins when this has returned has the new ones. Nothing changes when this throws.
    void swap(const NamedTensors &tensors) {
        List list(tensors);
        check(tsr_weights_swap(handle(), list.names.data(), list.handles.data(), list.count()));
    }
    void swap(const std::string &path, bool verify_hashes = true) {
        check(tsr_weights_swap_file(handle(), path.c_str(),
                                    verify_hashes ? 0u : static_cast<uint32_t>(TSR_LOAD_SKIP_HASHES)));
    }
    tsr_weights *handle() const noexcept { return handle_.get(); }

  private:
    struct List {
        explicit List(const NamedTensors &tensors) {
            for (const auto &entry : tensors) {
                names.push_back(entry.first.c_str());
                handles.push_back(entry.second.handle());
            }
        }
        int32_t count() const { return static_cast<int32_t>(names.size()); }
        std::vector<const char *> names;
        std::vector<tsr_tensor *> handles;
    };
    explicit Weights(tsr_weights *handle) : handle_(handle) {}
    detail::Handle<tsr_weights, tsr_weights_retain, tsr_weights_release> handle_;
};

} // namespace tessera

#endif
