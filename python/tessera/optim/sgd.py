"""Stochastic gradient descent with momentum (Polyak 1964; Nesterov form of Sutskever et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping

from tessera.errors import ArgumentError
from tessera.ir.value import Value
from tessera.optim.learning_rate import LearningRate
from tessera.optim.optimizer import Item, Optimizer, Updates, between


class SGD(Optimizer):
    """``g += weight_decay · p; b = momentum · b + g; p -= lr · b`` (Nesterov: ``p -= lr · (g + momentum · b)``).

    As ``torch.optim.SGD``. State: ``sgd.momentum.<parameter>`` when momentum is not 0.
    """

    def __init__(
        self,
        lr: float | LearningRate,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        name: str = "sgd",
        master_weights: bool = True,
    ) -> None:
        super().__init__(lr, name, master_weights)
        self.momentum = between("SGD", "momentum", momentum, 0.0, 1.0)
        self.weight_decay = between("SGD", "weight_decay", weight_decay, 0.0, float("inf"))
        self.nesterov = nesterov
        if nesterov and not momentum:
            raise ArgumentError("SGD: nesterov=True needs a momentum")

    def rule(self, item: Item, scalars: Mapping[str, Value]) -> tuple[Value, Updates]:
        """See the class."""
        gradient, updates = item.gradient, Updates()
        if self.weight_decay:
            gradient = gradient + item.value * self.weight_decay
        if self.momentum:
            buffer = self.slot("momentum", item.parameter)
            new = buffer * self.momentum + gradient
            updates[buffer] = new
            gradient = gradient + new * self.momentum if self.nesterov else new
        return item.value - gradient * scalars["lr"], updates
