"""Random programs of user-level operators: shapes, dtypes and operators are drawn, the arrays too.

A program is valid by construction as far as shapes and dtypes go. Operators that turn a rounding difference into
another result (comparisons, rounding, index of the largest, selections) are drawn only for values that every
implementation computes exactly: inputs and what was only moved, negated or selected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tessera import graph, op
from tessera.ir.dims import evaluate
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph, topological
from tessera.ir.value import INPUT, Value

FLOATS = ("f64", "f32", "bf16", "f16")
NARROW = ("bf16", "f16")
INTEGERS = ("i64", "i32", "i16", "i8", "u8")
LIMIT = 400  # elements of a value


@dataclass(frozen=True)
class Entry:
    """A value of the program. ``exact``: no implementation may differ in any bit."""

    value: Value
    exact: bool

    @property
    def dtype(self) -> str:
        return self.value.dtype.name


@dataclass
class Program:
    """The values so far, the inputs and their arrays."""

    random: np.random.Generator
    batch: int | None = None  # the size of the symbolic dimension, None for a program without
    entries: list[Entry] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    smooth: bool = False
    dtypes: tuple[str, ...] = FLOATS + INTEGERS + ("bool",)

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def chance(self, p: float = 0.5) -> bool:
        return bool(self.random.random() < p)

    def size(self) -> int:
        return int(self.random.choice([0, 1, 2, 3, 4, 5, 8, 17], p=[0.03, 0.17, 0.15, 0.2, 0.15, 0.15, 0.1, 0.05]))

    def shape(self) -> list[int]:
        return [self.size() for _ in range(self.integer(0, 4))]

    def array(self, shape: list[int], dtype: str) -> np.ndarray:
        kind = DTYPES[dtype]
        if dtype == "bool":
            return self.random.integers(0, 2, shape).astype(bool)
        if not kind.is_float:
            return self.random.integers(0 if dtype == "u8" else -9, 10, shape).astype(kind.numpy)
        return self.random.uniform(-2, 2, shape).astype(kind.numpy)

    def input(self, dtype: str, shape: list[int] | None = None, symbolic: bool = False) -> Entry:
        name = f"x{len(self.feeds)}"
        sizes = self.shape() if shape is None else shape
        declared: list[object] = list(sizes)
        if symbolic and self.batch is not None:
            sizes, declared = [self.batch, *sizes[:2]], [op.dim("B", min=0), *sizes[:2]]
        self.feeds[name] = self.array(sizes, dtype)
        entry = Entry(op.tensor(tuple(declared), dtype, name=name), True)
        self.entries.append(entry)
        return entry

    def pick(self, accept: Callable[[Entry], bool] = lambda e: True) -> Entry | None:
        """A value that fits, recent ones more often."""
        fitting = [e for e in self.entries if accept(e)]
        if not fitting:
            return None
        return fitting[-1 - min(int(self.random.exponential(3.0)), len(fitting) - 1)]

    def axis(self, v: Value) -> int:
        return self.integer(-v.ndim, v.ndim)


def _is_float(e: Entry) -> bool:
    return e.dtype in FLOATS


def _is_number(e: Entry) -> bool:
    return e.dtype != "bool"


def _ranked(e: Entry) -> bool:
    return e.value.ndim > 0


def _static(v: Value) -> bool:
    return all(isinstance(d, int) for d in v.shape)


Result = Entry | None


def _unary(p: Program) -> Result:
    e = p.pick(_is_float)
    if e is None:
        return None
    x = e.value
    functions: list[Callable[[Value], Value]] = [
        op.tanh, op.sigmoid, op.gelu, op.silu, op.softplus, op.mish, op.erf, op.atan, op.asinh, op.square,
        lambda v: op.sin(op.tanh(v)), lambda v: op.cos(op.tanh(v)), lambda v: op.exp(op.tanh(v)),
        lambda v: op.log(op.abs(v) + 1.0), lambda v: op.sqrt(v * v + 0.5), lambda v: op.rsqrt(v * v + 1),
        lambda v: v * 0.5 + 1.0, lambda v: 1.0 / (v * v + 2.0), lambda v: op.log1p(v * v),
        lambda v: v**2 / 4, lambda v: (v * v + 0.25) ** 0.75, lambda v: op.gelu(v, approximate="tanh"),
        lambda v: op.expm1(op.tanh(v)),
    ]
    return Entry(functions[p.integer(0, len(functions))](x), False)


def _exact_unary(p: Program) -> Result:
    e = p.pick(_is_number)
    if e is None:
        return None
    functions: list[Callable[[Value], Value]] = [op.abs, op.neg, lambda v: v]
    if e.exact and not p.smooth:
        functions += [op.sign, op.floor, op.ceil, op.round, op.trunc, op.relu, op.relu6, lambda v: op.clip(v, 0, 1)]
        if e.dtype in FLOATS:
            functions += [op.leaky_relu, op.hard_sigmoid, op.elu]
    f = functions[p.integer(0, len(functions))]
    if p.smooth and f is op.abs:
        return None
    try:
        return Entry(f(e.value), e.exact and f not in (op.leaky_relu, op.hard_sigmoid, op.elu))
    except TypeError:
        return None


def _cast(p: Program) -> Result:
    e = p.pick()
    dtype = str(p.random.choice(p.dtypes))
    if e is None or (e.dtype in FLOATS and dtype not in FLOATS and not e.exact) or p.smooth:
        return None
    if e.dtype in FLOATS and dtype == "u8":
        return None  # of a negative number: undefined in NumPy
    return Entry(op.cast(e.value, dtype), e.exact)


def _binary(p: Program) -> Result:
    a = p.pick()
    if a is None:
        return None
    for _ in range(8):
        b = p.pick()
        if b is None or not (_is_number(a) or _is_number(b)):
            continue
        functions: list[tuple[Callable[[Value, Value], Value], bool]] = [
            (op.add, False), (op.sub, False), (op.mul, False), (op.logaddexp, False),
            (lambda x, y: x / (y * y + 1), False),
        ]
        if not p.smooth and a.exact and b.exact:
            functions += [(f, True) for f in (op.maximum, op.minimum, op.lt, op.ge, op.eq, op.ne)]
            if a.dtype in INTEGERS and b.dtype in INTEGERS:
                functions += [(op.floordiv, True), (op.mod, True)]
        f, exact = functions[p.integer(0, len(functions))]
        integers = a.dtype not in FLOATS and b.dtype not in FLOATS
        try:
            found = f(a.value, b.value)
        except (ValueError, TypeError):
            continue
        return Entry(found, a.exact and b.exact and (exact or (integers and found.dtype.name not in FLOATS)))
    return None


def _where(p: Program) -> Result:
    c = p.pick(lambda e: e.dtype == "bool")
    a, b = p.pick(_is_number), p.pick(_is_number)
    if c is None or a is None or b is None:
        return None
    try:
        return Entry(op.where(c.value, a.value, b.value), a.exact and b.exact and a.dtype == b.dtype)
    except (ValueError, TypeError):
        return None


def _axes(p: Program, v: Value) -> list[int] | int | None:
    if p.chance(0.2):
        return None
    axes = [a for a in range(v.ndim) if p.chance()] or [p.axis(v)]
    return axes if len(axes) > 1 or p.chance() else axes[0]


def _nonempty(v: Value) -> bool:
    return all(isinstance(d, int) and d > 0 for d in v.shape)


def _reduction(p: Program) -> Result:
    e = p.pick(_ranked)
    if e is None:
        return None
    x, axes, keepdims = e.value, _axes(p, e.value), p.chance()
    exact = e.exact and e.dtype not in FLOATS
    functions: list[tuple[Callable[..., Value], bool]] = [(op.sum, exact), (op.mean, False)]
    if e.dtype in FLOATS:
        functions += [(op.logsumexp, False)] if _nonempty(x) else []
        functions += [(op.var, False)] if _nonempty(x) else []
    if e.exact and not p.smooth and _nonempty(x):
        functions += [(op.max, True), (op.min, True)] if e.dtype != "bool" else [(op.any, True), (op.all, True)]
    if e.dtype == "bool" and p.chance():
        functions = [(op.any, True), (op.all, True)]
    f, exact = functions[p.integer(0, len(functions))]
    return Entry(f(x, axis=axes, keepdims=keepdims), exact)


def _extremum(p: Program) -> Result:
    e = p.pick(lambda e: e.exact and _ranked(e) and _is_number(e) and _nonempty(e.value))
    if e is None or p.smooth:
        return None
    f = op.argmax if p.chance() else op.argmin
    return Entry(f(e.value, axis=p.axis(e.value), keepdims=p.chance()), True)


def _row(p: Program) -> Result:
    e = p.pick(lambda e: _ranked(e) and _is_float(e))
    if e is None:
        return None
    axis = p.axis(e.value)
    functions: list[Callable[[Value], Value]] = [
        lambda v: op.softmax(v, axis=axis), lambda v: op.log_softmax(v, axis=axis), lambda v: op.cumsum(v, axis=axis),
        lambda v: v - op.mean(v, axis=axis, keepdims=True),
    ]
    return Entry(functions[p.integer(0, len(functions))](e.value), False)


def _view(p: Program) -> Result:
    e = p.pick(_ranked)
    if e is None:
        return None
    x = e.value
    kind = p.integer(0, 10)
    if kind == 0:
        return Entry(op.permute(x, [int(a) for a in p.random.permutation(x.ndim)]), e.exact)
    if kind == 1:
        return Entry(op.reshape(x, [-1] if _static(x) and x.size else [x.size]), e.exact)
    if kind == 2:
        return Entry(op.flip(x, p.axis(x)), e.exact)
    if kind == 3:
        axis = p.axis(x) % x.ndim
        index: list[object] = [slice(None)] * x.ndim
        d = x.shape[axis]
        if isinstance(d, int) and d > 1:
            choices = [
                slice(1, None), slice(None, -1), slice(None, None, 2), slice(None, None, -1), slice(d - 1, 0, -2),
                p.integer(-d, d),
            ]
            index[axis] = choices[p.integer(0, len(choices))]
        return Entry(x[tuple(index)], e.exact)
    if kind == 4:
        return Entry(op.expand_dims(x, p.integer(-x.ndim - 1, x.ndim + 1)), e.exact)
    if kind == 5:
        return Entry(op.broadcast_to(x, [p.integer(1, 4), *x.shape]), e.exact)
    if kind == 6:
        return Entry(op.repeat(x, 2, axis=p.axis(x)), e.exact)
    if kind == 7 and x.ndim >= 2:
        return Entry((op.tril if p.chance() else op.triu)(x, p.integer(-2, 3)), e.exact)
    if kind == 8:
        return Entry(op.tile(x, [p.integer(1, 3) for _ in range(x.ndim)]), e.exact)
    if kind == 9 and x.ndim >= 2:
        return Entry(op.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]]), e.exact)
    return None


def _join(p: Program) -> Result:
    e = p.pick(_ranked)
    if e is None:
        return None
    x, axis = e.value, p.axis(e.value) % e.value.ndim
    if p.chance(0.4):
        widths = [(p.integer(0, 3), p.integer(0, 3)) for _ in range(x.ndim)]
        return Entry(op.pad(x, widths, value=1 if e.dtype in INTEGERS else e.dtype == "bool" or 0.5), e.exact)

    def fits(o: Entry) -> bool:
        same = o.dtype == e.dtype and o.value.ndim == x.ndim
        return same and all(a == b for i, (a, b) in enumerate(zip(o.value.shape, x.shape, strict=True)) if i != axis)

    other = p.pick(fits)
    if other is None:
        return None
    if p.chance() and other.value.shape == x.shape:
        return Entry(op.stack([x, other.value], axis=p.integer(-x.ndim - 1, x.ndim + 1)), e.exact and other.exact)
    return Entry(op.concat([x, other.value, x][: p.integer(1, 4)], axis=axis), e.exact and other.exact)


def _split(p: Program) -> Result:
    e = p.pick(_ranked)
    if e is None:
        return None
    axis = p.axis(e.value)
    d = e.value.shape[axis]
    if not isinstance(d, int) or d < 2:
        return None
    parts = op.split(e.value, [1, d - 1], axis=axis)
    return Entry(parts[p.integer(0, len(parts))], e.exact)


def _product(p: Program) -> Result:
    e = p.pick(lambda e: e.value.ndim >= 2 and _is_number(e))
    if e is None:
        return None
    x = e.value
    kind = p.integer(0, 4)
    exact = e.exact and e.dtype in INTEGERS
    if kind == 0:
        return Entry(op.matmul(x, op.swapaxes(x, -1, -2)), exact)
    if kind == 1:
        return Entry(op.matmul(op.swapaxes(x, -1, -2), x), exact)
    columns = p.size()
    w = p.input(e.dtype, [columns, x.shape[-1]] if isinstance(x.shape[-1], int) else [columns, 1])
    if not isinstance(x.shape[-1], int):
        return None
    if kind == 2:
        return Entry(op.matmul(x, w.value.T), exact)
    return Entry(op.einsum("...ij,kj->...ki", x, w.value), exact)


def _gather(p: Program) -> Result:
    e = p.pick(lambda e: _ranked(e) and _nonempty(e.value))
    if e is None:
        return None
    x, axis = e.value, p.axis(e.value)
    size = x.shape[axis]
    if not isinstance(size, int):
        return None
    kind = p.integer(0, 4)
    index_type = "i64" if p.chance() else "i32"
    shape = [int(d) for d in x.shape] if kind == 1 else p.shape()[:2]
    if kind == 1:
        shape[axis] = p.integer(1, 5)
    index = p.input(index_type, shape)
    name = index.value.node.attrs["name"]
    p.feeds[name] = p.random.integers(-size, size, shape).astype(DTYPES[index_type].numpy)
    if kind == 0:
        return Entry(op.take(x, index.value, axis=axis), e.exact)
    if kind == 1:
        return Entry(op.take_along_axis(x, index.value, axis=axis), e.exact)
    if kind == 2 and e.dtype != "bool":
        updates = op.take(x, index.value, axis=axis)
        return Entry(op.index_add(x, index.value, updates, axis=axis), e.exact and e.dtype in INTEGERS)
    return Entry(op.one_hot(op.abs(op.mod(index.value, size)), size, dtype="f32"), True)


def _normal(p: Program) -> Result:
    e = p.pick(lambda e: _ranked(e) and _is_float(e) and isinstance(e.value.shape[-1], int) and e.value.shape[-1] > 1)
    if e is None:
        return None
    x = e.value
    centred = x - op.mean(x, axis=-1, keepdims=True)
    return Entry(centred * op.rsqrt(op.mean(op.square(centred), axis=-1, keepdims=True) + 0.1), False)


MAKERS: tuple[tuple[Callable[[Program], Result], float], ...] = (
    (_unary, 6), (_exact_unary, 3), (_cast, 2), (_binary, 7), (_where, 2), (_reduction, 4), (_extremum, 1), (_row, 2),
    (_view, 6), (_join, 2), (_split, 1), (_product, 3), (_gather, 2), (_normal, 1),
)


def random_program(
    seed: int, length: int = 8, *, smooth: bool = False, symbolic: bool = False, dtypes: tuple[str, ...] | None = None
) -> Program:
    """A random program. ``smooth``: only differentiable operators, on f64."""
    random = np.random.default_rng(seed)
    p = Program(random, batch=int(random.choice([0, 1, 2, 3, 7])) if symbolic else None, smooth=smooth)
    p.dtypes = ("f64",) if smooth else dtypes or p.dtypes
    for i in range(3):
        p.input(str(random.choice(p.dtypes)), symbolic=symbolic and i < 2)
    weights = np.array([w for _, w in MAKERS])
    count = 0
    for _ in range(20 * length):
        maker = MAKERS[int(random.choice(len(MAKERS), p=weights / weights.sum()))][0]
        entry = maker(p)
        if entry is None or entry.value.ndim > 5 or _elements(p, entry.value) > LIMIT:
            continue
        p.entries.append(entry)
        count += 1
        if count == length:
            break
    return p


def _elements(p: Program, v: Value) -> int:
    size = v.size
    return size if isinstance(size, int) else evaluate(size, {"B": p.batch or 0})


def outputs(p: Program, count: int = 4) -> dict[str, Entry]:
    """The last value and some others."""
    others = [p.entries[int(i)] for i in p.random.integers(0, len(p.entries), count - 1)]
    return {f"y{i}": e for i, e in enumerate([*others, p.entries[-1]])}


def gradient_graph(p: Program) -> Graph | None:
    """A loss over the last float values, and its gradients with respect to all float inputs that it depends on."""
    floats = [e.value for e in p.entries[-4:] if e.dtype in FLOATS]
    if not floats:
        return None
    terms = [op.sum(op.tanh(op.cast(v, "f64") * 0.1)) for v in floats]
    loss = terms[0]
    for t in terms[1:]:
        loss = loss + t * 0.5
    leaves = [n.results[0] for n in topological([loss.node]) if n.op == INPUT]
    wrt = [v for v in leaves if v.dtype.name in FLOATS]
    if not wrt:
        return None
    found = graph.backward(loss, wrt=wrt)
    named = {f"d{v.node.attrs['name']}": g for v, g in zip(wrt, found, strict=True)}
    return Graph({"loss": loss, **named}, inputs=leaves)
