// Whole .tsr files: header, metadata, plan, portable text, tensors; and runs without native code. Hashes are not
// compared, so that a changed file reaches the code behind them. No kernel of a file is ever executed here.
#include <cstring>
#include <memory>

#include "bounded_run.h"
#include "collective/local/group.h"
#include "core/json.h"
#include "device/allocators.h"
#include "exec/gpu_code.h"
#include "exec/plan.h"
#include "exec/program.h"
#include "exec/run_context.h"
#include "format/safetensors.h"
#include "target.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TARGET_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TARGET_ASAN 1
#endif
#ifdef TARGET_ASAN
#include <sanitizer/asan_interface.h>
#endif

using namespace tessera;
using namespace tessera::core;

namespace {

constexpr int64_t max_bytes = 1 << 14; // of a run's inputs, outputs and temporary memory

// The file's bytes, as a mapped file has them: aligned, and with nothing readable after the end.
std::shared_ptr<Mapping> mapped(const uint8_t *data, size_t size) {
    std::shared_ptr<Mapping> bytes = Mapping::copy(data, size);
#ifdef TARGET_ASAN
    ASAN_POISON_MEMORY_REGION(bytes->data() + size, tensor_alignment - size % tensor_alignment);
#endif
    return bytes;
}

const std::string *metadata(const Program &program, const std::string &key) {
    for (const auto &[k, value] : program.metadata())
        if (k == key)
            return &value;
    return nullptr;
}

bool has_native_code(const Program &program) {
    if (program.target() == "portable")
        return false;
    const std::string *plan = metadata(program, "tessera.plan." + program.target() + "." + program.level());
    Json json = Json::parse(*plan, "plan");
    for (const Json &in : json.find("instructions")->items())
        if (in.find("kernel"))
            return true;
    return false;
}

void run_plan(Program &program, const std::vector<int64_t> &sizes) {
    static ThreadPool one_thread(1);
    static RunContext context{one_thread, make_backend_allocator()};
    const Signature &signature = program.signature();
    std::vector<Tensor> inputs;
    std::vector<const Tensor *> given;
    for (const TensorSpec &spec : signature.inputs) {
        auto t = small_tensor(spec, sizes);
        if (!t)
            return;
        inputs.push_back(std::move(*t));
    }
    for (const Tensor &t : inputs)
        given.push_back(&t);
    std::vector<Tensor> outputs(signature.outputs.size());
    program.run(context, given.data(), given.size(), outputs.data(), outputs.size());
}

void use(Program &program, int64_t wanted_size) {
    const Signature &signature = program.signature();
    for (const auto *list : {&signature.inputs, &signature.outputs, &signature.state, &signature.constants})
        for (const TensorSpec &spec : *list)
            (void)spec.type();
    if (program.target() == "portable")
        run_if_small(portable::Program::parse(*metadata(program, "tessera.portable")), wanted_size);
    auto sizes = small_sizes(signature.symbols, wanted_size);
    if (!sizes)
        return;
    Sizes by_name;
    for (size_t i = 0; i < sizes->size(); ++i)
        by_name[signature.symbols[i]->name] = (*sizes)[i];
    Requirements need = program.requirements(by_name);
    bool small = need.arena <= max_bytes && need.scratch_per_thread <= max_bytes && need.inputs <= max_bytes &&
                 need.outputs <= max_bytes && need.state <= max_bytes;
    if (small && program.target() != "portable" && !has_native_code(program))
        run_plan(program, *sizes);
}

// The last device's part of a program and of the weights.
void load_shards(const std::shared_ptr<Mapping> &bytes, const LoadOptions &options) {
    auto connect = [](const MeshAxes &mesh, DeviceId) {
        if (mesh.devices() > 64)
            fail(Code::Unsupported, "more devices than this test has");
        return std::make_shared<LocalGroup>(mesh, 1000)->communicator(mesh.devices() - 1);
    };
    (void)Program::load_sharded(bytes, "fuzz.tsr", options, connect);
}

// A GPU's plans, as far as they are read before a driver gets their code.
void read_gpu_plans(const SafeTensors &file) {
    const std::string plan_prefix = "tessera.plan.";
    for (const auto &[key, text] : file.metadata()) {
        const bool nvidia = key.rfind(plan_prefix + "ptx.", 0) == 0, amd = key.rfind(plan_prefix + "hsaco.", 0) == 0;
        if (!nvidia && !amd)
            continue;
        const TensorEntry *entry = file.find("tessera.kernels." + key.substr(plan_prefix.size()));
        const std::string_view image = entry ? std::string_view(file.data(*entry), entry->bytes) : std::string_view();
        Plan plan = Plan::parse(text, key, image, nvidia ? "ptx" : "hsaco");
        for (const GpuModule &m : plan.modules)
            (void)is_whole_elf(image.substr(static_cast<size_t>(m.offset), static_cast<size_t>(m.bytes)));
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::shared_ptr<Mapping> bytes = mapped(data, size);
    LoadOptions options;
    options.verify_hashes = false;
    options.target = size % 2 ? "cpu" : "portable"; // one of them a run: a load costs ten times what the check below does
    accepted([&] { use(*Program::load(bytes, "fuzz.tsr", options, false), size / 2 % 4); });
    const std::string_view text = text_of(data, size);
    if (text.find("tessera.hashes") != std::string_view::npos)
        accepted([&] { SafeTensors::parse(bytes, "fuzz.tsr").verify_hashes(false); });
    if (text.find("tessera.mesh") != std::string_view::npos)
        accepted([&] { load_shards(bytes, options); });
    if (text.find("tessera.plan.ptx.") != std::string_view::npos || text.find("tessera.plan.hsaco.") != std::string_view::npos)
        accepted([&] { read_gpu_plans(SafeTensors::parse(bytes, "fuzz.tsr")); });
    return 0;
}
