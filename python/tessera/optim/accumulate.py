"""Gradient accumulation: several small batches for one update."""

from __future__ import annotations

from collections.abc import Mapping

from tessera import op
from tessera.errors import ArgumentError
from tessera.graph.backward import Gradients
from tessera.ir.value import Value
from tessera.optim.optimizer import Item, Optimizer, Updates, computing_dtype


class Accumulated(Optimizer):
    """An optimizer that is applied to the mean of every ``every`` gradients; in between nothing changes but sums.

    State: ``accumulate.sum.<parameter>``, and ``accumulate.step``, which counts the calls.
    """

    def __init__(self, inner: Optimizer, every: int, name: str) -> None:
        super().__init__(inner.lr, name, inner.master_weights)
        self.inner = inner
        self.every = every

    def rule(self, item: Item, scalars: Mapping[str, Value]) -> tuple[Value, Updates]:
        """The inner optimizer's."""
        return self.inner.rule(item, scalars)

    @property
    def state(self) -> dict[str, object]:  # type: ignore[override]
        """Sums and count, and the inner optimizer's state."""
        return {**super().state, **self.inner.state}

    def updates(self, grads: Gradients) -> Updates:
        """Sums grow; every ``every`` calls the inner updates happen and the sums start again."""
        count = self.step.leaf()
        fire = op.eq(op.mod(count + 1, self.every), 0)
        found: Updates = {count: count + 1}
        means: dict[str, Value] = {}
        for name, gradient in grads.items():
            dtype = computing_dtype(gradient.dtype)
            held = self.slot("sum", grads.parameters[name], dtype)
            total = held + op.cast(gradient, dtype)
            found[held] = op.where(fire, op.zeros_like(total), total)
            means[name] = total / float(self.every)
        for leaf, value in self.inner.updates(Gradients(means, grads.parameters)).items():
            found[leaf] = op.where(fire, value, leaf)
        return found


def accumulate(optimizer: Optimizer, every: int, *, name: str = "accumulate") -> Optimizer:
    """An optimizer that adds up gradients and applies ``optimizer`` to their mean at every ``every``-th call."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ArgumentError(f"accumulate: every must be a positive integer, not {every!r}")
    return Accumulated(optimizer, every, name)
