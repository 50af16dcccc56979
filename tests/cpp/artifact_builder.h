// Small artefacts for tests, made without the compiler: a plan, a hand-assembled kernel and a few weights.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "tessera/c_api.h"

struct TestTensor {
    std::string name, dtype, shape; // shape as JSON
    std::string data;
};

// A JSON string.
inline std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\')
            out += '\\';
        if (c == '\n')
            out += "\\n";
        else
            out += c;
    }
    return out + "\"";
}

// The bytes of a .tsr file with these metadata entries and tensors, hashed and aligned.
inline std::string build_artifact(const std::vector<std::pair<std::string, std::string>> &metadata,
                                  const std::vector<TestTensor> &tensors, bool hashes = true) {
    std::string entries, digests;
    auto add_hash = [&](const std::string &name, const std::string &data) {
        char digest[17];
        std::snprintf(digest, sizeof digest, "%016llx", static_cast<unsigned long long>(tsr_hash64(data.data(), data.size())));
        digests += (digests.empty() ? "" : ",") + quoted(name) + ":\"" + digest + "\"";
    };
    for (const auto &[key, value] : metadata) {
        entries += quoted(key) + ":" + quoted(value) + ",";
        if (key.compare(0, 8, "tessera.") == 0)
            add_hash(key, value);
    }
    for (const TestTensor &t : tensors)
        add_hash(t.name, t.data);
    if (hashes)
        entries += "\"tessera.hashes\":" + quoted("{" + digests + "}") + ",";
    if (!entries.empty())
        entries.pop_back();
    std::string header = "{\"__metadata__\":{" + entries + "}", body;
    auto add = [&](const std::string &name, const std::string &dtype, const std::string &shape, const std::string &data) {
        header += "," + quoted(name) + ":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
                  std::to_string(body.size()) + "," + std::to_string(body.size() + data.size()) + "]}";
        body += data;
    };
    for (size_t i = 0; i < tensors.size(); ++i) {
        add(tensors[i].name, tensors[i].dtype, tensors[i].shape, tensors[i].data);
        if (size_t gap = (64 - body.size() % 64) % 64; gap && i + 1 < tensors.size())
            add("tessera.pad." + std::to_string(i), "U8", "[" + std::to_string(gap) + "]", std::string(gap, '\0'));
    }
    header += '}';
    header.append((64 - (header.size() + 8) % 64) % 64, ' ');
    uint64_t length = header.size();
    std::string out(reinterpret_cast<const char *>(&length), 8);
    return out + header + body;
}

template <class T> std::string bytes_of(const std::vector<T> &values) {
    return std::string(reinterpret_cast<const char *>(values.data()), values.size() * sizeof(T));
}

// buffers[1][i] = 2 * buffers[0][i] over f32, in the kernel ABI; position-independent x86-64. The entry, at 16, follows
// its mark: two buffers, one size.
inline const std::string double_kernel("\xcctessera\x02\0\0\0\x01\0\0\0"
                                       "\x48\x8b\x07\x4c\x8b\x47\x08\x48\x39\xca\x7d\x14\xf3\x0f\x10\x04\x90\xf3\x0f\x58\xc0"
                                       "\xf3\x41\x0f\x11\x04\x90\x48\xff\xc2\xeb\xe7\x31\xc0\xc3",
                                       51);

// A program over x: f32[B, 4] with checked labels: y = 2x in f32[B, 4]; state `steps`: f32[4] doubles with each run;
// `sum` = x + table with the constant f32[4], by a portable instruction.
inline const char *test_plan = R"json({
 "version": 1, "target": "cpu", "level": "x86-64-v2",
 "dims": [{"name": "B", "min": 1, "max": 64, "multiple_of": 1}],
 "inputs": [{"name": "x", "dtype": "f32", "shape": ["B", 4], "buffer": 0},
            {"name": "labels", "dtype": "i64", "shape": ["B"], "buffer": 1}],
 "outputs": [{"name": "y", "dtype": "f32", "shape": ["B", 4], "buffer": 2},
             {"name": "sum", "dtype": "f32", "shape": ["B", 4], "buffer": 3}],
 "state": [{"name": "steps", "dtype": "f32", "shape": [4], "trainable": false, "mutated": true, "buffer": 4}],
 "constants": [{"name": "table", "dtype": "f32", "shape": [4], "buffer": 5}],
 "buffers": [{"kind": "input", "bytes": "16*B", "label": "x"}, {"kind": "input", "bytes": "8*B"},
             {"kind": "output", "bytes": "16*B"}, {"kind": "output", "bytes": "16*B"},
             {"kind": "state", "bytes": 16}, {"kind": "constant", "bytes": 16},
             {"kind": "arena", "bytes": "16*B", "offset": 0}, {"kind": "arena", "bytes": 16, "offset": "64*((B + 3) // 4)"}],
 "arena": "64*((B + 3) // 4) + 64",
 "kernels": [{"name": "double", "entry": 16, "scratch": 0}],
 "instructions": [
   {"check_range": 1, "dtype": "i64", "count": "B", "low": 0, "high": 9, "ignore": -100, "what": "labels", "loc": "train.py:7"},
   {"kernel": 0, "buffers": [0, 6], "sizes": ["B"], "grid": "4*B", "grain": 8, "scratch": 128, "loc": "train.py:8"},
   {"copy": [6, 2], "bytes": "16*B", "loc": "train.py:8"},
   {"zero": 7, "bytes": 16},
   {"kernel": 0, "buffers": [4, 7], "sizes": [1], "grid": 4, "grain": 4, "scratch": 0},
   {"copy": [7, 4], "bytes": 16},
   {"portable": "add", "attrs": "", "operands": [{"buffer": 0, "dtype": "f32", "shape": ["B", 4]},
                                                {"buffer": 5, "dtype": "f32", "shape": [4]}],
    "results": [{"buffer": 3, "dtype": "f32", "shape": ["B", 4]}], "loc": "train.py:9"}],
 "peak": 0,
 "checks": [{"expr": "64 - 2*B", "min": 0, "message": "the batch is too large for the table", "loc": "train.py:3"}]})json";

inline std::string test_artifact(const std::string &plan = test_plan, bool hashes = true) {
    return build_artifact({{"tessera.format", "1"}, {"tessera.producer", "test"}, {"tessera.plan.cpu.x86-64-v2", plan},
                           {"user.note", "hello"}},
                          {{"steps", "F32", "[4]", bytes_of<float>({1, 2, 3, 4})},
                           {"tessera.constant.table", "F32", "[4]", bytes_of<float>({10, 20, 30, 40})},
                           {"tessera.kernels.cpu.x86-64-v2", "U8", "[51]", double_kernel}},
                          hashes);
}
