// Writes golden/from_cpp.tsr: a graph that was built and saved in C++, with a constant, a symbolic size and state that a
// run changes. Run once, with the folder as its argument; make_golden.py's `record_from_cpp` writes what it gives.
#include <tessera/runtime.h>

using namespace tessera;

static Tensor numbers(const std::vector<float> &values, const std::vector<int64_t> &shape) {
    Tensor t = Tensor::create(shape, DType::F32);
    for (size_t i = 0; i < values.size(); ++i)
        t.data<float>()[i] = values[i];
    return t;
}

int main(int, char **argv) {
    const Tensor scale = op::parameter("scale", numbers({1, 2, 3}, {3})), x = op::input("x", {op::dim("B"), 3});
    const Tensor table = numbers({1, 2, 3, 4, 5, 6, 7, 8, 9}, {3, 3});
    const Graph graph = Graph::trace(
        {{"y", op::softmax(x * scale)}, {"z", op::matmul(x, table)}}, {{scale, scale * 2}}, "from_cpp");
    graph.save(std::string(argv[1]) + "/from_cpp.tsr");
}
