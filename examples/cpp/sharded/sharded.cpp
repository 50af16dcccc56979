// A program of a mesh, one process per device:
//
//   python export.py sharded.tsr 4
//   mpiexec -n 4 ./sharded sharded.tsr [library of MPI]
#include <tessera/dist/sharded_graph.h>

#include <cstdio>
#include <string>
#include <vector>

using namespace tessera;

namespace {

std::string text(const std::vector<int64_t> &numbers) {
    std::string out;
    for (int64_t n : numbers)
        out += (out.empty() ? "" : ",") + std::to_string(n);
    return "[" + out + "]";
}

// A line in one write: other processes print too.
void say(const std::string &line) { std::fputs((line + "\n").c_str(), stdout); }

void run(const World &world, const std::string &path) {
    // docs: load
    ShardedGraph graph = ShardedGraph::load(path, world);
    // This process's shard of the weights; the file holds them whole.
    for (const ValueInfo &state : graph.local().state()) {
        const Shard shard = graph.state_shard(state.name);
        say("rank " + std::to_string(world.rank()) + " holds " + state.name + text(shard.shape()) + " from " + text(shard.start) +
            " of " + text(shard.whole));
    }
    // docs: end

    const std::vector<int64_t> shape = graph.input_shard("x").whole;
    Tensor x = Tensor::create(shape, DType::F32);
    for (int64_t i = 0; i < x.size(); ++i)
        x.data<float>()[i] = static_cast<float>(i % 13 - 6) / 6;

    Runtime runtime(1);
    std::vector<ShardedTensor> outputs;
    for (int i = 0; i < 3; ++i)
        outputs = graph.run(runtime, {{"x", x}}); // each process takes its part of the rows
    for (const ShardedTensor &output : outputs) {
        const Tensor whole = graph.gather(output); // all processes together
        if (world.rank() != 0)
            continue;
        std::string line = output.name + text(output.shard.whole) + ":";
        for (int64_t i = 0; i < whole.size() && i < 7; ++i) {
            char value[32];
            std::snprintf(value, sizeof value, " %.5f", static_cast<double>(whole.data<const float>()[i]));
            line += value;
        }
        say(line);
    }
    say("rank " + std::to_string(world.rank()) + " received " + std::to_string(graph.received_bytes()) + " bytes in " +
        std::to_string(graph.local().state("calls").data<const int64_t>()[0]) + " runs");
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: mpiexec -n DEVICES ./sharded FILE.tsr [MPI LIBRARY]\n");
        return 2;
    }
    try {
        MpiOptions options;
        options.library = argc > 2 ? argv[2] : ""; // empty: what the dynamic loader finds
        options.timeout = 20;
        const World world = World::mpi(options);
        try {
            run(world, argv[1]);
        } catch (const std::exception &error) {
            world.fail(error.what()); // the other processes must not wait for this one
            throw;
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
