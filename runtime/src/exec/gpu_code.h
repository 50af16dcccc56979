// The code of a GPU plan, loaded into a device: modules and the functions in them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "device/gpu/gpu_backend.h"
#include "exec/plan.h"

namespace tessera::core {

class GpuCode {
  public:
    // Loads every module of the plan that a kernel needs. `where` names the artefact. DeviceError when the device takes
    // neither a module nor its alternative, FormatError when a function is missing.
    GpuCode(const Plan &plan, std::string_view image, DeviceId device, const std::string &where);
    ~GpuCode();
    GpuCode(const GpuCode &) = delete;
    GpuCode &operator=(const GpuCode &) = delete;

    gpu::Handle function(size_t kernel) const { return functions_[kernel]; }

  private:
    gpu::Handle load(const Plan &plan, std::string_view image, size_t module, const std::string &where);
    void find_functions(const Plan &plan, const std::vector<gpu::Handle> &modules, const std::string &where);
    void unload();

    DeviceId device_;
    const gpu::Driver &driver_;
    std::vector<gpu::Handle> modules_; // those that are loaded
    std::vector<gpu::Handle> functions_; // by kernel
};

// Whether all that the headers of a cubin point to is there; the driver reads it by the numbers in it.
bool is_whole_elf(std::string_view code);
// Whether code for a level runs on a device: "sm_90a" on 9.0 exactly, "sm_80" on 8.0 and later, "gfx90a" on gfx90a.
bool level_runs_on(const std::string &level, const gpu::DeviceProperties &device);
// Of two levels that run on a device, the better: the higher; -1 for text that is no level of a GPU.
int level_rank(const std::string &level);

} // namespace tessera::core
