// How whole tensors lie on a mesh, as an artefact says it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "collective/communicator.h"
#include "core/dims.h"

namespace tessera::core {

// The part of a tensor that a device holds: [start, stop) of each dimension of the whole.
struct Shard {
    std::vector<int64_t> whole, start, stop;

    std::vector<int64_t> shape() const;
};

class MeshLayout {
  public:
    // From the artefact's entry `tessera.mesh`. FormatError; `where` names the file.
    static MeshLayout parse(const std::string &text, const SymbolTable &symbols, const std::string &where);

    const MeshAxes &mesh() const { return mesh_; }
    // The part of the "input", "output" or "state" of that name on a device. NameMissingError.
    Shard shard(std::string_view kind, std::string_view name, int64_t rank, const Sizes &sizes) const;
    // What is exchanged, in order, each as a line of text.
    const std::vector<std::string> &collectives() const { return collectives_; }

  private:
    struct Split {
        std::vector<std::string> axes; // empty: the dimension is whole
        Dim block;
    };
    struct Place {
        std::string key; // kind and name
        std::vector<Dim> shape;
        std::vector<Split> dims;
    };

    MeshAxes mesh_;
    std::vector<Place> places_;
    std::vector<std::string> collectives_;
};

// Copies a shard of a whole tensor to the beginning of a block that is at least as long in every dimension.
void copy_shard(const char *whole, const Shard &shard, char *block, const std::vector<int64_t> &block_shape,
                size_t item_size);

} // namespace tessera::core
