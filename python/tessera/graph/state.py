"""State of graphs: updates recorded while a step is traced, and the random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tessera.errors import ArgumentError, DTypeError, GraphError, ShapeError
from tessera.ir.value import PARAM, Value
from tessera.op import as_tensor
from tessera.op.parameter import Parameter

_recording: ContextVar[dict[Value, Value] | None] = ContextVar("tessera_updates", default=None)


@contextmanager
def recording() -> Iterator[dict[Value, Value]]:
    """Collect the state updates that are recorded within the block."""
    updates: dict[Value, Value] = {}
    token = _recording.set(updates)
    try:
        yield updates
    finally:
        _recording.reset(token)


def is_recording() -> bool:
    """Whether a step is being traced."""
    return _recording.get() is not None


def update(state: Value | Parameter, value: Value | Parameter | float) -> None:
    """Within a step: when it has run, ``state`` (a parameter) holds ``value``.

    Every read of the state in the same step sees the value from before it. Raises GraphError outside a step and
    for a second update of the same state, ShapeError and DTypeError for a value of another type.
    """
    leaf = state.leaf() if isinstance(state, Parameter) else state
    if not isinstance(leaf, Value) or leaf.node.op != PARAM:
        raise ArgumentError(f"update: {state!r} is not a parameter")
    name = leaf.node.attrs["name"]
    updates = _recording.get()
    if updates is None:
        raise GraphError(f"update of {name!r}: state is updated by steps; call this inside @graph.training_step")
    if leaf in updates:
        raise GraphError(f"update of {name!r}: this step already updates it; a step updates each state once")
    value = value.leaf() if isinstance(value, Parameter) else as_tensor(value, leaf)
    if value.shape != leaf.shape:
        raise ShapeError(f"update of {name!r}: the state is {leaf.type}, the new value {value.type}")
    if value.dtype != leaf.dtype:
        raise DTypeError(f"update of {name!r}: the state is {leaf.type}, the new value {value.type}; cast it")
    updates[leaf] = value
