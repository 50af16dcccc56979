// Guide §1.5, the C++ half: run the graph that Python saved. The marked region is the guide's text.
#include <cstdio>
#include <tessera/runtime.h>

using namespace tessera;

int main() {
    // guide: begin
Graph g = Graph::load("mlp.tsr");
Runtime rt;
rt.submit(g);
    // guide: end
    rt.wait();
    std::printf("ran on %s\n", g.target().c_str());
    return 0;
}
