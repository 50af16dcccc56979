"""Rewrites of reductions and scans over sizes or values that are known."""

from __future__ import annotations

import numpy as np

from tessera.ir.dims import Dim, bounds, product
from tessera.ir.value import Node, Value
from tessera.op.reference import rounded
from tessera.transform.rewrite import Builder, Rule, converted, full, number, reshaped


def _reduced(node: Node) -> list[Dim]:
    """The sizes that a reduction runs over."""
    return [d for i, d in enumerate(node.operands[0].shape) if i in node.attrs["axes"]]


def _over_one(node: Node, build: Builder) -> Value | None:
    """A reduction over dimensions of size 1 (or over none) only drops them: the sum of one -0.0 is -0.0."""
    x = node.operands[0]
    if any(d != 1 for d in _reduced(node)):
        return None
    result = node.types[0]
    return converted(build, reshaped(build, x, result.shape), result.dtype)


def _sum_of_full(node: Node, build: Builder) -> Value | None:
    """A sum of n equal numbers is n times the number, in the precision of the accumulator."""
    x = node.operands[0]
    c = number(x)
    count = product(_reduced(node))
    if c is None or not isinstance(count, int):
        return None
    result = node.types[0]
    with np.errstate(all="ignore"):
        if result.dtype.is_float:
            exact = rounded(np.asarray(c), result.dtype).astype(np.float64) * count if count else np.float64(0.0)
            value = rounded(np.asarray(exact), result.dtype).item()
        else:
            value = (int(c) * count + 2**63) % 2**64 - 2**63
    return full(build, value, result.shape, result.dtype)


def _prod_of_ones(node: Node, build: Builder) -> Value | None:
    result = node.types[0]
    if number(node.operands[0]) == 1:
        return full(build, 1.0 if result.dtype.is_float else 1, result.shape, result.dtype)
    return None


def _extremum_of_full(node: Node, build: Builder) -> Value | None:
    """The greatest or least of equal numbers, where there surely is one."""
    x = node.operands[0]
    c = number(x)
    if c is None or any(bounds(d)[0] < 1 for d in _reduced(node)):
        return None
    return full(build, c, node.types[0].shape, x.dtype)


def _position_of_one(node: Node, build: Builder) -> Value | None:
    x = node.operands[0]
    if x.shape[node.attrs["axis"]] != 1:
        return None
    return full(build, 0, node.types[0].shape, node.types[0].dtype)


def _scan_of_one(node: Node, build: Builder) -> Value | None:
    x = node.operands[0]
    return converted(build, x, node.types[0].dtype) if x.shape[node.attrs["axis"]] == 1 else None


RULES: dict[str, tuple[Rule, ...]] = {
    "sum": (_over_one, _sum_of_full),
    "prod": (_over_one, _prod_of_ones),
    "max": (_over_one, _extremum_of_full),
    "min": (_over_one, _extremum_of_full),
    "argmax": (_position_of_one,),
    "argmin": (_position_of_one,),
    "cumsum": (_scan_of_one,),
}
"""Rules by operator."""
