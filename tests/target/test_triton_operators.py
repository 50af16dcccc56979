"""Every operator as Triton kernels, scheduled for a GPU, under Triton's interpreter, against its reference."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from tessera import op
from tessera.ir.dtype import i32, i64
from tessera.ir.graph import Graph
from tessera.op.opdef import REGISTRY
from tessera.op.reference import evaluate
from tessera.schedule.machine import GPU
from tessera.target.triton import loops, points, scatter, sorted_scatter
from tessera.target.triton.check import COUNT, guarded_copy, range_check
from tessera.tile import interpret
from tessera.tile.ir import Kernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.ops.harness import assert_close, cases, each, joined, operators
from tests.schedule.random_graphs import random_graph
from tests.target import triton_interpreter
from tests.target.test_compute import seeded

_MOST = 4
"""Samples of each operator and dtype."""
_FORMS = ("add", "sum", "max", "argmin", "cumsum", "index_add", "scatter_add", "take", "matmul", "concat")
"""Operators that stand for a form of kernel: with a dtype of every family."""


@pytest.fixture(autouse=True)
def kernels_in_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(kernel: Kernel, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], shuffle: object = None) -> None:
        triton_interpreter.run_kernel(kernel, arrays, sizes)

    monkeypatch.setattr(interpret, "run_kernel", run)


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    primitives = to_primitives(graph)
    constants = {v.node.attrs["name"]: np.asarray(v.node.payload) for v in primitives.constants()}
    return interpret.run_plan(build_plan(primitives, None, GPU), feeds, constants=constants)[0]


def check(name: str, dtype: str, most: int = _MOST) -> None:
    group = cases(REGISTRY[name], dtype)[:most]
    if not group:
        return
    graph, feeds = joined(group)
    expected = evaluate(graph, feeds)
    found = run(graph, feeds)
    for case in group:
        for output in case.outputs():
            assert_close(found[output], expected[output], 2 * case.sample.tolerance, f"{name} {dtype} {output}")


@pytest.mark.parametrize("name", operators())
def test_operator(name: str) -> None:
    """Some samples in one dtype, another one for each operator."""
    dtypes = [dtype for _, dtype in each([name])]
    check(name, dtypes[zlib.crc32(name.encode()) % len(dtypes)])


@pytest.mark.parametrize("name", _FORMS)
def test_dtypes(name: str) -> None:
    found = [dtype for _, dtype in each([name])]
    for dtype in [d for d in ("f64", "f32", "bf16", "i64", "u8", "bool") if d in map(str, found)]:
        check(name, dtype)


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "cross_entropy", "max"])
def test_gradient(name: str) -> None:
    """Kernels of several stages, and reductions across rows."""
    case = cases(REGISTRY[name], "f32", gradient=True)[0]
    wrt = [v for v in case.leaves if v.dtype.is_float]
    found = gradients(list(case.results), wrt, [r * 0.5 + 1.0 for r in case.results])
    graph = Graph({f"g{i}": g for i, g in enumerate(found)}, inputs=case.leaves)
    expected = evaluate(graph, case.feeds)
    for output, array in run(graph, case.feeds).items():
        assert_close(array, expected[output], 100.0, f"{name} {output}")


@pytest.mark.parametrize("seed", range(4))
def test_random_graph(seed: int) -> None:
    """Programs of several operators, symbolic and empty sizes, state written in place."""
    graph, random = random_graph(seed, operators=8, symbolic=seed % 2 == 0, size=[1, 3, 5, 70][seed % 4])
    state = dict(random.state)
    feeds = {v.node.attrs["name"]: random.feeds[v.node.attrs["name"]] for v in graph.inputs}
    expected = evaluate(graph, feeds, state)
    outputs, after = interpret.run_plan(build_plan(to_primitives(graph), None, GPU), feeds, random.state)
    for name, array in outputs.items():
        assert_close(array, expected[name], 100.0, name)
    for name, array in after.items():
        assert_close(array, state[name], 100.0, name)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "u8"])
def test_scatter_in_order(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates put in order first: several axes of updates, many for one row, a symbolic number of them."""
    monkeypatch.setattr(scatter, "FEWEST", 2)
    random = seeded("scatter", dtype)
    for shape, rows, axis, block in (((41,), 3, 0, 512), ((5, 7), 9, 1, 8), ((100,), 1, 0, 16), ((67,), 20, 0, 16)):
        monkeypatch.setattr(sorted_scatter, "_SORTED", block)
        monkeypatch.setattr(sorted_scatter, "_PLACED", min(block, 32))
        outer, inner = (2,) * axis, (6,)
        n = op.dim("n", min=1, max=100)
        i = op.tensor((n,) if axis == 0 else shape, "i64", name="i")
        base = op.tensor((*outer, rows, *inner), dtype, name="base")
        updates = op.tensor((*outer, *i.shape, *inner), dtype, name="updates")
        graph = Graph({"y": op.index_add(base, i, updates, axis=axis)})
        feeds = {"i": np.minimum(random.integers(0, rows, shape), random.integers(0, rows, shape))}
        for v, s in ((base, (*outer, rows, *inner)), (updates, (*outer, *shape, *inner))):
            feeds[v.node.attrs["name"]] = random.integers(0, 9, s).astype(v.dtype.numpy)
        assert_close(run(graph, feeds)["y"], evaluate(graph, feeds)["y"], 4.0)


def test_range_check() -> None:
    """The first position outside is found, values to ignore are not, and the flag is set."""
    for dtype, count in ((np.int64, 3000), (np.int32, 1)):
        x = seeded(dtype).integers(0, 50, count).astype(dtype)
        program = range_check({np.int64: i64, np.int32: i32}[dtype], ignore=-7)
        for wrong in ([], [count - 1], [count // 2, count - 1]):
            y = x.copy()
            y[wrong] = 50
            y[0] = -7 if count > 1 else y[0]
            words = {"check": np.array([2**63 - 1]), "flag": np.array([0])}
            grid = [interpret.evaluate(d, {COUNT.name: count}) for d in program.grid]
            triton_interpreter.launch(program, [y], [count, 0, 49], grid, words)
            assert words["flag"][0] == bool(wrong)
            assert words["check"][0] == (wrong[0] if wrong else 2**63 - 1)


def test_nothing_is_copied_after_a_failed_check() -> None:
    program = guarded_copy()
    for failed in (0, 1):
        source, target = np.arange(9000, dtype=np.uint8), np.zeros(9000, np.uint8)
        grid = [interpret.evaluate(d, {COUNT.name: 9000}) for d in program.grid]
        triton_interpreter.launch(program, [source, target], [9000], grid, {"flag": np.array([failed])})
        assert np.array_equal(target, source if not failed else np.zeros_like(target))


def test_picks_at_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels, weights, smoothing, ignored rows: what depends on the label computed at the label."""
    monkeypatch.setattr(points, "SHORTEST", 2)
    calls: list[bool] = []
    whole = points.at_points
    monkeypatch.setattr(loops, "at_points", lambda k: (calls.append(whole(k) is not k), whole(k))[1])
    for dtype in ("f32", "bf16"):
        check("cross_entropy", dtype, most=30)
    for case in cases(REGISTRY["cross_entropy"], "f32", gradient=True):
        wrt = [v for v in case.leaves if v.dtype.is_float]
        found = gradients(list(case.results), wrt, [r * 0.5 + 1.0 for r in case.results])
        graph = Graph({f"g{i}": g for i, g in enumerate(found)}, inputs=case.leaves)
        expected = evaluate(graph, case.feeds)
        for output, array in run(graph, case.feeds).items():
            assert_close(array, expected[output], 100.0, f"{case.sample} {output}")
    assert sum(calls) > 10
