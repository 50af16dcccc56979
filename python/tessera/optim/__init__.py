"""Optimizers as graph transformations: inside a training step they are part of its program.

``SGD``, ``Adam``, ``AdamW``, ``Lion``; ``accumulate`` adds up gradients over several steps; ``clip_by_global_norm``;
learning rates that change with the step: ``constant``, ``linear``, ``warmup``, ``cosine``, ``step_decay``,
``exponential``.
"""

from tessera.optim.accumulate import accumulate
from tessera.optim.adam import Adam, AdamW
from tessera.optim.clip import clip_by_global_norm, global_norm
from tessera.optim.learning_rate import LearningRate, constant, cosine, exponential, linear, step_decay, warmup
from tessera.optim.lion import Lion
from tessera.optim.optimizer import Optimizer
from tessera.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "LearningRate",
    "Lion",
    "Optimizer",
    "accumulate",
    "clip_by_global_norm",
    "constant",
    "cosine",
    "exponential",
    "global_norm",
    "linear",
    "step_decay",
    "warmup",
]
