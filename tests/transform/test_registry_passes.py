"""Every operator through every pass: text, verifier, gradient, decomposition and simplification keep its meaning."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import op
from tessera.ir.graph import Graph
from tessera.ir.parser import parse_graph
from tessera.ir.value import Value
from tessera.ir.verify import verify
from tessera.op.opdef import REGISTRY, NoVjp
from tessera.op.reference import evaluate
from tessera.transform.autodiff import gradients
from tessera.transform.decompose import decompose
from tessera.transform.simplify import simplify

from tests.ops.harness import Case, assert_close, cases, joined, operators


def gradient_outputs(case: Case) -> dict[str, Value]:
    """Gradients of the results, in dtypes with arithmetic, with respect to the floating-point operands."""
    wrt = [v for v in case.leaves if v.dtype.is_float]
    losses = [op.sum(r * op.sin(r)) for r in case.results if r.dtype.is_float and r.dtype.bits > 8]
    if not wrt or not losses or isinstance(case.definition.vjp, NoVjp):
        return {}
    return {f"g{case.number}_{i}": g for i, g in enumerate(gradients(losses, wrt))}


@pytest.mark.parametrize("name", operators())
def test_passes_keep_the_meaning(name: str) -> None:
    definition = REGISTRY[name]
    dtype = next((d for d in ("f64", "i64", "bool") if d in definition.dtypes), definition.dtypes[0])
    group = cases(definition, dtype)
    graph, feeds = joined(group)
    outputs = dict(graph.outputs)
    for case in group:
        outputs |= gradient_outputs(case)
    graph = Graph(outputs, inputs=graph.inputs)
    verify(graph)
    payloads = {v.node.attrs["name"]: v.node.payload for v in (*graph.params(), *graph.constants())}
    again = parse_graph(str(graph), payloads)
    assert str(again) == str(graph)

    primitives = decompose(graph)
    verify(primitives)
    assert not {n.op for n in primitives.nodes()} & set(operators(composite=True))
    simple = simplify(primitives)
    verify(simple)
    assert len(simple.nodes()) <= len(primitives.nodes())

    expected = evaluate(graph, feeds)
    for passed in (again, primitives, simple):
        found = evaluate(passed, feeds)
        for key, value in expected.items():
            finite = np.isfinite(value.astype(np.float64))
            assert_close(found[key][finite], value[finite], 20.0, f"{name} {key}\n{passed}")
