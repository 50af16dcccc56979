"""Random graphs of primitives over small tensors, some with a symbolic size, with state that is updated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tessera import op
from tessera.ir.dims import Dim, Expr, Symbol, sym
from tessera.ir.dims import evaluate as evaluate_dim
from tessera.ir.dtype import DType, f64, i64
from tessera.ir.graph import Graph
from tessera.ir.value import INPUT, PARAM, Node, TensorType, Value

SIZE = Symbol("B", 1, None)


def leaf(kind: str, name: str, dtype: DType, shape: tuple[Dim, ...]) -> Value:
    """An input or a parameter."""
    attrs = {"name": name} if kind == INPUT else {"name": name, "trainable": True}
    return Node(kind, (), attrs, (TensorType(dtype, shape),)).results[0]


@dataclass
class RandomGraph:
    """A graph, its feeds and state, and the value of its symbolic size."""

    random: np.random.Generator
    symbolic: bool
    size: int
    values: list[Value] = field(default_factory=list)
    params: list[Value] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)

    def shape(self) -> tuple[Dim, ...]:
        """Dimensions 1, 2, 3, 4 and, now and then, the symbolic one."""
        b: Dim = sym(SIZE) if self.symbolic else self.size
        choices: list[Dim] = [1, 2, 3, 4, b]
        return tuple(choices[self.random.integers(5)] for _ in range(self.random.integers(0, 4)))

    def array(self, shape: tuple[Dim, ...]) -> np.ndarray:
        return self.random.uniform(-2, 2, tuple(evaluate_dim(d, {"B": self.size}) for d in shape))

    def pick(self) -> Value:
        """A value, recent ones more often."""
        n = len(self.values)
        return self.values[n - 1 - min(int(self.random.exponential(3.0)), n - 1)]

    def index(self, limit: Dim, shape: tuple[Dim, ...]) -> Value:
        """An index tensor in [0, limit), as an input."""
        name = f"index{len(self.feeds)}"
        concrete = tuple(evaluate_dim(d, {"B": self.size}) for d in shape)
        self.feeds[name] = self.random.integers(0, evaluate_dim(limit, {"B": self.size}), concrete)
        return leaf(INPUT, name, i64, shape)


def _unary(g: RandomGraph) -> Value:
    functions: list[Callable[[Value], Value]] = [
        op.neg, op.tanh, op.sigmoid, op.abs, op.sin, lambda x: op.exp(op.tanh(x)), op.relu, lambda x: x * 0.5 + 1.0,
        lambda x: op.cast(op.cast(x, "f32"), "f64"), lambda x: op.where(x > 0, x, x * 0.1), lambda x: op.mul(x, x),
    ]
    return functions[g.random.integers(len(functions))](g.pick())


def _binary(g: RandomGraph) -> Value | None:
    a = g.pick()
    for _ in range(6):
        b = g.pick()
        try:
            return [op.add, op.sub, op.mul, op.maximum][g.random.integers(4)](a, b)
        except ValueError:
            continue
    return None


def _reduction(g: RandomGraph) -> Value | None:
    x = g.pick()
    if not x.ndim:
        return None
    axes = [a for a in range(x.ndim) if g.random.integers(2)] or [int(g.random.integers(x.ndim))]
    function = [op.sum, op.max, op.mean, op.min][g.random.integers(4)]
    return function(x, axis=axes, keepdims=bool(g.random.integers(2)))


def _row(g: RandomGraph) -> Value | None:
    x = g.pick()
    if not x.ndim:
        return None
    axis = int(g.random.integers(x.ndim))
    functions: list[Callable[[Value], Value]] = [
        lambda v: op.softmax(v, axis=axis), lambda v: op.log_softmax(v, axis=axis), lambda v: op.cumsum(v, axis=axis),
lambda v: v - op.mean(v, axis=axis, keepdims=True),
    ]
    return functions[g.random.integers(len(functions))](x)


def _view(g: RandomGraph) -> Value | None:
    x = g.pick()
    kind = g.random.integers(6)
    if kind == 0 and x.ndim:
        return op.transpose(x, list(map(int, g.random.permutation(x.ndim))))
    if kind == 1:
        return op.reshape(x, [x.size])
    if kind == 2 and x.ndim >= 2:
        return op.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]])
    if kind == 3 and x.ndim:
        return op.flip(x, [int(g.random.integers(x.ndim))])
    if kind == 4 and x.ndim and isinstance(x.shape[0], int) and x.shape[0] > 1:
        return x[1:]
    if kind == 5:
        return op.broadcast_to(x, [2, *x.shape])
    return None


def _join(g: RandomGraph) -> Value | None:
    x = g.pick()
    if not x.ndim:
        return None
    axis = int(g.random.integers(x.ndim))
    if g.random.integers(2):
        return op.pad(x, [[1, 2] if a == axis else [0, 0] for a in range(x.ndim)], value=0.5)
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    others = [v for v in g.values if v.ndim == x.ndim and (*v.shape[:axis], *v.shape[axis + 1 :]) == rest]
    return op.concat([x, others[int(g.random.integers(len(others)))]], axis=axis)


def _product(g: RandomGraph) -> Value | None:
    x = g.pick()
    if x.ndim < 2:
        return None
    which = g.random.integers(3)
    if which == 0:
        return op.matmul(x, op.matrix_transpose(x)) if hasattr(op, "matrix_transpose") else op.matmul(x, _swap(x))
    if which == 1:
        return op.matmul(_swap(x), x)
    w = leaf(INPUT, f"w{len(g.feeds)}", f64, (x.shape[-1], 3))
    g.feeds[w.node.attrs["name"]] = g.array(w.shape)
    return op.tanh(op.matmul(x, w))


def _swap(x: Value) -> Value:
    return op.transpose(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])


def _gather(g: RandomGraph) -> Value | None:
    x = g.pick()
    if not x.ndim:
        return None
    axis = int(g.random.integers(x.ndim))
    index = g.index(x.shape[axis], (3,))
    if g.random.integers(2):
        return op.take(x, index, axis=axis)
    updates = op.take(x, index, axis=axis) * 0.5
    from tessera.op.opdef import build

    return build("index_add", x, index, updates, axis=axis)


_MAKERS: list[tuple[Callable[[RandomGraph], Value | None], int]] = [
    (_unary, 6), (_binary, 6), (_reduction, 3), (_row, 3), (_view, 4), (_join, 1), (_product, 2), (_gather, 1),
]


def random_graph(seed: int, operators: int, symbolic: bool, size: int) -> tuple[Graph, RandomGraph]:
    """A random graph. Values stay moderate so that tolerances stay small."""
    random = np.random.default_rng(seed)
    g = RandomGraph(random, symbolic, size)
    for i in range(3):
        v = leaf(INPUT, f"x{i}", f64, g.shape())
        g.feeds[f"x{i}"] = g.array(v.shape)
        g.values.append(v)
    for i in range(2):
        p = leaf(PARAM, f"p{i}", f64, tuple(d if isinstance(d, int) else 2 for d in g.shape()))
        g.state[f"p{i}"] = g.array(p.shape)
        g.values.append(p)
        g.params.append(p)
    anchor = leaf(INPUT, "anchor", f64, (sym(SIZE),) if symbolic else (size,))
    g.feeds["anchor"] = g.array(anchor.shape)
    g.values.append(anchor)
    weights = np.array([w for _, w in _MAKERS], float)
    while len(g.values) < operators + 6:
        maker, _ = _MAKERS[random.choice(len(_MAKERS), p=weights / weights.sum())]
        v = maker(g)
        if v is not None and v.ndim <= 4 and _elements(v, size) <= 600:
            g.values.append(op.tanh(v) if random.integers(4) == 0 else v)
    picked = [g.values[int(i)] for i in random.choice(len(g.values), size=min(4, len(g.values)), replace=False)]
    outputs = {f"y{i}": v for i, v in enumerate([*picked, g.values[-1], picked[0]])}
    updates = _updates(g, random)
    inputs = [v for v in _leaves(outputs, updates)]
    return Graph(outputs, inputs=inputs, updates=updates), g


def _elements(v: Value, size: int) -> int:
    n = v.size
    return evaluate_dim(n, {"B": size}) if isinstance(n, Expr) else n


def _leaves(outputs: dict[str, Value], updates: dict[Value, Value]) -> list[Value]:
    return Graph(outputs, updates=updates).inputs


def _updates(g: RandomGraph, random: np.random.Generator) -> dict[Value, Value]:
    updates: dict[Value, Value] = {}
    for p in g.params:
        kind = random.integers(4)
        same = [v for v in g.values if v.shape == p.shape and v is not p]
        if kind == 0 or not same:
            updates[p] = p * 0.9
        elif kind == 1:
            updates[p] = same[int(random.integers(len(same)))]
        elif kind == 2:
            updates[p] = p - same[int(random.integers(len(same)))] * 0.1
    return updates
