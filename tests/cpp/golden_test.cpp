// The golden files of tests/compat load and run from C++ as they do from Python: golden_test FOLDER.
#include <cmath>
#include <cstring>
#include <filesystem>

#include "check.h"
#include "format/safetensors.h"
#include "tessera/library.h"
#include "tessera/runtime.h"

using namespace tessera;
namespace core = tessera::core;

namespace {

Tensor tensor(const core::SafeTensors &file, const core::TensorEntry &entry) {
    Tensor t = Tensor::create(entry.shape, static_cast<DType>(entry.dtype));
    if (entry.bytes)
        std::memcpy(t.data<void>(), file.data(entry), entry.bytes);
    return t;
}

// Equal, as far as sums in another order allow.
bool close(const Tensor &found, const core::SafeTensors &file, const core::TensorEntry &entry, float tolerance) {
    if (found.shape() != entry.shape || static_cast<core::DType>(found.dtype()) != entry.dtype)
        return false;
    Tensor expected = tensor(file, entry);
    if (found.dtype() != DType::F32)
        return std::memcmp(found.data<const void>(), expected.data<const void>(), entry.bytes) == 0;
    for (int64_t i = 0; i < found.size(); ++i) {
        float a = found.data<const float>()[i], b = expected.data<const float>()[i];
        if (!(std::fabs(a - b) <= tolerance * (1 + std::fabs(b))))
            return false;
    }
    return true;
}

void run_golden(const std::string &path, const core::SafeTensors &expected, const std::string &target) {
    LoadOptions options;
    options.target = target;
    options.allow_native_code = target != "portable";
    Graph g = Graph::load(path, options);
    Runtime rt(2);
    for (const std::string run : {"0", "1"}) {
        NamedTensors inputs;
        for (const ValueInfo &input : g.inputs()) {
            const core::TensorEntry *entry = expected.find(run + "/in/" + input.name);
            CHECK(entry);
            inputs.emplace_back(input.name, tensor(expected, *entry));
        }
        Run done = rt.submit(g, inputs);
        for (const ValueInfo &output : g.outputs())
            CHECK(close(done.output(output.name), expected, *expected.find(run + "/out/" + output.name), 1e-5f));
    }
    for (const core::TensorEntry &entry : expected.tensors())
        if (entry.name.compare(0, 6, "state/") == 0)
            CHECK(close(g.state(entry.name.substr(6)), expected, entry, 1e-4f));
    const std::string name = std::filesystem::path(path).stem().string();
    CHECK(name == "from_cpp" || g.metadata()["user.made"] == "golden file " + name);
}

} // namespace

int main(int argc, char **argv) {
    tessera::load_library(FROZEN_OPERATORS); // that custom.tsr needs
    int files = 0;
    for (const auto &entry : std::filesystem::directory_iterator(argc > 1 ? argv[1] : ".")) {
        std::filesystem::path path = entry.path();
        if (path.extension() != ".tsr")
            continue;
        ++files;
        std::printf("%s\n", path.c_str());
        verify_file(path.string());
        std::string recorded = path.replace_extension(".safetensors").string();
        core::SafeTensors expected = core::SafeTensors::parse(core::Mapping::map_file(recorded), recorded);
        core::SafeTensors file = core::SafeTensors::parse(core::Mapping::map_file(entry.path().string()), "golden");
        if (file.metadata("tessera.portable"))
            run_golden(entry.path().string(), expected, "portable");
        if (file.metadata("tessera.plan.cpu.x86-64-v2"))
            run_golden(entry.path().string(), expected, "cpu");
    }
    CHECK(files >= 7);
    return finish();
}
