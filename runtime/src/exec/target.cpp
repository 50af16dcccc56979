#include "exec/target.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "core/error.h"
#include "device/cpu/cpu_level.h"
#include "device/gpu/gpu_backend.h"
#include "exec/gpu_code.h"

namespace tessera::core {

namespace {

constexpr const char *portable_key = "tessera.portable";

// The levels for which the file has a plan of a target, in the file's order.
std::vector<std::string> plan_levels(const SafeTensors &file, const std::string &target) {
    const std::string prefix = "tessera.plan." + target + ".";
    std::vector<std::string> out;
    for (const auto &[key, value] : file.metadata())
        if (key.compare(0, prefix.size(), prefix) == 0)
            out.push_back(key.substr(prefix.size()));
    return out;
}

// The CPU levels, the lowest first.
std::vector<int> cpu_levels(const SafeTensors &file) {
    std::vector<int> out;
    for (const std::string &level : plan_levels(file, "cpu"))
        if (int number = level_number(level))
            out.push_back(number);
    std::sort(out.begin(), out.end());
    return out;
}

std::string offered(const SafeTensors &file) {
    std::string out;
    auto add = [&](const std::string &text) { out += (out.empty() ? "" : ", ") + text; };
    for (int level : cpu_levels(file))
        add(std::string("cpu ") + level_name(level));
    for (const char *target : {"ptx", "hsaco"})
        for (const std::string &level : plan_levels(file, target))
            add(std::string(target) + " " + shown(level));
    if (file.metadata(portable_key))
        add("portable");
    return out.empty() ? "no program for a CPU or a GPU" : out;
}

// What the user asked for.
struct Wish {
    std::string target, level; // empty: any
    int32_t index = 0;

    explicit Wish(const std::string &text) : target(text) {
        const size_t colon = target.rfind(':');
        if (colon != std::string::npos && is_gpu(target)) {
            const char *end = target.data() + target.size();
            auto [stop, status] = std::from_chars(target.data() + colon + 1, end, index);
            if (status == std::errc() && stop == end && index >= 0)
                target.resize(colon);
        }
        const size_t dot = target.find('.');
        if (dot != std::string::npos) {
            level = target.substr(dot + 1);
            target.resize(dot);
        }
    }
    static bool is_gpu(const std::string &name) { return name.rfind("ptx", 0) == 0 || name.rfind("hsaco", 0) == 0; }
};

DeviceType device_type(const std::string &target) { return target == "ptx" ? DeviceType::CUDA : DeviceType::ROCM; }

// The best level of a GPU target that runs on a device; DeviceError that says why there is none.
Target choose_gpu(const SafeTensors &file, const Wish &wish) {
    const char *where = file.where().c_str();
    const DeviceId device{device_type(wish.target), wish.index};
    const std::vector<std::string> levels = plan_levels(file, wish.target);
    if (levels.empty() || (!wish.level.empty() && std::find(levels.begin(), levels.end(), wish.level) == levels.end()))
        fail(Code::Device, "%s: there is no plan for '%s%s%s'; the file has: %s", where, wish.target.c_str(),
             wish.level.empty() ? "" : ".", shown(wish.level).c_str(), offered(file).c_str());
    backend(device);
    const gpu::DeviceProperties &properties = gpu::gpu_backend(device).properties(device.index);
    std::string best;
    for (const std::string &level : levels)
        if ((wish.level.empty() || level == wish.level) && level_runs_on(level, properties) &&
            (best.empty() || level_rank(level) > level_rank(best)))
            best = level;
    if (best.empty())
        fail(Code::Device, "%s: no code of the file runs on %s, %s (%s); the file has: %s. Compile with arch=[\"%s\"]", where,
             text(device).c_str(), properties.name.c_str(), properties.level.c_str(), offered(file).c_str(),
             properties.level.c_str());
    return {wish.target, best, device};
}

// The highest level that this CPU runs, or the one that is wanted.
Target choose_cpu(const SafeTensors &file, const Wish &wish) {
    const char *where = file.where().c_str();
    std::vector<int> levels = cpu_levels(file);
    if (!wish.level.empty()) {
        int level = level_number(wish.level);
        if (!level || std::find(levels.begin(), levels.end(), level) == levels.end())
            fail(Code::Device, "%s: there is no plan for 'cpu.%s'; the file has: %s", where, shown(wish.level).c_str(),
                 offered(file).c_str());
        if (level > cpu_level())
            fail(Code::Device, "%s: the code is for %s, this CPU has %s", where, level_name(level), level_name(cpu_level()));
        return {"cpu", wish.level, {}};
    }
    while (!levels.empty() && levels.back() > cpu_level())
        levels.pop_back();
    if (levels.empty())
        fail(Code::Device, "%s: no program of the file runs on this CPU (%s); the file has: %s", where,
             level_name(cpu_level()), offered(file).c_str());
    return {"cpu", level_name(levels.back()), {}};
}

} // namespace

Target choose_target(const SafeTensors &file, const LoadOptions &options) {
    const char *where = file.where().c_str();
    const bool portable = file.metadata(portable_key) != nullptr;
    const Wish wish(options.target);
    const bool gpu_wanted = wish.target == "ptx" || wish.target == "hsaco", native_wanted = gpu_wanted || wish.target == "cpu";
    if (!wish.target.empty() && !native_wanted && options.target != "portable")
        fail(Code::Device, "%s: target '%s' cannot run here; the file has: %s", where, shown(options.target).c_str(),
             offered(file).c_str());
    if (wish.target == "portable" || !options.allow_native_code) {
        if (native_wanted)
            fail(Code::Unsupported, "%s: target '%s' is native code, which was not allowed", where, options.target.c_str());
        if (!portable)
            fail(Code::Unsupported, "%s: the file has no portable program%s; it has: %s. Compile with target \"portable\"",
                 where, options.allow_native_code ? "" : " and native code was not allowed", offered(file).c_str());
        return {"portable", "", {}};
    }
    if (gpu_wanted)
        return choose_gpu(file, wish);
    std::string reasons;
    if (wish.target.empty())
        for (const char *target : {"ptx", "hsaco"}) {
            if (plan_levels(file, target).empty())
                continue;
            try {
                return choose_gpu(file, Wish(target));
            } catch (const Error &e) {
                reasons += "\n  " + e.message();
            }
        }
    try {
        return choose_cpu(file, wish);
    } catch (const Error &e) {
        if (portable && !native_wanted)
            return {"portable", "", {}};
        throw Error(e.code(), e.message() + reasons);
    }
}

} // namespace tessera::core
