#include "exec/program.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <mutex>
#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/transfer.h"
#include "custom/registry.h"
#include "device/allocators.h"
#include "exec/gpu_engine.h"
#include "exec/plan_engine.h"
#include "exec/portable_engine.h"
#include "exec/trace_sink.h"
#include "graph/printer.h"

namespace tessera::core {

namespace {

// Symbols of this name hold the coordinates of the device that runs.
const std::string coordinate_prefix = "mesh_";

constexpr int64_t format_version = 1;
constexpr const char *portable_key = "tessera.portable";
constexpr const char *custom_ops_key = "tessera.custom_ops";
constexpr const char *mesh_key = "tessera.mesh";
constexpr const char *constant_prefix = "tessera.constant.";

void check_format(const SafeTensors &file) {
    const char *where = file.where().c_str();
    const std::string *text = file.metadata("tessera.format");
    if (!text)
        fail(Code::Format, "%s: this safetensors file has no entry 'tessera.format', so it is no Tessera artefact", where);
    int64_t version = 0;
    auto [end, status] = std::from_chars(text->data(), text->data() + text->size(), version);
    if (status != std::errc() || end != text->data() + text->size() || version < 1)
        fail(Code::Format, "%s: 'tessera.format' is '%s', expected a version number", where, shown(*text).c_str());
    if (version > format_version)
        fail(Code::Version,
             "%s: the file has format version %lld, this build of Tessera reads versions up to %lld; install a newer Tessera",
             where, static_cast<long long>(version), static_cast<long long>(format_version));
}

std::unique_ptr<Engine> make_engine(const SafeTensors &file, const Target &target) {
    if (target.name == "portable") {
        try {
            return std::make_unique<PortableEngine>(*file.metadata(portable_key));
        } catch (const Error &e) {
            throw Error(e.code(), file.where() + ": " + portable_key + ": " + e.message());
        }
    }
    const std::string which = target.name + "." + target.level, key = "tessera.plan." + which;
    const std::string kernels = "tessera.kernels." + which;
    const TensorEntry *image = file.find(kernels);
    if (image && image->dtype != DType::U8)
        fail(Code::Format, "%s: '%s' is %s, expected u8", file.where().c_str(), kernels.c_str(), name(image->dtype));
    std::string_view code;
    if (image)
        code = {static_cast<const char *>(file.data(*image)), image->bytes};
    Plan plan = Plan::parse(*file.metadata(key), file.where() + ": " + key, code, target.name);
    if (plan.level != target.level)
        fail(Code::Format, "%s: %s: the plan is for level '%s'", file.where().c_str(), key.c_str(),
             shown(plan.level).c_str());
    if (!target.device.is_cpu())
        return std::make_unique<GpuEngine>(std::move(plan), code, target.device, file.where());
    return std::make_unique<PlanEngine>(std::move(plan), code.data(), code.size());
}

} // namespace

std::shared_ptr<Program> Program::open(const SafeTensors &file, const LoadOptions &options) {
    if (const std::string *needed = file.metadata(custom_ops_key))
        custom::check_requirements(file.where(), *needed);
    auto program = std::shared_ptr<Program>(new Program());
    const Target target = choose_target(file, options);
    program->target_ = target.name;
    program->level_ = target.level;
    program->engine_ = make_engine(file, target);
    program->metadata_ = file.metadata();
    if (const std::string *mesh = file.metadata(mesh_key))
        program->layout_ = std::make_unique<MeshLayout>(
            MeshLayout::parse(*mesh, program->signature().symbols, file.where()));
    return program;
}

std::shared_ptr<Program> Program::load(std::shared_ptr<Mapping> bytes, const std::string &where,
                                       const LoadOptions &options, bool complete) {
    SafeTensors file = SafeTensors::parse(std::move(bytes), where);
    check_format(file);
    if (options.verify_hashes)
        file.verify_hashes(true);
    if (complete && file.metadata(mesh_key))
        fail(Code::Unsupported,
             "%s: the file holds one device's program of a mesh, and whole weights; load it in Python with graph.load, in C++ "
             "with a communicator (tessera/dist/sharded_graph.h)",
             where.c_str());
    std::shared_ptr<Program> program = open(file, options);
    program->read_tensors(file, complete);
    return program;
}

std::shared_ptr<Program> Program::load_sharded(std::shared_ptr<Mapping> bytes, const std::string &where,
                                               const LoadOptions &options, const Connect &connect) {
    SafeTensors file = SafeTensors::parse(std::move(bytes), where);
    check_format(file);
    if (!file.metadata(mesh_key))
        fail(Code::Unsupported, "%s: the file holds a program of one device, of no mesh; load it without a communicator",
             where.c_str());
    if (options.verify_hashes)
        file.verify_hashes(true, [](const TensorEntry &entry) { return entry.name.compare(0, 8, "tessera.") == 0; });
    std::shared_ptr<Program> program = open(file, options);
    program->set_communicator(connect(program->layout_->mesh(), program->device()));
    program->read_tensors(file, true);
    return program;
}

std::shared_ptr<Program> Program::from_graph(const std::string &text, graph::Graph primitives,
                                             std::vector<Tensor> state, std::vector<Tensor> constants) {
    auto program = std::shared_ptr<Program>(new Program());
    program->target_ = "portable";
    Json updated = Json::array();
    for (const auto &[target, value] : primitives.updates)
        updated.push(Json::string(primitives.producer(target).attrs.string("param", "name")));
    program->mutates_ = !primitives.updates.empty();
    program->metadata_ = {{"tessera.format", "1"},
                          {"tessera.producer", "tessera " TESSERA_VERSION},
                          {"tessera.graph", text},
                          {"tessera.state", updated.dump()},
                          {portable_key, graph::to_text(primitives)}};
    if (std::string needed = custom::requirements_of(primitives); !needed.empty())
        program->metadata_.emplace_back(custom_ops_key, std::move(needed));
    program->engine_ = std::make_unique<PortableEngine>(portable::Program(std::move(primitives)));
    StateTable table;
    table.state = std::move(state);
    table.constants = std::move(constants);
    program->publish(std::move(table));
    return program;
}

Tensor Program::read_tensor(const SafeTensors &file, const TensorEntry &entry, const TensorSpec &spec,
                            const char *kind) const {
    std::vector<int64_t> shape = spec.concrete_shape({});
    if (entry.dtype != spec.dtype || entry.shape != shape)
        fail(Code::Format, "%s: %s '%s' is %s in the file, the program needs %s", file.where().c_str(), kind,
             shown(spec.name).c_str(), type_text(entry.dtype, entry.shape).c_str(), type_text(spec.dtype, shape).c_str());
    // Memory that runs change must not be the file's; a device has memory of its own.
    try {
        return engine_->place(file.tensor(entry, spec.mutated && device().is_cpu()));
    } catch (const Error &e) {
        throw Error(e.code(), file.where() + ": " + kind + " '" + shown(spec.name) + "', " + type_text(spec.dtype, shape) +
                                  ": " + e.message());
    }
}

Tensor Program::read_shard(const SafeTensors &file, const TensorEntry &entry, const TensorSpec &spec) const {
    const Shard shard = layout_->shard("state", spec.name, communicator_->rank(), {});
    const std::vector<int64_t> block = spec.concrete_shape({}), shape = shard.shape();
    bool fits = entry.dtype == spec.dtype && entry.shape == shard.whole && block.size() == shape.size();
    for (size_t i = 0; fits && i < block.size(); ++i)
        fits = shape[i] >= 0 && shape[i] <= block[i];
    if (!fits)
        fail(Code::Format, "%s: state '%s' is %s in the file and lies on the mesh as %s, the program needs %s",
             file.where().c_str(), shown(spec.name).c_str(), type_text(entry.dtype, entry.shape).c_str(),
             type_text(spec.dtype, shard.whole).c_str(), type_text(spec.dtype, block).c_str());
    if (shape == shard.whole && shape == block)
        return read_tensor(file, entry, spec, "state");
    const Tensor out = Tensor::zeros(spec.dtype, block);
    copy_shard(file.data(entry), shard, static_cast<char *>(out.data()), block, item_size(spec.dtype));
    return engine_->place(out);
}

void Program::read_tensors(const SafeTensors &file, bool complete) {
    auto read = [&](const TensorSpec &spec, const std::string &key, const char *kind) {
        const TensorEntry *entry = file.find(key);
        if (!entry && complete)
            fail(Code::Format, "%s: the tensor of %s '%s' is missing", file.where().c_str(), kind, shown(spec.name).c_str());
        if (!entry)
            return Tensor();
        return communicator_ && key == spec.name ? read_shard(file, *entry, spec) : read_tensor(file, *entry, spec, kind);
    };
    StateTable table;
    for (const TensorSpec &spec : signature().state) {
        if (spec.is_symbolic())
            fail(Code::Format, "%s: state '%s' has a symbolic shape", file.where().c_str(), shown(spec.name).c_str());
        mutates_ = mutates_ || spec.mutated;
        table.state.push_back(read(spec, spec.name, "state"));
    }
    for (const TensorSpec &spec : signature().constants) {
        if (spec.is_symbolic())
            fail(Code::Format, "%s: constant '%s' has a symbolic shape", file.where().c_str(), shown(spec.name).c_str());
        table.constants.push_back(read(spec, constant_prefix + spec.name, "constant"));
    }
    std::set<std::string> known;
    for (const TensorSpec &spec : signature().state)
        known.insert(spec.name);
    for (const TensorSpec &spec : signature().constants)
        known.insert(constant_prefix + spec.name);
    for (const TensorEntry &entry : file.tensors())
        if (!known.count(entry.name) && entry.name.compare(0, 12, "tessera.pad.") != 0)
            others_.emplace_back(entry.name, file.tensor(entry, false));
    publish(std::move(table));
}

std::unique_lock<std::mutex> Program::exclusive() const {
    std::unique_lock<std::mutex> hold(lock_, std::try_to_lock);
    if (!hold) {
        process_.check("graph"); // in a child of fork nobody would ever unlock it
        hold.lock();
    }
    return hold;
}

// The tensors that are replaced go after the lock: their owners may call into this program.
void Program::publish(StateTable table) {
    note_missing(table);
    tables_.publish(std::move(table));
}

void Program::note_missing(const StateTable &table) {
    missing_.clear();
    for (size_t i = 0; i < table.state.size() && missing_.empty(); ++i)
        if (!table.state[i])
            missing_ = "state '" + signature().state[i].name + "' has no tensor; give it one with bind_state";
    for (size_t i = 0; i < table.constants.size() && missing_.empty(); ++i)
        if (!table.constants[i])
            missing_ = "constant '" + signature().constants[i].name + "' has no data; give it with set_constant";
    complete_.store(missing_.empty(), std::memory_order_release);
}

Tensor Program::state(std::string_view name) const {
    size_t i = Signature::find(signature().state, name, "state");
    Tensor out = tables_.current()->state[i];
    if (!out)
        fail(Code::NameMissing, "state '%s' has no tensor yet; give it one with bind_state", std::string(name).c_str());
    return out;
}

namespace {

// The place of a state or constant, and whether the tensor fits there.
size_t place_of(const std::vector<TensorSpec> &specs, std::string_view name, const char *kind, const Tensor &tensor) {
    size_t i = Signature::find(specs, name, kind);
    const TensorSpec &spec = specs[i];
    std::vector<int64_t> shape = spec.concrete_shape({});
    if (tensor.dtype() != spec.dtype)
        fail(Code::DType, "%s '%s': expected %s, got %s", kind, spec.name.c_str(), type_text(spec.dtype, shape).c_str(),
             type_text(tensor.dtype(), tensor.shape()).c_str());
    if (tensor.shape() != shape)
        fail(Code::Shape, "%s '%s': expected shape %s, got %s", kind, spec.name.c_str(), shape_text(shape).c_str(),
             shape_text(tensor.shape()).c_str());
    if (!tensor.is_contiguous())
        fail(Code::Argument, "%s '%s': the tensor is not contiguous; give a row-major one", kind, spec.name.c_str());
    return i;
}

} // namespace

void Program::bind_states(const std::vector<std::pair<std::string, Tensor>> &tensors) {
    std::vector<size_t> places;
    std::vector<Tensor> placed; // where runs can use them
    for (const auto &[name, tensor] : tensors) {
        places.push_back(place_of(signature().state, name, "state", tensor));
        placed.push_back(engine_->place(tensor));
        if (signature().state[places.back()].mutated && placed.back().readonly())
            fail(Code::Argument, "state '%s': the tensor is read-only but runs change it", name.c_str());
    }
    StateTables::Snapshot before;
    std::unique_lock<std::mutex> hold = exclusive();
    StateTable table = *tables_.current();
    for (size_t i = 0; i < places.size(); ++i)
        table.state[places[i]] = std::move(placed[i]);
    note_missing(table);
    before = tables_.publish(std::move(table));
}

void Program::bind_state(std::string_view name, const Tensor &tensor) { bind_states({{std::string(name), tensor}}); }

void Program::set_constant(std::string_view name, const Tensor &tensor) {
    const size_t place = place_of(signature().constants, name, "constant", tensor);
    Tensor placed = engine_->place(tensor);
    StateTables::Snapshot before;
    std::unique_lock<std::mutex> hold = exclusive();
    StateTable table = *tables_.current();
    table.constants[place] = std::move(placed);
    note_missing(table);
    before = tables_.publish(std::move(table));
}

namespace {

// Row-major in host memory: copies of what is on a device, or has strides, as a constant of a traced graph may have.
std::vector<Tensor> on_host(const std::vector<Tensor> &tensors) {
    std::vector<Tensor> out;
    for (const Tensor &t : tensors)
        out.push_back(!t ? t : t.device().is_cpu() ? t.contiguous() : to_device(t, {}));
    return out;
}

} // namespace

void Program::add_sections(std::vector<TensorSection> &out, const std::vector<TensorSpec> &specs,
                           const std::vector<Tensor> &tensors, const std::string &prefix) {
    for (size_t i = 0; i < tensors.size(); ++i) {
        const Tensor &t = tensors[i];
        if (!t)
            fail(Code::NameMissing, "%s '%s' has no tensor yet; give it one with %s", prefix.empty() ? "state" : "constant",
                 specs[i].name.c_str(), prefix.empty() ? "bind_state" : "set_constant");
        out.push_back({prefix + specs[i].name, t.dtype(), t.shape(), t.data()});
    }
}

void Program::save(const std::string &path) const {
    std::vector<std::pair<std::string, std::string>> metadata;
    for (const auto &entry : metadata_)
        if (entry.first != "tessera.hashes") // made anew
            metadata.push_back(entry);
    std::unique_lock<std::mutex> hold = exclusive();
    StateTables::Snapshot table = tables_.current();
    std::vector<TensorSection> sections;
    const std::vector<Tensor> state = on_host(table->state), constants = on_host(table->constants);
    add_sections(sections, signature().state, state, "");
    add_sections(sections, signature().constants, constants, constant_prefix);
    for (const auto &[name, tensor] : others_)
        sections.push_back({name, tensor.dtype(), tensor.shape(), tensor.data()});
    write_safetensors(path, metadata, sections);
}

void Program::save_state(const std::string &path) const {
    std::unique_lock<std::mutex> hold = exclusive();
    StateTables::Snapshot table = tables_.current();
    if (!mutates_)
        hold.unlock(); // the snapshot does not change
    std::vector<TensorSection> sections;
    const std::vector<Tensor> state = on_host(table->state);
    add_sections(sections, signature().state, state, "");
    write_safetensors(path, {{"tessera.format", "1"}, {"tessera.content", "state"}}, sections);
}

void Program::load_state(const std::string &path) {
    SafeTensors file = SafeTensors::parse(Mapping::map_file(path), path);
    file.verify_hashes(false);
    std::vector<const TensorEntry *> entries;
    for (const TensorSpec &spec : signature().state) {
        const TensorEntry *entry = file.find(spec.name);
        if (!entry)
            fail(Code::NameMissing, "%s: the file has no tensor '%s'", path.c_str(), spec.name.c_str());
        std::vector<int64_t> shape = spec.concrete_shape({});
        if (entry->dtype != spec.dtype)
            fail(Code::DType, "%s: tensor '%s' is %s, expected %s", path.c_str(), spec.name.c_str(), name(entry->dtype),
                 name(spec.dtype));
        if (entry->shape != shape)
            fail(Code::Shape, "%s: tensor '%s' has shape %s, expected %s", path.c_str(), spec.name.c_str(),
                 shape_text(entry->shape).c_str(), shape_text(shape).c_str());
        entries.push_back(entry);
    }
    StateTables::Snapshot before; // goes after the lock, as in bind_states
    std::unique_lock<std::mutex> hold = exclusive();
    StateTable table = *tables_.current();
    // Runs of a program that changes its state wait for the lock, and others go on with the old tensors: those must not
    // be written. Memory is made before anything is written, so that running out of it changes nothing.
    for (size_t i = 0; i < entries.size(); ++i)
        if (!table.state[i] || table.state[i].readonly() || !mutates_)
            table.state[i] = Tensor::empty(entries[i]->dtype, entries[i]->shape, device(),
                                           device().is_cpu() ? nullptr : make_backend_allocator());
    for (size_t i = 0; i < entries.size(); ++i)
        copy_elements(file.tensor(*entries[i], false), table.state[i]);
    note_missing(table);
    before = tables_.publish(std::move(table));
}

Requirements Program::requirements(const Sizes &sizes) const {
    std::vector<int64_t> values = signature().sizes_by_name(sizes);
    Requirements out = engine_->requirements(values);
    auto total = [&](const std::vector<TensorSpec> &specs) {
        int64_t bytes = 0;
        for (const TensorSpec &s : specs)
            bytes = checked_add(bytes, checked_mul(element_count(s.concrete_shape(values)),
                                                   static_cast<int64_t>(item_size(s.dtype))));
        return bytes;
    };
    out.inputs = total(signature().inputs);
    out.outputs = total(signature().outputs);
    out.state = total(signature().state);
    return out;
}

void Program::check_output_count(size_t output_count) const {
    if (output_count != signature().outputs.size())
        fail(Code::Argument, "%zu outputs are given, %zu are expected", output_count, signature().outputs.size());
}

void Program::check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs, size_t output_count) const {
    check_output_count(output_count);
    engine_->check(inputs, input_count, outputs);
}

void Program::set_size(std::string_view name, int64_t size) {
    std::unique_lock<std::mutex> hold = exclusive();
    engine_->give(name, size);
}

void Program::set_communicator(std::shared_ptr<Communicator> communicator) {
    std::unique_lock<std::mutex> hold = exclusive();
    const MeshAxes &mesh = communicator->mesh();
    const std::vector<int64_t> place = mesh.coordinates(communicator->rank());
    for (const SymbolPtr &symbol : signature().symbols) {
        if (symbol->name.rfind(coordinate_prefix, 0) != 0)
            continue;
        size_t i = 0;
        while (i < mesh.axes.size() && coordinate_prefix + mesh.axes[i].first != symbol->name)
            ++i;
        const int64_t last = symbol->max.value_or(-1); // the highest coordinate
        if (i == mesh.axes.size() || last != mesh.axes[i].second - 1)
            fail(Code::Device, "the program is for a mesh with an axis '%s' of size %lld, which the communicator's has not",
                 symbol->name.substr(coordinate_prefix.size()).c_str(),
                 static_cast<long long>(last == INT64_MAX ? last : last + 1));
        engine_->give(symbol->name, place[i]);
    }
    communicator_ = std::move(communicator);
    compared_ = false;
}

namespace {

bool metadata_has(const std::vector<std::pair<std::string, std::string>> &metadata, const std::string &key) {
    return std::any_of(metadata.begin(), metadata.end(), [&](const auto &entry) { return entry.first == key; });
}

} // namespace

std::vector<std::string> Program::description() const {
    std::vector<std::string> out{"a program for " + target_ + (level_.empty() ? "" : " " + level_)};
    size_t number = 0;
    if (layout_)
        for (const std::string &collective : layout_->collectives())
            out.push_back(format("collective %zu, %s", ++number, shown(collective, 500).c_str()));
    const std::string plan = "tessera.plan." + target_ + "." + level_;
    for (const auto &[key, text] : metadata_)
        if (key == "tessera.graph" || key == mesh_key || key == portable_key || key == plan)
            out.push_back(format("the section %s with hash %016llx", key.c_str(),
                                 static_cast<unsigned long long>(hash64(text.data(), text.size()))));
        else if (key == "tessera.hashes") {
            const Json hashes = Json::parse(text, key);
            for (const auto &[section, hash] : hashes.members())
                if (!metadata_has(metadata_, section))
                    out.push_back("the section " + shown(section) + " with hash " + hash.dump());
        }
    return out;
}

void Program::run(RunContext &context, const Tensor *const *inputs, size_t input_count, Tensor *outputs,
                  size_t output_count) {
    check_output_count(output_count);
    std::unique_lock<std::mutex> hold;
    if (mutates_)
        hold = exclusive();
    if (!complete_.load(std::memory_order_acquire)) {
        if (!hold)
            hold = exclusive();
        fail(Code::NameMissing, "%s", missing_.c_str());
    }
    context.check_cancelled();
    struct Loan {
        StateTables &tables;
        std::unique_ptr<StateTables::Borrowed> borrowed = tables.borrow();
        ~Loan() { tables.give_back(std::move(borrowed)); }
    } loan{tables_};
    const StateTable &table = *loan.borrowed->table;
    if (!context.trace) {
        run_together(context, table, inputs, input_count, outputs);
        return;
    }
    TraceEvent event;
    event.category = "run";
    event.name = target_.c_str();
    event.device = device();
    event.begin_ns = TraceSink::now();
    run_together(context, table, inputs, input_count, outputs);
    event.end_ns = TraceSink::now();
    context.trace->record(event);
}

// With the communicator that was set: when a run fails here, the other devices' runs must not wait for it.
void Program::run_together(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                           Tensor *outputs) {
    if (!communicator_) {
        engine_->run(context, table, inputs, input_count, outputs);
        return;
    }
    context.communicator = communicator_.get();
    try {
        if (!compared_) {
            communicator_->compare([this] { return description(); });
            compared_ = true;
        }
        engine_->run(context, table, inputs, input_count, outputs);
    } catch (const std::exception &error) {
        communicator_->fail(error.what());
        throw;
    }
}

} // namespace tessera::core
