// A loaded artefact: the engine that runs here, its state and constants.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collective/communicator.h"
#include "collective/layout.h"
#include "core/process.h"
#include "core/tensor.h"
#include "exec/engine.h"
#include "exec/target.h"
#include "format/safetensors.h"
#include "graph/graph.h"

namespace tessera::core {

class Program {
  public:
    // Reads an artefact. `where` names it in messages. With `complete` every weight must be in the file; otherwise those
    // left out are bound later. FormatError, VersionError, DeviceError, UnsupportedError.
    static std::shared_ptr<Program> load(std::shared_ptr<Mapping> bytes, const std::string &where,
                                         const LoadOptions &options, bool complete);
    // The program of one device of the mesh that the artefact was compiled for, for which `connect` gives a communicator:
    // of its whole weights only the device's shards are read (and their hashes not compared, which would read all).
    using Connect = std::function<std::shared_ptr<Communicator>(const MeshAxes &, DeviceId)>;
    static std::shared_ptr<Program> load_sharded(std::shared_ptr<Mapping> bytes, const std::string &where,
                                                 const LoadOptions &options, const Connect &connect);

    // A graph that was built here, run by the portable kernels: its text as the user wrote it, its primitives, and the
    // tensors of its state and constants in the order of the primitives' nodes.
    static std::shared_ptr<Program> from_graph(const std::string &text, graph::Graph primitives,
                                               std::vector<Tensor> state, std::vector<Tensor> constants);

    const std::string &target() const { return target_; }
    const std::string &level() const { return level_; }
    const std::vector<std::pair<std::string, std::string>> &metadata() const { return metadata_; }
    const Signature &signature() const { return engine_->signature(); }

    Tensor state(std::string_view name) const;
    void bind_state(std::string_view name, const Tensor &tensor);
    void set_constant(std::string_view name, const Tensor &tensor);
    void save_state(const std::string &path) const;
    // The whole artefact with its present state and constants.
    void save(const std::string &path) const;
    void load_state(const std::string &path);
    Requirements requirements(const Sizes &sizes) const;

    // The communicator of runs from now on: this is one device's program, and the coordinates of that device on the mesh
    // are the sizes of the symbols mesh_<axis>. DeviceError when the mesh is another than the program's.
    void set_communicator(std::shared_ptr<Communicator> communicator);
    // How tensors lie on the mesh; null for a program of one device.
    const MeshLayout *layout() const { return layout_.get(); }
    std::shared_ptr<Communicator> communicator() const { return communicator_; }
    // From now on a symbolic dimension has this size, which no input needs to say.
    void set_size(std::string_view name, int64_t size);

    // What `run` would reject about the arguments alone.
    void check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs, size_t output_count) const;
    // Runs once on the calling thread and the pool; outputs that are empty receive new tensors. Runs of a program that
    // changes state exclude each other; others go on side by side, without a lock, each with the tensors of state that
    // were current when it began.
    void run(RunContext &context, const Tensor *const *inputs, size_t input_count, Tensor *outputs, size_t output_count);

    DeviceId device() const { return engine_->device(); }
    bool mutates() const { return mutates_; }
    // Replaces several states at once: a run sees all of them or none.
    void bind_states(const std::vector<std::pair<std::string, Tensor>> &tensors);

  private:
    Program() = default;
    static std::shared_ptr<Program> open(const SafeTensors &file, const LoadOptions &options);
    void read_tensors(const SafeTensors &file, bool complete);
    Tensor read_tensor(const SafeTensors &file, const TensorEntry &entry, const TensorSpec &spec, const char *kind) const;
    // This device's part of a tensor of the file, at the beginning of a full block.
    Tensor read_shard(const SafeTensors &file, const TensorEntry &entry, const TensorSpec &spec) const;
    // What other devices must have alike, piece by piece.
    std::vector<std::string> description() const;
    // Excludes runs that change state, and other changes of the table.
    std::unique_lock<std::mutex> exclusive() const;
    void publish(StateTable table);
    void note_missing(const StateTable &table);
    void check_output_count(size_t output_count) const;
    // The tensors of the state or the constants as sections of a file; NameMissingError when one is not there yet.
    static void add_sections(std::vector<TensorSection> &out, const std::vector<TensorSpec> &specs,
                             const std::vector<Tensor> &tensors, const std::string &prefix);
    void run_together(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
                      Tensor *outputs);

    std::string target_, level_;
    std::vector<std::pair<std::string, std::string>> metadata_;
    std::unique_ptr<Engine> engine_;
    StateTables tables_;
    std::vector<std::pair<std::string, Tensor>> others_; // tensors of the file that are neither, such as kernel images
    std::atomic<bool> complete_{false}; // every state and constant has a tensor
    std::string missing_;               // the first without one, for the message; guarded by lock_
    bool mutates_ = false;
    std::shared_ptr<Communicator> communicator_; // set before runs that use it begin
    std::atomic<bool> compared_{false};          // with the programs of the other devices
    std::unique_ptr<MeshLayout> layout_;
    mutable std::mutex lock_;
    ProcessMark process_;
};

} // namespace tessera::core
