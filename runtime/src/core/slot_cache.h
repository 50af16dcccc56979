// Idle objects kept for reuse, without a lock: a thread finds again what it gave back last.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace tessera::core {

// A number of the calling thread, different for threads that live at the same time.
inline uintptr_t thread_mark() {
    thread_local char mark;
    return reinterpret_cast<uintptr_t>(&mark);
}

// Spreads addresses over [0, 2^bits).
inline size_t spread(uintptr_t address, int bits) {
    return static_cast<size_t>((static_cast<uint64_t>(address) * 0x9E3779B97F4A7C15u) >> (64 - bits));
}

template <class T> class SlotCache {
  public:
    SlotCache() = default;
    ~SlotCache() {
        for (Slot &slot : slots_)
            delete slot.object.load(std::memory_order_acquire);
    }
    SlotCache(const SlotCache &) = delete;
    SlotCache &operator=(const SlotCache &) = delete;

    // An idle object, or null. Nobody else has it from then on.
    std::unique_ptr<T> take() {
        const size_t first = spread(thread_mark(), bits);
        for (size_t i = 0; i < count; ++i) {
            std::atomic<T *> &slot = slots_[(first + i) % count].object;
            if (slot.load(std::memory_order_relaxed))
                if (T *found = slot.exchange(nullptr, std::memory_order_acquire))
                    return std::unique_ptr<T>(found);
        }
        return nullptr;
    }

    // Keeps an object, or destroys it when there are many.
    void put(std::unique_ptr<T> object) noexcept {
        const size_t first = spread(thread_mark(), bits);
        for (size_t i = 0; i < count; ++i) {
            std::atomic<T *> &slot = slots_[(first + i) % count].object;
            T *none = nullptr;
            if (!slot.load(std::memory_order_relaxed) &&
                slot.compare_exchange_strong(none, object.get(), std::memory_order_seq_cst)) {
                object.release();
                return;
            }
        }
    }

    // Calls visit(object) for every object that is idle now; nobody else has it during the call.
    template <class Visit> void visit_idle(Visit &&visit) {
        for (Slot &slot : slots_)
            if (T *found = slot.object.exchange(nullptr, std::memory_order_seq_cst)) {
                std::unique_ptr<T> owner(found);
                visit(*owner);
                put(std::move(owner));
            }
    }

  private:
    static constexpr int bits = 6;
    static constexpr size_t count = size_t{1} << bits;
    struct alignas(64) Slot {
        std::atomic<T *> object{nullptr};
    };
    Slot slots_[count];
};

} // namespace tessera::core
