"""The arena: tensors that are live together never overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.ir.dims import Dim, Symbol, add, evaluate, mul, sym
from tessera.schedule.memory import ALIGNMENT, Storage, aligned, lay_out

SYMBOLS = (Symbol("B", 0, None), Symbol("T", 1, 512, 8))

dims = st.one_of(
    st.integers(0, 5000),
    st.builds(
        lambda s, a, b: add(mul(sym(s), a), b), st.sampled_from(SYMBOLS), st.integers(1, 300), st.integers(0, 100)
    ),
    st.builds(lambda a: mul(mul(sym(SYMBOLS[0]), sym(SYMBOLS[1])), a), st.integers(1, 16)),
)
lives = st.tuples(st.integers(0, 30), st.integers(0, 10))


def overlap(a: Storage, b: Storage, sizes: dict[str, int]) -> bool:
    """Whether two storages share a byte."""
    sa, sb = evaluate(a.offset, sizes), evaluate(b.offset, sizes)
    na, nb = evaluate(a.bytes, sizes), evaluate(b.bytes, sizes)
    return na > 0 and nb > 0 and sa < sb + nb and sb < sa + na


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(dims, lives), max_size=25), st.integers(0, 700), st.integers(1, 64))
def test_live_storages_never_overlap(items: list[tuple[Dim, tuple[int, int]]], b: int, t: int) -> None:
    storages = [Storage(size, first, first + length) for size, (first, length) in items]
    arena = lay_out(storages)
    sizes = {"B": b, "T": 8 * t}
    total = evaluate(arena, sizes)
    for i, x in enumerate(storages):
        start = evaluate(x.offset, sizes)
        assert start % ALIGNMENT == 0 and start + evaluate(x.bytes, sizes) <= total
        for y in storages[:i]:
            if x.meets(y):
                assert not overlap(x, y, sizes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), lives), min_size=1, max_size=25))
def test_constant_arena_is_between_the_live_peak_and_the_sum(items: list[tuple[int, tuple[int, int]]]) -> None:
    storages = [Storage(size, first, first + length) for size, (first, length) in items]
    arena = lay_out(storages)
    assert isinstance(arena, int)
    peaks = [sum(int(aligned(s.bytes)) for s in storages if s.first <= n <= s.last) for n in range(45)]
    assert max(peaks) <= arena <= sum(int(aligned(s.bytes)) for s in storages)


def test_a_chain_needs_two_places() -> None:
    assert lay_out([Storage(1000, i, i + 1) for i in range(10)]) == 2 * 1024


def test_gaps_are_filled_best_fit() -> None:
    big, middle, small = Storage(4096, 0, 1), Storage(1024, 0, 9), Storage(512, 2, 3)
    assert lay_out([big, middle, small]) == 4096 + 1024 and small.offset == 0


def test_symbolic_slots_take_the_larger_size() -> None:
    b = sym(SYMBOLS[0])
    arena = lay_out([Storage(mul(b, 64), 0, 1), Storage(mul(b, 128), 2, 3), Storage(mul(b, 64), 4, 5)])
    assert arena == mul(b, 128)


def test_sizes_that_cannot_be_compared_share_a_slot_of_the_maximum() -> None:
    b, t = (sym(s) for s in SYMBOLS)
    arena = lay_out([Storage(mul(b, 64), 0, 1), Storage(mul(t, 64), 2, 3)])
    for sizes in ({"B": 3, "T": 8}, {"B": 300, "T": 8}):
        assert evaluate(arena, sizes) == 64 * max(sizes.values())


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65])
def test_alignment(size: int) -> None:
    assert aligned(size) == -(-size // 64) * 64
    expression = aligned(mul(sym(SYMBOLS[0]), 4))
    assert evaluate(expression, {"B": size}) == int(np.ceil(size * 4 / 64)) * 64
