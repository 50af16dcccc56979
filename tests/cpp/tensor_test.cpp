#include "core/tensor.h"

#include <cstring>
#include <vector>

#include "check.h"
#include "core/completion.h"
#include "core/error.h"
#include "core/hash.h"

using namespace tessera::core;

static void test_layout() {
    Tensor t = Tensor::zeros(DType::F32, {2, 3});
    CHECK(t.bytes() == 24 && t.size() == 6 && t.is_contiguous());
    CHECK(reinterpret_cast<uintptr_t>(t.data()) % 64 == 0);
    CHECK((t.strides() == std::vector<int64_t>{3, 1}));
    CHECK(Tensor::empty(DType::BF16, {}).size() == 1);
    Tensor none = Tensor::empty(DType::I64, {4, 0, 3});
    CHECK(none.size() == 0 && none.bytes() == 0 && none.is_contiguous() && none.data());
    CHECK(type_text(DType::Bool, {1, 2}) == "bool[1, 2]");
    CHECK_ERROR(Tensor::empty(DType::F64, {-1}), Error, Code::Shape, "-1");
    CHECK_ERROR(Tensor::empty(DType::F64, {INT64_MAX, 2}), Error, Code::Shape, "64 bits");
    CHECK_ERROR(Tensor::empty(DType::F64, {int64_t{1} << 60}), Error, Code::Shape, "64 bits");
    CHECK_ERROR(Tensor::empty(DType::F64, std::vector<int64_t>(65, 1)), Error, Code::Shape, "rank 65");
    CHECK(Tensor::empty(DType::F64, {INT64_MAX / 8, 0}).size() == 0);
    CHECK_ERROR(Tensor::empty(DType::F64, {INT64_MAX, 0}), Error, Code::Shape, "64 bits"); // its strides in bytes
}

static void test_strided() {
    std::vector<int32_t> data{0, 1, 2, 3, 4, 5};
    int64_t transposed[] = {1, 3};
    Tensor t = Tensor::from_blob(data.data(), DType::I32, {3, 2}, transposed, nullptr, nullptr);
    CHECK(!t.is_contiguous());
    Tensor c = t.contiguous();
    std::vector<int32_t> expected{0, 3, 1, 4, 2, 5};
    CHECK(std::memcmp(c.data(), expected.data(), 24) == 0);
    int64_t reversed[] = {-1};
    Tensor r = Tensor::from_blob(data.data() + 5, DType::I32, {6}, reversed, nullptr, nullptr).contiguous();
    CHECK(static_cast<int32_t *>(r.data())[0] == 5);
    int64_t any[] = {7, 1};
    CHECK(Tensor::from_blob(data.data(), DType::I32, {1, 6}, any, nullptr, nullptr).is_contiguous());
    CHECK_ERROR(t.reshaped({6}), Error, Code::Argument, "not contiguous");
    CHECK_ERROR(c.reshaped({7}), Error, Code::Shape, "[7]");
    CHECK(c.reshaped({6, 1}).data() == c.data());
}

static void test_ownership() {
    int calls = 0;
    auto count = [](void *context) { ++*static_cast<int *>(context); };
    float value[4] = {};
    {
        Tensor t = Tensor::from_blob(value, DType::F32, {4}, nullptr, count, &calls);
        Tensor copy = t;
        t = Tensor();
        CHECK(calls == 0 && copy.data() == value);
    }
    CHECK(calls == 1);
    CHECK_ERROR(Tensor::from_blob(nullptr, DType::F32, {4}, nullptr, count, &calls), Error, Code::Argument, "null");
    CHECK_ERROR(Tensor::from_blob(reinterpret_cast<char *>(value) + 1, DType::F32, {1}, nullptr, count, &calls), Error,
                Code::Argument, "aligned");
    CHECK(calls == 1);
    CHECK(!Tensor::from_blob(nullptr, DType::F32, {0}, nullptr, nullptr, nullptr).data());
}

// Work that ends when it is waited for, has ended, or never ends as another device is gone.
struct Work final : Completion {
    enum class Kind { Ends, Ended, Hangs } kind;
    int finished = 0;
    explicit Work(Kind k) : kind(k) {}
    bool reached() override { return kind == Kind::Ended || (kind == Kind::Ends && finished); }
    void wait() override { finish(); }
    void finish() override {
        ++finished;
        if (kind == Kind::Hangs)
            fail(Code::Device, "another device is gone");
    }
    const std::shared_ptr<Event> &event() const override { return none; }
    void *native_stream() const override { return nullptr; }
    std::shared_ptr<Event> none;
};

struct Counting final : Allocator {
    void *take(DeviceId, size_t, size_t, Stream *) override { return bytes; }
    void give_back(DeviceId, void *, size_t, Stream *) noexcept override { ++given; }
    alignas(64) char bytes[64];
    int given = 0;
};

// Memory goes back after the work that writes it. What may be written for ever is kept from others, and nobody waits for it.
static void test_memory_that_is_written() {
    for (Work::Kind kind : {Work::Kind::Ends, Work::Kind::Ended, Work::Kind::Hangs}) {
        auto work = std::make_shared<Work>(kind);
        auto allocator = std::make_shared<Counting>();
        Storage::allocate(64, {}, allocator, nullptr)->set_completion(work);
        CHECK(work->finished == (kind != Work::Kind::Ended));
        CHECK(allocator->given == (kind != Work::Kind::Hangs));
    }
}

static void test_hash() {
    CHECK(hash64("", 0) == 0xEF46DB3751D8E999ULL);
    CHECK(hash64("a", 1) == 0xD24EC4F1A98C6E5BULL);
    CHECK(hash64("abc", 3) == 0x44BC2CF5AD770999ULL);
    std::string text = "Nobody inspects the spammish repetition";
    CHECK(hash64(text.data(), text.size()) == 0xFBCEA83C8A378BF1ULL);
}

int main() {
    test_layout();
    test_strided();
    test_ownership();
    test_memory_that_is_written();
    test_hash();
    return finish();
}
