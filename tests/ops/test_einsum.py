"""einsum against numpy.einsum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import op
from tessera.errors import ArgumentError, DTypeError, ShapeError

from tests.ops.against_torch import check, draw, inputs, run

SIZES = {"a": 2, "b": 3, "c": 1, "d": 4, "e": 2}


def compare(equation: str, arrays: list[np.ndarray]) -> None:
    leaves, feeds = inputs(arrays)
    np.testing.assert_allclose(
        run([op.einsum(equation, *leaves)], feeds)[0], np.einsum(equation, *arrays), rtol=1e-10, atol=1e-10
    )


@st.composite
def contractions(draws: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """An equation over up to four operands, with repeated labels, and the shapes."""
    terms = draws(st.lists(st.text("abcde", max_size=4), min_size=1, max_size=4))
    present = sorted(set("".join(terms)))
    equation = ",".join(terms)
    if draws(st.booleans()):
        result = draws(st.permutations(present))
        equation += "->" + "".join(result[: draws(st.integers(0, len(result)))])
    return equation, [tuple(SIZES[c] for c in t) for t in terms]


@settings(max_examples=150, deadline=None)
@given(contractions())
def test_equals_numpy(case: tuple[str, list[tuple[int, ...]]]) -> None:
    equation, shapes = case
    compare(equation, [draw(*s, seed=i) for i, s in enumerate(shapes)])


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
        ("i...,i...", [(3, 2), (3, 2)]),
        ("...", [(2, 3)]),
        ("...i->i...", [(2, 3, 4)]),
        ("b...,b->...", [(2, 3, 4), (2,)]),
        ("ij,ij->ij", [(1, 3), (2, 3)]),
        ("ij,jk->ik", [(2, 1), (3, 4)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("ij, jk -> ki", [(2, 3), (3, 4)]),
        ("aab,b", [(3, 3, 2), (2,)]),
        ("ij,kl", [(2, 3), (2, 2)]),
        ("ba", [(2, 3)]),
        (",", [(), ()]),
        ("ij,jk->ik", [(0, 3), (3, 2)]),
        ("ij,jk->ik", [(2, 0), (0, 2)]),
        ("ii->i", [(0, 0)]),
        ("iii->i", [(3, 3, 3)]),
    ],
)
def test_cases(equation: str, shapes: list[tuple[int, ...]]) -> None:
    compare(equation, [draw(*s, seed=i) for i, s in enumerate(shapes)])


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
        ("ii->i", [(3, 3)]),
        ("ijk->kj", [(2, 3, 4)]),
    ],
)
def test_gradient(equation: str, shapes: list[tuple[int, ...]]) -> None:
    arrays = [draw(*s, seed=i) for i, s in enumerate(shapes)]
    check(lambda *x: op.einsum(equation, *x), lambda *x: torch.einsum(equation, *x), arrays, second=True)


def test_a_chain_is_contracted_from_the_small_end() -> None:
    x, a, b = op.tensor((1, 64)), op.tensor((64, 64)), op.tensor((64, 64))
    from tessera.ir.graph import Graph
    from tessera.transform.decompose import decompose

    graph = decompose(Graph({"y": op.einsum("ij,jk,kl->il", x, a, b)}))
    assert [n.types[0].shape for n in graph.nodes() if n.op == "matmul"] == [(1, 64), (1, 64)]


def test_symbolic_sizes() -> None:
    x, w = op.tensor(("B", "T", 4), "f64", name="x0"), op.tensor((4, 5), "f64", name="x1")
    y = op.einsum("btd,de->bte", x, w)
    assert str(y.type) == "f64[B, T, 5]"
    a, b = draw(2, 3, 4), draw(4, 5)
    np.testing.assert_allclose(run([y], {"x0": a, "x1": b})[0], a @ b)
    trace = op.einsum("...ii", op.tensor(("N", "N"), "f64", name="x0"))
    np.testing.assert_allclose(run([trace], {"x0": draw(3, 3)})[0], np.trace(draw(3, 3)))


def test_integers_keep_their_dtype() -> None:
    a = np.arange(6, dtype=np.int32).reshape(2, 3)
    (x,), feeds = inputs([a])
    found = run([op.einsum("ij->i", x)], feeds)[0]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, a.sum(1))


@pytest.mark.parametrize(("equation", "shapes", "error", "message"), [
    ("ij,jk->ik", [(2, 3)], ArgumentError, "has 2 terms for 1 operands"),
    ("ij->k", [(2, 3)], ArgumentError, "label 'k' of the result is in no operand"),
    ("ij->ii", [(2, 3)], ArgumentError, "label 'i' is twice in the result"),
    ("i1->i", [(2, 3)], ArgumentError, "unexpected '1'"),
    ("...i...->i", [(2, 3, 4)], ArgumentError, r"unexpected '.'"),
    ("...i->i", [(2, 3)], ArgumentError, "the result needs '...' too"),
    ("ijk->i", [(2, 3)], ShapeError, "term 'ijk' does not fit operand 0, which has 2 dimensions"),
    ("ij,jk->ik", [(2, 3), (4, 5)], ShapeError, "label 'j' is 3 in one operand and 4 in another"),
    ("ii->i", [(2, 3)], ShapeError, "label 'i' is repeated over different sizes"),
])
def test_errors(equation: str, shapes: list[tuple[int, ...]], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        op.einsum(equation, *(op.tensor(s) for s in shapes))


def test_more_errors() -> None:
    with pytest.raises(DTypeError, match=r"\[einsum\] operand 0 has dtype bool"):
        op.einsum("i->i", op.tensor((2,), "bool"))
    with pytest.raises(ArgumentError, match="the first argument is the equation"):
        op.einsum(op.tensor((2,)), "i->i")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="needs operands"):
        op.einsum("->")
