"""Simplification keeps the meaning: random graphs evaluated before and after, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import Dim, bounds
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.ir.verify import verify
from tessera.op.opdef import build
from tessera.op.reference import evaluate
from tessera.transform.simplify import simplify

SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -4.0, 3.0, float("inf"), float("-inf"), float("nan"), 1e-40, 1e30]
SYMBOLIC = {3: op.dim("N", min=2, max=8), 2: op.dim("M", min=2)}
SHAPES = [(), (1,), (3,), (2, 3), (1, 3), (2, 1), (0, 3), (2, 1, 3)]


class Source:
    """Makes one random graph."""

    def __init__(self, seed: int, reductions: bool, symbolic: bool = False) -> None:
        self.random = random.Random(seed)
        self.symbolic = symbolic
        self.reductions = reductions
        self.feeds: dict[str, np.ndarray] = {}
        self.values: list[Value] = []

    def one_of(self, items: Iterable[Any]) -> Any:
        return self.random.choice(list(items))

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def exact(self, *names: str) -> list[str]:
        """Functions that tell 0.0 from -0.0: not used with reductions, whose references sum one -0.0 to 0.0."""
        return [] if self.reductions else list(names)

    def axes(self, ndim: int) -> list[int]:
        return [a for a in range(ndim) if self.flag()]

    def leaf(self) -> Value:
        dtype = self.one_of(["f32", "f32", "f32", "f64", "bf16", "i64", "i8", "u8", "bool"])
        sizes = self.one_of(SHAPES)
        shape = tuple(SYMBOLIC.get(d, d) for d in sizes) if self.symbolic else sizes
        kind = self.one_of(["input", "input", "full", "iota"])
        if kind == "full":
            return op.full(shape, self.number(dtype), dtype)
        if kind == "iota" and shape and dtype != "bool":
            return op.iota(shape, self.random.randint(0, len(shape) - 1), dtype)
        name = f"x{len(self.feeds)}"
        size = int(np.prod(sizes))
        data = [self.number(dtype) for _ in range(size)]
        value = op.tensor(shape, dtype=dtype, name=name)
        self.feeds[name] = (
            np.array(data, dtype=np.float64 if value.dtype.is_float else None).reshape(sizes).astype(value.dtype.numpy)
        )
        return value

    def number(self, dtype: str):
        if dtype == "bool":
            return self.flag()
        if dtype in ("i64", "i8", "u8"):
            return self.random.randint(0 if dtype == "u8" else -4, 5)
        return self.one_of(SPECIAL)

    def grow(self) -> None:
        x = self.one_of(self.values[-6:] if self.flag() else self.values)
        step = self.one_of(
            [self.unary, self.binary, self.binary, self.binary, self.view, self.view, self.cast, self.where]
        )
        if self.reductions and self.random.randint(0, 3) == 0:
            step = self.reduce
        found = step(x)
        if found is not None and found.ndim <= 4:
            self.values.append(found)

    def unary(self, x: Value) -> Value | None:
        if x.dtype.kind == "bool":
            return build("logical_not", x)
        names = ["neg", "abs", "sign"] if x.dtype.kind != "uint" else ["abs"]
        names += (
            ["exp", "sqrt", "sigmoid", "stop_gradient", *self.exact("reciprocal")]
            if x.dtype.is_float
            else ["bitwise_not"]
        )
        return build(self.one_of(names), x)

    def partner(self, x: Value) -> Value | None:
        """A value of x's dtype that broadcasts with it, often a number."""
        if self.flag():
            return op.full(
                self.one_of([(), x.shape]), self.number(x.dtype.name if x.dtype.name != "f16" else "f32"), x.dtype
            )
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
            names += self.exact("div", "pow") if x.dtype.is_float else ["floordiv", "bitwise_and", "bitwise_or"]
        a, b = (x, y) if self.flag() else (y, x)
        return build(self.one_of(names), a, b)

    def where(self, x: Value) -> Value | None:
        y = self.partner(x)
        conditions = [
            v for v in self.values if v.dtype.kind == "bool" and _broadcast(v, x) and (y is None or _broadcast(v, y))
        ]
        if y is None or not conditions:
            return None
        return build("where", self.one_of(conditions), x, y)

    def cast(self, x: Value) -> Value:
        return op.cast(x, self.one_of(["f32", "f64", "bf16", "f16", "i64", "i8", "u8", "bool"]))

    def view(self, x: Value) -> Value | None:
        kind = self.one_of(["reshape", "transpose", "broadcast", "slice", "pad", "flip", "concat"])
        if kind == "reshape":
            flat = [d for d in x.shape if d != 1] + [1] * self.random.randint(0, 2)
            return op.reshape(
                x, self.one_of([flat, [1, *flat], [-1]] if x.size != 0 and bounds(x.size)[0] >= 0 else [x.shape])
            )
        if kind == "transpose":
            return op.transpose(x, self.random.sample(range(x.ndim), x.ndim))
        if kind == "broadcast":
            return op.broadcast_to(
                x, (*self.one_of([(), (2,), (1,)]), *(d if d != 1 else self.one_of([1, 2]) for d in x.shape))
            )
        if kind == "pad":
            pads = [[self.random.randint(0, 2) for _ in x.shape] for _ in range(2)]
            return build(
                "pad", x, low=pads[0], high=pads[1], value=self.number(x.dtype.name if x.dtype.name != "f16" else "f32")
            )
        if not x.ndim:
            return None
        if kind == "slice":
            ends = [self.ends(d) for d in x.shape]
            steps = [self.random.randint(1, 2) for _ in x.shape]
            return build("slice", x, start=[b for b, _ in ends], stop=[e for _, e in ends], step=steps)
        if kind == "flip":
            return build("flip", x, axes=self.axes(x.ndim))
        axis = self.random.randint(0, x.ndim - 1)
        fitting = [
            v
            for v in self.values
            if v.dtype == x.dtype
            and v.ndim == x.ndim
            and all(i == axis or a == b for i, (a, b) in enumerate(zip(v.shape, x.shape)))
        ]
        return build("concat", *[self.one_of(fitting) for _ in range(self.random.randint(1, 3))], axis=axis)

    def ends(self, size: Dim) -> tuple[Dim, Dim]:
        """Start and stop of a slice."""
        if not isinstance(size, int):
            lowest = bounds(size)[0]
            choices = [(0, size), (size, size), (0, 0)]
            choices += [(1, size), (0, size - 1), (size - 1, size), (0, 1)] if lowest >= 1 else []
            return self.one_of([*choices, (1, 2), (1, size - 1)] if lowest >= 2 else choices)
        start = self.random.randint(0, size)
        return start, self.random.randint(start, size)

    def reduce(self, x: Value) -> Value | None:
        axes = self.axes(x.ndim)
        name = self.one_of(["sum", "prod", "max", "min", "cumsum", "argmax"])
        if name in ("max", "min", "argmax") and any(bounds(d)[0] < 1 for d in x.shape):
            return None
        if name in ("cumsum", "argmax"):
            if not x.ndim:
                return None
            axis = self.random.randint(0, x.ndim - 1)
            extra = {"keepdims": self.flag()} if name == "argmax" else {}
            return build(name, x, axis=axis, **extra)
        if x.dtype.kind == "bool" and name in ("max", "min"):
            return None
        return build(name, x, axes=axes, keepdims=self.flag())

    def graph(self) -> Graph:
        """Every value that no other uses is an output."""
        self.values = [self.leaf() for _ in range(4)]
        for _ in range(30):
            self.grow()
        used = {v for value in self.values for v in value.node.operands}
        sizes = op.tensor(tuple(SYMBOLIC.values()), dtype="bool", name="sizes")  # gives the symbols their values
        self.feeds["sizes"] = np.zeros(tuple(SYMBOLIC), bool)
        return Graph({f"y{i}": v for i, v in enumerate(self.values) if v not in used}, inputs=[sizes])


def _broadcast(a: Value, b: Value) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a.shape), reversed(b.shape)))


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("reductions", [False, True], ids=["elementwise and views", "with reductions"])
@pytest.mark.parametrize("block", range(5))
def test_simplified_graphs_mean_the_same(block: int, reductions: bool, symbolic: bool) -> None:
    """Bit for bit, NaN payloads apart; with reductions, whose order is free, up to rounding."""
    for seed in range(block * 25, (block + 1) * 25):
        _check(seed, reductions, symbolic)


def _check(seed: int, reductions: bool, symbolic: bool) -> None:
    source = Source(seed, reductions, symbolic)
    graph = source.graph()
    feeds = {v.node.attrs["name"]: source.feeds[v.node.attrs["name"]] for v in graph.inputs}
    found = simplify(graph)
    verify(found)
    before, after = evaluate(graph, feeds), evaluate(found, feeds)
    for name, a in before.items():
        b = after[name]
        message = f"seed {seed}, {name}\n{graph}\n{found}"
        assert a.dtype == b.dtype and a.shape == b.shape, message
        if a.dtype.kind in "biu":
            np.testing.assert_array_equal(b, a, err_msg=message)
            continue
        tolerance = 0.0 if not reductions else 1e-2 if a.dtype.itemsize == 2 else 1e-5
        a, b = a.astype(np.float64), b.astype(np.float64)
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=0.0, err_msg=message)
        if not reductions:
            assert ((np.signbit(a) == np.signbit(b)) | np.isnan(a)).all(), f"a zero changed its sign: {message}"
    assert str(simplify(found)) == str(found), f"seed {seed}: simplifying again changes the graph\n{found}"
