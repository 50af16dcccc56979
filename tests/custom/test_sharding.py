"""Custom operators on a mesh: split as their factor string says, whole where it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tessera
from tessera import dist, graph, op
from tessera.dist import Mesh, ShardSpec

from tests.custom.build import library

X = np.random.default_rng(3).normal(size=(7, 6)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def sample():
    tessera.load_library(library("sample_library.cpp"))


@op.custom("mesh::row_sum", shape=lambda x: op.TensorType(x.dtype, x.shape[:1]), shard="ab->a")
def row_sum(x):
    """The sum of each row."""
    return x.sum(1)


@op.custom("mesh::total", shape=lambda first, more: first, shard="*,*->*")
def total(first: np.ndarray, more: list[np.ndarray]):
    """The sum of all; the second term of the rule is that of each tensor of the list."""
    return first + sum(more)


def run_split(dimensions: tuple[int, ...], value: Callable[[Any], Any]) -> np.ndarray:
    mesh = Mesh(["dp", "tp"], 4, (2, 2))
    x = dist.constrain(op.tensor((7, 6), name="x"), ShardSpec(dimensions, ("dp", "tp")[: len(dimensions)]), mesh)
    return np.asarray(graph.compile({"y": value(x)})(X)["y"])


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_elementwise_runs_on_each_part(target):
    mesh = Mesh(["dp"], 2)
    x = dist.constrain(op.tensor((7, 6), name="x"), ShardSpec((0,), ("dp",)), mesh)
    y = dist.constrain(op.sample.affine(x * 2, factor=3.0) + 1, ShardSpec((0,), ("dp",)), mesh)
    compiled = graph.compile({"y": y}, target=target)
    assert np.allclose(np.asarray(compiled(X)["y"]), 6 * X + 1, rtol=1e-6)


def test_a_letter_that_no_result_has_is_summed():
    assert np.allclose(run_split((0, 1), op.mesh.row_sum), X.sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_has_one_term_for_all_of_its_tensors(count):
    mesh = Mesh(["dp"], 2)
    x = dist.constrain(op.tensor((7, 6), name="x"), ShardSpec((0,), ("dp",)), mesh)
    y = dist.constrain(op.mesh.total(x, [x * i for i in range(count)]), ShardSpec((0,), ("dp",)), mesh)
    assert not graph.collectives(y)  # every tensor stays split
    assert np.allclose(np.asarray(graph.compile({"y": y})(X)["y"]), X * (1 + sum(range(count))), rtol=1e-6)


def test_without_a_rule_everything_is_whole():
    found = run_split((0,), lambda x: op.sample.row_range(x, [x * 2], keep=False).high)
    assert np.allclose(found, np.concatenate([X.max(1), 2 * X.max(1)]))
