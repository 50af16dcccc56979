"""Modules: operators with named parameters, made once and callable many times.

``linear``, ``embedding``, ``layer_norm`` and ``rms_norm`` are both operators on given tensors and, called with sizes
instead, modules: ``op.linear(x, w, b)`` computes, ``op.linear(in_dim=64, out_dim=10)`` makes a module.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Union, cast, overload

import numpy as np

from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.dims import Dim
from tessera.ir.dtype import DType, as_dtype
from tessera.ir.value import Value
from tessera.op import activation as activations
from tessera.op import initializer
from tessera.op.arguments import FLOATS, shape_text
from tessera.op.embedding import look_up
from tessera.op.initializer import InitializerLike
from tessera.op.matmul import apply_linear
from tessera.op.normalization import apply_layer_norm, apply_rms_norm
from tessera.op.parameter import Parameter, unique_name
from tessera.op.pointwise_unary import sigmoid, tanh
from tessera.op.promotion import TensorLike, as_tensor
from tessera.op.random import dropout as drop

DTypeLike = Union[DType, str, type]

ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "relu": activations.relu, "gelu": activations.gelu, "silu": activations.silu, "tanh": tanh, "sigmoid": sigmoid,
    "leaky_relu": activations.leaky_relu, "elu": activations.elu, "softplus": activations.softplus,
    "mish": activations.mish, "hard_swish": activations.hard_swish, "identity": lambda x: x,
}
"""Activations that can be given by name."""

_SATURATING = frozenset({"tanh", "sigmoid", "identity"})


class Module(ABC):
    """Parameters and what is computed with them.

    The parameters are made when ``dtype`` is given, else at the first call, in the dtype of its argument; calling the
    module again uses the same ones. Their names begin with ``name``, by default unique in the process.
    """

    def __init__(self, kind: str, dtype: DTypeLike | None, name: str | None) -> None:
        self.kind = kind
        self.name = name if name is not None else unique_name(kind)
        self._parameters: dict[str, Parameter] | None = None
        if dtype is not None:
            self._create(as_dtype(dtype))

    @abstractmethod
    def _declare(self) -> list[tuple[str, tuple[int, ...], InitializerLike]]:
        """(name after the module's, shape, initial value) of each parameter."""

    @abstractmethod
    def _compute(self, x: Value, training: bool) -> Value:
        """The module's function; the parameters exist."""

    def __call__(self, x: TensorLike, training: bool = True) -> Value:
        """The module applied to ``x``; ``training`` switches dropout on."""
        tensor = as_tensor(x)
        if self._parameters is None:
            self._create(self._dtype_for(tensor))
        return self._compute(tensor, training)

    def parameters(self) -> list[Parameter]:
        """The parameters, in order; ArgumentError before they exist."""
        if self._parameters is None:
            raise ArgumentError(
                f"[{self.kind}] {self.name!r} has no parameters yet: they take their dtype from the first call; "
                f'pass dtype, as in dtype="f32", to make them at once'
            )
        return list(self._parameters.values())

    def _dtype_for(self, x: Value) -> DType:
        return x.dtype

    def _create(self, dtype: DType) -> None:
        if dtype.name not in FLOATS:
            raise DTypeError(
                f"[{self.kind}] {self.name!r} would have parameters of dtype {dtype}; expected a float: cast the input"
            )
        self._parameters = {
            short: Parameter(f"{self.name}.{short}", shape, dtype, init=init) for short, shape, init in self._declare()
        }

    def _value(self, short: str) -> Value:
        assert self._parameters is not None
        return self._parameters[short].leaf()

    def _require_last(self, x: Value, size: int, what: str) -> None:
        if not x.ndim or x.shape[-1] != size:
            raise ShapeError(
                f"[{self.kind}] {self.name!r}: x has shape {shape_text(x.shape)}; its last dimension must be "
                f"{what} = {size}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Linear(Module):
    """x @ weight + bias; weight (in_dim, out_dim) and bias (out_dim,) uniform in ±1/√in_dim by default."""

    def __init__(
        self, in_dim: int, out_dim: int, bias: bool = True, dtype: DTypeLike | None = None, name: str | None = None,
        init: InitializerLike | None = None,
    ) -> None:
        self.in_dim, self.out_dim = _size("linear", "in_dim", in_dim), _size("linear", "out_dim", out_dim)
        self.bias, self._init = bias, init
        super().__init__("linear", dtype, name)

    def _declare(self) -> list[tuple[str, tuple[int, ...], InitializerLike]]:
        default = initializer.fan_in_uniform(self.in_dim)
        weight = ("weight", (self.in_dim, self.out_dim), default if self._init is None else self._init)
        return [weight, *([("bias", (self.out_dim,), default)] if self.bias else [])]

    def _compute(self, x: Value, training: bool) -> Value:
        self._require_last(x, self.in_dim, "in_dim")
        return apply_linear(x, self._value("weight"), self._value("bias") if self.bias else None)


class MLP(Module):
    """Linear layers with an activation (and dropout) between them; see ``mlp``."""

    def __init__(
        self, in_dim: int, hidden: Sequence[int], out_dim: int, activation: str | Callable[[Value], Value] = "relu",
        bias: bool = True, dropout: float = 0.0, dtype: DTypeLike | None = None, name: str | None = None,
    ) -> None:
        if isinstance(hidden, int):
            raise ArgumentError(f"[mlp] hidden is {hidden}; it is a list of sizes: hidden=[{hidden}]")
        sizes = [("in_dim", in_dim), *((f"hidden[{i}]", h) for i, h in enumerate(hidden)), ("out_dim", out_dim)]
        self.sizes = [_size("mlp", what, d) for what, d in sizes]
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            raise ArgumentError(
                f"[mlp] unknown activation {activation!r}; use a function or one of {', '.join(ACTIVATIONS)}"
            )
        if not 0 <= dropout <= 1:
            raise ArgumentError(f"[mlp] dropout is {dropout}; it must be in [0, 1]")
        self.activation, self.bias, self.dropout = activation, bias, dropout
        super().__init__("mlp", dtype, name)

    def _declare(self) -> list[tuple[str, tuple[int, ...], InitializerLike]]:
        declared: list[tuple[str, tuple[int, ...], InitializerLike]] = []
        hidden = initializer.xavier_uniform if self.activation in _SATURATING else initializer.he_uniform
        last = len(self.sizes) - 2
        for i, shape in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            declared.append((f"{i}.weight", shape, hidden if i < last else initializer.fan_in_uniform(shape[0])))
            if self.bias:
                declared.append((f"{i}.bias", shape[1:], 0.0))
        return declared

    def _compute(self, x: Value, training: bool) -> Value:
        self._require_last(x, self.sizes[0], "in_dim")
        function = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        last = len(self.sizes) - 2
        for i in range(last + 1):
            x = apply_linear(x, self._value(f"{i}.weight"), self._value(f"{i}.bias") if self.bias else None)
            if i < last:
                x = drop(function(x), self.dropout, training)
        return x


class Embedding(Module):
    """A table of ``num`` rows of size ``dim``, standard normal at first; its dtype is f32 unless given."""

    def __init__(
        self,
        num: int,
        dim: int,
        dtype: DTypeLike | None = None,
        name: str | None = None,
        init: InitializerLike | None = None,
    ) -> None:
        self.num, self.dim = _size("embedding", "num", num), _size("embedding", "dim", dim)
        self._init = init
        super().__init__("embedding", dtype or "f32", name)

    def _declare(self) -> list[tuple[str, tuple[int, ...], InitializerLike]]:
        return [("weight", (self.num, self.dim), initializer.normal() if self._init is None else self._init)]

    def _compute(self, x: Value, training: bool) -> Value:
        return look_up(x, self._value("weight"))


class _Norm(Module):
    def __init__(
        self, kind: str, dim: int | Sequence[int], eps: float, bias: bool, dtype: DTypeLike | None, name: str | None
    ) -> None:
        dims = dim if isinstance(dim, (list, tuple)) else [dim]
        self.dims = tuple(_size(kind, "dim", d) for d in dims)
        self.eps, self.bias = eps, bias
        super().__init__(kind, dtype, name)

    def _declare(self) -> list[tuple[str, tuple[int, ...], InitializerLike]]:
        return [("weight", self.dims, 1.0), *([("bias", self.dims, 0.0)] if self.bias else [])]

    def _compute(self, x: Value, training: bool) -> Value:
        trailing = x.shape[-len(self.dims) :] if x.ndim >= len(self.dims) else None
        if trailing != self.dims:
            raise ShapeError(
                f"[{self.kind}] {self.name!r}: x has shape {shape_text(x.shape)}; its last dimensions must be "
                f"{shape_text(self.dims)}"
            )
        axes = range(-len(self.dims), 0)
        if self.kind == "rms_norm":
            return apply_rms_norm(x, self._value("weight"), list(axes), self.eps)
        return apply_layer_norm(
            x, self._value("weight"), self._value("bias") if self.bias else None, list(axes), self.eps
        )


class LayerNorm(_Norm):
    """layer_norm over the last dimensions, with weight (ones at first) and bias (zeros)."""

    def __init__(
        self,
        dim: int | Sequence[int],
        eps: float = 1e-5,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__("layer_norm", dim, eps, bias, dtype, name)


class RMSNorm(_Norm):
    """rms_norm over the last dimensions, with a weight (ones at first)."""

    def __init__(
        self, dim: int | Sequence[int], eps: float = 1e-6, dtype: DTypeLike | None = None, name: str | None = None
    ) -> None:
        super().__init__("rms_norm", dim, eps, False, dtype, name)


def _size(kind: str, what: str, value: Dim | Any) -> int:
    if isinstance(value, (bool, float)) or not isinstance(value, (int, np.integer)):
        raise ShapeError(f"[{kind}] {what} is {value!r}; parameters have fixed sizes: give an int")
    if value < 1:
        raise ShapeError(f"[{kind}] {what} is {value}; it must be at least 1")
    return operator.index(cast("int", value))


def _is_size(x: object) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def mlp(
    in_dim: int,
    hidden: Sequence[int],
    out_dim: int,
    activation: str | Callable[[Value], Value] = "relu",
    bias: bool = True,
    dropout: float = 0.0,
    dtype: DTypeLike | None = None,
    name: str | None = None,
) -> MLP:
    """A multi-layer perceptron: linear layers of sizes in_dim → hidden… → out_dim, an activation between them.

    Call it on x (…, in_dim) to get (…, out_dim). ``activation``: a name from ``ACTIVATIONS`` or a function.
    ``dropout``: probability, after each activation. Parameters ``<name>.<layer>.weight`` (in, out) and ``.bias``
    (out,): hidden weights are He (for tanh and sigmoid: Xavier) uniform, the last ±1/√in uniform, biases zero. Their
    dtype is ``dtype``, else that of the first x. Raises ShapeError and ArgumentError.
    """
    return MLP(in_dim, hidden, out_dim, activation, bias, dropout, dtype, name)


@overload
def linear(
    in_dim: int, out_dim: int, /, *, bias: bool = True, dtype: DTypeLike | None = None, name: str | None = None,
    init: InitializerLike | None = None,
) -> Linear: ...
@overload
def linear(x: TensorLike, w: TensorLike, b: TensorLike | None = None) -> Value: ...
@overload
def linear(
    *, in_dim: int, out_dim: int, bias: bool = True, dtype: DTypeLike | None = None, name: str | None = None,
    init: InitializerLike | None = None,
) -> Linear: ...
def linear(
    x: TensorLike = None, w: TensorLike = None, b: TensorLike | None = None, *, in_dim: int | None = None,
    out_dim: int | None = None, **options: Any,
) -> Value | Linear:
    """``linear(x, w, b=None)``: x @ w + b, with x (…, in), w (in, out) and b (out,); result (…, out).

    ``linear(in_dim=…, out_dim=…, bias=True, dtype=None, name=None, init=None)``: a module with parameters
    ``<name>.weight`` and ``<name>.bias``, to be called on x. Raises ShapeError, DTypeError, ArgumentError.
    """
    if in_dim is not None or out_dim is not None or (_is_size(x) and _is_size(w)):
        in_dim, out_dim = (x if in_dim is None else in_dim), (w if out_dim is None else out_dim)
        if in_dim is None or out_dim is None:
            raise ArgumentError("[linear] a module needs both in_dim and out_dim")
        return Linear(in_dim, out_dim, **options)
    if x is None or w is None or options:
        raise ArgumentError("[linear] call linear(x, w, b) on tensors, or linear(in_dim=…, out_dim=…) for a module")
    return apply_linear(x, w, b)


@overload
def embedding(
    num: int, dim: int, /, *, dtype: DTypeLike | None = None, name: str | None = None,
    init: InitializerLike | None = None,
) -> Embedding: ...
@overload
def embedding(ids: TensorLike, table: Value) -> Value: ...
@overload
def embedding(
    *, num: int, dim: int, dtype: DTypeLike | None = None, name: str | None = None, init: InitializerLike | None = None
) -> Embedding: ...
def embedding(
    ids: TensorLike = None, table: TensorLike = None, *, num: int | None = None, dim: int | None = None, **options: Any
) -> Value | Embedding:
    """``embedding(ids, table)``: rows of ``table`` (rows, size) at integer ids: shape ids.shape + (size,).

    ``embedding(num=…, dim=…, dtype="f32", name=None, init=None)``, or ``embedding(num, dim)``: a module with the table
    ``<name>.weight``, to be called on ids. An id outside [0, rows) makes the run fail with IndexRangeError.
    """
    if num is not None or dim is not None or (_is_size(ids) and _is_size(table)):
        num, dim = (ids if num is None else num), (table if dim is None else dim)
        if num is None or dim is None:
            raise ArgumentError("[embedding] a module needs both num and dim")
        return Embedding(num, dim, **options)
    if ids is None or table is None or options:
        raise ArgumentError(
            "[embedding] call embedding(ids, table) on tensors, or embedding(num=…, dim=…) for a module"
        )
    return look_up(ids, table)


def layer_norm(
    x: TensorLike = None,
    weight: TensorLike | None = None,
    bias: Any = None,
    axes: int | Sequence[int] = -1,
    eps: float = 1e-5,
    *,
    dim: int | Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    name: str | None = None,
) -> Any:
    """(x - mean) / sqrt(variance + eps) · weight + bias, statistics over ``axes`` (default the last).

    ``weight`` and ``bias`` (either may be None) have the sizes of x over ``axes``. Statistics are f32 for bf16 and f16.
    ``layer_norm(dim=…, eps=…, bias=True, dtype=None, name=None)``, or ``layer_norm(dim)``: a module with parameters
    ``<name>.weight`` and ``<name>.bias`` over the last dimensions. Raises ShapeError, DTypeError, ArgumentError.
    """
    if dim is None and weight is None and _is_size(x):
        dim, x = int(x), None  # type: ignore[arg-type]
    if dim is not None:
        return LayerNorm(dim, eps, bias is None or bool(bias), dtype, name)
    if x is None:
        raise ArgumentError(
            "[layer_norm] call layer_norm(x, weight, bias) on tensors, or layer_norm(dim=…) for a module"
        )
    return apply_layer_norm(x, weight, bias, axes, eps)


def rms_norm(
    x: TensorLike = None, weight: TensorLike | None = None, axes: int | Sequence[int] = -1, eps: float = 1e-6, *,
    dim: int | Sequence[int] | None = None, dtype: DTypeLike | None = None, name: str | None = None,
) -> Any:
    """Root mean square normalisation: x / sqrt(mean(x²) + eps) · weight, the mean over ``axes`` (default the last).

    The mean is f32 for bf16 and f16.

    ``rms_norm(dim=…, eps=…, dtype=None, name=None)``, or ``rms_norm(dim)``: a module with the parameter
    ``<name>.weight``. Raises ShapeError, DTypeError, ArgumentError.
    """
    if dim is None and weight is None and _is_size(x):
        dim, x = int(x), None  # type: ignore[arg-type]
    if dim is not None:
        return RMSNorm(dim, eps, dtype, name)
    if x is None:
        raise ArgumentError("[rms_norm] call rms_norm(x, weight) on tensors, or rms_norm(dim=…) for a module")
    return apply_rms_norm(x, weight, axes, eps)
