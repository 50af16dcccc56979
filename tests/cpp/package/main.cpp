// A program that needs no shared library of Tessera's: runs a compiled graph.
#include <tessera/runtime.h>

#include "artifact_builder.h"

int main() {
    using namespace tessera;
    const std::string bytes = test_artifact();
    Graph graph = Graph::load(bytes.data(), bytes.size());
    Runtime runtime(2);
    Tensor x = Tensor::create({16, 4}, DType::F32), labels = Tensor::create({16}, DType::I64);
    x.data<float>()[63] = 21;
    Tensor y = runtime.submit(graph, {{"x", x}, {"labels", labels}}).output("y");
    return y.data<float>()[63] == 42 ? 0 : 1;
}
