"""The sharding check of ``tessera op-check``: pieces computed apart and put together equal the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.cli.op_subject import Skipped, Subject, difference
from tessera.errors import TesseraError
from tessera.op.factors import parts
from tessera.op.opdef import get

_COMBINE = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}
Axes = list[list[str | None]]


def check_sharding(subject: Subject) -> str | None:
    """Split along each factor, compute each piece, put the results together as the factor string says, compare."""
    rule = get(subject.custom.name).shard
    text = rule if isinstance(rule, str) else rule(subject.types, subject.sample.attrs)
    operands, results, combine = parts(text)
    whole = {c for tensor in (*operands, *results) for c, mark in zip(tensor, tensor[1:] + " ") if mark == "!"}
    expected = subject.run()
    left = [_axes(t, a.shape) for t, a in zip(operands, subject.arrays)]
    right = [_axes(t, a.shape) for t, a in zip(results, expected)]
    names = sorted({n for axes in left for n in axes if n is not None and n not in whole})
    sizes = {n: s for axes, a in zip(left, subject.arrays) for n, s in zip(axes, a.shape) if n in names}
    names = [n for n in names if sizes[n] > 1]
    if not names:
        raise Skipped("no dimension of more than one element may be split")
    for name in names:
        for count in {2, min(3, sizes[name])}:
            if wrong := _split(subject, expected, left, right, name, sizes[name], count, combine):
                return f"split along '{name}' into {count}: {wrong}"
    return None


def _axes(tensor: str, shape: tuple[int, ...]) -> list[str | None]:
    """The factor of each dimension; dimensions of ``*`` are ``*1``, ``*2`` … from the right, None where broadcast."""
    names = [c for c in tensor if c != "!"]
    if "*" not in names:
        return list(names)
    star = names.index("*")
    count = len(shape) - len(names) + 1
    middle = [None if shape[star + i] == 1 else f"*{count - i}" for i in range(count)]
    return [*names[:star], *middle, *names[star + 1 :]]


def _split(
    subject: Subject,
    expected: list[np.ndarray],
    left: Axes,
    right: Axes,
    name: str,
    size: int,
    count: int,
    combine: str,
) -> str | None:
    # Uneven on purpose.
    edges = [0, *(size * (i + 1) // count - (i + 1 < count and size > count) for i in range(count))]
    pieces: list[list[np.ndarray]] = []
    for begin, end in zip(edges, edges[1:]):
        arrays = tuple(
            np.ascontiguousarray(a[tuple(slice(begin, end) if n == name else slice(None) for n in axes)])
            for axes, a in zip(left, subject.arrays)
        )
        try:
            pieces.append(replace(subject, arrays=arrays).run())
        except TesseraError as error:
            return f"the piece [{begin}, {end}) fails: {error}"
    for i, (axes, want) in enumerate(zip(right, expected)):
        parts_ = [p[i] for p in pieces]
        if name in axes:
            found = np.concatenate(parts_, axis=axes.index(name))
        else:
            found = parts_[0]
            for part in parts_[1:]:
                found = _COMBINE[combine](found, part)
        loose = subject.sample.tolerance * (1 if name in axes else 4)
        if wrong := difference(found.astype(want.dtype), want, subject.dtype, loose):
            return f"result {i}: {wrong}"
    return None
