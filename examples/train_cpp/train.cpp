// Trains from C++: runs the training step that Python exported, saves its state, and goes on from it after being killed.
// Usage: train --steps N --state FILE [--kill-at STEP], in the folder where export.py wrote train.tsr and the batches.
#include <tessera/runtime.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>

static const int64_t batch = 64, pixels = 64;
static const int64_t save_every = 10;

// Reads one batch of a file of equal batches into a tensor.
static void read(std::ifstream &file, int64_t step, tessera::Tensor &into) {
    const std::streamoff bytes = static_cast<std::streamoff>(into.bytes());
    file.seekg(step * bytes);
    if (!file.read(static_cast<char *>(into.data<void>()), bytes))
        throw std::runtime_error("the batches end before step " + std::to_string(step));
}

static int train(int64_t steps, const std::string &state, int64_t kill_at) {
    tessera::Graph graph = tessera::Graph::load("train.tsr");
    const tessera::Tensor count = graph.state("adamw.step"); // the optimizer counts the steps; state that is saved
    const int64_t *done = count.data<const int64_t>();
    if (std::ifstream(state).good()) {
        graph.load_state(state);
        std::printf("resumed at step %lld\n", static_cast<long long>(*done));
    }
    std::ifstream inputs("inputs.f32", std::ios::binary), labels("labels.i64", std::ios::binary);
    tessera::Tensor x = tessera::Tensor::create({batch, pixels}, tessera::DType::F32);
    tessera::Tensor y = tessera::Tensor::create({batch}, tessera::DType::I64);
    tessera::Tensor loss = tessera::Tensor::create({}, tessera::DType::F32);
    tessera::Runtime runtime;
    tessera::Binding step = runtime.bind(graph, {{"input", x}, {"labels", y}}, {{"loss", loss}});
    while (*done < steps) {
        read(inputs, *done, x);
        read(labels, *done, y);
        step();
        if (*done == kill_at)
            std::raise(SIGKILL);
        if (*done % save_every == 0 || *done == steps)
            graph.save_state(state);
    }
    std::printf("C++: %lld steps, loss %.4f\n", static_cast<long long>(*done), *loss.data<float>());
    return 0;
}

int main(int count, char **arguments) {
    int64_t steps = 100, kill_at = -1;
    std::string state = "state.safetensors";
    for (int i = 1; i + 1 < count; i += 2) {
        if (!std::strcmp(arguments[i], "--steps"))
            steps = std::atoll(arguments[i + 1]);
        else if (!std::strcmp(arguments[i], "--state"))
            state = arguments[i + 1];
        else if (!std::strcmp(arguments[i], "--kill-at"))
            kill_at = std::atoll(arguments[i + 1]);
    }
    try {
        return train(steps, state, kill_at);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "train: %s\n", error.what());
        return 1;
    }
}
