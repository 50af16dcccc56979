// The smallest program that runs a graph: its size, linked statically, is reported.
#include <tessera/runtime.h>

#include <cstdio>

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    tessera::Graph graph = tessera::Graph::load(arguments[1]);
    tessera::Runtime runtime;
    tessera::Tensor x = tessera::Tensor::create({1, 64}, tessera::DType::F32);
    tessera::Tensor y = runtime.submit(graph, {{"x", x}}).output("y");
    std::printf("%f\n", static_cast<double>(y.data<float>()[0]));
    return 0;
}
