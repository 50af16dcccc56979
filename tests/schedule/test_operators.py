"""Every operator's samples through schedule and Tile IR, interpreted, against its reference."""

from __future__ import annotations

import numpy as np
import pytest
from tessera.ir.graph import Graph
from tessera.op.opdef import REGISTRY
from tessera.op.reference import evaluate
from tessera.schedule.options import Schedule
from tessera.tile.interpret import run_plan
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.ops.harness import assert_close, cases, each, joined, operators


def run(graph: Graph, feeds: dict[str, np.ndarray], options: Schedule | None = None) -> dict[str, np.ndarray]:
    primitives = to_primitives(graph)
    constants = {v.node.attrs["name"]: np.asarray(v.node.payload) for v in primitives.constants()}
    return run_plan(build_plan(primitives, options), feeds, constants=constants)[0]


@pytest.mark.parametrize("name", operators())
def test_samples(name: str) -> None:
    for _, dtype in each([name]):
        group = cases(REGISTRY[name], dtype)
        if not group:
            continue
        graph, feeds = joined(group)
        expected = evaluate(graph, feeds)
        for options in (None, Schedule(fusion=False)):
            found = run(graph, feeds, options)
            for case in group:
                for output in case.outputs():
                    assert_close(found[output], expected[output], 2 * case.sample.tolerance, f"{name} {dtype} {output}")


@pytest.mark.parametrize("name", [n for n in operators() if "f64" in REGISTRY[n].dtypes])
def test_gradients(name: str) -> None:
    outputs, feeds, inputs = {}, {}, []
    for case in cases(REGISTRY[name], "f64", gradient=True):
        wrt = [v for v in case.leaves if v.dtype.is_float]
        results = [r for r in case.results if r.dtype.is_float]
        if not wrt or not results:
            continue
        found = gradients(results, wrt, [r * 0.5 + 1.0 for r in results])
        outputs |= {f"g{case.number}_{i}": g for i, g in enumerate(found)} | case.outputs()
        feeds |= case.feeds
        inputs += case.leaves
    graph = Graph(outputs, inputs=inputs)
    expected = evaluate(graph, feeds)
    for output, array in run(graph, feeds).items():
        assert_close(array, expected[output], 100.0, f"{name} {output}")
