// Processes played by threads that are connected by TCP: collectives, failures, and shards of whole tensors.
#include "collective/process/communicator.h"

#include <atomic>
#include <cstring>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"
#include "collective/layout.h"
#include "collective/local/group.h"
#include "collective/tcp/socket.h"
#include "collective/tcp/transport.h"
#include "core/error.h"
#include "graph/parser.h"

using namespace tessera::core;

namespace {

int64_t free_port() {
    return tcp::Socket::listen(tcp::resolve("127.0.0.1", 0)).port();
}

Collective collective(const std::string &op, const std::string &attributes) {
    return Collective::read(op, tessera::graph::parse_attributes(attributes, {}), "train.py:7");
}

using Body = std::function<void(const std::shared_ptr<Transport> &, int64_t)>;

// Connects `count` transports, each on a thread of its own; gives the errors by rank, empty where there was none.
std::vector<std::string> on_all(int64_t count, const Body &body, int64_t timeout_ms = 20000) {
    const int64_t port = free_port();
    std::vector<std::string> errors(static_cast<size_t>(count));
    std::vector<std::thread> threads;
    for (int64_t rank = 0; rank < count; ++rank)
        threads.emplace_back([&, rank] {
            std::shared_ptr<Transport> transport;
            try {
                transport = make_tcp_transport({rank, count, "127.0.0.1", port, timeout_ms});
                body(transport, rank);
            } catch (const Error &error) {
                errors[static_cast<size_t>(rank)] = error.message();
                if (transport)
                    transport->fail(error.message());
            }
            if (transport)
                transport->close();
        });
    for (std::thread &t : threads)
        t.join();
    return errors;
}

bool has(const std::string &text, const std::string &part) {
    if (text.find(part) == std::string::npos)
        std::printf("'%s' is not in: %s\n", part.c_str(), text.c_str());
    return text.find(part) != std::string::npos;
}

MeshAxes mesh(std::vector<std::pair<std::string, int64_t>> axes) {
    MeshAxes out;
    out.axes = std::move(axes);
    return out;
}

std::vector<int64_t> counted(int64_t n) {
    std::vector<int64_t> out(static_cast<size_t>(n));
    std::iota(out.begin(), out.end(), 0);
    return out;
}

// The part of `n` that member `m` of `k` has in blocks of ceil(n / k).
int64_t part(int64_t n, int64_t k, int64_t m) {
    const int64_t block = (n + k - 1) / k;
    return std::min((m + 1) * block, n) - std::min(m * block, n);
}

struct Case {
    std::string op, attributes;
    std::function<std::vector<int64_t>(int64_t)> operand, result; // shapes by rank
};

std::vector<Case> cases(int64_t count) {
    std::vector<Case> out;
    const std::string about = "axes = [\"x\"], sizes = [" + std::to_string(count) + "]";
    for (int64_t n : {7, 1, 0}) {
        auto whole = [n](int64_t) { return std::vector<int64_t>{2, n, 3}; };
        auto split = [n, count](int64_t r) { return std::vector<int64_t>{2, part(n, count, r), 3}; };
        out.push_back({"all_reduce", "{" + about + ", combine = \"sum\"}", whole, whole});
        out.push_back({"reduce_scatter", "{" + about + ", combine = \"max\", dim = 1}", whole, split});
        out.push_back({"all_gather", "{" + about + ", dim = 1}", split, whole});
        out.push_back({"all_to_all", "{" + about + ", dim = 1, split_dim = 2}", split, [n, count](int64_t r) {
                           return std::vector<int64_t>{2, n, part(3, count, r)};
                       }});
    }
    return out;
}

struct Outcome {
    std::vector<float> data;
    std::pair<uint64_t, uint64_t> traffic;
    bool operator==(const Outcome &o) const { return data == o.data && traffic == o.traffic; }
};

Outcome run(Communicator &communicator, const Case &c, int64_t rank) {
    const std::vector<int64_t> in_shape = c.operand(rank), out_shape = c.result(rank);
    std::vector<float> in(static_cast<size_t>(element_count(in_shape)));
    Outcome out{std::vector<float>(static_cast<size_t>(element_count(out_shape)), -1.f), {}};
    for (size_t i = 0; i < in.size(); ++i)
        in[i] = 0.1f * static_cast<float>(i) + 1.7f * static_cast<float>(rank);
    communicator.reset_traffic();
    communicator.run(collective(c.op, c.attributes), {DType::F32, in_shape, in.data()},
                     {DType::F32, out_shape, out.data.data()});
    out.traffic = communicator.traffic();
    return out;
}

void test_collectives() {
    for (int64_t count : {1, 2, 3}) {
        const std::vector<Case> all = cases(count);
        auto group = std::make_shared<LocalGroup>(mesh({{"x", count}}), 20000);
        std::vector<std::vector<Outcome>> expected(static_cast<size_t>(count));
        std::vector<std::thread> threads;
        for (int64_t rank = 0; rank < count; ++rank)
            threads.emplace_back([&, rank] {
                auto communicator = group->communicator(rank);
                for (const Case &c : all)
                    expected[static_cast<size_t>(rank)].push_back(run(*communicator, c, rank));
            });
        for (std::thread &t : threads)
            t.join();
        auto errors = on_all(count, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
            ProcessCommunicator communicator(transport, mesh({{"x", count}}), counted(count));
            for (size_t i = 0; i < all.size(); ++i)
                CHECK(run(communicator, all[i], rank) == expected[static_cast<size_t>(rank)][i]);
            communicator.agree();
        });
        for (const std::string &error : errors)
            CHECK(error.empty() || !has("", error));
    }
}

void test_differences() {
    auto errors = on_all(2, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
        ProcessCommunicator communicator(transport, mesh({{"x", 2}}), counted(2));
        communicator.compare([] { return std::vector<std::string>{"a", "b"}; });
        std::vector<float> in(4), out(4);
        const char *combine = rank ? "sum" : "max";
        communicator.run(collective("all_reduce", format("{axes = [\"x\"], sizes = [2], combine = \"%s\"}", combine)),
                         {DType::F32, {4}, in.data()}, {DType::F32, {4}, out.data()});
    });
    CHECK(has(errors[0], "rank 1 is at all_reduce at train.py:7") || has(errors[0], "another device failed: rank 1"));
    CHECK(has(errors[1], "rank 0 is at all_reduce at train.py:7") || has(errors[1], "another device failed: rank 0"));
    errors = on_all(3, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
        ProcessCommunicator communicator(transport, mesh({{"x", 3}}), counted(3));
        communicator.compare([&] { return std::vector<std::string>{"a", rank == 2 ? "c" : "b"}; });
    });
    for (const std::string &error : errors)
        CHECK(has(error, "the processes have different programs: rank 0 has b, rank 2 has c; run the same artefact on all"));
}

void test_failures() {
    std::vector<char> memory(1 << 20); // more than the system's buffers hold
    auto errors = on_all(3, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
        if (rank == 1)
            transport->fail("the disk is full");
        else
            transport->exchange({{1, memory.data(), memory.size()}}, {{1, memory.data() + rank, 1}}, "work");
    });
    CHECK(errors[1].empty() && has(errors[0], "another device failed: rank 1: the disk is full"));
    CHECK(has(errors[2], "another device failed: rank 1: the disk is full"));

    errors = on_all(2, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
        char byte = 0;
        if (rank == 0)
            transport->exchange({}, {{1, &byte, 1}}, "work");
    });
    CHECK(errors[1].empty() && has(errors[0], "work: rank 1 has ended its run without taking part"));

    errors = on_all(2, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
        char byte = 0;
        if (rank == 0)
            transport->exchange({}, {{1, &byte, 1}}, "work");
        else
            std::this_thread::sleep_for(std::chrono::milliseconds(900));
    }, 300);
    CHECK(has(errors[0], "work: for 0.3 s nothing has come from rank 1"));

    errors = on_all(2, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
        char bytes[2] = {};
        if (rank == 0)
            transport->exchange({}, {{1, bytes, 1}}, "work");
        else
            transport->exchange({{0, bytes, 2}}, {}, "work");
    });
    CHECK(has(errors[0], "rank 1 sends 2 bytes where 1 are expected"));
}

void test_meshes_and_processes() {
    on_all(2, [&](const std::shared_ptr<Transport> &transport, int64_t rank) {
        using PC = ProcessCommunicator;
        CHECK_ERROR(PC(transport, mesh({{"x", 3}}), counted(3)), Error, Code::Device, "there are 2 processes");
        CHECK_ERROR(PC(transport, mesh({{"x", 2}}), {0, 0}), Error, Code::Argument, "given for two devices");
        CHECK_ERROR(PC(transport, mesh({{"x", 2}}), {0}), Error, Code::Argument, "2 devices, but 1 processes");
        if (rank == 1)
            CHECK_ERROR(PC(transport, mesh({{"x", 1}}), {0}), Error, Code::Device, "rank 1, has no device");
        CHECK(PC(transport, mesh({{"x", 2}}), {1, 0}).rank() == 1 - rank);
    });
    CHECK_ERROR(make_tcp_transport({2, 2, "127.0.0.1", 5, 1000}), Error, Code::Argument, "no rank 2 of 2");
    CHECK_ERROR(make_tcp_transport({0, 2, "127.0.0.1", 0, 1000}), Error, Code::Argument, "0 is no port");
    CHECK_ERROR(make_tcp_transport({1, 2, "no.such.host.invalid", 5, 100}), Error, Code::Device, "is not known here");
    CHECK(make_tcp_transport({0, 1, "", 5, 1000})->size() == 1);
}

void test_strangers() {
    // Somebody who says something else is not let in; a process of another job is an error.
    const int64_t port = free_port();
    std::string error;
    std::thread root([&] {
        try {
            make_tcp_transport({0, 2, "127.0.0.1", port, 10000});
        } catch (const Error &e) {
            error = e.message();
        }
    });
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    const tcp::Address address = tcp::resolve("127.0.0.1", static_cast<uint16_t>(port));
    char words[64] = "GET / HTTP/1.0";
    {
        tcp::Socket stranger = tcp::Socket::connect(address, deadline);
        stranger.send_all(words, sizeof words, deadline);
    }
    try {
        make_tcp_transport({2, 3, "127.0.0.1", port, 1000});
    } catch (const Error &) {
    }
    root.join();
    CHECK(has(error, "a process connects as rank 2 of 3; this one is rank 0 of 2"));
}

void test_layout() {
    const std::string text = R"({"axes": [["dp", 2], ["tp", 2]], "collectives": [], "places": {
        "state w": {"shape": [5, 3], "dims": [{"axes": ["dp", "tp"], "block": 2}, null]},
        "input x": {"shape": ["B", 4], "dims": [{"axes": ["dp"], "block": "(B + 1) // 2"}, {"axes": ["tp"], "block": 2}]},
        "state s": {"shape": [], "dims": []}}})";
    Symbol b;
    b.name = "B";
    const SymbolTable symbols{std::make_shared<Symbol>(b)};
    const MeshLayout layout = MeshLayout::parse(text, symbols, "f.tsr");
    const int64_t rows[][2] = {{0, 2}, {2, 4}, {4, 5}, {5, 5}};
    for (int64_t rank = 0; rank < 4; ++rank) {
        const Shard w = layout.shard("state", "w", rank, {});
        CHECK(w.whole == (std::vector<int64_t>{5, 3}) && w.start[0] == rows[rank][0] && w.stop[0] == rows[rank][1]);
        CHECK(w.start[1] == 0 && w.stop[1] == 3);
        std::vector<char> whole(15), block(6, -1);
        std::iota(whole.begin(), whole.end(), 0);
        copy_shard(whole.data(), w, block.data(), {2, 3}, 1);
        for (int64_t i = 0; i < 6; ++i)
            CHECK(block[static_cast<size_t>(i)] == (i < 3 * (rows[rank][1] - rows[rank][0]) ? 3 * rows[rank][0] + i : -1));
    }
    const Shard x = layout.shard("input", "x", 3, {{"B", 7}});
    CHECK(x.whole[0] == 7 && x.start == (std::vector<int64_t>{4, 2}) && x.stop == (std::vector<int64_t>{7, 4}));
    CHECK(layout.shard("state", "s", 1, {}).shape().empty());
    CHECK_ERROR(layout.shard("state", "v", 0, {}), Error, Code::NameMissing, "does not say how state v lies");
    CHECK_ERROR(layout.shard("state", "w", 4, {}), Error, Code::Argument, "no device 4 in a mesh of 4");
    for (const char *wrong : {"[]", "{}", R"({"axes": [["x", 0]], "collectives": []})", R"({"axes": [[1, 2]], "collectives": []})",
                              R"({"axes": [], "collectives": [1]})", R"({"axes": [], "collectives": [], "places": 3})",
                              R"({"axes": [["x", 2]], "collectives": [], "places": {"a": {"shape": [4], "dims": []}}})",
                              R"({"axes": [["x", 2]], "collectives": [],
                                  "places": {"a": {"shape": [4], "dims": [{"axes": ["y"], "block": 2}]}}})",
                              R"({"axes": [["x", 2]], "collectives": [],
                                  "places": {"a": {"shape": ["Q"], "dims": [null]}}})"})
        CHECK_ERROR(MeshLayout::parse(wrong, {}, "f.tsr"), Error, Code::Format, "f.tsr: 'tessera.mesh'");
}

} // namespace

int main() {
    test_collectives();
    test_differences();
    test_failures();
    test_meshes_and_processes();
    test_strangers();
    test_layout();
    return finish();
}
