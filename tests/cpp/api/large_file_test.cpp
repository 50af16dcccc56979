// Files larger than the machine's memory, or than one wants in memory: mapped, not copied; hashed without staying there.
#include "tessera/runtime.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <unistd.h>

#include "check.h"

using namespace tessera;

namespace {

// Peak resident memory of this process in KiB.
long peak_resident() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.compare(0, 6, "VmHWM:") == 0)
            return std::stol(line.substr(6));
    return -1;
}

std::string quoted_lines(std::string text) {
    for (size_t at = 0; (at = text.find_first_of("\n\"", at)) != std::string::npos; at += 2)
        text.replace(at, 1, text[at] == '\n' ? "\\n" : "\\\"");
    return "\"" + text + "\"";
}

// A portable program that takes rows of a table; the table's last row is 2.5.
std::string write_sparse(const std::string &path, int64_t rows, const std::string &hashes = "") {
    std::string n = std::to_string(rows), bytes = std::to_string(rows * 4096);
    std::string text = "tessera.graph 1\ngraph \"main\" {\n  %0 = input {name = \"row\"} : i64[1]\n"
                       "  %1 = param {name = \"table\", trainable = false} : f32[" + n + ", 1024]\n"
                       "  %2 = take(%1, %0) {axis = 0} : f32[1, 1024]\n  output \"y\" = %2\n}\n";
    std::string header = "{\"__metadata__\":{\"tessera.format\":\"1\",\"tessera.graph\":" + quoted_lines(text) +
                         ",\"tessera.portable\":" + quoted_lines(text) +
                         (hashes.empty() ? "" : ",\"tessera.hashes\":" + quoted_lines(hashes)) + "},\"table\":{\"dtype\":\"F32\",\"shape\":[" + n +
                         ",1024],\"data_offsets\":[0," + bytes + "]}}";
    header.append((64 - (header.size() + 8) % 64) % 64, ' ');
    uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char *>(&length), 8) << header;
    file.seekp(static_cast<std::streamoff>(8 + length) + (rows - 1) * 4096);
    const float row[1024] = {2.5f};
    file.write(reinterpret_cast<const char *>(row), sizeof row);
    return text;
}

std::string digest(uint64_t hash) {
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(hash));
    return out;
}

// Makes the present resident memory the peak.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

void test_larger_than_memory(const std::string &path) {
    namespace fs = std::filesystem;
    int64_t memory = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
    int64_t rows = std::max<int64_t>(int64_t{8} << 30, 2 * memory) / 4096;
    write_sparse(path, rows);
    if (fs::file_size(path) < static_cast<uintmax_t>(rows) * 4096) {
        std::printf("the file system holds no sparse file of %lld bytes\n", static_cast<long long>(rows) * 4096);
        return;
    }
    forget_peak();
    long before = peak_resident();
    LoadOptions options;
    options.verify_hashes = false;
    Graph g = Graph::load(path, options);
    Runtime rt(1);
    Tensor row = Tensor::create({1}, DType::I64);
    row.data<int64_t>()[0] = rows - 1;
    CHECK(rt.run(g, {row})[0].data<float>()[0] == 2.5f);
    CHECK(g.state("table").size() == rows * 1024);
    CHECK(peak_resident() - before < 64 << 10);
}

void test_hashes(const std::string &path) {
    const int64_t rows = (320 << 20) / 4096;
    std::string text;
    {
        std::vector<float> table(static_cast<size_t>(rows) * 1024);
        table[static_cast<size_t>(rows - 1) * 1024] = 2.5f;
        std::string hash = digest(tsr_hash64(table.data(), table.size() * 4));
        text = write_sparse(path, rows);
        std::string program = digest(tsr_hash64(text.data(), text.size()));
        write_sparse(path, rows,
                     "{\"tessera.format\":\"" + digest(tsr_hash64("1", 1)) + "\",\"tessera.graph\":\"" + program +
                         "\",\"tessera.portable\":\"" + program + "\",\"table\":\"" + hash + "\"}");
    }
    forget_peak();
    long before = peak_resident();
    verify_file(path);
    Graph g = Graph::load(path); // compares again
#if !defined(__SANITIZE_THREAD__) // whose shadow of the mapped file counts
    CHECK(peak_resident() - before < 64 << 10);
#else
    (void)before;
#endif
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp((160 << 20) + 5);
    file.put(1);
    file.close();
    CHECK_ERROR(verify_file(path), Error, TSR_FORMAT_ERROR, "the content of 'table' does not match its hash");
    CHECK_ERROR(Graph::load(path), Error, TSR_FORMAT_ERROR, "the content of 'table' does not match its hash");
}

// A file that was read and not mapped may be truncated while its graph is in use.
void test_read(const std::string &path) {
    write_sparse(path, 64);
    LoadOptions options;
    options.verify_hashes = false;
    options.map = false;
    Graph g = Graph::load(path, options);
    std::filesystem::resize_file(path, 0);
    Runtime rt(1);
    Tensor row = Tensor::create({1}, DType::I64);
    row.data<int64_t>()[0] = 63;
    CHECK(rt.run(g, {row})[0].data<float>()[0] == 2.5f);
    CHECK_ERROR(Graph::load(path, options), Error, TSR_FORMAT_ERROR, "too few for a safetensors header");
    options.map = true;
    CHECK_ERROR(Graph::load(path, options), Error, TSR_FORMAT_ERROR, "too few for a safetensors header");
}

} // namespace

int main() {
    namespace fs = std::filesystem;
    std::string path = (fs::temp_directory_path() / ("tessera_large_" + std::to_string(::getpid()) + ".tsr")).string();
    test_larger_than_memory(path);
    test_hashes(path);
    test_read(path);
    fs::remove(path);
    return finish();
}
