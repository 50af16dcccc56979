// Loads the operators, calls one, and runs an artefact that uses them: detect libmylib.so detector.tsr
#include <tessera/library.h>
#include <tessera/runtime.h>

#include <cstdio>

using namespace tessera;

int main(int argc, char **argv) {
    if (argc != 3) {
        std::printf("usage: %s libmylib.so detector.tsr\n", argv[0]);
        return 2;
    }
    try {
        Graph::load(argv[2]);
    } catch (const Error &error) { // the operators are not there yet
        std::printf("%s\n", error.what());
    }
    for (const std::string &name : load_library(argv[1]))
        std::printf("loaded %s\n", name.c_str());

    Runtime rt;
    Tensor x = Tensor::create({3}, DType::F32);
    for (int i = 0; i < 3; ++i)
        x.data<float>()[i] = static_cast<float>(i);
    Tensor y = rt.submit(op::call("mylib::swiglu", {x, x})).output();
    std::printf("swiglu %.4f %.4f %.4f\n", y.data<float>()[0], y.data<float>()[1], y.data<float>()[2]);

    Graph g = Graph::load(argv[2]);
    Tensor features = Tensor::create({6, 8}, DType::F32);
    for (int64_t i = 0; i < features.size(); ++i)
        features.data<float>()[i] = static_cast<float>((i * 37) % 11) / 11.0f;
    Run run = rt.submit(g, {{"features", features}});
    const Tensor kept = run.output("indices"), count = run.output("count");
    std::printf("%s kept %lld of 6:", g.target().c_str(), static_cast<long long>(*count.data<int64_t>()));
    for (int64_t i = 0; i < kept.size(); ++i)
        std::printf(" %lld", static_cast<long long>(kept.data<int64_t>()[i]));
    std::printf("\n");
}
