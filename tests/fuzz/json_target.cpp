// JSON: what parses is written as text that parses to the same text.
#include "core/json.h"
#include "target.h"

using tessera::core::Json;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Json parsed;
    if (!accepted([&] { parsed = Json::parse(text_of(data, size), "text", 16, 10'000); }))
        return 0;
    std::string dumped = parsed.dump(), again;
    must(accepted([&] { again = Json::parse(dumped, "text", 16, 10'000).dump(); }), "written JSON parses", dumped);
    must(again == dumped, "written JSON is stable", dumped + "\n" + again);
    return 0;
}
