"""Simplification keeps the meaning: random graphs evaluated before and after, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera import op
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.ir.verify import verify
from tessera.op.opdef import build
from tessera.op.reference import evaluate
from tessera.transform.simplify import simplify

SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -4.0, 3.0, float("inf"), float("-inf"), float("nan"), 1e-40, 1e30]
SHAPES = [(), (1,), (3,), (2, 3), (1, 3), (2, 1), (0, 3), (2, 1, 3)]


class Source:
    """Draws one graph."""

    def __init__(self, draw: Callable[[st.SearchStrategy], object], reductions: bool) -> None:
        self.draw = draw
        self.reductions = reductions
        self.feeds: dict[str, np.ndarray] = {}
        self.values: list[Value] = []

    def one_of(self, items):
        return self.draw(st.sampled_from(list(items)))

    def leaf(self) -> Value:
        dtype = self.one_of(["f32", "f32", "f32", "f64", "bf16", "i64", "i8", "u8", "bool"])
        shape = self.one_of(SHAPES)
        kind = self.one_of(["input", "input", "full", "iota"])
        if kind == "full":
            return op.full(shape, self.number(dtype), dtype)
        if kind == "iota" and shape and dtype != "bool":
            return op.iota(shape, self.draw(st.integers(0, len(shape) - 1)), dtype)
        name = f"x{len(self.feeds)}"
        size = int(np.prod(shape))
        data = [self.number(dtype) for _ in range(size)]
        value = op.tensor(shape, dtype=dtype, name=name)
        self.feeds[name] = np.array(data, dtype=np.float64 if value.dtype.is_float else None).reshape(shape).astype(value.dtype.numpy)
        return value

    def number(self, dtype: str):
        if dtype == "bool":
            return self.draw(st.booleans())
        if dtype in ("i64", "i8", "u8"):
            return self.draw(st.integers(0 if dtype == "u8" else -4, 5))
        return self.one_of(SPECIAL)

    def grow(self) -> None:
        x = self.one_of(self.values)
        step = self.one_of([self.unary, self.binary, self.binary, self.binary, self.view, self.view, self.cast, self.where])
        if self.reductions and self.draw(st.integers(0, 3)) == 0:
            step = self.reduce
        found = step(x)
        if found is not None and found.ndim <= 4:
            self.values.append(found)

    def unary(self, x: Value) -> Value | None:
        if x.dtype.kind == "bool":
            return build("logical_not", x)
        names = ["neg", "abs", "sign"] if x.dtype.kind != "uint" else ["abs"]
        names += ["exp", "sqrt", "sigmoid", "reciprocal", "stop_gradient"] if x.dtype.is_float else ["bitwise_not"]
        return build(self.one_of(names), x)

    def partner(self, x: Value) -> Value | None:
        """A value of x's dtype that broadcasts with it, often a number."""
        if self.draw(st.booleans()):
            return op.full(self.one_of([(), x.shape]), self.number(x.dtype.name if x.dtype.name != "f16" else "f32"), x.dtype)
        fitting = [v for v in self.values if v.dtype == x.dtype and _broadcast(v, x)]
        return self.one_of(fitting) if fitting else None

    def binary(self, x: Value) -> Value | None:
        y = self.partner(x)
        if y is None:
            return None
        if x.dtype.kind == "bool":
            names = ["logical_and", "logical_or", "logical_xor", "eq"]
        else:
            names = ["add", "sub", "mul", "maximum", "minimum", "eq", "lt"]
            names += ["div", "pow"] if x.dtype.is_float else ["floordiv", "bitwise_and", "bitwise_or"]
        a, b = (x, y) if self.draw(st.booleans()) else (y, x)
        return build(self.one_of(names), a, b)

    def where(self, x: Value) -> Value | None:
        y = self.partner(x)
        conditions = [v for v in self.values if v.dtype.kind == "bool" and _broadcast(v, x) and (y is None or _broadcast(v, y))]
        if y is None or not conditions:
            return None
        return build("where", self.one_of(conditions), x, y)

    def cast(self, x: Value) -> Value:
        return op.cast(x, self.one_of(["f32", "f64", "bf16", "f16", "i64", "i8", "u8", "bool"]))

    def view(self, x: Value) -> Value | None:
        kind = self.one_of(["reshape", "transpose", "broadcast", "slice", "pad", "flip", "concat"])
        if kind == "reshape":
            flat = [d for d in x.shape if d != 1] + [1] * self.draw(st.integers(0, 2))
            return op.reshape(x, self.one_of([flat, [1, *flat], [-1]] if x.size else [x.shape]))
        if kind == "transpose":
            return op.transpose(x, self.draw(st.permutations(range(x.ndim))))
        if kind == "broadcast":
            return op.broadcast_to(x, (*self.one_of([(), (2,), (1,)]), *(d if d != 1 else self.one_of([1, 2]) for d in x.shape)))
        if kind == "pad":
            pads = [[self.draw(st.integers(0, 2)) for _ in x.shape] for _ in range(2)]
            return build("pad", x, low=pads[0], high=pads[1], value=self.number(x.dtype.name if x.dtype.name != "f16" else "f32"))
        if not x.ndim:
            return None
        if kind == "slice":
            start = [self.draw(st.integers(0, d)) for d in x.shape]
            stop = [self.draw(st.integers(b, d)) for b, d in zip(start, x.shape)]
            return build("slice", x, start=start, stop=stop, step=[self.draw(st.integers(1, 2)) for _ in x.shape])
        if kind == "flip":
            return build("flip", x, axes=sorted(self.draw(st.sets(st.integers(0, x.ndim - 1)))))
        axis = self.draw(st.integers(0, x.ndim - 1))
        fitting = [
            v for v in self.values
            if v.dtype == x.dtype and v.ndim == x.ndim and all(i == axis or a == b for i, (a, b) in enumerate(zip(v.shape, x.shape)))
        ]
        return build("concat", *[self.one_of(fitting) for _ in range(self.draw(st.integers(1, 3)))], axis=axis)

    def reduce(self, x: Value) -> Value | None:
        axes = sorted(self.draw(st.sets(st.integers(0, x.ndim - 1)))) if x.ndim else []
        name = self.one_of(["sum", "prod", "max", "min", "cumsum", "argmax"])
        if name in ("max", "min", "argmax") and 0 in x.shape:
            return None
        if name in ("cumsum", "argmax"):
            if not x.ndim:
                return None
            axis = self.draw(st.integers(0, x.ndim - 1))
            extra = {"keepdims": self.draw(st.booleans())} if name == "argmax" else {}
            return build(name, x, axis=axis, **extra)
        if x.dtype.kind == "bool" and name in ("max", "min"):
            return None
        return build(name, x, axes=axes, keepdims=self.draw(st.booleans()))

    def graph(self) -> Graph:
        self.values = [self.leaf() for _ in range(self.draw(st.integers(1, 3)))]
        for _ in range(self.draw(st.integers(2, 12))):
            self.grow()
        return Graph({f"y{i}": v for i, v in enumerate(self.values[-3:])})


def _broadcast(a: Value, b: Value) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a.shape), reversed(b.shape)))


def check(draw, reductions: bool) -> None:
    source = Source(draw, reductions)
    graph = source.graph()
    feeds = {v.node.attrs["name"]: source.feeds[v.node.attrs["name"]] for v in graph.inputs}
    found = simplify(graph)
    verify(found)
    before, after = evaluate(graph, feeds), evaluate(found, feeds)
    for name, a in before.items():
        b = after[name]
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype.kind in "biu":
            np.testing.assert_array_equal(b, a, err_msg=str(graph))
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        if reductions:
            np.testing.assert_allclose(b, a, rtol=1e-2 if before[name].dtype.itemsize == 2 else 1e-5, err_msg=str(graph))
        else:
            np.testing.assert_array_equal(b, a, err_msg=str(graph))
            signs = np.signbit(a) == np.signbit(b)
            assert (signs | np.isnan(a)).all(), f"a zero changed its sign\n{graph}\n{found}"
    assert str(simplify(found)) == str(found)


SETTINGS = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SETTINGS
@given(st.data())
def test_elementwise_and_views_keep_every_bit(data: st.DataObject) -> None:
    check(data.draw, reductions=False)


@SETTINGS
@given(st.data())
def test_with_reductions(data: st.DataObject) -> None:
    check(data.draw, reductions=True)
