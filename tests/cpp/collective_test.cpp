#include "collective/local/group.h"

#include <cmath>
#include <functional>
#include <thread>
#include <vector>

#include "check.h"
#include "collective/combine.h"
#include "core/error.h"
#include "graph/parser.h"

using namespace tessera::core;

static MeshAxes mesh(std::vector<std::pair<std::string, int64_t>> axes) {
    MeshAxes out;
    out.axes = std::move(axes);
    return out;
}

static Collective collective(const std::string &op, const std::string &attributes) {
    return Collective::read(op, tessera::graph::parse_attributes(attributes, {}), "train.py:7");
}

// Runs `body` on every device; gives the errors by rank, empty where there was none.
static std::vector<std::string> on_all(LocalGroup &group, const std::function<void(Communicator &, int64_t)> &body) {
    const int64_t count = group.mesh().devices();
    std::vector<std::string> errors(static_cast<size_t>(count));
    std::vector<std::thread> threads;
    for (int64_t rank = 0; rank < count; ++rank)
        threads.emplace_back([&, rank] {
            auto communicator = group.communicator(rank);
            try {
                body(*communicator, rank);
            } catch (const Error &error) {
                errors[static_cast<size_t>(rank)] = error.message();
                communicator->fail(error.message());
            }
        });
    for (std::thread &t : threads)
        t.join();
    return errors;
}

static bool all_empty(const std::vector<std::string> &errors) {
    for (const std::string &e : errors) {
        if (!e.empty())
            std::printf("%s\n", e.c_str());
        if (!e.empty())
            return false;
    }
    return true;
}

static std::shared_ptr<LocalGroup> group_of(std::vector<std::pair<std::string, int64_t>> axes, int64_t timeout = 20000) {
    return std::make_shared<LocalGroup>(mesh(std::move(axes)), timeout);
}

static TensorView view(std::vector<float> &data, std::vector<int64_t> shape) {
    return {DType::F32, std::move(shape), data.data()};
}

static void test_all_reduce() {
    auto group = group_of({{"dp", 2}, {"tp", 3}});
    const Collective sum = collective("all_reduce", "{axes = [\"tp\"], sizes = [3], combine = \"sum\"}");
    auto errors = on_all(*group, [&](Communicator &c, int64_t rank) {
        for (int64_t n : {0, 1, 2, 7, 5000}) { // fewer elements than members, uneven chunks
            std::vector<float> x(static_cast<size_t>(n)), y(static_cast<size_t>(n), -1.f);
            for (int64_t i = 0; i < n; ++i)
                x[static_cast<size_t>(i)] = static_cast<float>(rank * 100 + i);
            c.reset_traffic();
            c.run(sum, view(x, {n}), view(y, {n}));
            const int64_t first = rank / 3 * 3;
            bool right = true;
            for (int64_t i = 0; i < n; ++i)
                right = right && y[static_cast<size_t>(i)] == static_cast<float>(100 * (3 * first + 3) + 3 * i);
            CHECK(right);
            const int64_t chunk = (n + 2) / 3, begin = std::min(rank % 3 * chunk, n), own = std::min(begin + chunk, n) - begin;
            CHECK(c.traffic().first == static_cast<uint64_t>(4 * (2 * own + n - own)));
            CHECK(c.traffic().second == 1);
        }
    });
    CHECK(all_empty(errors));
}

static void test_gather_and_scatter() {
    auto group = group_of({{"dp", 4}});
    const Collective gather = collective("all_gather", "{axes = [\"dp\"], sizes = [4], dim = 1}");
    const Collective scatter = collective("reduce_scatter", "{axes = [\"dp\"], sizes = [4], dim = 1, combine = \"max\"}");
    const int64_t starts[] = {0, 3, 6, 7, 7}; // seven columns in blocks of three: the last device has none
    auto errors = on_all(*group, [&](Communicator &c, int64_t rank) {
        const int64_t first = starts[rank], count = starts[rank + 1] - first;
        std::vector<float> part(static_cast<size_t>(2 * count * 2)), whole(2 * 7 * 2), back(part.size(), -1.f);
        auto value = [](int64_t a, int64_t b, int64_t d) { return static_cast<float>(100 * a + 10 * b + d); };
        for (int64_t a = 0; a < 2; ++a)
            for (int64_t b = 0; b < count; ++b)
                for (int64_t d = 0; d < 2; ++d)
                    part[static_cast<size_t>((a * count + b) * 2 + d)] = value(a, first + b, d);
        c.run(gather, view(part, {2, count, 2}), view(whole, {2, 7, 2}));
        bool right = true;
        for (int64_t i = 0; i < 28; ++i)
            right = right && whole[static_cast<size_t>(i)] == value(i / 14, i / 2 % 7, i % 2);
        CHECK(right);
        CHECK(c.traffic().first == static_cast<uint64_t>(4 * (28 - 4 * count)));
        for (float &x : whole)
            x -= static_cast<float>(rank);
        c.run(scatter, view(whole, {2, 7, 2}), view(back, {2, count, 2}));
        CHECK(back == part);
    });
    CHECK(all_empty(errors));
}

static void test_all_to_all() {
    auto group = group_of({{"dp", 3}});
    const int64_t rows[] = {0, 2, 4, 5}, columns[] = {0, 2, 4, 4}; // 5 rows and 4 columns over 3 devices
    for (bool forward : {true, false}) {
        const Collective move = collective("all_to_all", forward ? "{axes = [\"dp\"], sizes = [3], dim = 0, split_dim = 2}"
                                                                 : "{axes = [\"dp\"], sizes = [3], dim = 2, split_dim = 0}");
        auto errors = on_all(*group, [&](Communicator &c, int64_t rank) {
            auto part = [&](bool by_rows) {
                const int64_t a = by_rows ? rows[rank] : 0, b = by_rows ? rows[rank + 1] : 5;
                const int64_t e = by_rows ? 0 : columns[rank], f = by_rows ? 4 : columns[rank + 1];
                std::vector<float> out;
                for (int64_t i = a; i < b; ++i)
                    for (int64_t k = 0; k < 3; ++k)
                        for (int64_t j = e; j < f; ++j)
                            out.push_back(static_cast<float>(100 * i + 10 * k + j));
                return out;
            };
            std::vector<float> x = part(forward), want = part(!forward), y(want.size(), -1.f);
            const int64_t own_rows = rows[rank + 1] - rows[rank], own_columns = columns[rank + 1] - columns[rank];
            std::vector<int64_t> by_rows{own_rows, 3, 4}, by_columns{5, 3, own_columns};
            c.run(move, view(x, forward ? by_rows : by_columns), view(y, forward ? by_columns : by_rows));
            CHECK(y == want);
        });
        CHECK(all_empty(errors));
    }
}

static void test_permute() {
    auto group = group_of({{"dp", 2}, {"pp", 3}});
    const Collective on = collective("collective_permute", "{axes = [\"pp\"], sizes = [3], pairs = [[1, 2], [0, 1]]}");
    const Collective ring = collective("collective_permute", "{axes = [\"pp\"], sizes = [3], pairs = [[0, 0], [1, 2], [2, 1]]}");
    auto errors = on_all(*group, [&](Communicator &c, int64_t rank) {
        const auto place = static_cast<float>(rank % 3), row = static_cast<float>(rank / 3 * 10);
        std::vector<float> x(5, row + place + 1), y(5, -1.f);
        c.reset_traffic();
        c.run(on, view(x, {5}), view(y, {5}));
        CHECK(y == std::vector<float>(5, place == 0 ? 0 : row + place));
        CHECK(c.traffic().first == (place == 0 ? 0 : 20) && c.traffic().second == 1);
        c.run(ring, view(x, {5}), view(y, {5}));
        CHECK(y == std::vector<float>(5, row + (place == 0 ? 1 : place == 1 ? 3 : 2)));
        CHECK(c.traffic().first == static_cast<uint64_t>(place == 0 ? 0 : 40));
        std::vector<float> none;
        c.run(on, view(none, {0}), view(none, {0}));
    });
    CHECK(all_empty(errors));
    std::vector<float> x(2, 3.f), y(2, -1.f);
    run_alone(collective("collective_permute", "{axes = [\"pp\"], sizes = [1], pairs = []}"), view(x, {2}), view(y, {2}));
    CHECK(y == std::vector<float>(2, 0.f));
    for (const char *pairs : {"1", "[1]", "[[0, 3]]", "[[-1, 0]]", "[[0, 1], [0, 2]]", "[[0, 1], [2, 1]]", "[[0, 1, 2]]", "[[0, 1.5]]"})
        CHECK_ERROR(collective("collective_permute", std::string("{axes = [\"pp\"], sizes = [3], pairs = ") + pairs + "}"), Error,
                    Code::Graph, "pairs");
}

static void test_combine() {
    std::vector<float> a{1, -2, NAN, 4}, b{3, -5, 1, NAN}, out(4);
    std::vector<const char *> parts{reinterpret_cast<char *>(a.data()), reinterpret_cast<char *>(b.data())};
    combine_parts(parts, reinterpret_cast<char *>(out.data()), 4, DType::F32, Combine::Max);
    CHECK(out[0] == 3 && out[1] == -2 && std::isnan(out[2]) && std::isnan(out[3]));
    combine_parts(parts, reinterpret_cast<char *>(out.data()), 2, DType::F32, Combine::Prod);
    CHECK(out[0] == 3 && out[1] == 10);
    std::vector<int8_t> c{100, -128}, d{100, -1}, sum(2);
    std::vector<const char *> small{reinterpret_cast<char *>(c.data()), reinterpret_cast<char *>(d.data())};
    combine_parts(small, reinterpret_cast<char *>(sum.data()), 2, DType::I8, Combine::Sum);
    CHECK(sum[0] == static_cast<int8_t>(200) && sum[1] == 127); // wraps
    // 256 + 1 + 1: in bf16 step by step 256, in f32 258.
    std::vector<uint16_t> x{0x4380}, y{0x3F80}, z(1);
    std::vector<const char *> halves;
    for (const std::vector<uint16_t> *p : {&x, &y, &y})
        halves.push_back(reinterpret_cast<const char *>(p->data()));
    combine_parts(halves, reinterpret_cast<char *>(z.data()), 1, DType::BF16, Combine::Sum);
    CHECK(z[0] == 0x4381);
    CHECK_ERROR(combine_parts(small, nullptr, 1, DType::F8E4M3, Combine::Sum), Error, Code::DType, "f8e4m3");
}

// A device that fails makes the others fail where they wait; after a reset all go on.
static void test_failure() {
    auto group = group_of({{"dp", 3}});
    const Collective sum = collective("all_reduce", "{axes = [\"dp\"], sizes = [3], combine = \"sum\"}");
    auto body = [&](Communicator &c, bool broken) {
        if (broken)
            fail(Code::IndexRange, "label 9 is out of range");
        std::vector<float> x(5, 1.f), y(5);
        c.run(sum, view(x, {5}), view(y, {5}));
        c.agree();
        CHECK(y[4] == 3.f);
    };
    auto errors = on_all(*group, [&](Communicator &c, int64_t rank) { body(c, rank == 1); });
    CHECK(errors[1] == "label 9 is out of range");
    CHECK(errors[0] == "another device failed: label 9 is out of range" && errors[2] == errors[0]);
    group->reset();
    CHECK(all_empty(on_all(*group, [&](Communicator &c, int64_t) { body(c, false); })));
}

static void test_misuse() {
    auto group = group_of({{"dp", 2}}, 300);
    const Collective sum = collective("all_reduce", "{axes = [\"dp\"], sizes = [2], combine = \"sum\"}");
    const Collective most = collective("all_reduce", "{axes = [\"dp\"], sizes = [2], combine = \"max\"}");
    auto run = [&](Communicator &c, const Collective &what, int64_t n) {
        std::vector<float> x(static_cast<size_t>(n)), y(static_cast<size_t>(n));
        c.run(what, view(x, {n}), view(y, {n}));
    };
    // One device does not come: the other names the collective and the line.
    auto errors = on_all(*group, [&](Communicator &c, int64_t rank) {
        if (rank == 0)
            run(c, sum, 4);
    });
    CHECK(errors[0].find("all_reduce at train.py:7: after 0.3 s, 1 of 2 devices have come") != std::string::npos);
    group->reset();
    errors = on_all(*group, [&](Communicator &c, int64_t rank) { run(c, rank ? sum : most, 4); });
    CHECK(errors[0].find("another device is at") != std::string::npos);
    group->reset();
    errors = on_all(*group, [&](Communicator &c, int64_t rank) { run(c, sum, rank ? 4 : 5); });
    CHECK(errors[0].find("do not make") != std::string::npos && !errors[1].empty());
    group->reset();
    const Collective other = collective("all_reduce", "{axes = [\"tp\"], sizes = [2], combine = \"sum\"}");
    errors = on_all(*group, [&](Communicator &c, int64_t) { run(c, other, 4); });
    CHECK(errors[0].find("no axis 'tp'") != std::string::npos);
    group->reset();
    const Collective larger = collective("all_reduce", "{axes = [\"dp\"], sizes = [4], combine = \"sum\"}");
    errors = on_all(*group, [&](Communicator &c, int64_t) { run(c, larger, 4); });
    CHECK(errors[0].find("groups of 4 devices; here are 2") != std::string::npos);

    CHECK_ERROR(group->communicator(2), Error, Code::Argument, "no device 2");
    CHECK_ERROR(collective("all_gather", "{axes = [\"dp\"], sizes = [2, 2], dim = 0}"), Error, Code::Graph, "1 axes");
    CHECK_ERROR(collective("all_gather", "{axes = [\"dp\"], sizes = [0], dim = 0}"), Error, Code::Graph, "size 0");
    CHECK_ERROR(collective("all_gather", "{axes = [\"dp\", \"dp\"], sizes = [2, 2], dim = 0}"), Error, Code::Graph,
                "different names");
    CHECK_ERROR(collective("all_gather", "{axes = [\"dp\"], sizes = [2], dim = -1}"), Error, Code::Graph, "dim is -1");
    CHECK_ERROR(collective("all_reduce", "{axes = [], sizes = [], combine = \"mean\"}"), Error, Code::Graph, "'mean'");
}

// Many rounds on overlapping groups, as fast as they go.
static void test_many_rounds() {
    auto group = group_of({{"dp", 2}, {"tp", 2}});
    const Collective over[] = {collective("all_reduce", "{axes = [\"dp\"], sizes = [2], combine = \"sum\"}"),
                               collective("all_reduce", "{axes = [\"tp\"], sizes = [2], combine = \"sum\"}"),
                               collective("all_reduce", "{axes = [\"dp\", \"tp\"], sizes = [2, 2], combine = \"sum\"}")};
    auto errors = on_all(*group, [&](Communicator &c, int64_t rank) {
        bool right = true;
        for (int round = 0; round < 300; ++round) {
            std::vector<float> x(9, static_cast<float>(rank + round)), y(9);
            c.run(over[round % 3], view(x, {9}), view(y, {9}));
            const int64_t ranks = round % 3 == 0 ? 2 * (rank % 2) + 2 : round % 3 == 1 ? 4 * (rank / 2) + 1 : 6;
            right = right && y[8] == static_cast<float>(ranks + (round % 3 == 2 ? 4 : 2) * round);
        }
        CHECK(right);
    });
    CHECK(all_empty(errors));
}

int main() {
    test_all_reduce();
    test_gather_and_scatter();
    test_all_to_all();
    test_permute();
    test_combine();
    test_failure();
    test_misuse();
    test_many_rounds();
    return finish();
}
