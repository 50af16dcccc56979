// Graph IR text: what parses prints to text that parses to the same text; what verifies runs.
#include "bounded_run.h"
#include "graph/parser.h"
#include "graph/printer.h"
#include "graph/verify.h"
#include "target.h"

using namespace tessera;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::string_view text = text_of(data, size);
    graph::Graph parsed;
    if (!accepted([&] { parsed = graph::parse_graph(text); })) {
        accepted([&] { graph::parse_attributes(text); });
        return 0;
    }
    std::string printed = graph::to_text(parsed), again;
    must(accepted([&] { again = graph::to_text(graph::parse_graph(printed)); }), "printed text parses", printed);
    must(again == printed, "printed text is stable", printed + "\n---\n" + again);
    accepted([&] {
        graph::verify(parsed);
        run_if_small(portable::Program(std::move(parsed)), size % 4);
    });
    return 0;
}
