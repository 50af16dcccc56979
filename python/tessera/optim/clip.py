"""Gradient clipping by global norm (Pascanu et al. 2013)."""

from __future__ import annotations

from tessera import op
from tessera.errors import ArgumentError
from tessera.graph.backward import Gradients
from tessera.graph.training_step import training_step
from tessera.ir.value import Value
from tessera.optim.optimizer import computing_dtype


def global_norm(grads: Gradients) -> Value:
    """The square root of the sum of squares over all gradients: a scalar, f32 (f64 if all gradients are)."""
    if not grads:
        raise ArgumentError("global_norm: there are no gradients")
    squares = [
        op.sum(op.cast(g, computing_dtype(g.dtype)) * op.cast(g, computing_dtype(g.dtype))) for g in grads.values()
    ]
    while len(squares) > 1:  # as a tree: few sums depend on each other
        pairs = [a + b for a, b in zip(squares[::2], squares[1::2])]
        squares = [*pairs, *squares[2 * len(pairs) :]]
    return op.sqrt(squares[0])


def clip_by_global_norm(grads: Gradients, max_norm: float) -> Gradients:
    """Gradients scaled by ``min(1, max_norm / (norm + 1e-6))``, where norm is their global norm.

    Inside a step the result is symbolic; concrete gradients give concrete ones. As
    ``torch.nn.utils.clip_grad_norm_``. Raises ArgumentError for a ``max_norm`` that is not positive.
    """
    if not max_norm > 0:
        raise ArgumentError(f"clip_by_global_norm: max_norm must be positive, not {max_norm}")
    if not isinstance(grads, Gradients):
        raise ArgumentError(
            f"clip_by_global_norm: expected the Gradients of graph.backward, not {type(grads).__name__}"
        )
    if not all(isinstance(g, Value) for g in grads.values()):
        return _clip(grads, max_norm)
    scale = op.minimum(max_norm / (global_norm(grads) + 1e-6), 1.0)
    clipped = {name: op.cast(op.cast(g, scale.dtype) * scale, g.dtype) for name, g in grads.items()}
    return Gradients(clipped, grads.parameters)


@training_step
def _clip(grads: Gradients, max_norm: float) -> Gradients:
    """The program for concrete gradients."""
    return clip_by_global_norm(grads, max_norm)
