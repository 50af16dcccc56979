"""Every operator × placement × uneven sizes, forward and backward, against one device, with NumPy on all devices."""

from __future__ import annotations

import numpy as np
import pytest
from tessera.dist.cost import MACHINES
from tessera.dist.partition import Partitioned, partition
from tessera.dist.report import collective_plan
from tessera.ir.graph import Graph
from tessera.ir.sharding import MeshShape, Sharding, Split, split_over
from tessera.ir.value import INPUT, Node, TensorType, Value
from tessera.op.collective import NAMES
from tessera.op.opdef import REGISTRY, NoVjp, apply
from tessera.op.reference import evaluate
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.dist import lockstep
from tests.ops.harness import Case, assert_close, cases, operators, random_for

MESHES = (MeshShape((("dp", 2), ("tp", 3))), MeshShape((("dp", 5),)))
OPERATORS = [n for n in operators() if n not in (*NAMES, "constrain")]


def placement(random: np.random.Generator, shape: tuple[int, ...], mesh: MeshShape) -> Sharding:
    """Any split of any dimensions over any axes, now and then in blocks of another size than usual."""
    axes = list(mesh.names)
    random.shuffle(axes)
    dims: list[Split | None] = [None] * len(shape)
    for i in random.permutation(len(shape)):
        count = int(random.integers(0, len(axes) + 1))
        if count:
            split = split_over(shape[i], axes[:count], mesh)
            odd = int(split.block) + 1 if random.random() < 0.2 else split.block
            dims[i] = Split(split.axes, odd)
            axes = axes[count:]
    return Sharding(mesh, tuple(dims))


def placed(case: Case, random: np.random.Generator, mesh: MeshShape) -> list[Value]:
    """The operands of a case with a sharding each."""
    leaves = []
    for v in case.leaves:
        t = TensorType(v.dtype, v.shape, placement(random, v.shape, mesh))
        leaves.append(Node(INPUT, (), v.node.attrs, (t,), v.node.loc).results[0])
    return leaves


def check(graph: Graph, feeds: dict[str, np.ndarray], mesh: MeshShape, factor: float, what: str) -> Partitioned:
    """One device's program on all devices gives what the graph gives, and receives the bytes that were predicted."""
    want = evaluate(graph, feeds)
    part = partition(to_primitives(graph, frozenset({"constrain"})), mesh, MACHINES["cpu"])
    got, traffic = lockstep.run(part, {("input", name): array for name, array in feeds.items()})
    for name, array in want.items():
        assert_close(got[name], array, factor, f"{what} {name}")
    assert traffic == collective_plan(part.graph, mesh, "").total(), what
    return part


@pytest.mark.parametrize("name", OPERATORS)
def test_forward(name: str) -> None:
    definition = REGISTRY[name]
    random = random_for(f"shard {name}")
    dtype = "f32" if "f32" in definition.dtypes else definition.dtypes[0]
    for case in cases(definition, dtype):
        mesh = MESHES[int(random.integers(len(MESHES)))]
        leaves = placed(case, random, mesh)
        results = apply(name, leaves, case.sample.attrs)
        graph = Graph({f"o{i}": v for i, v in enumerate(results)}, inputs=leaves)
        lie = ", ".join(str(v.type) for v in leaves)
        check(graph, case.feeds, mesh, case.sample.tolerance * 4, f"{name} {lie} {case.sample.attrs}")


@pytest.mark.parametrize("dtype", ["bool", "i32", "u8", "i64", "f64", "bf16"])
@pytest.mark.parametrize("name", ["max", "min", "sum", "prod", "matmul", "take", "index_add", "take_along_axis", "pad"])
def test_other_dtypes(name: str, dtype: str) -> None:
    definition = REGISTRY[name]
    if dtype not in definition.dtypes:
        pytest.skip("not defined")
    random = random_for(f"shard {name} {dtype}")
    for case in cases(definition, dtype):
        leaves = placed(case, random, MESHES[0])
        results = apply(name, leaves, case.sample.attrs)
        # Each partial bf16 product is rounded before the sum.
        factor = case.sample.tolerance * (16 if dtype == "bf16" else 4)
        check(Graph({"o": results[0]}, inputs=leaves), case.feeds, MESHES[0], factor, f"{name} {dtype}")


@pytest.mark.parametrize("name", [n for n in OPERATORS if not isinstance(REGISTRY[n].vjp, NoVjp)])
def test_backward(name: str) -> None:
    definition = REGISTRY[name]
    if "f64" not in definition.dtypes:
        pytest.skip("not defined for f64")
    random = random_for(f"shard gradient {name}")
    for case in cases(definition, "f64", gradient=True)[::2]:
        mesh = MESHES[0]
        leaves = placed(case, random, mesh)
        results = [v for v in apply(name, leaves, case.sample.attrs) if v.dtype.is_float]
        wanted = [v for v in leaves if v.dtype.is_float]
        if not results or not wanted:
            continue
        found = gradients([r.sum() if r.ndim else r for r in results], wanted)
        graph = Graph({f"g{i}": g for i, g in enumerate(found)}, inputs=leaves)
        check(graph, case.feeds, mesh, case.sample.tolerance * 64, f"gradient of {name}")
