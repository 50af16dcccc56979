"""What calls accept as arrays, how they refuse the rest, and copies of the objects that Python users hold."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tessera
from tessera import errors, graph, op, optim


def doubled(dtype: str, *shape: int) -> Any:
    return op.tensor(shape, dtype, name="s") * 2


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "value, error, message",
    [
        ([[1], [1, 2]], errors.ShapeError, "input 's': .*inhomogeneous"),
        ([1, 300], errors.DTypeError, "input 's' is i8, which holds -128 to 127, not 300"),
        ([1, 2.5], errors.DTypeError, "input 's' is i8: the values given are f64"),
        ([1, 2**70], errors.DTypeError, "object"),
        (["a", "b"], errors.DTypeError, "no Tessera dtype"),
    ],
)
def test_lists_that_do_not_fit(value: Any, error: type[Exception], message: str, compiled: bool) -> None:
    y = doubled("i8", 2)
    with pytest.raises(error, match=message):
        (graph.compile(y) if compiled else y)(value)


def test_numbers_are_no_bools() -> None:
    with pytest.raises(errors.DTypeError, match="input 's' is bool"):
        op.logical_not(op.tensor((2,), "bool", name="s"))([0, 1])
    assert op.logical_not(op.tensor((2,), "bool", name="s"))([False, True]).tolist() == [True, False]


def test_lists_that_fit() -> None:
    assert doubled("i8", 2)([1, -2]).tolist() == [2, -4]
    assert doubled("f16", 2)([1, 0.5]).tolist() == [2.0, 1.0]
    assert doubled("i8", 0)([]).tolist() == []


def test_memory_that_a_library_does_not_share() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(errors.ArgumentError, match="Tensor gives no memory to share"):
        doubled("f32", 4, 4)(torch.eye(4).to_sparse())


def test_tensors_of_op_alone_are_graphs() -> None:
    code = "from tessera import op; assert (op.tensor((), name='x') * 2)(3.0).item() == 6.0"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("array", [np.float32(3), np.ones((0, 3), np.float16), np.arange(6).reshape(2, 3).T])
def test_copies_of_arrays(duplicate: Any, array: np.ndarray) -> None:
    original = tessera.array(array)
    found = duplicate(original)
    np.testing.assert_array_equal(found.numpy(), array)
    assert found.dtype == original.dtype and not found.readonly
    assert not np.shares_memory(found.numpy(), original.numpy())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_graphs_have_their_own_weights(duplicate: Any) -> None:
    y = op.linear(3, 2)(op.tensor((1, 3), name="x"))
    x = np.ones((1, 3), np.float32)
    before = y(x).numpy()
    z = duplicate(y)
    for leaf in z.graph.params():
        op.parameter_of(leaf).value = np.zeros(leaf.shape, np.float32)
    assert not z(x).numpy().any()
    np.testing.assert_array_equal(y(x).numpy(), before)


def test_programs_and_optimizers_say_how_they_are_kept() -> None:
    y = op.linear(3, 2)(op.tensor((1, 3), name="x"))
    step = graph.training_step(lambda x: op.mean(y(x)))
    for subject in (graph.compile(y), step, optim.Adam(1e-3)):
        with pytest.raises(errors.UnsupportedError, match="not copied or pickled"):
            pickle.dumps(subject)


def test_arrays_compare_by_element() -> None:
    a = tessera.array([1.0, 2.0, float("nan")])
    assert (a == a).tolist() == [True, True, False]
    assert (a != 1.0).tolist() == [False, True, True]
    assert (a < np.float32(2)).tolist() == [True, False, False] and (a >= 2).tolist() == [False, True, False]
    assert hash(a) == hash(a) and f"{tessera.array(1.5):.2f}" == "1.50"
    assert tessera.array([[1, 2]]).T.tolist() == [[1], [2]] and a.astype("f64").dtype == "f64"


def test_an_array_in_place_of_a_static_value() -> None:
    compiled = graph.compile(lambda x, k: x * k, np.ones(2, np.float32), 3)
    assert compiled(np.ones(2, np.float32), 3).tolist() == [3.0, 3.0]
    with pytest.raises(errors.ArgumentError, match="compiled for argument 1 = 3"):
        compiled(np.ones(2, np.float32), np.ones(2))


def test_repr_of_a_graph() -> None:
    y = op.tensor((op.dim("B"), 2), name="x") * 2.0
    assert repr(y.graph) == "<graph main: (x: f32[B, 2]) -> (output: f32[B, 2])>"


class Trainer:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    @graph.training_step
    def step(self, x: Any) -> Any:
        return op.sum(x) * self.scale


def test_steps_are_methods() -> None:
    two, three = Trainer(2.0), Trainer(3.0)
    x = np.ones(4, np.float32)
    assert [t.step(x).item() for t in (two, three, two)] == [8.0, 12.0, 8.0]
    assert two.step.compilations == 1 and isinstance(Trainer.step, graph.TrainingStep)


@pytest.mark.parametrize("container", [lambda v: {v}, lambda v: {"a": iter([v])}])
def test_results_that_hide_tensors(container: Any) -> None:
    step = graph.training_step(lambda x: container(x * 2))
    with pytest.raises(errors.ArgumentError, match="return tensors in dicts"):
        step(np.ones(2, np.float32))


def test_update_with_numbers_and_parameters() -> None:
    count = op.Parameter("updates.count", (), "i64", trainable=False)
    other = op.Parameter("updates.other", (), "i64", trainable=False, init=7)

    @graph.training_step
    def step() -> None:
        graph.update(count, other)
        graph.update(other, 3)

    step()
    assert (count.value, other.value) == (7, 3)
    with pytest.raises(errors.TesseraError):
        graph.training_step(lambda: graph.update(count, 1.5))()
