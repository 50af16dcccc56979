// A driver library: opened once, at the first use, and never closed.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "device/gpu/driver.h"

namespace tessera::core::gpu {

// Opens the first of the files that can be; DeviceError with every reason otherwise. Gives the name it was opened by.
void *open_library(const char *what, const char *const *files, size_t count, std::string &opened);

// The one driver of a kind: made at the first call. A failure is kept and thrown again, so that a missing library is
// looked for once.
class DriverSlot {
  public:
    using Make = std::unique_ptr<Driver> (*)(const std::string &file);
    DriverSlot(const char *name, Make make) : name_(name), make_(make) {}
    const Driver &get();
    void set_file(const std::string &file);

  private:
    const char *name_;
    Make make_;
    std::mutex lock_;
    std::string file_;
    const Driver *driver_ = nullptr; // never deleted: memory may be returned to it when the process ends
    std::unique_ptr<Error> failure_;
};

} // namespace tessera::core::gpu
