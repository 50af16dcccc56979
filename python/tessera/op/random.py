"""Random numbers: counter-based, so that they are the same on any mesh, any device and with any fusion.

A draw is a function of a key (seed, counter), the operation's id and the element's global index, by Philox4x32-10
(see ``tessera.op.philox``). Without a key, operators use the state ``tessera.rng``, whose counter goes up by one each
time a graph has run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import numpy as np

from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.dims import Dim
from tessera.ir.dtype import DType, as_dtype, bool_, f32, f64, i64
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import widen
from tessera.op.arguments import FLOATS, INTEGERS, as_shape, require_dtype
from tessera.op.factors import letters
from tessera.op.lowering import Composite, Lowering, Random
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, no_vjp, register
from tessera.op.parameter import Parameter, set_initial_seed
from tessera.op.philox import element_words, uniform_f32, uniform_f64
from tessera.op.pointwise_binary import where
from tessera.op.pointwise_unary import cos, floor, log, sqrt
from tessera.op.promotion import TensorLike, as_floating, as_tensor, cast_to, constant

__all__ = [
    "RNG_STATE", "bernoulli", "default_key", "dropout", "key", "manual_seed", "normal", "operation_ids", "randint",
    "state", "uniform",
]

RNG_STATE = "tessera.rng"
"""Name of the random state: i64[2], (seed, counter)."""

_NOT_DIFFERENTIABLE = no_vjp("random numbers do not depend on a differentiable operand")


# --- the random state and operation ids -----------------------------------------------------------------------------

_state: Parameter | None = None


def state() -> Parameter:
    """The parameter ``tessera.rng`` of this process."""
    global _state
    if _state is None:
        _state = Parameter(RNG_STATE, (2,), i64, trainable=False, init=np.array([0, 0], dtype=np.int64))
    return _state


def default_key() -> Value:
    """The leaf of the random state: the key that operators use when none is given; always the same value."""
    return state().leaf()


def advanced(key: Value) -> Value:
    """(seed, counter + 1): what the random state becomes when a graph that draws from it has run."""
    return build("add", key, build("iota", shape=[2], axis=0, dtype=i64))


def manual_seed(seed: int) -> None:
    """Seed the random state (its counter goes back to 0) and the initial values of parameters made from now on."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) < 2**63:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"manual_seed: the seed is {seed!r}; it must be an integer in [0, 2**63)")
    state().value = np.array([int(seed), 0], dtype=np.int64)
    set_initial_seed(int(seed))


def key(seed: int, counter: int = 0) -> Value:
    """A constant key: graphs that use it draw the same numbers at every run."""
    return constant(np.array([seed, counter], dtype=np.int64))


class _Ids:
    """Numbers for operations, in program order."""

    def __init__(self, first: int) -> None:
        self._next = itertools.count(first)

    def take(self, count: int) -> int:
        first = next(self._next)
        for _ in range(count - 1):
            next(self._next)
        return first % 2**32


_TRACED = 2**31  # ids of traced functions start here, so that they differ from those of graphs built outside
_process_ids = _Ids(0)
_traced_ids: ContextVar[_Ids | None] = ContextVar("tessera_operation_ids", default=None)


@contextmanager
def operation_ids() -> Generator[None]:
    """Number the random operations built in this block from the start, so that tracing twice gives the same graph.

    Within another such block nothing changes: ids stay unique in the outermost one.
    """
    if _traced_ids.get() is not None:
        yield
        return
    token = _traced_ids.set(_Ids(_TRACED))
    try:
        yield
    finally:
        _traced_ids.reset(token)


def next_operation_id(count: int = 1) -> int:
    """The first of ``count`` consecutive ids that no other operation of the trace (or process) has."""
    return (_traced_ids.get() or _process_ids).take(count)


_IDS_TAKEN = {"random_uniform": 1, "uniform": 1, "normal": 2, "randint": 1, "bernoulli": 1, "dropout": 1}


def renumbered(node: Node, known: dict[int, int]) -> dict[str, Any] | None:
    """The attributes of a draw from the random state under an id of its own; None for every other node.

    ``known`` maps old ids to new ones and grows: draws that shared their numbers, as a gradient does, go on sharing
    them.
    """
    if node.op not in _IDS_TAKEN or not any(v.node.attrs.get("name") == RNG_STATE for v in node.operands):
        return None
    old = node.attrs["id"]
    if old not in known:
        known[old] = next_operation_id(_IDS_TAKEN[node.op])
    return {**node.attrs, "id": known[old]}


# --- random_uniform -------------------------------------------------------------------------------------------------


def _check_key(name: str, t: TensorType) -> None:
    if t.dtype != i64 or t.shape != (2,):
        raise ShapeError(f"[{name}] the key is {t}; expected i64[2], (seed, counter): use op.random.key(seed)")


def _register_draw(
    name: str, doc: str, dtypes: tuple[str, ...], lower: Lowering, reference: Callable[..., np.ndarray] | None = None,
    **attrs: Any,
) -> None:
    """Register a draw with attribute ``shape`` and a dtype among ``dtypes``; ``attrs``: further ones, for samples."""

    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        _check_key(name, types[-1])
        dtype = as_dtype(attrs["dtype"])
        if dtype.name not in dtypes:
            raise DTypeError(f"[{name}] dtype is {dtype}; expected one of {', '.join(dtypes)}")
        return TensorType(dtype, tuple(attrs["shape"]))

    def shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
        return f"Z!->{letters(len(attrs['shape']))}"

    def samples() -> list[Sample]:
        shapes: tuple[list[int], ...] = ([], [7], [3, 5], [0, 4], [2, 1, 33])
        drawn = (i64,) if dtypes == INTEGERS else (f32, f64)
        return [
            Sample(
                (Input((2,), "index", 0, 1 << 40),), {"shape": shape, "dtype": dtype, "id": number, **attrs}, grad=False
            )
            for number, shape in enumerate(shapes) for dtype in drawn
        ]

    register(OpDef(name, infer, _NOT_DIFFERENTIABLE, shard, lower, reference, samples, ("i64",), doc))


def _uniform_reference(key: np.ndarray, shape: Sequence[int], dtype: DType, id: int) -> np.ndarray:
    size = math.prod(shape)
    seed, counter = (int(w) & (2**64 - 1) for w in key)
    first, second = element_words(size, seed, (id, counter & 0xFFFFFFFF))
    draws = uniform_f64(first, second) if dtype == f64 else uniform_f32(first)
    return np.reshape(draws, shape)


_register_draw(
    "random_uniform",
    "Uniform in [0, 1): Philox4x32-10 of (seed, counter), the operation's id and the element's index.",
    ("f32", "f64"), Random(), _uniform_reference,
)


# --- distributions --------------------------------------------------------------------------------------------------


def _unit(key: Value, shape: Sequence[Dim], dtype: DType, id: int) -> Value:
    return build("random_uniform", key, shape=list(shape), dtype=f64 if dtype == f64 else f32, id=id)


def _uniform_body(key: Value, shape: Sequence[Dim], dtype: DType, id: int, low: float, high: float) -> Value:
    draw = _unit(key, shape, dtype, id)
    return cast_to(draw if (low, high) == (0.0, 1.0) else draw * (high - low) + low, dtype)


_register_draw("uniform", "Uniform in [low, high).", FLOATS, Composite(_uniform_body), low=-1.0, high=3.0)


def _normal_body(key: Value, shape: Sequence[Dim], dtype: DType, id: int, mean: float, std: float) -> Value:
    # Box and Muller 1958; 1 - u is in (0, 1], so that the logarithm is finite.
    radius = sqrt(log(1 - _unit(key, shape, dtype, id)) * -2)
    angle = _unit(key, shape, dtype, (id + 1) % 2**32) * (2 * math.pi)
    return cast_to(radius * cos(angle) * std + mean, dtype)


_register_draw(
    "normal", "Normal with a mean and a standard deviation (Box–Muller).", FLOATS, Composite(_normal_body), mean=1.0,
    std=2.0,
)


def _randint_body(key: Value, shape: Sequence[Dim], dtype: DType, id: int, low: int, high: int) -> Value:
    draw = build("random_uniform", key, shape=list(shape), dtype=f64, id=id)
    whole = cast_to(floor(draw * float(high - low)), i64)
    return cast_to(whole + low if low else whole, dtype)


_register_draw("randint", "Integers uniform in [low, high).", INTEGERS, Composite(_randint_body), low=-3, high=9)


def _bernoulli_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    _check_key("bernoulli", types[1])
    require_dtype("bernoulli", types[:1], FLOATS)
    return TensorType(bool_, types[0].shape)


def _bernoulli_body(p: Value, key: Value, id: int) -> Value:
    wide = widen(p)
    return _unit(key, p.shape, wide.dtype, id) < wide


def _bernoulli_samples() -> list[Sample]:
    shapes: tuple[tuple[int, ...], ...] = ((), (7,), (3, 5), (0, 2))
    return [
        Sample((Input(shape, "float", 0.0, 1.0), Input((2,), "index", 0, 1 << 40)), {"id": number}, grad=False)
        for number, shape in enumerate(shapes)
    ]


register(OpDef(
    name="bernoulli",
    infer=_bernoulli_infer,
    vjp=no_vjp("the result is boolean"),
    shard="*,k!->*",
    lower=Composite(_bernoulli_body),
    reference=None,
    samples=_bernoulli_samples,
    dtypes=FLOATS,
    doc="True with probability p, elementwise.",
))


# --- dropout --------------------------------------------------------------------------------------------------------


def _dropout_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    _check_key("dropout", types[1])
    require_dtype("dropout", types[:1], FLOATS)
    return types[0]


def _dropout_body(x: Value, key: Value, p: float, id: int) -> Value:
    kept = _unit(key, x.shape, f32, id) >= p
    return cast_to(where(kept, widen(x) * (1.0 / (1.0 - p)), 0), x.dtype)


def _dropout_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    (g,) = cotangents
    assert g is not None
    # The same draw, made again: the mask is not kept in memory.
    return build("dropout", g, node.operands[1], **node.attrs), None


def _dropout_samples() -> list[Sample]:
    key = Input((2,), "index", 0, 1 << 40)
    return [
        Sample((Input(shape), key), {"p": p, "id": 3})
        for shape, p in (((3, 5), 0.5), ((), 0.25), ((0, 2), 0.1), ((65,), 0.9))
    ]


register(OpDef(
    name="dropout",
    infer=_dropout_infer,
    vjp=_dropout_vjp,
    shard="*,k!->*",
    lower=Composite(_dropout_body),
    reference=None,
    samples=_dropout_samples,
    dtypes=FLOATS,
    doc="x / (1 - p) with probability 1 - p, else 0.",
))


# --- what users call ------------------------------------------------------------------------------------------------


def _as_key(name: str, given: TensorLike | None) -> Value:
    if given is None:
        return default_key()
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        return key(int(cast("int", given)))
    tensor = as_tensor(given)
    _check_key(name, tensor.type)
    return tensor


def uniform(
    shape: Any, low: float = 0.0, high: float = 1.0, dtype: DType | str | type = f32, key: TensorLike | None = None
) -> Value:
    """Uniform in [low, high), of this shape and floating-point dtype.

    ``key``: i64[2] (seed, counter), or a seed; by default the process's random state. Raises ArgumentError unless
    low <= high and both are finite.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ArgumentError(f"[uniform] low = {low} and high = {high}: both must be finite and low at most high")
    attrs = {"low": float(low), "high": float(high)}
    return build("uniform", _as_key("uniform", key), **_drawn("uniform", shape, dtype), **attrs)


def normal(
    shape: Any, mean: float = 0.0, std: float = 1.0, dtype: DType | str | type = f32, key: TensorLike | None = None
) -> Value:
    """Normal numbers of this shape and floating-point dtype (Box–Muller); ``key`` as in ``uniform``.

    Raises ArgumentError for a negative ``std``.
    """
    if not std >= 0:
        raise ArgumentError(f"[normal] std is {std}; it must be at least 0")
    attrs = {"mean": float(mean), "std": float(std)}
    return build("normal", _as_key("normal", key), **_drawn("normal", shape, dtype, 2), **attrs)


def randint(
    low: int, high: int, shape: Any, dtype: DType | str | type = i64, key: TensorLike | None = None
) -> Value:
    """Integers uniform in [low, high), of this shape and integer dtype; ``key`` as in ``uniform``.

    Raises ArgumentError unless low < high, both fit the dtype and the range is at most 2**53.
    """
    kind = as_dtype(dtype)
    if not low < high or high - low > 2**53:
        raise ArgumentError(f"[randint] low = {low} and high = {high}: low must be below high, by at most 2**53")
    if kind.is_integer and not np.iinfo(kind.numpy).min <= low < high <= np.iinfo(kind.numpy).max + 1:
        raise ArgumentError(f"[randint] [{low}, {high}) does not fit {kind}")
    attrs = {"low": int(low), "high": int(high)}
    return build("randint", _as_key("randint", key), **_drawn("randint", shape, kind), **attrs)


def bernoulli(p: TensorLike, shape: Any = None, key: TensorLike | None = None) -> Value:
    """True with probability ``p``: bool of ``shape``, by default the shape of ``p``; ``key`` as in ``uniform``.

    ``p``: a number in [0, 1] (ArgumentError otherwise) or a tensor that broadcasts to ``shape``.
    """
    if isinstance(p, (int, float)) and not 0 <= p <= 1:
        raise ArgumentError(f"[bernoulli] p is {p}; it must be in [0, 1]")
    chance = as_floating(p)
    if shape is not None:
        sizes = as_shape("bernoulli", shape)
        chance = chance if chance.shape == sizes else build("broadcast_to", chance, shape=list(sizes))
    return build("bernoulli", chance, _as_key("bernoulli", key), id=next_operation_id())


def dropout(x: TensorLike, p: float = 0.5, training: bool = True, key: TensorLike | None = None) -> Value:
    """Each element is 0 with probability ``p``, else x / (1 - p); the gradient uses the same choice.

    Without ``training``, or with ``p`` = 0, the result is ``x``; with ``p`` = 1 it is zeros. ``key`` as in
    ``uniform``. Raises ArgumentError unless ``p`` is in [0, 1].
    """
    if isinstance(p, bool) or not 0 <= p <= 1:
        raise ArgumentError(f"[dropout] p is {p}; it must be in [0, 1]")
    tensor = as_floating(x)
    if not training or p == 0:
        return tensor
    if p == 1:
        return build("full", shape=list(tensor.shape), value=0.0, dtype=tensor.dtype)
    return build("dropout", tensor, _as_key("dropout", key), p=float(p), id=next_operation_id())


def _drawn(name: str, shape: Any, dtype: DType | str | type, ids: int = 1) -> dict[str, Any]:
    """The attributes that all draws have."""
    sizes = as_shape(name, shape)
    return {"shape": list(sizes), "dtype": as_dtype(dtype), "id": next_operation_id(ids)}
