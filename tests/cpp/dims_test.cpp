#include "core/dims.h"

#include "check.h"
#include "core/error.h"

using namespace tessera::core;

static SymbolTable table() {
    auto b = std::make_shared<Symbol>();
    b->name = "B";
    b->min = 1;
    b->max = 4096;
    auto t = std::make_shared<Symbol>();
    t->name = "T";
    t->min = 8;
    t->multiple_of = 8;
    t->index = 1;
    return {b, t};
}

static Dim dim(const std::string &text) { return Dim::parse(text, table()); }

static void test_canonical_form() {
    CHECK(dim("2*B + 1 + B").text() == "3*B + 1");
    CHECK(dim("B*T - T*B + 4").text() == "4");
    CHECK(dim("(B + 1) * (B - 1)").text() == "B*B - 1");
    CHECK(dim("(4*B + 6) // 4").text() == dim("B + 6 // 4").text());
    CHECK(dim("T % 8") == Dim(0));
    CHECK(dim("T // 8 * 8").text() == "8*(T // 8)");
    CHECK(dim("(B + 15) // 16 * 64").text() == "64*((B + 15) // 16)");
    CHECK(dim("max(B, 0)") == dim("B"));
    CHECK(dim("min(B, T)").text() == "min(B, T)");
    CHECK(dim("max(T, B)").text() == "max(B, T)");
    CHECK(dim("-B").text() == "-B");
    CHECK(dim("0 - 3").text() == "-3");
    CHECK(dim("B // 5000") == Dim(0));
    CHECK(dim(dim("(2*B + 3) // 4 + max(B, 7) * T").text()) == dim("(2*B + 3) // 4 + max(B, 7) * T"));
}

static void test_evaluation() {
    Sizes sizes{{"B", 10}, {"T", 16}};
    CHECK(dim("2*B*T + T // 3").evaluate(sizes) == 325);
    CHECK(dim("2*B*T + T // 3").evaluate(std::vector<int64_t>{10, 16}) == 325);
    CHECK(dim("(0 - B) // 3").evaluate(sizes) == -4);
    CHECK(dim("(0 - B) % 3").evaluate(sizes) == 2);
    CHECK(dim("B*T").substitute({{"B", dim("T + 1")}}).text() == "T*T + T");
    CHECK(dim("B + T").symbols().size() == 2);
    CHECK(ceildiv(dim("B"), 16).evaluate(sizes) == 1);
    CHECK_ERROR(dim("B").evaluate(Sizes{}), Error, Code::NameMissing, "'B'");
    CHECK_ERROR(dim("B // (T - 16)").evaluate(sizes), Error, Code::Shape, "by zero");
    CHECK_ERROR(dim("B*B*B*B*B*B").evaluate(Sizes{{"B", 1 << 20}}), Error, Code::Shape, "64 bits");
}

static void test_nonnegative() {
    for (const char *text : {"B - min(3, B)", "3 - min(3, B)", "max(B, min(1, B)) - min(1, B)", "T - T // 2", "T - 2*(T // 2)",
                             "T // 2 - 4", "B - 1", "max(B, T) - B"})
        CHECK(dim(text).is_nonnegative());
    for (const char *text : {"B - 2", "min(3, B) - 2", "T // 2 - 5", "B - max(B, T)", "B - T", "2*(T // 3) - T"})
        CHECK(!dim(text).is_nonnegative());
}

static void test_hostile_text() {
    const char *texts[] = {"", "B +", "(B", "C", "1 / 2", "B $ 2", "max(B)", "min(1, 2", "1234567890123456789012", "B B", "max"};
    for (const char *text : texts)
        CHECK_ERROR(dim(text), Error, Code::Graph, "dimension '");
    CHECK_ERROR(dim("B // 0"), Error, Code::Shape, "by zero");
    CHECK_ERROR(dim(std::string(1000, '(') + "B"), Error, Code::Graph, "nested too deeply");
    std::string chain = "T";
    for (int i = 0; i < 200; ++i)
        chain += " // 3";
    CHECK_ERROR(dim(chain), Error, Code::Graph, "nested too deeply");
    std::string product = "B";
    for (int i = 0; i < 100; ++i)
        product += "*T";
    CHECK_ERROR(dim(product), Error, Code::Graph, "degree");
    CHECK_ERROR(dim("999999999999999999 * 999999999999999999"), Error, Code::Shape, "64 bits");
    CHECK_ERROR(dim(std::string(100000, ' ')), Error, Code::Graph, "longer than");
}

static void test_symbol_check() {
    SymbolTable symbols = table();
    symbols[1]->check(16);
    CHECK_ERROR(symbols[0]->check(0), Error, Code::Shape, "dimension B = 0 is illegal: it must be at least 1 and at most 4096");
    CHECK_ERROR(symbols[1]->check(12), Error, Code::Shape, "a multiple of 8");
}

int main() {
    test_canonical_form();
    test_evaluation();
    test_nonnegative();
    test_hostile_text();
    test_symbol_check();
    return finish();
}
