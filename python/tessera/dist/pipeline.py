"""Pipelines: equal stages on the devices of a mesh axis, through which the parts of a batch pass one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tessera.dist.layout import ShardSpec
from tessera.dist.mesh import Mesh
from tessera.dist.shard_map import axis_index, body_on, call, collective_permute
from tessera.errors import ArgumentError, NameMissingError, ShapeError
from tessera.ir.dims import Dim, floordiv, mul
from tessera.ir.value import Value
from tessera.op import as_tensor, where
from tessera.op.arguments import shape_text
from tessera.op.opdef import build


def pipeline(
    stage: Callable[[Any, Value], Value],
    parameters: Any,
    x: Any,
    mesh: Mesh,
    axis: str = "pp",
    *,
    microbatches: int,
) -> Value:
    """``stage(p[n-1], … stage(p[1], stage(p[0], x)))``, with the stages on the devices along ``axis``.

    ``parameters``: a tensor, or a tuple, list or dict of tensors, with a leading dimension n, that of the stages; a
    multiple of the devices along ``axis``, each of which runs n / devices stages in a row. Lay them out with their first
    dimension over ``axis``. ``stage`` gets a stage's parameters, without that dimension, and activations; its result has
    their shape and dtype. ``x``: (batch, …); the result is of the same type.

    The batch is cut into ``microbatches`` parts (row i goes to part i mod microbatches), which pass through the devices:
    at each of microbatches + devices - 1 ticks every device runs its stages on what the device before it has sent, and
    sends on what comes out (``collective_permute``). The backward pass is the same the other way round, after all of the
    forward pass (GPipe: Huang et al., 2019), so that a device keeps the activations of all ticks. In (devices - 1) of the
    ticks, the bubble, a device computes what nobody reads, on real data, so that nothing becomes NaN there alone.

    Other axes of the mesh split batch and parameters as everywhere: ``dist.constrain`` x over data-parallel ones, lay
    parameters out over tensor-parallel ones. The result is a sum over ``axis`` to which all devices but the last add
    zeros: what follows may split it over ``axis`` too. Random draws in a stage are the same on all devices.

    Raises ArgumentError, NameMissingError for an unknown axis, and ShapeError when the batch or the stages do not divide,
    or a stage changes the type of its input.
    """
    if not isinstance(mesh, Mesh):
        raise ArgumentError(f"dist.pipeline: the mesh must be a dist.Mesh, not {type(mesh).__name__}")
    if axis not in mesh.axes:
        raise NameMissingError(f"dist.pipeline: {mesh!r} has no axis {axis!r}; its axes are {', '.join(mesh.axes)}")
    if not isinstance(microbatches, int) or isinstance(microbatches, bool) or microbatches < 1:
        raise ArgumentError(f"dist.pipeline: microbatches is {microbatches!r}; give a number of parts, at least 1")
    x = as_tensor(x)
    devices = mesh.layout.size(axis)
    leaves, join = _flat(parameters)
    _check(leaves, x, devices, microbatches, axis)
    rows = floordiv(x.shape[0], microbatches)
    # Part j has the rows j, j + m, …: each device along a data-parallel axis has its share of every part.
    parts = build("reshape", x, shape=[rows, microbatches, *x.shape[1:]])

    def body(parts: Value, *local: Value) -> Value:
        def stages(state: Value) -> Value:
            for layer in range(leaves[0].shape[0] // devices):  # type: ignore[operator]
                found = as_tensor(stage(join([p[layer] for p in local]), state))
                if found.type != state.type:
                    raise ShapeError(
                        f"dist.pipeline: a stage makes {found.type} of {state.type}; the next one needs the type of x"
                    )
                state = found
            return state

        return _ticks(stages, parts, axis, devices, microbatches)

    whole, split = ShardSpec((), ()), ShardSpec((0,), (axis,))
    specs = (whole, *(split for _ in leaves))
    out = call(body, body_on(mesh, (axis,)), specs, whole, (parts, *leaves), summands=(axis,))
    return build("reshape", out, shape=list(x.shape))


def _ticks(stages: Callable[[Value], Value], parts: Value, axis: str, devices: int, microbatches: int) -> Value:
    """One device's program: what the last device makes of all parts, zeros on others."""
    place = axis_index(axis)
    is_first, is_last = build("eq", place, _number(0, place)), build("eq", place, _number(devices - 1, place))
    part = [_part(parts, i) for i in range(microbatches)]
    state, out = part[0], list[Value]()
    zero = build("full", shape=[], value=0, dtype=state.dtype)
    for tick in range(microbatches + devices - 1):
        if 0 < tick:
            # Behind the last part the first device goes on with it; nobody reads what becomes of that.
            state = where(is_first, part[min(tick, microbatches - 1)], state)
        state = stages(state)
        if tick >= devices - 1:
            made = build("reshape", state, shape=[state.shape[0], 1, *state.shape[1:]])
            out.append(where(is_last, made, zero))
        if devices > 1 and tick < microbatches + devices - 2:
            state = collective_permute(state, axis, [(i, i + 1) for i in range(devices - 1)])
    return build("concat", *out, axis=1) if len(out) > 1 else out[0]


def _number(value: int, like: Value) -> Value:
    return build("full", shape=[], value=value, dtype=like.dtype)


def _part(parts: Value, number: int) -> Value:
    start: list[Dim] = [0, number, *(0 for _ in parts.shape[2:])]
    stop: list[Dim] = [parts.shape[0], number + 1, *parts.shape[2:]]
    found = build("slice", parts, start=start, stop=stop, step=[1] * parts.ndim)
    return build("reshape", found, shape=[parts.shape[0], *parts.shape[2:]])


def _check(leaves: Sequence[Value], x: Value, devices: int, microbatches: int, axis: str) -> None:
    if not leaves:
        raise ArgumentError("dist.pipeline: there are no parameters; they tell how many stages there are")
    if x.ndim == 0 or mul(floordiv(x.shape[0], microbatches), microbatches) != x.shape[0]:
        raise ShapeError(
            f"dist.pipeline: x has shape {shape_text(x.shape)}; its first dimension must be a multiple of the "
            f"{microbatches} microbatches, a symbolic one {microbatches} * op.dim(…)"
        )
    counts = {p.shape[0] if p.ndim else None for p in leaves}
    count = counts.pop()
    if counts or not isinstance(count, int) or count < 1 or count % devices:
        shapes = ", ".join(shape_text(p.shape) for p in leaves)
        raise ShapeError(
            f"dist.pipeline: parameters have the shapes {shapes}; the first dimension of all of them must be the number of "
            f"stages, a multiple of the {devices} devices along {axis}"
        )


def _flat(tree: Any) -> tuple[list[Value], Callable[[Sequence[Value]], Any]]:
    """The tensors of a nest of tuples, lists and dicts, and what puts others in their places."""
    if isinstance(tree, Mapping):
        leaves, join = _flat([tree[k] for k in tree])
        return leaves, lambda values: dict(zip(tree, join(values), strict=True))
    if isinstance(tree, (tuple, list)):
        parts = [_flat(item) for item in tree]

        def joined(values: Sequence[Value]) -> Any:
            found, at = [], 0
            for leaves, join in parts:
                found.append(join(values[at : at + len(leaves)]))
                at += len(leaves)
            return tuple(found) if isinstance(tree, tuple) else found

        return [leaf for leaves, _ in parts for leaf in leaves], joined
    return [as_tensor(tree)], lambda values: values[0]
