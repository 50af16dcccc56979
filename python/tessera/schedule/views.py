"""Chains of reshapes and transposes: followed, built, and brought into one reshape, one transpose and one reshape."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.ir.dims import Dim, product
from tessera.ir.value import Node, Value
from tessera.schedule.split import derived

VIEWS = ("reshape", "transpose")


def views_of(v: Value) -> tuple[Value, tuple[Node, ...]]:
    """What a value is a view of, and the views in order."""
    views: list[Node] = []
    while v.node.op in VIEWS:
        views.append(v.node)
        v = v.node.operands[0]
    return v, tuple(reversed(views))


def are_alike(a: Sequence[Node], b: Sequence[Node]) -> bool:
    """Whether views do the same to tensors of one shape."""
    return len(a) == len(b) and all(
        x.op == y.op and x.results[0].shape == y.results[0].shape and x.attrs == y.attrs for x, y in zip(a, b))


def reshaped(x: Value, shape: tuple[Dim, ...], at: Node) -> Value:
    """In another shape; ``at``: the node that it is part of."""
    return x if x.shape == shape else derived("reshape", (x,), {"shape": list(shape)}, x.dtype, shape, at)


def transposed(x: Value, perm: Sequence[int], at: Node) -> Value:
    """With dimensions in another order."""
    if list(perm) == list(range(x.ndim)):
        return x
    return derived("transpose", (x,), {"perm": list(perm)}, x.dtype, tuple(x.shape[p] for p in perm), at)


def moved(x: Value, source: int, target: int, at: Node) -> Value:
    """With one dimension at another place."""
    perm = [i for i in range(x.ndim) if i != source]
    perm.insert(target, source)
    return transposed(x, perm, at)


def of_each(x: Value, views: Sequence[Node], at: Node) -> Value:
    """Views of every part at once, where the outermost dimension of ``x`` counts parts."""
    for view in views:
        if view.op == "reshape":
            x = reshaped(x, (x.shape[0], *view.results[0].shape), at)
        else:
            x = transposed(x, [0, *(p + 1 for p in view.attrs["perm"])], at)
    return x


def in_one_step(v: Value) -> Value:
    """The same view of the same tensor in at most three steps; ``v`` itself where sizes are not known to fit."""
    base, views = views_of(v)
    if len(views) < 2 or 0 in base.shape:
        return v
    order = _Factors(base.shape)
    for view in views:
        if view.op == "transpose":
            order.transpose(view.attrs["perm"])
        elif not order.reshape(view.results[0].shape):
            return v
    parts = reshaped(base, tuple(order.sizes), v.node)
    return reshaped(transposed(parts, [f for d in order.dims for f in d], v.node), v.shape, v.node)


class _Factors:
    """The dimensions of a view as products of factors of the tensor's own dimensions.

    ``sizes`` of the factors, in the order of the tensor; ``dims``: the numbers of the factors of each dimension.
    """

    def __init__(self, shape: Sequence[Dim]) -> None:
        self.sizes: list[Dim] = list(shape)
        self.dims: list[list[int]] = [[i] for i in range(len(shape))]

    def transpose(self, perm: Sequence[int]) -> None:
        """Reorder the dimensions."""
        self.dims = [self.dims[p] for p in perm]

    def reshape(self, shape: Sequence[Dim]) -> bool:
        """Regroup the factors; False where a dimension is no product of factors, whole or cut once."""
        rest = [f for d in self.dims for f in d if self.sizes[f] != 1]
        dims: list[list[int]] = []
        for d in shape:
            own: list[int] = []
            while (have := product(self.sizes[f] for f in own)) != d:
                if not rest:
                    return False
                f, size = rest[0], self.sizes[rest[0]]
                if isinstance(size, int) and isinstance(have, int) and isinstance(d, int) and have * size > d:
                    if have == 0 or d % have or size % (d // have):
                        return False
                    rest = [g + (g > f) for g in rest]
                    rest.insert(1, f + 1)
                    dims, own = [_cut(x, f) for x in dims], _cut(own, f)
                    self.sizes[f : f + 1] = [d // have, size // (d // have)]
                own.append(rest.pop(0))
            dims.append(own)
        self.dims = dims
        return not rest and self._has_all()

    def _has_all(self) -> bool:
        """Let factors of size 1 that no dimension has follow the last one."""
        used = {f for d in self.dims for f in d}
        unused = [f for f in range(len(self.sizes)) if f not in used]
        if unused and not self.dims:
            return False
        if unused:
            self.dims[-1] = [*self.dims[-1], *unused]
        return True


def _cut(factors: list[int], at: int) -> list[int]:
    """Numbers of factors after one has been cut in two."""
    return [g for f in factors for g in ((f, f + 1) if f == at else (f + (f > at),))]
