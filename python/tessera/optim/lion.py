"""Lion: evolved sign momentum (Chen et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

from tessera import op
from tessera.ir.value import Value
from tessera.optim.learning_rate import LearningRate
from tessera.optim.optimizer import Item, Optimizer, Updates, between


class Lion(Optimizer):
    """``p = p · (1 - lr · weight_decay) - lr · sign(β1·m + (1-β1)·g); m = β2·m + (1-β2)·g``.

    State: ``lion.m.<parameter>``.
    """

    def __init__(
        self,
        lr: float | LearningRate = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        name: str = "lion",
        master_weights: bool = True,
    ) -> None:
        super().__init__(lr, name, master_weights)
        self.betas = between("Lion", "betas[0]", betas[0], 0.0, 1.0), between("Lion", "betas[1]", betas[1], 0.0, 1.0)
        self.weight_decay = between("Lion", "weight_decay", weight_decay, 0.0, float("inf"))

    def rule(self, item: Item, scalars: Mapping[str, Value]) -> tuple[Value, Updates]:
        """See the class."""
        m = self.slot("m", item.parameter)
        direction = op.sign(m * self.betas[0] + item.gradient * (1.0 - self.betas[0]))
        new_m = m * self.betas[1] + item.gradient * (1.0 - self.betas[1])
        value = item.value
        if self.weight_decay:
            value = value * (1.0 - scalars["lr"] * self.weight_decay)
        return value - direction * scalars["lr"], {m: new_m}
