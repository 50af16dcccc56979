#include "exec/weights.h"

#include <algorithm>

#include "core/error.h"
#include "format/safetensors.h"

namespace tessera::core {

namespace {

void sort_by_name(NamedTensorList &tensors) {
    if (tensors.empty())
        fail(Code::Argument, "weights: no tensors are given");
    std::sort(tensors.begin(), tensors.end(), [](auto &a, auto &b) { return a.first < b.first; });
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (i > 0 && tensors[i].first == tensors[i - 1].first)
            fail(Code::Argument, "weights: '%s' is given twice", shown(tensors[i].first).c_str());
        if (!tensors[i].second.is_contiguous())
            fail(Code::Argument, "weights: '%s' is not contiguous; give a row-major tensor", shown(tensors[i].first).c_str());
    }
}

NamedTensorList read_file(const std::string &path, bool verify_hashes) {
    SafeTensors file = SafeTensors::parse(Mapping::map_file(path), path);
    if (verify_hashes)
        file.verify_hashes(false);
    NamedTensorList out;
    for (const TensorEntry &entry : file.tensors())
        if (entry.name.compare(0, 8, "tessera.") != 0 || entry.name == "tessera.rng")
            out.emplace_back(entry.name, file.tensor(entry, false));
    return out;
}

const Tensor *find(const NamedTensorList &tensors, const std::string &name) {
    auto place = std::lower_bound(tensors.begin(), tensors.end(), name, [](auto &a, auto &b) { return a.first < b; });
    return place != tensors.end() && place->first == name ? &place->second : nullptr;
}

} // namespace

Weights::Weights(NamedTensorList tensors) : tensors_(std::move(tensors)) { sort_by_name(tensors_); }

std::shared_ptr<Weights> Weights::load_file(const std::string &path, bool verify_hashes) {
    return std::make_shared<Weights>(read_file(path, verify_hashes));
}

NamedTensorList Weights::tensors() const {
    std::lock_guard<std::mutex> hold(lock_);
    return tensors_;
}

NamedTensorList Weights::of(const Program &program) const {
    NamedTensorList out;
    for (const TensorSpec &spec : program.signature().state)
        if (const Tensor *found = find(tensors_, spec.name)) {
            if (spec.mutated)
                fail(Code::Argument, "weights: state '%s' is changed by runs of the graph; a shared set is read only",
                     spec.name.c_str());
            out.emplace_back(spec.name, *found);
        }
    return out;
}

void Weights::bind(const std::shared_ptr<Program> &program) {
    std::lock_guard<std::mutex> hold(lock_);
    NamedTensorList mine = of(*program);
    if (mine.empty())
        fail(Code::NameMissing, "weights: the graph has no state with a name of this set, such as '%s'",
             shown(tensors_.front().first).c_str());
    programs_.reserve(programs_.size() + 1);
    program->bind_states(mine);
    programs_.push_back(program);
}

void Weights::swap(NamedTensorList tensors) {
    sort_by_name(tensors);
    std::unique_lock<std::mutex> hold(lock_);
    for (const auto &[name, old] : tensors_) {
        const Tensor *fresh = find(tensors, name);
        if (!fresh)
            fail(Code::NameMissing, "weights: '%s' is missing among the new tensors", shown(name).c_str());
        if (fresh->dtype() != old.dtype())
            fail(Code::DType, "weights: '%s' is %s, expected %s", shown(name).c_str(),
                 type_text(fresh->dtype(), fresh->shape()).c_str(), type_text(old.dtype(), old.shape()).c_str());
        if (fresh->shape() != old.shape())
            fail(Code::Shape, "weights: '%s' has shape %s, expected %s", shown(name).c_str(),
                 shape_text(fresh->shape()).c_str(), shape_text(old.shape()).c_str());
    }
    if (tensors.size() != tensors_.size())
        fail(Code::NameMissing, "weights: %zu tensors are given, the set has %zu", tensors.size(), tensors_.size());
    tensors_.swap(tensors); // the old ones go with `tensors`, when nobody runs with them
    programs_.erase(std::remove_if(programs_.begin(), programs_.end(), [](auto &p) { return p.expired(); }), programs_.end());
    for (const std::weak_ptr<Program> &p : programs_)
        if (std::shared_ptr<Program> program = p.lock())
            program->bind_states(of(*program));
    hold.unlock();
}

void Weights::swap_file(const std::string &path, bool verify_hashes) { swap(read_file(path, verify_hashes)); }

} // namespace tessera::core
