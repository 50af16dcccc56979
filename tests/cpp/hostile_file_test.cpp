// Files that are truncated, corrupted, newer or made to do harm: typed errors, never a crash.
#include <cstdlib>
#include <filesystem>
#include <sys/stat.h>
#include <unistd.h>

#include "artifact_builder.h"
#include "check.h"
#include "exec/program.h"

using namespace tessera::core;

static std::shared_ptr<Program> load(const std::string &bytes, bool verify = true, const std::string &target = "") {
    LoadOptions options;
    options.verify_hashes = verify;
    options.target = target;
    return Program::load(Mapping::copy(bytes.data(), bytes.size()), "bad.tsr", options, true);
}

static std::string file(const std::string &header, const std::string &body = "") {
    uint64_t length = header.size();
    return std::string(reinterpret_cast<const char *>(&length), 8) + header + body;
}

static std::string replaced(std::string text, const std::string &from, const std::string &to) {
    size_t at = text.find(from);
    if (at == std::string::npos)
        std::printf("the plan has no %s\n", from.c_str());
    return text.replace(at, from.size(), to);
}

static void test_headers() {
    struct Case {
        std::string bytes;
        const char *words;
    } cases[] = {
        {"", "too few"},
        {std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8), "the header claims"},
        {std::string("\x10\0\0\0\0\0\0\0{}", 10), "truncated"},
        {file("[]"), "not an object"},
        {file("{"), "malformed JSON"},
        {file(std::string(1000, '[')), "nested too deeply"},
        {file("{\"__metadata__\": {\"a\": 1}}"), "is an integer, not text"},
        {file("{\"__metadata__\": []}"), "not an object"},
        {file("{\"a\": {}, \"a\": {}}"), "occurs twice"},
        {file("{\"a\": 1}"), "must have exactly dtype, shape and data_offsets"},
        {file("{\"a\": {\"dtype\":\"F33\",\"shape\":[],\"data_offsets\":[0,4]}}", "1234"), "unknown dtype 'F33'"},
        {file("{\"a\": {\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "1234"), "not a list of sizes"},
        {file("{\"a\": {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", "1234"), "f32[2] needs 8 bytes"},
        {file("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", "1234"), "its offsets are [4, 0)"},
        {file("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "1234"), "truncated"},
        {file("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "12345678"), "a gap"},
        {file("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "12345678"), "belong to nothing"},
        {file("{\"a\": {\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
              "\"b\": {\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", "123"), "an overlap"},
        {file("{\"a\": {\"dtype\":\"F64\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}"), "64 bits"},
        {file("{\"a\": {\"dtype\":\"F64\",\"shape\":[9223372036854775807,0],\"data_offsets\":[0,0]}}"), "tessera.format"},
        {file("{\"a\": {\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9223372036854775806,9223372036854775807]}}"), "truncated"},
        {file("{}"), "no Tessera artefact"},
        {file("{\"__metadata__\": {\"tessera.format\": \"x\"}}"), "expected a version number"},
        {build_artifact({{"tessera.format", "1"}}, {}, false), "'tessera.hashes' is missing"},
    };
    for (const Case &c : cases)
        CHECK_ERROR(load(c.bytes), Error, Code::Format, c.words);
    CHECK_ERROR(load(build_artifact({{"tessera.format", "2"}}, {})), Error, Code::Version, "newer");
    CHECK_ERROR(load(build_artifact({{"tessera.format", "1"}}, {})), Error, Code::Device, "no program for a CPU");
    CHECK_ERROR(load(test_artifact(), true, "tpu"), Error, Code::Device, "target 'tpu' cannot run here; the file has: cpu x86-64-v2");
    CHECK_ERROR(load(test_artifact(), true, "ptx"), Error, Code::Device, "no plan for 'ptx'; the file has: cpu x86-64-v2");
    CHECK_ERROR(load(test_artifact(), true, "cpu.x86-64-v3"), Error, Code::Device, "no plan for");
    CHECK_ERROR(load(test_artifact(), true, "portable"), Error, Code::Unsupported, "no portable program");
    LoadOptions safe;
    safe.allow_native_code = false;
    std::string bytes = test_artifact();
    CHECK_ERROR(Program::load(Mapping::copy(bytes.data(), bytes.size()), "f", safe, true), Error, Code::Unsupported,
                "native code was not allowed");
    CHECK_ERROR(Mapping::map_file("/no/such/file"), Error, Code::FileAccess, "cannot read /no/such/file: No such file");
    CHECK_ERROR(Mapping::map_file("/dev/null"), Error, Code::FileAccess, "not a regular file");
    std::string pipe = (std::filesystem::temp_directory_path() / ("tessera_pipe_" + std::to_string(::getpid()))).string();
    CHECK(::mkfifo(pipe.c_str(), 0600) == 0);
    CHECK_ERROR(Mapping::map_file(pipe), Error, Code::FileAccess, "not a regular file"); // and does not wait for a writer
    ::unlink(pipe.c_str());
}

static void test_plans() {
    struct Case {
        const char *from, *to, *words;
    } cases[] = {
        {"\"version\": 1", "\"version\": 0", "unknown version"},
        {"\"target\": \"cpu\"", "\"target\": \"gpu\"", "has target 'gpu'"},
        {"\"level\": \"x86-64-v2\"", "\"level\": \"x86-64-v3\"", "the plan is for level"},
        {"\"buffer\": 0}", "\"buffer\": 99}", "buffer index is outside"},
        {"\"buffer\": 0}", "\"buffer\": -1}", "buffer index is outside"},
        {"\"buffer\": 0}", "\"buffer\": 1}", "belongs to another tensor"},
        {"\"buffer\": 0}", "\"buffer\": 2}", "is of another kind"},
        {"\"kernel\": 0", "\"kernel\": 7", "kernel index 7 is outside"},
        {"\"entry\": 16", "\"entry\": 51", "lies outside the kernel image"},
        {"\"entry\": 16", "\"entry\": -1", "lies outside the kernel image"},
        {"\"entry\": 16", "\"entry\": 0", "kernel 0 ('double'): entry 0 is not the start of a kernel"},
        {"\"entry\": 16", "\"entry\": 15", "entry 15 is not the start of a kernel"},
        {"\"entry\": 16", "\"entry\": 17", "entry 17 is not the start of a kernel"},
        {"\"entry\": 16", "\"entry\": 50", "entry 50 is not the start of a kernel"},
        {"\"buffers\": [0, 6]", "\"buffers\": [0]", "kernel 'double' takes 2 buffers and 1 sizes, the call gives 1 and 1"},
        {"\"sizes\": [\"B\"]", "\"sizes\": []", "takes 2 buffers and 1 sizes, the call gives 2 and 0"},
        {"\"offset\": 0", "\"offset\": 4", "not a multiple of 64"},
        {"\"shape\": [\"B\", 4]", "\"shape\": [\"Q\", 4]", "unknown symbol 'Q'"},
        {"\"shape\": [\"B\", 4]", "\"shape\": [\"B\", -4]", "a size is negative"},
        {"\"shape\": [\"B\", 4]", "\"shape\": [\"B\", true]", "neither an integer nor an expression"},
        {"\"dtype\": \"f32\"", "\"dtype\": \"q32\"", "unknown dtype"},
        {"\"min\": 1, \"max\": 64", "\"min\": 9, \"max\": 4", "not a range"},
        {"\"multiple_of\": 1", "\"multiple_of\": 0", "not a range"},
        {"\"name\": \"B\"", "\"name\": \"max\"", "not a usable name"},
        {"\"name\": \"labels\", \"dtype\"", "\"name\": \"x\", \"dtype\"", "occurs twice"},
        {"\"copy\": [6, 2]", "\"copy\": [6, 0]", "must not be written"},
        {"\"copy\": [6, 2]", "\"copy\": [6, 5]", "must not be written"},
        {"\"copy\": [6, 2]", "\"copy\": [6]", "a source and a target"},
        {"\"zero\": 7", "\"nothing\": 7", "of no known kind"},
        {"\"dtype\": \"i64\", \"count\"", "\"dtype\": \"f32\", \"count\"", "only integers can be checked"},
        {"\"portable\": \"add\"", "\"portable\": \"no_such\"", "no_such"},
        {"\"kind\": \"arena\", \"bytes\": 16", "\"kind\": \"heap\", \"bytes\": 16", "unknown kind"},
        {"\"shape\": [4], \"trainable\"", "\"shape\": [\"B\"], \"trainable\"", "constant shapes"},
        {"\"arena\": \"64", "\"arena\": \"64*", "dimension '"},
        {"\"arena\": ", "\"arena_\": ", "'arena' is missing"},
    };
    for (const Case &c : cases)
        CHECK_ERROR(load(test_artifact(replaced(test_plan, c.from, c.to))), Error, Code::Format, c.words);
    CHECK_ERROR(load(test_artifact(replaced(test_plan, "\"version\": 1", "\"version\": 4"))), Error, Code::Version, "version 4");
}

// Conditions that only show for given sizes.
static void test_sizes() {
    struct Case {
        const char *from, *to, *words;
    } cases[] = {
        {"\"bytes\": \"16*B\", \"label\": \"x\"", "\"bytes\": \"8*B\"", "'x' needs 16"},
        {"\"arena\": \"64*((B + 3) // 4) + 64\"", "\"arena\": 64", "does not fit in the arena"},
        {"\"arena\": \"64*((B + 3) // 4) + 64\"", "\"arena\": \"0 - B\"", "arena size is -1"},
        {"\"copy\": [6, 2], \"bytes\": \"16*B\"", "\"copy\": [6, 2], \"bytes\": \"17*B\"", "uses 17 bytes of buffer 6"},
        {"\"zero\": 7, \"bytes\": 16", "\"zero\": 7, \"bytes\": 80", "uses 80 bytes of buffer 7"},
        {"\"count\": \"B\"", "\"count\": \"2*B\"", "uses 16 bytes of buffer 1"},
        {"\"grid\": \"4*B\"", "\"grid\": \"B - 4\"", "grid is -3"},
        {"{\"buffer\": 5, \"dtype\": \"f32\", \"shape\": [4]}", "{\"buffer\": 5, \"dtype\": \"f64\", \"shape\": [4]}", "uses 32 bytes of buffer 5"},
    };
    for (const Case &c : cases)
        CHECK_ERROR(load(test_artifact(replaced(test_plan, c.from, c.to)))->requirements({{"B", 1}}), Error, Code::Format, c.words);
}

// Every truncation and a flip of every byte gives a typed error or, without hashes, possibly a loadable file.
static void test_fuzz() {
    const std::string good = test_artifact();
    load(good);
    int rejected = 0, flips = 0;
    for (size_t length = 0; length < good.size(); length += length < 200 ? 1 : 7)
        CHECK_ERROR(load(good.substr(0, length)), Error, Code::Format, "bad.tsr");
    for (size_t i = 0; i < good.size(); ++i)
        for (unsigned char flip : {0x01, 0x20, 0x80}) {
            std::string bad = good;
            bad[i] = static_cast<char>(bad[i] ^ flip);
            ++flips;
            try {
                load(bad);
            } catch (const Error &) {
                ++rejected;
            }
            try {
                load(bad, false)->requirements({{"B", 3}});
            } catch (const Error &) {
            }
        }
    // What passes lies in padding, in header spaces, in names of free metadata, or spells the same header otherwise.
    CHECK(rejected > flips * 9 / 10);
    std::srand(1);
    for (int round = 0; round < 3000; ++round) {
        std::string bad = good;
        for (int k = 0; k < 8; ++k)
            bad[static_cast<size_t>(std::rand()) % bad.size()] = static_cast<char>(std::rand());
        try {
            load(bad, false)->requirements({{"B", 3}});
        } catch (const Error &) {
        }
    }
}

int main() {
    test_headers();
    test_plans();
    test_sizes();
    test_fuzz();
    return finish();
}
