#include <mutex>
#include <optional>

#include "core/error.h"
#include "device/backend.h"

namespace tessera::core {

namespace {

// A backend, or the reason why there is none; made once.
class Entry {
  public:
    Entry(DeviceType type, BackendFactory factory) : type_(type), factory_(factory) {}

    DeviceType type() const { return type_; }
    Backend &get() {
        std::call_once(once_, [this] {
            try {
                backend_ = factory_();
            } catch (const Error &e) {
                failure_.emplace(e);
            }
        });
        if (failure_)
            throw *failure_;
        return *backend_;
    }

  private:
    const DeviceType type_;
    const BackendFactory factory_;
    std::once_flag once_;
    std::unique_ptr<Backend> backend_;
    std::optional<Error> failure_;
};

// Never destroyed: tensors in static variables of the program may outlive this library's.
Entry *find(DeviceType type) {
    static Entry *const entries[] = {
        new Entry(DeviceType::CPU, make_cpu_backend),
        new Entry(DeviceType::CUDA, make_cuda_backend),
        new Entry(DeviceType::ROCM, make_hip_backend),
    };
    for (Entry *entry : entries)
        if (entry->type() == type)
            return entry;
    return nullptr;
}

} // namespace

Backend &backend(DeviceType type) {
    Entry *entry = find(type);
    if (!entry)
        fail(Code::Device, "there is no support for %s in this build of Tessera", name(type).c_str());
    return entry->get();
}

Backend &backend(DeviceId device) {
    Backend &out = backend(device.type);
    out.check_index(device.index);
    return out;
}

void Backend::check_index(int32_t index) {
    if (index < 0 || index >= count())
        fail(Code::Device, "%s does not exist; there are %d devices of this kind", text({type_, index}).c_str(), count());
}

} // namespace tessera::core
