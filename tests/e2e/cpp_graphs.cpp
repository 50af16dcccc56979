// Builds one graph from many operators, differentiates it, runs it, and saves it with its inputs and results.
#include <tessera/runtime.h>

using namespace tessera;

int main() {
    Runtime rt(1);
    const Dim b = op::dim("B", 1, 64), n = op::dim("N", 2, 64, 2);
    const Tensor ids = op::input("ids", {b, n}, DType::I64), target = op::input("target", {b, n}, DType::I64);
    const auto parameter = [&](const char *name, std::vector<int64_t> shape, int64_t seed) {
        const Tensor drawn = op::normal(shape, 0.0, 0.4, DType::F32, seed), memory = Tensor::create(shape, DType::F32);
        rt.submit(drawn);
        rt.wait();
        for (int64_t i = 0; i < memory.size(); ++i)
            memory.data<float>()[i] = drawn.data<const float>()[i];
        return op::parameter(name, memory);
    };
    const Tensor table = parameter("table", {11, 8}, 1), w = parameter("w", {8, 24}, 2), v = parameter("v", {8, 11}, 3);
    const Tensor gain = parameter("gain", {8}, 4);
    const Tensor x = op::layer_norm(op::embedding(ids, table), gain);
    const std::vector<Tensor> qkv = op::split(op::linear(x, w), 3, -1);
    std::vector<Tensor> heads;
    for (const Tensor &part : qkv)
        heads.push_back(op::transpose(op::reshape(part, {b, n, 2, 4}), {0, 2, 1, 3}));
    const Tensor mixed = op::scaled_dot_product_attention(heads[0], heads[1], heads[2], {}, true);
    const Tensor merged = op::flatten(op::transpose(mixed, {0, 2, 1, 3}), 2);
    const Tensor scores = op::einsum("bnd,dv->bnv", {op::gelu(x + merged), v});
    const Tensor loss = op::cross_entropy(scores, target, {}, 0, 0.1);
    const std::vector<Tensor> parameters = {table, w, v, gain}, slopes = grad(loss, parameters);
    const Tensor step = op::parameter("step", Tensor::create({}, DType::I64), false);
    const NamedTensors outputs = {{"scores", op::log_softmax(scores)}, {"loss", loss},
                                  {"grad.table", slopes[0]}, {"grad.w", slopes[1]},
                                  {"grad.v", slopes[2]}, {"grad.gain", slopes[3]},
                                  {"pairs", op::pad(op::cumsum(op::one_hot(ids, 11), 1), {{0, 0}, {1, 0}, {0, 0}})}};
    const Graph graph = Graph::trace(outputs, {{step, step + 1}}, "net");
    const Tensor given = Tensor::create({3, 6}, DType::I64), wanted = Tensor::create({3, 6}, DType::I64);
    for (int64_t i = 0; i < 18; ++i) {
        given.data<int64_t>()[i] = i * i % 11;
        wanted.data<int64_t>()[i] = i * 3 % 11;
    }
    graph.save("net.tsr");
    const std::vector<Tensor> found = rt.run(graph, {given, wanted});
    NamedTensors results;
    for (size_t i = 0; i < found.size(); ++i)
        results.emplace_back(outputs[i].first, found[i]);
    Graph::trace(results, "results").save("results.tsr");
}
