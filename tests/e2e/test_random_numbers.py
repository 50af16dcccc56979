"""Random numbers of graphs: reproducible, different at every run, and different in every application of a graph."""

from __future__ import annotations

import numpy as np
import pytest
import tessera
from tessera import graph, op
from tessera.errors import OutOfMemoryError
from tessera.ir.value import Value

ONES = np.ones(64, np.float32)


def masks(*outputs: Value) -> list[np.ndarray]:
    names = [leaf.node.attrs["name"] for leaf in graph.Graph({str(i): v for i, v in enumerate(outputs)}).inputs]
    found = graph.compile(list(outputs))(**dict.fromkeys(names, ONES))
    return [np.asarray(a) for a in found]


def test_each_application_of_a_graph_draws_its_own_numbers() -> None:
    x, a, b = (op.tensor((64,), name=n) for n in "xab")
    y = op.dropout(x, 0.5) + op.normal((64,))
    first, second, original = masks(y(a), y(b), y)
    assert not np.array_equal(first, second) and not np.array_equal(first, original)


def test_a_gradient_uses_the_mask_of_its_forward_pass() -> None:
    x, a = op.tensor((64,), name="x"), op.tensor((64,), name="a")
    y = op.dropout(x, 0.5)(a)
    forward, backward = masks(y, graph.backward(op.sum(y), wrt=a))
    np.testing.assert_array_equal(forward, backward)
    z = op.dropout(x, 0.5)
    both = z * graph.backward(op.sum(z), wrt=x)
    (product,) = masks(both(a))
    np.testing.assert_array_equal(product, np.where(product > 0, 4, 0))


def test_a_given_key_gives_the_same_numbers_everywhere() -> None:
    x, a, b = (op.tensor((64,), name=n) for n in "xab")
    y = op.dropout(x, 0.5, key=3)
    first, second, original = masks(y(a), y(b), y)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, original)


def test_a_step_draws_the_same_numbers_when_it_is_traced_again() -> None:
    x = op.tensor((op.dim("B"),), name="x")
    y = op.dropout(x, 0.5)

    def draw() -> list[np.ndarray]:
        tessera.manual_seed(7)
        step = graph.training_step(lambda a: (y(a), y(a * 1.0)))
        return [np.asarray(v) for _ in range(2) for v in step(ONES)]

    first, again = draw(), draw()
    np.testing.assert_array_equal(first, again)
    assert len({a.tobytes() for a in first}) == 4


def test_every_other_batch_size_draws_with_the_same_ids() -> None:
    y = op.dropout(op.tensor((8,), name="x"), 0.5)
    tessera.manual_seed(1)
    long = y(ONES).numpy()
    tessera.manual_seed(1)
    np.testing.assert_array_equal(y(ONES[:8]).numpy(), long[:8])


def test_sizes_beyond_every_memory() -> None:
    with pytest.raises(OutOfMemoryError, match=r"\[full\] a tensor of type f32\[4611686018427387904\]"):
        op.full((2**62,), 0.0).numpy()
