#include "exec/gpu_code.h"

#include <charconv>
#include <cstring>

#include "core/error.h"

namespace tessera::core {

namespace {

using gpu::Handle;

const char *format_name(CodeFormat format) {
    return format == CodeFormat::Cubin ? "cubin" : format == CodeFormat::Ptx ? "PTX" : "hsaco";
}

} // namespace

bool is_whole_elf(std::string_view code) {
    struct Header {
        unsigned char magic[16];
        uint16_t type, machine;
        uint32_t version;
        uint64_t entry, programs, sections;
        uint32_t flags;
        uint16_t header_bytes, program_bytes, program_count, section_bytes, section_count, names;
    } header;
    struct Section {
        uint32_t name, type;
        uint64_t flags, address, offset, bytes;
        uint32_t link, info;
        uint64_t alignment, entry_bytes;
    } section;
    static_assert(sizeof header == 64 && sizeof section == 64, "ELF64");
    if (code.size() < sizeof header)
        return false;
    std::memcpy(&header, code.data(), sizeof header);
    const uint64_t size = code.size();
    if (std::memcmp(header.magic, "\x7f"
                                  "ELF\x02\x01",
                    6) != 0)
        return false;
    auto inside = [size](uint64_t offset, uint64_t bytes) { return offset <= size && bytes <= size - offset; };
    if (header.section_count && (header.section_bytes != sizeof section || header.names >= header.section_count ||
                                 !inside(header.sections, uint64_t{header.section_count} * sizeof section)))
        return false;
    if (header.program_count && !inside(header.programs, uint64_t{header.program_count} * header.program_bytes))
        return false;
    constexpr uint32_t no_bits = 8;
    for (uint64_t i = 0; i < header.section_count; ++i) {
        std::memcpy(&section, code.data() + header.sections + i * sizeof section, sizeof section);
        if (section.type != no_bits && !inside(section.offset, section.bytes))
            return false;
    }
    return true;
}

GpuCode::GpuCode(const Plan &plan, std::string_view image, DeviceId device, const std::string &where)
    : device_(device), driver_(gpu::gpu_backend(device).driver()) {
    gpu::Current current(driver_, device.index);
    try {
        std::vector<Handle> modules(plan.modules.size(), nullptr);
        for (const PlanKernel &k : plan.kernels)
            if (!modules[k.gpu.module])
                modules[k.gpu.module] = load(plan, image, k.gpu.module, where);
        find_functions(plan, modules, where);
    } catch (...) {
        unload();
        throw;
    }
}

GpuCode::~GpuCode() {
    try {
        gpu::Current current(driver_, device_.index);
        unload();
    } catch (...) { // the driver is at its end, and all modules with it
    }
}

void GpuCode::unload() {
    for (Handle module : modules_)
        driver_.call().module_unload(module);
    modules_.clear();
}

Handle GpuCode::load(const Plan &plan, std::string_view image, size_t module, const std::string &where) {
    std::string reasons;
    for (size_t i = module; i < plan.modules.size() && (i == module || plan.modules[i].alternative); ++i) {
        const GpuModule &m = plan.modules[i];
        std::string code(image.substr(static_cast<size_t>(m.offset), static_cast<size_t>(m.bytes)));
        if (m.format == CodeFormat::Cubin && !is_whole_elf(code))
            fail(Code::Format, "%s: module %zu is no cubin, or is cut off", where.c_str(), i);
        if (m.format == CodeFormat::Ptx && code.find('\0') < code.size() - 1) // stored text ends in a zero byte, or in none
            fail(Code::Format, "%s: module %zu is no PTX text", where.c_str(), i);
        Handle loaded = nullptr;
        gpu::Result result = driver_.call().module_load(&loaded, code.data());
        if (result == gpu::success) {
            modules_.push_back(loaded);
            return loaded;
        }
        if (result == gpu::out_of_memory || gpu::Driver::is_sticky(result))
            driver_.raise(result, where + ": loading code");
        reasons += format("%s%s: %s", reasons.empty() ? "" : "; ", format_name(m.format), driver_.describe(result).c_str());
    }
    fail(Code::Device, "%s: the driver (%s %d.%d) does not take the code of '%s' for %s: %s. Compile for this device's "
                       "architecture, or install a newer driver",
         where.c_str(), driver_.name(), driver_.version() / 1000, driver_.version() % 1000 / 10, plan.level.c_str(),
         gpu::gpu_backend(device_).properties(device_.index).name.c_str(), reasons.c_str());
}

void GpuCode::find_functions(const Plan &plan, const std::vector<Handle> &modules, const std::string &where) {
    const gpu::DeviceProperties &device = gpu::gpu_backend(device_).properties(device_.index);
    for (const PlanKernel &kernel : plan.kernels) {
        const GpuKernel &k = kernel.gpu;
        Handle function = nullptr;
        gpu::Result result = driver_.call().module_function(&function, modules[k.module], k.symbol.c_str());
        if (result == gpu::not_found)
            fail(Code::Format, "%s: kernel %s: its module has no function '%s'", where.c_str(), kernel.name.c_str(),
                 shown(k.symbol).c_str());
        driver_.check(result, "a kernel of the artefact");
        constexpr uint32_t without_asking = 48 << 10;
        if (k.shared > without_asking) {
            if (k.shared > static_cast<uint32_t>(device.shared_bytes) ||
                driver_.allow_shared(function, static_cast<int>(k.shared)) != gpu::success)
                fail(Code::Device, "%s: kernel %s needs %u bytes of shared memory, %s has %d for a block", where.c_str(),
                     kernel.name.c_str(), k.shared, device.name.c_str(), device.shared_bytes);
        }
        functions_.push_back(function);
    }
}

int level_rank(const std::string &level) {
    if (level.rfind("gfx", 0) == 0)
        return level.size() > 3 ? 1 : -1;
    if (level.rfind("sm_", 0) != 0)
        return -1;
    int number = 0;
    const char *end = level.data() + level.size();
    auto [stop, status] = std::from_chars(level.data() + 3, end, number);
    const bool specific = stop != end && *stop == 'a' && stop + 1 == end;
    if (status != std::errc() || number < 10 || (stop != end && !specific))
        return -1;
    return number * 2 + (specific ? 1 : 0);
}

bool level_runs_on(const std::string &level, const gpu::DeviceProperties &device) {
    if (level.rfind("gfx", 0) == 0)
        return level == device.level;
    const int rank = level_rank(level), number = rank / 2;
    if (rank < 0 || device.level.rfind("sm_", 0) != 0)
        return false;
    const int here = device.major * 10 + device.minor;
    return rank % 2 ? number == here : number <= here;
}

} // namespace tessera::core
