// Graph handles: loading, description, state.
#include "api/graph_handle.h"
#include "device/allocators.h"
#include "device/backend.h"

#include <cstring>

using namespace tessera::core;

namespace {

constexpr const char *kind_names[] = {"input", "output", "state", "constant"};

void check_kind(int32_t kind) {
    if (kind < TSR_INPUT || kind > TSR_CONSTANT)
        fail(Code::Argument, "kind %d is none of TSR_INPUT, TSR_OUTPUT, TSR_STATE, TSR_CONSTANT", kind);
}

const TensorSpec &spec_at(const tsr_graph *graph, int32_t kind, int32_t index) {
    const std::vector<TensorSpec> &list = graph->specs(kind);
    if (index < 0 || static_cast<size_t>(index) >= list.size())
        fail(Code::Argument, "%s %d does not exist; there are %zu", kind_names[kind], index, list.size());
    return list[static_cast<size_t>(index)];
}

} // namespace

LoadOptions read_load_options(const tsr_load_options *options) {
    LoadOptions out;
    if (!options)
        return out;
    if (options->size < sizeof(tsr_load_options))
        fail(Code::Argument, "tsr_load_options.size is %zu, expected at least %zu", options->size,
             sizeof(tsr_load_options));
    out.target = options->target ? options->target : "";
    out.verify_hashes = !(options->flags & TSR_LOAD_SKIP_HASHES);
    out.allow_native_code = !(options->flags & TSR_LOAD_NO_NATIVE_CODE);
    out.map = !(options->flags & TSR_LOAD_COPY);
    return out;
}

tsr_graph::tsr_graph(std::shared_ptr<Program> p) : program(std::move(p)) {
    for (int32_t kind = 0; kind < 4; ++kind)
        for (const TensorSpec &spec : specs(kind)) {
            std::vector<std::string> shape;
            for (const Dim &d : spec.shape)
                shape.push_back(d.text());
            texts[kind].texts.push_back(std::move(shape));
        }
    for (SpecTexts &t : texts)
        for (const auto &shape : t.texts) {
            std::vector<const char *> pointers;
            for (const std::string &d : shape)
                pointers.push_back(d.c_str());
            t.pointers.push_back(std::move(pointers));
        }
    for (int32_t kind : {TSR_INPUT, TSR_OUTPUT})
        own_[kind] = std::vector<std::atomic<tsr_tensor *>>(specs(kind).size());
}

tsr_graph::~tsr_graph() {
    for (auto &list : own_)
        for (const std::atomic<tsr_tensor *> &t : list)
            tsr_tensor_release(t.load(std::memory_order_acquire));
}

const std::vector<TensorSpec> &tsr_graph::specs(int32_t kind) const {
    check_kind(kind);
    const Signature &s = program->signature();
    return kind == TSR_INPUT ? s.inputs : kind == TSR_OUTPUT ? s.outputs : kind == TSR_STATE ? s.state : s.constants;
}

tsr_tensor *tsr_graph::own_tensor(int32_t kind, size_t index) {
    std::atomic<tsr_tensor *> &own = own_[kind][index];
    if (tsr_tensor *made = own.load(std::memory_order_acquire))
        return made;
    const TensorSpec &spec = specs(kind)[index];
    if (spec.is_symbolic())
        fail(Code::Shape, "%s '%s' has the symbolic shape %s; give a tensor for it", kind_names[kind], spec.name.c_str(),
             shape_text(spec.shape).c_str());
    std::lock_guard<std::mutex> hold(lock_);
    if (tsr_tensor *made = own.load(std::memory_order_acquire))
        return made;
    const DeviceId device = program->device();
    Tensor zeros = Tensor::empty(spec.dtype, spec.concrete_shape({}), device, device.is_cpu() ? nullptr : make_backend_allocator());
    backend(device).fill(zeros.data(), device.index, 0, zeros.bytes(), nullptr);
    auto *fresh = new tsr_tensor(std::move(zeros));
    own.store(fresh, std::memory_order_release);
    return fresh;
}

tsr_status tsr_graph_load_file(const char *path, const tsr_load_options *options, tsr_graph **graph) {
    return guarded([&] {
        require(path, "path");
        require(graph, "graph");
        LoadOptions load = read_load_options(options);
        *graph = new tsr_graph(Program::load(load.map ? Mapping::map_file(path) : Mapping::read_file(path), path, load, true));
    });
}

tsr_status tsr_file_verify(const char *path) {
    return guarded([&] {
        require(path, "path");
        SafeTensors::parse(Mapping::map_file(path), path).verify_hashes(true);
    });
}

tsr_status tsr_graph_load_memory(const void *data, size_t bytes, const tsr_load_options *options, tsr_graph **graph) {
    return guarded([&] {
        require(data, "data");
        require(graph, "graph");
        *graph = new tsr_graph(Program::load(Mapping::copy(data, bytes), "artefact in memory", read_load_options(options), false));
    });
}

void tsr_graph_retain(tsr_graph *graph) {
    if (graph)
        graph->retain();
}

void tsr_graph_release(tsr_graph *graph) {
    if (graph && graph->release())
        delete graph;
}

const char *tsr_graph_target(const tsr_graph *graph) { return graph ? graph->program->target().c_str() : ""; }
const char *tsr_graph_level(const tsr_graph *graph) { return graph ? graph->program->level().c_str() : ""; }

int32_t tsr_graph_metadata_count(const tsr_graph *graph) {
    return graph ? static_cast<int32_t>(graph->program->metadata().size()) : 0;
}

tsr_status tsr_graph_metadata(const tsr_graph *graph, int32_t index, const char **key, const char **value,
                              size_t *value_bytes) {
    return guarded([&] {
        require(graph, "graph");
        require(key, "key");
        require(value, "value");
        const auto &list = graph->program->metadata();
        if (index < 0 || static_cast<size_t>(index) >= list.size())
            fail(Code::Argument, "metadata entry %d does not exist; there are %zu", index, list.size());
        const auto &entry = list[static_cast<size_t>(index)];
        *key = entry.first.c_str();
        *value = entry.second.c_str();
        if (value_bytes)
            *value_bytes = entry.second.size();
    });
}

int32_t tsr_graph_value_count(const tsr_graph *graph, int32_t kind) {
    if (!graph || kind < TSR_INPUT || kind > TSR_CONSTANT)
        return 0;
    return static_cast<int32_t>(graph->specs(kind).size());
}

tsr_status tsr_graph_value(const tsr_graph *graph, int32_t kind, int32_t index, tsr_value_info *info) {
    return guarded([&] {
        require(graph, "graph");
        require(info, "info");
        if (info->size < sizeof(tsr_value_info))
            fail(Code::Argument, "tsr_value_info.size is %zu, expected at least %zu", info->size, sizeof(tsr_value_info));
        const TensorSpec &spec = spec_at(graph, kind, index);
        info->name = spec.name.c_str();
        info->shape = graph->texts[kind].pointers[static_cast<size_t>(index)].data();
        info->rank = static_cast<int32_t>(spec.shape.size());
        info->dtype = static_cast<tsr_dtype>(spec.dtype);
        uint32_t flags = 0;
        if (spec.trainable)
            flags |= TSR_VALUE_TRAINABLE;
        if (spec.mutated)
            flags |= TSR_VALUE_MUTATED;
        info->flags = flags;
    });
}

tsr_status tsr_graph_find(const tsr_graph *graph, int32_t kind, const char *name, int32_t *index) {
    return guarded([&] {
        require(graph, "graph");
        require(name, "name");
        require(index, "index");
        *index = static_cast<int32_t>(Signature::find(graph->specs(kind), name, kind_names[kind]));
    });
}

int32_t tsr_graph_symbol_count(const tsr_graph *graph) {
    return graph ? static_cast<int32_t>(graph->program->signature().symbols.size()) : 0;
}

tsr_status tsr_graph_symbol(const tsr_graph *graph, int32_t index, tsr_symbol_info *info) {
    return guarded([&] {
        require(graph, "graph");
        require(info, "info");
        if (info->size < sizeof(tsr_symbol_info))
            fail(Code::Argument, "tsr_symbol_info.size is %zu, expected at least %zu", info->size, sizeof(tsr_symbol_info));
        const SymbolTable &symbols = graph->program->signature().symbols;
        if (index < 0 || static_cast<size_t>(index) >= symbols.size())
            fail(Code::Argument, "symbolic dimension %d does not exist; there are %zu", index, symbols.size());
        const Symbol &s = *symbols[static_cast<size_t>(index)];
        info->name = s.name.c_str();
        info->min = s.min;
        info->max = s.max.value_or(-1);
        info->multiple_of = s.multiple_of;
    });
}

tsr_status tsr_graph_requirements(const tsr_graph *graph, const char *const *names, const int64_t *sizes, int32_t count,
                                  tsr_requirements *requirements) {
    return guarded([&] {
        require(graph, "graph");
        require(requirements, "requirements");
        if (requirements->size < sizeof(tsr_requirements))
            fail(Code::Argument, "tsr_requirements.size is %zu, expected at least %zu", requirements->size,
                 sizeof(tsr_requirements));
        Sizes by_name;
        for (int32_t i = 0; i < count; ++i) {
            require(names, "names");
            require(names[i], "name");
            require(sizes, "sizes");
            by_name[names[i]] = sizes[i];
        }
        Requirements r = graph->program->requirements(by_name);
        requirements->arena = static_cast<uint64_t>(r.arena);
        requirements->scratch = static_cast<uint64_t>(r.scratch_per_thread);
        requirements->inputs = static_cast<uint64_t>(r.inputs);
        requirements->outputs = static_cast<uint64_t>(r.outputs);
        requirements->state = static_cast<uint64_t>(r.state);
    });
}

tsr_status tsr_graph_tensor(tsr_graph *graph, int32_t kind, int32_t index, tsr_tensor **tensor) {
    return guarded([&] {
        require(graph, "graph");
        require(tensor, "tensor");
        if (kind != TSR_INPUT && kind != TSR_OUTPUT)
            fail(Code::Argument, "a graph has its own tensors for inputs and outputs only");
        spec_at(graph, kind, index);
        tsr_tensor *own = graph->own_tensor(kind, static_cast<size_t>(index));
        own->retain();
        *tensor = own;
    });
}

tsr_status tsr_graph_state(tsr_graph *graph, const char *name, tsr_tensor **tensor) {
    return guarded([&] {
        require(graph, "graph");
        require(name, "name");
        require(tensor, "tensor");
        *tensor = new tsr_tensor(graph->program->state(name));
    });
}

tsr_status tsr_graph_bind_state(tsr_graph *graph, const char *name, tsr_tensor *tensor) {
    return guarded([&] {
        require(graph, "graph");
        require(name, "name");
        require(tensor, "tensor");
        graph->program->bind_state(name, tensor->concrete());
    });
}

tsr_status tsr_graph_set_constant(tsr_graph *graph, const char *name, tsr_tensor *tensor) {
    return guarded([&] {
        require(graph, "graph");
        require(name, "name");
        require(tensor, "tensor");
        graph->program->set_constant(name, tensor->concrete());
    });
}

tsr_status tsr_graph_save_state(tsr_graph *graph, const char *path) {
    return guarded([&] {
        require(graph, "graph");
        require(path, "path");
        graph->program->save_state(path);
    });
}

tsr_status tsr_graph_load_state(tsr_graph *graph, const char *path) {
    return guarded([&] {
        require(graph, "graph");
        require(path, "path");
        graph->program->load_state(path);
    });
}

tsr_status tsr_graph_save(tsr_graph *graph, const char *path) {
    return guarded([&] {
        require(graph, "graph");
        require(path, "path");
        graph->program->save(path);
    });
}
