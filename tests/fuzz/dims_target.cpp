// Dimension expressions: the canonical form is stable and keeps its value; division and remainder belong together.
#include <cmath>

#include "core/dims.h"
#include "target.h"

using namespace tessera::core;

namespace {

SymbolTable declare() {
    struct {
        const char *name;
        int64_t min;
        std::optional<int64_t> max;
        int64_t multiple_of;
    } symbols[] = {{"B", 1, 4096, 1}, {"N", 0, std::nullopt, 1}, {"K", 8, 1 << 20, 8}, {"M", 2, 2, 2}};
    SymbolTable out;
    for (const auto &s : symbols) {
        auto symbol = std::make_shared<Symbol>();
        symbol->name = s.name;
        symbol->min = s.min;
        symbol->max = s.max;
        symbol->multiple_of = s.multiple_of;
        symbol->index = static_cast<int>(out.size());
        out.push_back(std::move(symbol));
    }
    return out;
}

void check_value(const Dim &d, const Dim &same, const std::vector<int64_t> &sizes) {
    int64_t value = 0, again = 0;
    if (!accepted([&] { value = d.evaluate(sizes); }) || !accepted([&] { again = same.evaluate(sizes); }))
        return;
    must(value == again, "equal dimensions have equal values", d.text());
    auto [low, high] = d.bounds();
    double v = static_cast<double>(value), slack = 1 + std::abs(v) * 1e-9;
    must(v >= low - slack && v <= high + slack, "a value lies within the bounds", d.text());
    must(!d.is_nonnegative() || value >= 0, "a dimension proved non-negative is", d.text());
    for (int64_t b : {2, 3, 64})
        must(!d.is_multiple(b) || value % b == 0, "a dimension proved to be a multiple is", d.text());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const SymbolTable symbols = declare();
    Dim d, again;
    std::string text;
    if (!accepted([&] { d = Dim::parse(text_of(data, size), symbols); }))
        return 0;
    text = d.text();
    // The canonical text of an expression within the limits may itself be over one of them.
    if (!accepted([&] { again = Dim::parse(text, symbols); }))
        return 0;
    must(d == again && again.text() == text, "a canonical text is stable", text + "\n" + again.text());
    for (const std::vector<int64_t> &sizes : {std::vector<int64_t>{1, 0, 8, 2}, {7, 12345, 64, 2}, {4096, 3, 1 << 20, 2}}) {
        check_value(d, again, sizes);
        for (int64_t b : {1, 3, 64, -5})
            accepted([&] { check_value(d, floordiv(d, b) * Dim(b) + mod(d, b), sizes); });
        accepted([&] {
            Dim k = Dim::symbol(symbols[2]);
            check_value(d, floordiv(d, k) * k + mod(d, k), sizes);
            check_value(max(d, k) + min(d, k), d + k, sizes);
        });
    }
    return 0;
}
