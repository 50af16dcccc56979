#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#include "core/error.h"
#include "device/backend.h"
#include "device/cpu/cpu_level.h"
#include "device/cpu/cpu_stream.h"

namespace tessera::core {

namespace {

constexpr size_t huge_page = size_t{2} << 20;

class CpuBackend final : public Backend {
  public:
    CpuBackend() : Backend(DeviceType::CPU) {}
    int32_t count() override { return 1; }
    std::string name(int32_t) override { return std::string("CPU, ") + level_name(cpu_level()); }

    // Memory of the CPU does not wait for a stream: who releases it has waited for its use.
    void *allocate(int32_t, size_t bytes, size_t alignment, Stream *) override {
        alignment = std::max(alignment, bytes >= 2 * huge_page ? huge_page : sizeof(void *));
        const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
        if (rounded < bytes)
            return nullptr;
        void *out = std::aligned_alloc(alignment, rounded);
        if (out && alignment >= huge_page)
            ::madvise(out, rounded, MADV_HUGEPAGE);
        return out;
    }
    void release(int32_t, void *pointer, size_t, Stream *) noexcept override { std::free(pointer); }

    void copy(void *target, DeviceId target_device, const void *source, DeviceId source_device, size_t bytes,
              Stream *stream) override {
        if (!target_device.is_cpu() || !source_device.is_cpu())
            fail(Code::Internal, "a copy from %s to %s is not the CPU's", text(source_device).c_str(),
                 text(target_device).c_str());
        in_order(stream, [=] { std::memmove(target, source, bytes); });
    }
    void fill(void *target, int32_t, unsigned char value, size_t bytes, Stream *stream) override {
        in_order(stream, [=] { std::memset(target, value, bytes); });
    }

    std::shared_ptr<Stream> create_stream(int32_t) override { return std::make_shared<CpuStream>(); }
    std::shared_ptr<Stream> wrap_stream(int32_t, void *) override {
        fail(Code::Unsupported, "the CPU has no native streams to wrap; create one");
    }
    std::shared_ptr<Event> create_event(int32_t) override { return make_cpu_event(); }
    void wait(Stream &stream, std::shared_ptr<Event> event) override {
        wait_on_cpu(stream, event);
    }

  private:
    template <class Work> static void in_order(Stream *stream, Work &&work) {
        if (stream)
            stream->call(work);
        else
            work();
    }
};

} // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

} // namespace tessera::core
