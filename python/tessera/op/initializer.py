"""Initial values of parameters: a function of (seed, name, element), the same on any mesh.

Random initialisers draw from Philox4x32-10 with the key = seed and the counter = (block low 32, block high 32,
hash of the name low 32, high 32); element ``i`` is word ``i % 4`` of block ``i // 4``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Union, cast

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.op.philox import philox4x32

__all__ = [
    "Initializer", "constant", "fan_in_uniform", "he_normal", "he_uniform", "normal", "ones", "uniform",
    "xavier_normal", "xavier_uniform", "zeros",
]

_CHUNK = 1 << 16  # elements drawn at a time, so that the working set stays in cache


@dataclass(frozen=True, slots=True)
class Initializer:
    """How a parameter gets its first value.

    ``constant``: every element is ``a``. ``uniform``: in [a, b). ``normal``: mean ``a``, standard deviation ``b``.
    """

    kind: Literal["constant", "uniform", "normal"]
    a: float = 0.0
    b: float = 0.0

    def fill(self, out: np.ndarray, seed: int, name: str) -> None:
        """Write the initial value into ``out`` (contiguous, any dtype)."""
        flat = np.reshape(out, -1)  # a view: out is contiguous
        if self.kind == "constant":
            flat[...] = np.asarray(self.a).astype(out.dtype)
            return
        for start in range(0, flat.size, _CHUNK):
            stop = min(start + _CHUNK, flat.size)
            flat[start:stop] = self._draw(stop - start, start, seed, name_hash(name)).astype(out.dtype)

    def fill_part(
        self, out: np.ndarray, shape: tuple[int, ...], start: Sequence[int], seed: int, name: str
    ) -> None:
        """Write into ``out`` the part from index ``start`` of what ``fill`` writes into a whole of ``shape``."""
        if self.kind == "constant" or out.size == 0:
            out[...] = np.asarray(self.a).astype(out.dtype)
            return
        # Runs of elements that are neighbours in the whole: as many trailing dimensions as are whole, and one more.
        inner = out.ndim
        while inner > 0 and out.shape[inner - 1] == shape[inner - 1]:
            inner -= 1
        inner = max(inner - 1, 0)
        length = math.prod(out.shape[inner:])
        rows = np.reshape(out, (-1, length))
        stream = name_hash(name)
        places = itertools.product(*(range(a, a + n) for a, n in zip(start, out.shape[:inner])))
        for number, place in enumerate(places):
            first = 0
            for index, size in zip((*place, *start[inner:]), shape):
                first = first * size + index
            self._fill_run(rows[number], first, seed, stream)

    def _fill_run(self, out: np.ndarray, first: int, seed: int, stream: int) -> None:
        for begin in range(0, out.size, _CHUNK):
            stop = min(begin + _CHUNK, out.size)
            at = first + begin
            extra = at % 4
            drawn = self._draw(stop - begin + extra, at - extra, seed, stream)
            out[begin:stop] = drawn[extra:].astype(out.dtype)

    def _draw(self, count: int, start: int, seed: int, stream: int) -> np.ndarray:
        words = _words(count, start, seed, stream)
        if self.kind == "uniform":
            draws = (words >> np.uint64(8)).astype(np.float64) * 2.0**-24
            return self.a + (self.b - self.a) * np.ravel(draws)[:count]
        units = (words.astype(np.float64) + 0.5) * 2.0**-32
        radius = np.sqrt(-2.0 * np.log(units[:, 0::2]))
        angle = (2.0 * math.pi) * units[:, 1::2]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)  # Box–Muller
        return self.a + self.b * np.ravel(pairs)[:count]


def name_hash(name: str) -> int:
    """A stable 64-bit hash of a parameter's name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _words(count: int, start: int, seed: int, stream: int) -> np.ndarray:
    """[blocks, 4] words that cover ``count`` elements from ``start``, a multiple of 4."""
    block = np.arange(start // 4, -(-(start + count) // 4), dtype=np.uint64)
    counter = (block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), stream & 0xFFFFFFFF, stream >> 32)
    return np.stack(philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)), axis=-1)


def constant(value: float) -> Initializer:
    """Every element is ``value``."""
    return Initializer("constant", value)


def zeros() -> Initializer:
    """Every element is 0."""
    return constant(0.0)


def ones() -> Initializer:
    """Every element is 1."""
    return constant(1.0)


def uniform(low: float = -1.0, high: float = 1.0) -> Initializer:
    """Uniform in [low, high)."""
    return Initializer("uniform", low, high)


def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Normal with this mean and standard deviation."""
    return Initializer("normal", mean, std)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan in, fan out) of a weight whose last two dimensions are (in, out); leading ones are a receptive field."""
    if len(shape) < 2:
        raise ShapeError(f"[initializer] a weight of shape {shape} has no fan; use uniform, normal or constant")
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


def xavier_uniform(shape: tuple[int, ...]) -> Initializer:
    """Uniform with variance 2 / (fan in + fan out) (Glorot and Bengio 2010)."""
    bound = math.sqrt(6.0 / max(sum(fans(shape)), 1))
    return uniform(-bound, bound)


def xavier_normal(shape: tuple[int, ...]) -> Initializer:
    """Normal with variance 2 / (fan in + fan out) (Glorot and Bengio 2010)."""
    return normal(0.0, math.sqrt(2.0 / max(sum(fans(shape)), 1)))


def he_uniform(shape: tuple[int, ...]) -> Initializer:
    """Uniform with variance 2 / fan in, for relu (He et al. 2015)."""
    bound = math.sqrt(6.0 / max(fans(shape)[0], 1))
    return uniform(-bound, bound)


def he_normal(shape: tuple[int, ...]) -> Initializer:
    """Normal with variance 2 / fan in, for relu (He et al. 2015)."""
    return normal(0.0, math.sqrt(2.0 / max(fans(shape)[0], 1)))


def fan_in_uniform(fan_in: int) -> Initializer:
    """Uniform in ±1/√(fan in): the default of a linear layer's weight and bias."""
    bound = 1.0 / math.sqrt(max(fan_in, 1))
    return uniform(-bound, bound)


InitializerLike = Union[
    Initializer, float, np.ndarray, str, "Callable[[tuple[int, ...]], Initializer | np.ndarray | float]"
]
"""What ``init`` arguments accept: an initialiser, a number, an array of the parameter's shape, one of the names
below, or a function of the shape that gives one of these."""

_BY_NAME: dict[str, Callable[[tuple[int, ...]], Initializer]] = {
    "zeros": lambda shape: zeros(),
    "ones": lambda shape: ones(),
    "uniform": lambda shape: uniform(),
    "normal": lambda shape: normal(),
    "xavier_uniform": xavier_uniform,
    "xavier_normal": xavier_normal,
    "glorot_uniform": xavier_uniform,
    "glorot_normal": xavier_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "kaiming_uniform": he_uniform,
    "kaiming_normal": he_normal,
}


def resolve(init: InitializerLike, shape: tuple[int, ...]) -> Initializer | np.ndarray:
    """The initialiser, or the array, that ``init`` means for a parameter of this shape."""
    if isinstance(init, str):
        if init not in _BY_NAME:
            raise ArgumentError(f"[parameter] unknown initializer {init!r}; use one of {', '.join(_BY_NAME)}")
        return _BY_NAME[init](shape)
    if isinstance(init, Initializer):
        return init
    if isinstance(init, np.ndarray):
        return cast("np.ndarray", init)
    if isinstance(init, (bool, int, float)):
        return constant(init)
    if callable(init):
        return resolve(init(shape), shape)
    raise ArgumentError(f"[parameter] init is {type(init).__name__}; give an initializer, a number, an array or a name")
