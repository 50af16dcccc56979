"""Guide §1.5, the Python half: export a graph for C++. The marked region is the guide's text."""

from tessera import graph, op

X = op.tensor((32, 64), name="x")
Y = op.mlp(in_dim=64, hidden=[128], out_dim=10)(X)

# guide: begin
compiled = graph.compile(Y, target="ptx")
compiled.save("mlp.tsr")
# guide: end

print(compiled)
