"""Random graphs in which row kernels form sums over their rows: plans in f64, launches in f32."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import Dim, Symbol, sym
from tessera.ir.dtype import DType, f32, f64
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.reference import evaluate as right
from tessera.schedule import columns as planned
from tessera.schedule import split
from tessera.schedule.machine import GPU
from tessera.target.triton import columns
from tessera.tile.interpret import run_plan
from tessera.tile.ir import LoopKernel
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_primitives

from tests.schedule.harness import draw, state, tensor
from tests.target.test_columns import assert_launches

EAGER = replace(GPU, partials=1, column_length=2, chunks=64)


@dataclass
class Made:
    """Tensors of one shape, vectors along their last dimension, sums over all others."""

    tensors: list[Value]
    vectors: list[Value]
    sums: list[Value] = field(default_factory=list)


def step(dice: random.Random, made: Made) -> None:
    """One more value."""
    x, y, kind = dice.choice(made.tensors), dice.choice(made.tensors), dice.random()
    if kind < 0.3:
        made.tensors.append(op.tanh(x) if kind < 0.1 else x * y if kind < 0.2 else x - y)
    elif kind < 0.5:
        made.tensors.append(op.softmax(x) if kind < 0.37 else x - op.mean(y, axis=-1, keepdims=True))
    elif kind < 0.6:
        made.tensors.append(x + dice.choice(made.vectors))
    elif kind < 0.9 or x.ndim < 3:
        made.sums.append(op.sum(x if kind < 0.75 else x * y, axis=list(range(x.ndim - 1))))
        if dice.random() < 0.4:
            made.vectors.append(op.tanh(made.sums[-1]))
    else:
        rows = op.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))
        made.sums.append(op.sum(rows * op.tanh(rows), axis=list(range(rows.ndim - 1))))


def random_graph(seed: int, dtype: DType) -> Graph:
    """With a state that takes a sum or is added to."""
    dice = random.Random(seed)
    some: Dim = sym(Symbol("some", 0)) if dice.random() < 0.3 else dice.choice([1, 3, 4])
    shape = dice.choice([(some, 5, 6), (12, 6), (some, 7), (5, some, 4), (6, 6), (some, 2, 3, 4)])
    parameter = state("p", shape[-1], dtype=dtype)
    tensors = [tensor(f"x{i}", *shape, dtype=dtype) for i in range(3)]
    made = Made(tensors, [tensor("v", shape[-1], dtype=dtype), parameter])
    for _ in range(dice.randint(4, 16)):
        step(dice, made)
    made.sums.append(op.sum(made.tensors[-1], axis=list(range(len(shape) - 1))))
    found = [*made.sums, *made.vectors[2:], *dice.sample(made.tensors, 2)]
    update = made.sums[-1] if dice.random() < 0.5 else parameter + made.sums[0]
    return Graph({f"y{i}": v for i, v in enumerate(found)}, updates={parameter: update})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes count as large ones."""
    monkeypatch.setattr(planned, "NARROWEST", 2)
    monkeypatch.setattr(planned, "MARGIN", 0)
    monkeypatch.setattr(split, "FEWEST", 2)
    monkeypatch.setattr(columns, "MULTIPROCESSORS", 1)
    monkeypatch.setattr(columns, "ELEMENTS", 16)


def test_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are those of the operators, with the points of a grid in any order."""
    monkeypatch.setattr(planned, "f32", f64)
    formed = 0
    for seed in range(60):
        graph = to_primitives(random_graph(seed, f64))
        dice, sizes = np.random.default_rng(seed), {"some": seed % 7}
        feeds = {v.node.attrs["name"]: draw(v, dice, sizes) for v in graph.inputs}
        before = {v.node.attrs["name"]: draw(v, dice, sizes) for v in graph.params()}
        after = dict(before)
        expected = right(graph, feeds, after)
        plan = build_plan(graph, None, EAGER)
        formed += sum(isinstance(k, LoopKernel) and columns.has_sums(k) for k in plan.kernels)
        constants = {v.node.attrs["name"]: np.asarray(v.node.payload) for v in graph.constants()}
        for shuffle in (None, dice):
            outputs, held = run_plan(plan, feeds, {t.name: before[t.name] for t in plan.state}, constants, shuffle)
            for name, array in {**outputs, **held}.items():
                np.testing.assert_allclose(array, {**expected, **after}[name], rtol=1e-9, atol=1e-9, err_msg=f"{seed}")
    assert formed > 30


@pytest.mark.parametrize("seed", range(1000, 1024))
def test_launches(seed: int) -> None:
    """Kernels do in Triton's interpreter what they mean."""
    plan = build_plan(to_primitives(random_graph(seed, f32)), None, EAGER)
    for kernel in plan.kernels:
        if isinstance(kernel, LoopKernel) and columns.has_sums(kernel):
            assert_launches(kernel, {s.name: seed % 7 for s in kernel.sizes}, seed)
