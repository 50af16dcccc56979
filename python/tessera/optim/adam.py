"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tessera import op
from tessera.ir.value import Value
from tessera.optim.learning_rate import LearningRate
from tessera.optim.optimizer import Item, Optimizer, Updates, between


class Adam(Optimizer):
    """``m = β1·m + (1-β1)·g; v = β2·v + (1-β2)·g²; p -= lr · m̂ / (√v̂ + eps)`` with bias-corrected m̂ and v̂.

    As ``torch.optim.Adam``: ``weight_decay`` is added to the gradient. State: ``adam.m.<parameter>``,
    ``adam.v.<parameter>``, ``adam.step``.
    """

    decoupled = False

    def __init__(
        self,
        lr: float | LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        name: str = "adam",
        master_weights: bool = True,
    ) -> None:
        super().__init__(lr, name, master_weights)
        owner = type(self).__name__
        self.betas = between(owner, "betas[0]", betas[0], 0.0, 1.0), between(owner, "betas[1]", betas[1], 0.0, 1.0)
        self.eps = between(owner, "eps", eps, 0.0, float("inf"))
        self.weight_decay = between(owner, "weight_decay", weight_decay, 0.0, float("inf"))

    def scalars(self, step: Value) -> dict[str, Value]:
        """lr, lr / (1 - β1^t), √(1 - β2^t) and 1 - lr · weight decay."""
        found = super().scalars(step)
        count = step + 1.0
        first, second = (_one_minus_power(beta, count) for beta in self.betas)
        return {
            "rate": found["lr"] / first,
            "root": op.sqrt(second),
            "keep": 1.0 - found["lr"] * self.weight_decay,
        }

    def rule(self, item: Item, scalars: Mapping[str, Value]) -> tuple[Value, Updates]:
        """See the class."""
        value, gradient = item.value, item.gradient
        if self.weight_decay:
            if self.decoupled:
                value = value * scalars["keep"]
            else:
                gradient = gradient + value * self.weight_decay
        m, v = self.slot("m", item.parameter), self.slot("v", item.parameter)
        new_m = m * self.betas[0] + gradient * (1.0 - self.betas[0])
        new_v = v * self.betas[1] + gradient * gradient * (1.0 - self.betas[1])
        change = new_m / (op.sqrt(new_v) / scalars["root"] + self.eps)
        return value - change * scalars["rate"], {m: new_m, v: new_v}


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p *= 1 - lr · weight_decay`` first. As ``torch.optim.AdamW``."""

    decoupled = True

    def __init__(
        self,
        lr: float | LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        name: str = "adamw",
        master_weights: bool = True,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, name=name, master_weights=master_weights)


def _one_minus_power(beta: float, count: Value) -> Value:
    """``1 - beta^count`` without cancellation."""
    if beta == 0.0:
        return op.full((), 1.0, dtype=count.dtype)
    return -op.expm1(count * math.log(beta))
