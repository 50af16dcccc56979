// A set of weights that several programs share and that is replaced as a whole while they run.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "exec/program.h"

namespace tessera::core {

using NamedTensorList = std::vector<std::pair<std::string, Tensor>>;

class Weights {
  public:
    // ArgumentError when a name is given twice, or there is none.
    explicit Weights(NamedTensorList tensors);
    // The tensors of a safetensors file, mapped; those of a .tsr file are its state, without constants and code.
    static std::shared_ptr<Weights> load_file(const std::string &path, bool verify_hashes);

    NamedTensorList tensors() const;
    // From now on the program's states of these names are this set's, now and after each swap. All states that are in the
    // set must fit (ShapeError, DTypeError) and none may be changed by runs (ArgumentError); one at least must be there
    // (NameMissingError).
    void bind(const std::shared_ptr<Program> &program);
    // Replaces the tensors by others of the same names, dtypes and shapes. Runs that have begun go on with the old ones;
    // runs that begin when this has returned have the new ones; none has some of each. Nothing changes on failure.
    void swap(NamedTensorList tensors);
    void swap_file(const std::string &path, bool verify_hashes);

  private:
    NamedTensorList of(const Program &program) const;
    mutable std::mutex lock_;
    NamedTensorList tensors_; // by name
    std::vector<std::weak_ptr<Program>> programs_;
};

} // namespace tessera::core
