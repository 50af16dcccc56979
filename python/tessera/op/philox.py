"""Philox4x32-10 in NumPy: the counter-based generator behind all random numbers.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011 (Random123).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_LOW = np.uint64(_MASK)
_HIGH = np.uint64(32)
_ROUNDS = 10

Words = Sequence["np.ndarray | int"]


def philox4x32(counter: Words, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four 32-bit words (in uint64 arrays) for each counter.

    ``counter``: four arrays or integers of 32-bit words that broadcast together; ``key``: two 32-bit words.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    k0, k1 = key[0] & _MASK, key[1] & _MASK
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _HIGH) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HIGH) ^ c3 ^ np.uint64(k1), p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def element_words(count: int, seed: int, words: tuple[int, int], start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Words 0 and 1 for the elements start … start + count - 1.

    The counter is (element low 32, element high 32, *words) and the key the two halves of ``seed``.
    """
    element = np.arange(start, start + count, dtype=np.uint64)
    counter = (element & _LOW, element >> _HIGH, words[0] & _MASK, words[1] & _MASK)
    first, second, _, _ = philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return first, second


def uniform_f32(word: np.ndarray) -> np.ndarray:
    """f32 in [0, 1) with 24 random bits: (word >> 8) · 2⁻²⁴."""
    return (word >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)


def uniform_f64(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """f64 in [0, 1) with 53 random bits: ((first << 32 | second) >> 11) · 2⁻⁵³."""
    return (((first << _HIGH) | second) >> np.uint64(11)).astype(np.float64) * 2.0**-53
