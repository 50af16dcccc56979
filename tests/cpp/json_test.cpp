#include "core/json.h"

#include "check.h"
#include "core/error.h"

using namespace tessera::core;

static Json parse(const std::string &text) { return Json::parse(text, "text"); }

static void test_values() {
    Json j = parse(R"( {"a": [1, -2, 9223372036854775807], "b": 1.5e3, "c": "x\n\u00e9\ud83d\ude00", "d": null, "e": true} )");
    CHECK(j.find("a")->items()[2].as_integer() == INT64_MAX);
    CHECK(j.find("b")->as_real() == 1500.0);
    CHECK(j.find("c")->as_string() == "x\n\xc3\xa9\xf0\x9f\x98\x80");
    CHECK(j.find("d")->is_null());
    CHECK(j.find("e")->as_bool());
    CHECK(j.find("f") == nullptr);
    CHECK(parse(j.dump()).dump() == j.dump());
    CHECK(parse("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"").as_string() == "\"\\/\b\f\n\r\t");
}

static void test_malformed() {
    const char *texts[] = {"",       "{",       "[1,]",    "{\"a\"}",    "{\"a\":1,}", "01",     "1.",        "-",      "nul",
                           "\"\\x\"", "\"\\u12\"", "\"\x01\"", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\\ud800\"", "1 2",
                           "9223372036854775808", "1e999", "[1 2]", "{1: 2}", "\"abc"};
    for (const char *text : texts)
        CHECK_ERROR(parse(text), Error, Code::Format, "text: malformed JSON at byte");
    CHECK_ERROR(parse(R"({"a": 1, "a": 2})"), Error, Code::Format, "\"a\" occurs twice");
}

static void test_limits() {
    CHECK_ERROR(parse(std::string(100000, '[')), Error, Code::Format, "nested too deeply");
    CHECK_ERROR(Json::parse("[1,2,3,4]", "text", 64, 3), Error, Code::Format, "too many values");
    std::string deep(64, '[');
    CHECK(parse(deep + std::string(64, ']')).is_array());
}

int main() {
    test_values();
    test_malformed();
    test_limits();
    return finish();
}
