"""Gradients for users: ``graph.backward``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.errors import ArgumentError, GradientError
from tessera.ir.graph import topological
from tessera.ir.value import PARAM, Value
from tessera.op.parameter import Parameter
from tessera.transform.autodiff import gradients


class Gradients(dict[str, Any]):
    """Gradients by parameter name, in the order of the parameters; ``parameters`` are those they belong to.

    The values are symbolic tensors inside a step and concrete arrays in what a step returns. As inputs and outputs
    of a program they are called ``grad.<parameter>``.
    """

    path_prefix = "grad."
    parameters: dict[str, Parameter]

    def __init__(self, values: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> None:
        super().__init__(values)
        self.parameters = dict(parameters)

    @property
    def identity(self) -> tuple[Parameter, ...]:
        """What tells gradients of one model from those of another with equal names."""
        return tuple(self.parameters.values())


def trainable_parameters(*values: Value) -> dict[str, Parameter]:
    """The trainable parameters that the values depend on, by name."""
    found: dict[str, Parameter] = {}
    for node in topological(v.node for v in values):
        if node.op == PARAM and node.attrs["trainable"] and isinstance(node.payload, Parameter):
            found[node.attrs["name"]] = node.payload
    return found


def backward(loss: Value, wrt: Value | Parameter | Sequence[Value | Parameter] | None = None) -> Any:
    """Gradients of a scalar loss.

    Without ``wrt``: a ``Gradients`` mapping (name → gradient) over all trainable parameters that the loss depends
    on. With ``wrt``, a tensor or several (parameters, inputs, intermediate values): the gradient or a list of them.
    Gradients are ordinary tensors and can be differentiated again.

    Raises GradientError for a loss that is no scalar, for an operator without gradient on the way (it states the
    reason) and when there is nothing to differentiate with respect to.
    """
    if not isinstance(loss, Value):
        raise ArgumentError(f"backward: the loss must be a symbolic tensor, not {type(loss).__name__}")
    if wrt is None:
        parameters = trainable_parameters(loss)
        if not parameters:
            raise GradientError("backward: the loss depends on no trainable parameter; say wrt=… for other tensors")
        found = gradients([loss], [p.leaf() for p in parameters.values()])
        return Gradients(dict(zip(parameters, found, strict=True)), parameters)
    several = isinstance(wrt, Sequence)
    targets = [w.leaf() if isinstance(w, Parameter) else w for w in (wrt if isinstance(wrt, Sequence) else [wrt])]
    for target in targets:
        if not isinstance(target, Value):
            raise ArgumentError(f"backward: wrt must be tensors of the graph, not {type(target).__name__}")
    found = gradients([loss], targets)
    return found if several else found[0]
