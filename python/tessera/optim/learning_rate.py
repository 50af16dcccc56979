"""Learning rates as functions of the number of updates done so far, computed inside the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tessera import op
from tessera.errors import ArgumentError
from tessera.ir.value import Value


class LearningRate:
    """A function of the step number (0 for the first update).

    Called with a Python number it gives a float, with an f64 scalar tensor (as optimizers do) a tensor.
    """

    def __init__(self, function: Callable[[Any], Any], text: str) -> None:
        self._function = function
        self._text = text

    def __call__(self, step: Any) -> Any:
        """The learning rate at this step."""
        return self._function(step)

    def __repr__(self) -> str:
        return self._text


def _minimum(a: Any, b: Any) -> Any:
    return op.minimum(a, b) if isinstance(a, Value) or isinstance(b, Value) else min(a, b)


def _cos(a: Any) -> Any:
    return op.cos(a) if isinstance(a, Value) else math.cos(a)


def _floor(a: Any) -> Any:
    return op.floor(a) if isinstance(a, Value) else math.floor(a)


def _power(base: float, a: Any) -> Any:
    return op.exp(a * math.log(base)) if isinstance(a, Value) else base**a


def _select(condition: Any, a: Any, b: Any) -> Any:
    if not isinstance(condition, Value):
        return a if condition else b
    return op.where(condition, *(x if isinstance(x, Value) else op.full((), x, dtype="f64") for x in (a, b)))


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ArgumentError(f"{name} must be positive, not {value}")
    return value


def as_learning_rate(rate: float | LearningRate) -> LearningRate:
    """A schedule for a number or a schedule."""
    return rate if isinstance(rate, LearningRate) else constant(rate)


def constant(rate: float) -> LearningRate:
    """A learning rate that is always ``rate``."""
    rate = float(rate)
    return LearningRate(lambda step: rate, f"constant({rate})")


def linear(start: float, stop: float, steps: int) -> LearningRate:
    """From ``start`` to ``stop`` in equal parts over ``steps`` updates, then ``stop``."""
    _positive("linear: steps", steps)
    return LearningRate(
        lambda step: start + (stop - start) * _minimum(step / float(steps), 1.0), f"linear({start}, {stop}, {steps})"
    )


def cosine(rate: float, steps: int, final: float = 0.0) -> LearningRate:
    """From ``rate`` to ``final`` along half a cosine over ``steps`` updates, then ``final``."""
    _positive("cosine: steps", steps)
    return LearningRate(
        lambda step: final + (rate - final) * 0.5 * (_cos(_minimum(step / float(steps), 1.0) * math.pi) + 1.0),
        f"cosine({rate}, {steps}, {final})",
    )


def exponential(rate: float, decay: float, every: int = 1) -> LearningRate:
    """``rate · decay^(step / every)``."""
    _positive("exponential: decay", decay)
    _positive("exponential: every", every)
    return LearningRate(
        lambda step: rate * _power(decay, step / float(every)), f"exponential({rate}, {decay}, {every})"
    )


def step_decay(rate: float, decay: float, every: int | Sequence[int]) -> LearningRate:
    """``rate · decay^k``, where k counts full periods of ``every`` updates, or the milestones reached."""
    _positive("step_decay: decay", decay)
    if isinstance(every, int):
        _positive("step_decay: every", every)
        return LearningRate(
            lambda step: rate * _power(decay, _floor(step / float(every))), f"step_decay({rate}, {decay}, {every})"
        )
    milestones = sorted(every)

    def at(step: Any) -> Any:
        value: Any = rate
        for number, milestone in enumerate(milestones, start=1):
            value = _select(step >= milestone, rate * decay**number, value)
        return value

    return LearningRate(at, f"step_decay({rate}, {decay}, {milestones})")


def warmup(after: float | LearningRate, steps: int, start: float = 0.0) -> LearningRate:
    """Linear from ``start`` to where ``after`` begins over ``steps`` updates, then ``after`` from its step 0 on."""
    _positive("warmup: steps", steps)
    rest = as_learning_rate(after)
    peak = rest(0)

    def at(step: Any) -> Any:
        rising = start + (peak - start) * (step / float(steps))
        later = rest(op.maximum(step - float(steps), 0.0) if isinstance(step, Value) else max(step - steps, 0))
        return _select(step < steps, rising, later)

    return LearningRate(at, f"warmup({rest}, {steps}, {start})")
