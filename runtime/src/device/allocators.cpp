#include "device/allocators.h"

#include "device/backend.h"

namespace tessera::core {

namespace {

class BackendAllocator final : public Allocator {
    void *take(DeviceId device, size_t bytes, size_t alignment, Stream *stream) override {
        return backend(device).allocate(device.index, bytes, alignment, stream);
    }
    void give_back(DeviceId device, void *pointer, size_t bytes, Stream *stream) noexcept override {
        backend(device.type).release(device.index, pointer, bytes, stream);
    }
};

class CallerAllocator final : public Allocator {
  public:
    explicit CallerAllocator(const AllocatorFunctions &functions) : functions_(functions) {}
    ~CallerAllocator() override {
        if (functions_.destroy)
            functions_.destroy(functions_.context);
    }

  private:
    void *take(DeviceId device, size_t bytes, size_t alignment, Stream *stream) override {
        return functions_.allocate(functions_.context, device, bytes, alignment, stream ? stream->native() : nullptr);
    }
    void give_back(DeviceId device, void *pointer, size_t bytes, Stream *stream) noexcept override {
        functions_.release(functions_.context, device, pointer, bytes, stream ? stream->native() : nullptr);
    }
    const AllocatorFunctions functions_;
};

} // namespace

std::shared_ptr<Allocator> make_backend_allocator() { return std::make_shared<BackendAllocator>(); }
std::shared_ptr<Allocator> make_allocator(const AllocatorFunctions &functions) {
    return std::make_shared<CallerAllocator>(functions);
}

} // namespace tessera::core
