"""Philox4x32-10 against the known answers that Random123 publishes (tests/kat_vectors)."""

from __future__ import annotations

import numpy as np
import pytest
from tessera.op.philox import element_words, philox4x32, uniform_f32, uniform_f64

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert tuple(int(w) for w in philox4x32(counter, key)) == expected


def test_vectorised_equals_one_by_one() -> None:
    first, second = element_words(5, seed=(7 << 32) | 9, words=(3, 4), start=2**32 - 2)
    for i in range(5):
        element = 2**32 - 2 + i
        words = philox4x32((element & 0xFFFFFFFF, element >> 32, 3, 4), (9, 7))
        assert (int(first[i]), int(second[i])) == (int(words[0]), int(words[1]))


def test_unit_interval() -> None:
    top = np.array([0xFFFFFFFF], dtype=np.uint64)
    assert uniform_f32(top)[0] == np.float32(1 - 2.0**-24)
    assert uniform_f64(top, top)[0] == 1 - 2.0**-53
    zero = np.array([0], dtype=np.uint64)
    assert uniform_f32(zero)[0] == 0.0 and uniform_f64(zero, zero)[0] == 0.0


def test_no_elements() -> None:
    first, second = element_words(0, seed=1, words=(0, 0))
    assert first.shape == second.shape == (0,)
