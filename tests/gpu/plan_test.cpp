// Plans of GPUs that do not fit: each is refused with an error that names the place, before anything runs.
#include "exec/gpu_prepared.h"
#include "plan_builder.h"

using namespace gpu_test;

namespace {

// The plan with one piece of its text replaced.
std::string changed(std::string text, const std::string &piece, const std::string &other) {
    size_t at = text.find(piece);
    CHECK(at != std::string::npos);
    return text.replace(at, piece.size(), other);
}

Plan parse(const std::string &text) {
    static const std::string code = image();
    return Plan::parse(text, "test.tsr", code, target());
}

void refused_when_read() {
    const std::string good = double_sum().text(), checked = checked_step().text();
    parse(good);
    parse(checked);
    struct Case {
        const std::string &text;
        const char *piece, *other, *words;
    };
    const Case cases[] = {
        {good, R"("offset": 64)", R"("offset": 6400000)", "does not lie in the image"},
        {good, R"("offset": 64)", R"("offset": -1)", "does not lie in the image"},
        {good, R"("bytes": )", R"("bytes": 99)", "does not lie in the image"},
        {good, R"("format": ")", R"("format": "x)", "unknown format"},
        {good, R"("module": 0)", R"("module": 2)", "'module' is 2"},
        {good, R"("module": 0)", R"("module": -1)", "'module' is -1"},
        {good, R"("threads": 128)", R"("threads": 0)", "'threads' is 0, expected 1 to 1024"},
        {good, R"("threads": 128)", R"("threads": 2048)", "'threads' is 2048"},
        {good, R"("threads": 128)", R"("threads": "many")", "'threads' is not an integer"},
        {good, R"("shared": 0)", R"("shared": 99999999)", "'shared' is 99999999"},
        {good, R"("shared": 0)", R"("shared": 0, "cluster": [2, 1])", "needs three sizes"},
        {good, R"("shared": 0)", R"("shared": 0, "cluster": [0, 1, 1])", "outside [1, 16]"},
        {good, R"("shared": 0)", R"("shared": 0, "scratch": -8)", "'scratch' is -8"},
        {good, R"("shared": 0)", R"("shared": 0, "early": 1)", "'early' is not true or false"},
        {good, R"({"buffer": 0},)", R"({"buffer": -1},)", "'buffer' is -1"},
        {good, R"({"buffer": 0},)", R"({"buffer": 7},)", "takes 8 buffers"},
        {good, R"({"buffer": 0},)", R"({"puffer": 0},)", "of no known kind"},
        {good, R"({"buffer": 0},)", R"(5,)", "not an object"},
        {good, R"("type": "i64")", R"("type": "f32")", "a size of type 'f32'"},
        {good, R"({"size": 0, "type": "i64"})", R"({"constant": 1, "type": "i8"})", "a constant of type 'i8'"},
        {good, R"({"size": 0, "type": "i64"})", R"({"constant": 5000000000, "type": "i32"})", "'constant' is 5000000000"},
        {good, R"({"size": 0, "type": "i64"})", R"({"status": "other"})", "'other'"},
        {good, R"("kernel": 0)", R"("kernel": 2)", "'kernel' is 2"},
        {good, R"("buffers": [0, 1, 3])", R"("buffers": [0, 1])", "the call gives 2 and 1"},
        {good, R"("buffers": [0, 1, 3])", R"("buffers": [0, 1, 9])", "buffer index"},
        {good, R"("sizes": ["N"])", R"("sizes": [])", "the call gives 3 and 0"},
        {good, R"("grid": ["(N + 127) // 128", 1, 1])", R"("grid": [1])", "needs three sizes"},
        {good, R"("grid": ["(N + 127) // 128", 1, 1])", R"("grid": ["M", 1, 1])", "M"},
        {good, R"("grid": ["(N + 127) // 128", 1, 1])", R"("grid": 1)", "not a list"},
        {checked, R"("kernel": 0, "buffers": [0])", R"("kernel": 9, "buffers": [0])", "'kernel' is 9"},
        {checked, R"("check_range": 0)", R"("check_range": 40)", "buffer index"},
        {checked, R"("dtype": "i64", "count")", R"("dtype": "f32", "count")", "only integers"},
    };
    for (const Case &c : cases) {
        std::string text = error_of([&] { parse(changed(c.text, c.piece, c.other)); }, Code::Format);
        if (!contains(text, c.words))
            std::printf("%s: %s\n", c.other, text.c_str());
        CHECK(contains(text, c.words));
    }
    CHECK(contains(error_of([&] { parse(changed(good, R"({"kernel": 1,)", R"({"portable": "add", "attrs": "", "operands": [], "results": [], "kern": 1,)")); }, Code::Format),
                   "no portable operators"));
    CHECK(contains(error_of([&] { parse(changed(good, "\"" + target() + "\"", "\"cpu\"")); }, Code::Format), "has target 'cpu'"));
}

void refused_for_given_sizes() {
    auto prepare = [](const std::string &text, int64_t n, Code code) {
        return error_of([&] { Plan plan = parse(text); GpuPrepared(plan, {n}); }, code);
    };
    const std::string good = double_sum().text();
    CHECK(prepare(good, 1000, Code::Format) == "");
    CHECK(contains(prepare(good, int64_t{1} << 33, Code::Shape), "cannot hold in 32 bits"));
    CHECK(contains(prepare(good, int64_t{1} << 33, Code::Shape), "model.py:8"));
    CHECK(contains(prepare(good, int64_t{1} << 40, Code::Shape), "blocks in dimension 0"));
    std::string tall = changed(good, R"(["(N + 127) // 128", 1, 1])", R"([1, "N", 1])");
    CHECK(prepare(tall, 65535, Code::Shape) == "");
    CHECK(contains(prepare(tall, 65536, Code::Shape), "dimension 1 of its grid"));
    CHECK(contains(prepare(changed(good, R"(["(N + 127) // 128", 1, 1])", R"(["N - 5", 1, 1])"), 3, Code::Format), "grid is -2"));
    std::string clusters = changed(good, R"("shared": 0)", R"("shared": 0, "cluster": [2, 1, 1])");
    CHECK(prepare(clusters, 256, Code::Format) == "");
    CHECK(contains(prepare(clusters, 128, Code::Format), "no multiple of its cluster"));
    CHECK(contains(prepare(changed(good, R"("arena": "4*N + 64")", R"("arena": "4*N")"), 100, Code::Format), "does not fit in the arena"));
    if (device_type != DeviceType::CUDA)
        return;
    const std::string map = R"({"tensor_map": {"buffer": 0, "dtype": "f32", "shape": [{"size": 0}, 4], "strides": [4, 1], "box": [8, 4]}},)";
    std::string mapped = changed(good, R"({"buffer": 0},)", map);
    CHECK(contains(prepare(mapped, 8, Code::Format), "does not fit in buffer 0"));
    std::string fits = changed(mapped, R"("shape": [{"size": 0}, 4], "strides": [4, 1])", R"("shape": [1, {"size": 0}], "strides": [{"size": 0}, 1])");
    CHECK(prepare(fits, 8, Code::Format) == "");
    std::string twice = changed(fits, R"("strides": [{"size": 0}, 1])", R"("strides": [{"size": 0, "times": 2}, 1])");
    CHECK(GpuPrepared(parse(twice), {8}).maps[0].layout.strides[0] == 64);
    std::string behind = changed(fits, R"("box": [8, 4])", R"("box": [8, 4], "start": 4)");
    CHECK(contains(prepare(behind, 8, Code::Format), "a tensor map of 48 bytes does not fit in buffer 0"));
    behind = changed(behind, R"("shape": [1, {"size": 0}])", R"("shape": [1, 4])");
    CHECK(prepare(behind, 8, Code::Format) == "" && GpuPrepared(parse(behind), {8}).maps[0].start == 16);
    CHECK(contains(prepare(changed(behind, R"("start": 4)", R"("start": 3)"), 8, Code::Format), "starts at byte 12, expected a multiple of 16"));
    CHECK(contains(prepare(changed(fits, R"("strides": [{"size": 0}, 1])", R"("strides": [1, {"size": 0}])"), 8, Code::Format), "last stride"));
    for (const char *wrong : {R"("box": [0, 4])", R"("box": [8])", R"("box": [8, 400])"})
        CHECK(error_of([&] { parse(changed(mapped, R"("box": [8, 4])", wrong)); }, Code::Format) != "");
    CHECK(contains(error_of([&] { parse(changed(mapped, R"("shape": [{"size": 0}, 4])", R"("shape": [-1, 4])")); }, Code::Format), "negative"));
}

// Only behind another kernel of the same run: what lies before the run, a copy or a library must have ended.
void early_behind_a_kernel() {
    auto is_early = [](const std::string &text) {
        std::string all;
        for (const GpuStep &step : GpuPrepared(parse(text), {1000}).steps)
            all += step.launch.early ? 'e' : '-';
        return all;
    };
    const std::string first = R"("name": "add", "module": 0)", second = R"("name": "scale", "module": 0)";
    const std::string good = double_sum().text();
    auto marked = [&](const std::string &text, const std::string &piece) { return changed(text, piece, piece + R"(, "early": true)"); };
    CHECK(is_early(good) == "--");
    CHECK(is_early(marked(good, first)) == "--");
    CHECK(is_early(marked(good, second)) == "-e");
    const std::string both = marked(marked(good, first), second);
    CHECK(is_early(both) == "-e");
    const std::string between = R"({"zero": 2, "bytes": 400}, )", at = R"({"kernel": 1)";
    CHECK(is_early(changed(both, at, between + at)) == "---");
}

} // namespace

int main(int argc, char **argv) {
    choose(argc, argv);
    refused_when_read();
    refused_for_given_sizes();
    early_behind_a_kernel();
    return finish();
}
