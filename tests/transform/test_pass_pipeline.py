"""Running passes: order, verification between them, printing, times."""

from __future__ import annotations

from collections import Counter

import pytest
from tessera import op
from tessera.errors import GraphError, InternalError, NameMissingError
from tessera.ir.graph import Graph
from tessera.ir.value import Node
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import PASSES, Timings, run_passes, to_primitives


def model() -> Graph:
    x = op.tensor((2, 3), dtype="f32", name="x")
    return Graph({"y": op.softmax(x * 1.0)})


def test_passes_run_in_order_and_are_timed() -> None:
    timings = Timings()
    found = run_passes(model(), ["decompose", "simplify"], timings=timings)
    assert [p.name for p in timings.passes] == ["decompose", "simplify"]
    assert timings.passes[0].nodes_before == len(model().nodes()) and timings.passes[1].nodes_after == len(
        found.nodes()
    )
    assert all(p.seconds >= 0 for p in timings.passes)
    assert str(timings).splitlines()[1].startswith("decompose ")
    assert str(found) == str(run_passes(model(), [PASSES["decompose"], "algebra", "fold", "cse", "dce"]))


def test_to_primitives_can_keep_composites() -> None:
    assert "softmax" in {n.op for n in to_primitives(model(), keep=frozenset({"softmax"})).nodes()}
    timings = Timings()
    assert "softmax" not in {n.op for n in to_primitives(model(), timings=timings).nodes()}
    assert [p.name for p in timings.passes] == ["decompose", "simplify"]


def broken(graph: Graph) -> Graph:
    y = graph.outputs["y"]
    return Graph({"y": Node("exp", (y,), {}, (y.type, y.type)).results[0]}, inputs=graph.inputs)


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InternalError, match=r"the pass 'broken' left a malformed graph: node \d+ \(exp\): its type is"):
        run_passes(model(), [broken], verify_each=True)
    run_passes(model(), [broken])
    monkeypatch.setenv("TESSERA_VERIFY_PASSES", "1")
    with pytest.raises(InternalError, match="the pass 'broken'"):
        run_passes(model(), [broken])
    with pytest.raises(GraphError):
        run_passes(broken(model()), ["simplify"])


def test_graphs_are_printed_between_passes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_passes(model(), ["decompose", "cse"])
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TESSERA_PRINT_PASSES", "1")
    run_passes(model(), ["decompose", "cse"])
    printed = capsys.readouterr().err
    assert printed.index("# after decompose\ntessera.graph 1") < printed.index("# after cse\ntessera.graph 1")


def test_unknown_pass() -> None:
    with pytest.raises(NameMissingError, match="there is no pass 'fuse'; there are decompose, simplify"):
        run_passes(model(), ["fuse"])


def test_a_training_step_becomes_what_one_would_write_by_hand() -> None:
    rows = op.dim("B", min=1)
    x, labels = op.tensor((rows, 20), dtype="f32", name="x"), op.tensor((rows,), dtype="i64", name="labels")
    loss = op.cross_entropy(op.mlp(in_dim=20, hidden=[16, 12], out_dim=5)(x), labels)
    weights = Graph({"loss": loss}).params()
    steps = {w: w - 0.1 * g for w, g in zip(weights, gradients([loss], weights))}
    found = Counter(n.op for n in to_primitives(Graph({"loss": loss}, updates=steps)).nodes())
    # Three products forward, three for the weights, two for the activations; transposes are operands of products.
    assert (found["matmul"], found["transpose"]) == (8, 5)
    # One sum per bias; loss: sum of exponentials, chosen logit, total and count.
    assert (found["exp"], found["max"], found["sum"]) == (1, 1, 3 + 4)
    assert not {"broadcast_to", "neg", "stop_gradient", "pad", "take"} & set(found)
