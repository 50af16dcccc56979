"""What all optimizers share: state per parameter, master weights, use inside and outside a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from tessera import op
from tessera.errors import ArgumentError, NameMissingError, ShapeError, UnsupportedError
from tessera.graph.backward import Gradients
from tessera.graph.state import is_recording, update
from tessera.graph.training_step import TrainingStep, training_step
from tessera.ir.dtype import DType, f32, f64, i64
from tessera.ir.value import Value
from tessera.op.parameter import Parameter, unique_name
from tessera.optim.learning_rate import LearningRate, as_learning_rate

Updates = dict[Value, Value]


@dataclass(frozen=True, slots=True)
class Item:
    """One parameter in an update: its value and gradient in the dtype that the update computes in."""

    parameter: Parameter
    value: Value
    gradient: Value


class Optimizer(ABC):
    """A rule that turns gradients into new parameters.

    ``apply(grads)`` inside a ``@graph.training_step`` becomes part of the step's program; with concrete gradients
    it runs one program that updates all parameters. State has names such as ``adam.m.<parameter>`` and is saved
    with the graph. bf16 and f16 parameters are updated in f32; with ``master_weights`` the f32 value is kept as
    state, so that small updates are not lost in rounding.
    """

    def __init__(self, lr: float | LearningRate, name: str, master_weights: bool) -> None:
        if not isinstance(lr, LearningRate) and not (isinstance(lr, Real) and lr >= 0):
            raise ArgumentError(f"{type(self).__name__}: lr must be a number of at least 0, or a schedule, not {lr!r}")
        self.lr = as_learning_rate(lr)
        self.name = unique_name(name)
        self.master_weights = master_weights
        self._state: dict[tuple[str, Parameter], Parameter] = {}
        self._program: TrainingStep | None = None
        self.step = Parameter(f"{self.name}.step", (), i64, trainable=False)

    @abstractmethod
    def rule(self, item: Item, scalars: Mapping[str, Value]) -> tuple[Value, Updates]:
        """The new value of one parameter, and the updates of its state."""

    def scalars(self, step: Value) -> dict[str, Value]:
        """Scalars that all parameters share, in f64; ``step`` counts the updates done before this one (f64)."""
        rate = self.lr(step)
        return {"lr": rate if isinstance(rate, Value) else op.full((), rate, dtype=f64)}

    @property
    def state(self) -> dict[str, Parameter]:
        """The optimizer's state so far, by name."""
        return {p.name: p for p in (self.step, *self._state.values())}

    def slot(
        self, kind: str, parameter: Parameter, dtype: DType | None = None, shape: tuple[int, ...] | None = None
    ) -> Value:
        """The state called ``<optimizer>.<kind>.<parameter>``, zero at first; it lies where the parameter lies."""
        key = (kind, parameter)
        if key not in self._state:
            name = f"{self.name}.{kind}.{parameter.name}"
            shape = parameter.shape if shape is None else shape
            made = Parameter(name, shape, dtype or computing_dtype(parameter.dtype), trainable=False)
            if parameter.placement is not None and shape == parameter.shape:
                made.place(parameter.placement.again())
            self._state[key] = made
        return self._state[key].leaf()

    def updates(self, grads: Gradients) -> Updates:
        """The state updates for symbolic gradients: parameters, optimizer state and step count."""
        step = op.cast(self.step.leaf(), f64)
        scalars = self.scalars(step)
        found: Updates = {self.step.leaf(): self.step.leaf() + 1}
        for name, gradient in grads.items():
            parameter = _parameter(grads, name, gradient)
            dtype = computing_dtype(parameter.dtype)
            value = op.cast(parameter.leaf(), dtype)
            master: Value | None = None
            if self.master_weights and dtype != parameter.dtype:
                master = self.slot("master", parameter)
                # A parameter that was set from outside no longer is its rounded master: start again from it.
                value = op.where(op.eq(op.cast(master, parameter.dtype), parameter.leaf()), master, value)
            typed = {key: op.cast(scalar, dtype) for key, scalar in scalars.items()}
            new, state = self.rule(Item(parameter, value, op.cast(gradient, dtype)), typed)
            found.update(state)
            if master is not None:
                found[master] = new
            found[parameter.leaf()] = op.cast(new, parameter.dtype)
        return found

    def apply(self, grads: Gradients) -> None:
        """Update the parameters: recorded inside a step, done at once outside.

        ``grads`` comes from ``graph.backward``, or from what a step returned. Raises ArgumentError for anything else,
        ShapeError for a gradient of another shape than its parameter.
        """
        if not isinstance(grads, Gradients):
            raise ArgumentError(
                f"{self.name}: apply takes the Gradients of graph.backward or of a step, not {type(grads).__name__}"
            )
        symbolic = [isinstance(g, Value) for g in grads.values()]
        if any(symbolic) or is_recording():
            if not all(symbolic):
                raise ArgumentError(
                    f"{self.name}: some gradients are concrete arrays; a step takes arrays as arguments"
                )
            for leaf, value in self.updates(grads).items():
                update(leaf, value)
            return
        if self._program is None:
            self._program = training_step(_named(self.apply, f"{self.name}.apply"))
        self._program(grads)

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            f"{self.name}: an optimizer is not copied or pickled; its state is saved with the step that applies it"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, lr={self.lr!r})"


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def apply(grads: Gradients) -> None:
        function(grads)

    apply.__name__ = name
    return apply


def _parameter(grads: Gradients, name: str, gradient: Value) -> Parameter:
    """The parameter of a gradient, of the same shape."""
    if name not in grads.parameters:
        raise NameMissingError(
            f"apply: there is no parameter {name!r}; the parameters are {', '.join(grads.parameters)}"
        )
    parameter = grads.parameters[name]
    if gradient.shape != parameter.shape:
        raise ShapeError(f"apply: the gradient of {name!r} has shape {gradient.shape}, the parameter {parameter.shape}")
    return parameter


def computing_dtype(dtype: DType) -> DType:
    """The dtype in which an update computes: f64 for f64, else f32."""
    return f64 if dtype == f64 else f32


def between(owner: str, name: str, value: float, low: float, high: float) -> float:
    """A hyperparameter in [low, high); ArgumentError otherwise."""
    if not low <= value < high:
        raise ArgumentError(f"{owner}: {name} must be in [{low}, {high}), not {value}")
    return float(value)
