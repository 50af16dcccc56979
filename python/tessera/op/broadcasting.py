"""NumPy broadcasting of shapes whose dimensions may be symbolic, and its transpose."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.errors import ShapeError
from tessera.ir.dims import Dim, Expr, symbols
from tessera.ir.value import Value
from tessera.op.arguments import shape_text
from tessera.op.opdef import build


def broadcast_shapes(op: str, *shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The common shape: aligned from the right, dimensions are equal or one of them is 1.

    Two symbolic dimensions are equal when their expressions are. ShapeError names the operator, both shapes and the
    dimension.
    """
    result: list[Dim] = []
    owner: list[int] = []
    for number, shape in enumerate(shapes):
        missing = len(shape) - len(result)
        if missing > 0:
            result[:0], owner[:0] = shape[:missing], [number] * missing
        for i in range(1, min(len(shape), len(result)) + 1):
            have, new = result[-i], shape[-i]
            if have == new or new == 1:
                continue
            if have != 1:
                other = owner[-i]
                raise ShapeError(
                    f"[{op}] operand {other} with shape {shape_text(shapes[other])} and operand {number} with shape "
                    f"{shape_text(shape)} do not broadcast: dimension {-i} is {have} in one and {new} in the other; "
                    f"they must be equal or one of them 1{_hint(have, new)}"
                )
            result[-i], owner[-i] = new, number
    return tuple(result)


def _hint(a: Dim, b: Dim) -> str:
    if str(a) == str(b):
        return " (two symbolic dimensions of that name have different ranges: create the dimension once)"
    if isinstance(a, Expr) != isinstance(b, Expr):
        name = symbols(a if isinstance(a, Expr) else b)[0].name
        return f" (the size of {name} is known only at run time)"
    return ""


def unbroadcast(cotangent: Value, shape: Sequence[Dim]) -> Value:
    """Sum a cotangent over the dimensions along which an operand of this shape was broadcast."""
    shape = tuple(shape)
    if cotangent.shape == shape:
        return cotangent
    extra = cotangent.ndim - len(shape)
    axes = [*range(extra)]
    axes += [i + extra for i, d in enumerate(shape) if d == 1 and cotangent.shape[i + extra] != 1]
    summed = build("sum", cotangent, axes=axes, keepdims=False) if axes else cotangent
    return summed if summed.shape == shape else build("reshape", summed, shape=list(shape))
