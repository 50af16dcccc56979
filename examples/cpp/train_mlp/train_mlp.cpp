// A model, its training step and its training in C++ alone: an MLP learns the sign of x · y. Saves the step and the
// model, with which Python goes on (continue.py).
#include <tessera/runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

using namespace tessera;

struct Layer {
    Tensor weight, bias;
};

// A layer whose weight is drawn by He's rule; the draw is a function of the seed.
static Layer layer(Runtime &rt, const std::string &name, int64_t in, int64_t out, int64_t seed) {
    Tensor weight = op::normal({in, out}, 0.0, std::sqrt(2.0 / static_cast<double>(in)), DType::F32, seed);
    rt.submit(weight);
    rt.wait();
    Tensor values = Tensor::create({in, out}, DType::F32); // memory that the parameter and its graphs share
    const float *drawn = weight.data<const float>();
    std::copy(drawn, drawn + in * out, values.data<float>());
    return {op::parameter(name + ".weight", values),
            op::parameter(name + ".bias", Tensor::create({out}, DType::F32))};
}

static Tensor mlp(const std::vector<Layer> &layers, Tensor x) {
    for (size_t i = 0; i < layers.size(); ++i) {
        x = op::linear(x, layers[i].weight, layers[i].bias);
        if (i + 1 < layers.size())
            x = op::relu(x);
    }
    return x;
}

// Points of [-1, 1]² that fill it evenly, and whether both coordinates have one sign.
static void fill(int64_t first, const Tensor &points, const Tensor &labels) {
    float *xy = points.data<float>();
    for (int64_t i = 0; i < labels.size(); ++i) {
        const double n = static_cast<double>(first + i);
        xy[2 * i] = static_cast<float>(2 * std::fmod(n * 0.7548776662466927, 1.0) - 1);
        xy[2 * i + 1] = static_cast<float>(2 * std::fmod(n * 0.5698402909980532, 1.0) - 1);
        labels.data<int64_t>()[i] = xy[2 * i] * xy[2 * i + 1] > 0;
    }
}

int main() {
    Runtime rt;
    const std::vector<Layer> layers = {layer(rt, "first", 2, 32, 1), layer(rt, "second", 32, 32, 2),
                                       layer(rt, "third", 32, 2, 3)};

    // The step: loss, gradients and updates are one graph, for any batch size.
    const Dim batch = op::dim("B", 1, 4096);
    const Tensor x = op::input("x", {batch, 2}), labels = op::input("labels", {batch}, DType::I64);
    const Tensor logits = mlp(layers, x), loss = op::cross_entropy(logits, labels);
    std::vector<Tensor> parameters;
    for (const Layer &l : layers)
        parameters.insert(parameters.end(), {l.weight, l.bias});
    const std::vector<Tensor> gradients = grad(loss, parameters);
    Updates updates;
    for (size_t i = 0; i < parameters.size(); ++i)
        updates.emplace_back(parameters[i], parameters[i] - 0.2 * gradients[i]);
    Graph step = Graph::trace({{"loss", loss}}, updates, "step");

    const Tensor points = Tensor::create({256, 2}, DType::F32), classes = Tensor::create({256}, DType::I64);
    for (int64_t n = 0; n < 300; ++n) {
        fill(n * 256, points, classes);
        const Tensor found = rt.submit(step, {{"x", points}, {"labels", classes}}).output("loss");
        if (n % 100 == 0)
            std::printf("step %3d  loss %.4f\n", static_cast<int>(n), static_cast<double>(found.data<float>()[0]));
    }

    // The model, with the weights that the step has trained.
    Graph model = Graph::trace({{"class", op::argmax(logits, -1)}}, "model");
    fill(1000000, points, classes);
    const Tensor found = rt.submit(model, {{"x", points}}).output("class");
    int right = 0;
    for (int64_t i = 0; i < classes.size(); ++i)
        right += found.data<int64_t>()[i] == classes.data<int64_t>()[i];
    std::printf("%.1f%% right\n", 100.0 * right / 256);

    step.save("step.tsr");
    model.save("model.tsr");
}
