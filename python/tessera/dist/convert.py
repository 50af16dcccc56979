"""From one sharding of a tensor to another: the exchanges it takes, what they cost, and the nodes that do them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tessera.dist.cost import Machine, assumed_size, typical_elements
from tessera.errors import InternalError
from tessera.ir.dims import Dim, add, mul
from tessera.ir.dtype import DType
from tessera.ir.sharding import MeshShape, Sharding, Split, local_start
from tessera.ir.value import Value
from tessera.op.opdef import build

Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange (or ``slice``, which needs none): over which axes, along which dimension, and what it leaves."""

    kind: str
    axes: tuple[str, ...]
    dim: int
    after: Sharding
    combine: str = "sum"
    split_dim: int = 0


def extra_axes(prefix: Split | None, longer: Split | None, mesh: MeshShape) -> tuple[str, ...] | None:
    """The axes over which ``longer`` divides the blocks of ``prefix`` further; None when it does not."""
    if longer is None:
        return () if prefix is None else None
    if prefix is None:
        return longer.axes
    count = len(prefix.axes)
    rest = longer.axes[count:]
    nested = longer.axes[:count] == prefix.axes and mul(longer.block, mesh.count(rest)) == prefix.block
    return rest if nested else None


def _sliceable(have: Split | None, want: Split | None, mesh: MeshShape) -> tuple[str, ...] | None:
    """The axes over which a part can be cut from what a device holds; symbolic bounds are proved from the whole only."""
    if have is not None and want is not None and not isinstance(want.block, int):
        return None
    return extra_axes(have, want, mesh)


def _set(sharding: Sharding, dim: int, split: Split | None) -> Sharding:
    return replace(sharding, dims=tuple(split if i == dim else s for i, s in enumerate(sharding.dims)))


@lru_cache(maxsize=16384)
def steps_between(shape: Shape, source: Sharding, target: Sharding) -> tuple[Step, ...]:
    """The steps from ``source`` to ``target``: reductions, free slices, moves, gathers, the remaining slices."""
    steps: list[Step] = []
    now = _reductions(source, target, steps)
    now = _slices(now, target, steps)
    now = _moves(now, target, steps)
    now = _gathers(now, target, steps)
    now = _slices(now, target, steps)
    if now != target:
        raise InternalError(f"no way from {source.text(shape)} to {target.text(shape)}")
    return tuple(steps)


def _reductions(now: Sharding, target: Sharding, steps: list[Step]) -> Sharding:
    mesh = now.mesh
    for combine in dict.fromkeys(c for _, c in now.partial):
        waiting = {a for a, c in now.partial if c == combine and (a, c) not in target.partial}
        for dim, (have, want) in enumerate(zip(now.dims, target.dims, strict=True)):
            extra = extra_axes(have, want, mesh)
            if extra and waiting.issuperset(extra):
                waiting -= set(extra)
                left = tuple(p for p in now.partial if p[0] not in extra)
                now = replace(_set(now, dim, want), partial=left)
                steps.append(Step("reduce_scatter", extra, dim, now, combine))
        if waiting:
            axes = tuple(a for a in mesh.names if a in waiting)
            now = replace(now, partial=tuple(p for p in now.partial if p[0] not in waiting))
            steps.append(Step("all_reduce", axes, 0, now, combine))
    return now


def _slices(now: Sharding, target: Sharding, steps: list[Step]) -> Sharding:
    for dim, want in enumerate(target.dims):
        extra = _sliceable(now.dims[dim], want, now.mesh)
        if extra and not (now.used | now.partial_axes) & set(extra):
            now = _set(now, dim, want)
            steps.append(Step("slice", extra, dim, now))
    return now


def _moves(now: Sharding, target: Sharding, steps: list[Step]) -> Sharding:
    for source in range(len(now.dims)):
        leaving = extra_axes(target.dims[source], now.dims[source], now.mesh)
        if not leaving:
            continue
        for goal in range(len(now.dims)):
            if goal != source and extra_axes(now.dims[goal], target.dims[goal], now.mesh) == leaving:
                now = _set(_set(now, source, target.dims[source]), goal, target.dims[goal])
                steps.append(Step("all_to_all", leaving, source, now, split_dim=goal))
                break
    return now


def _gathers(now: Sharding, target: Sharding, steps: list[Step]) -> Sharding:
    for dim, want in enumerate(target.dims):
        have = now.dims[dim]
        if have is None or have == want or _sliceable(have, want, now.mesh):
            # Splitting further waits until its axes are free.
            continue
        leaving = extra_axes(want, have, now.mesh)
        kept = want if leaving else None
        now = _set(now, dim, kept)
        steps.append(Step("all_gather", leaving or have.axes, dim, now))
    return now


def exchange_cost(
    shape: Shape, dtype: DType, source: Sharding, target: Sharding, machine: Machine
) -> float:
    """Seconds that the steps take."""
    if source == target:
        return 0.0
    total = 0.0
    for step, before in _with_before(steps_between(shape, source, target), source):
        total += step_cost(step, before, shape, dtype, machine)
    return total


def _with_before(steps: Sequence[Step], source: Sharding) -> list[tuple[Step, Sharding]]:
    befores = [source, *(s.after for s in steps)]
    return list(zip(steps, befores))


@lru_cache(maxsize=16384)
def _held(sharding: Sharding, shape: Shape) -> float:
    return typical_elements(sharding.local_shape(shape), assumed_size(sharding.mesh))


def step_cost(step: Step, before: Sharding, shape: Shape, dtype: DType, machine: Machine) -> float:
    """Seconds that one step takes."""
    count = before.mesh.count(step.axes)
    have, get = _held(before, shape), _held(step.after, shape)
    if step.kind == "slice":
        return machine.compute(0, 2 * get * dtype.itemsize)
    if count == 1:
        return 0.0
    received = {
        "all_gather": get * (count - 1) / count,
        "reduce_scatter": have * (count - 1) / count,
        "all_to_all": get * (count - 1) / count,
        "all_reduce": 2 * have * (count - 1) / count,
    }[step.kind]
    return machine.exchange(received * dtype.itemsize, (count - 1).bit_length())  # small ones go along trees


def apply_step(x: Value, step: Step, before: Sharding, shape: Shape, cause: str, fix: str) -> Value:
    """The node of one step on the local value ``x``; ``shape`` is the global one."""
    mesh = before.mesh
    if step.kind == "slice":
        want = step.after.dims[step.dim]
        assert want is not None
        size = shape[step.dim]
        first = before.dims[step.dim]
        start = local_start(size, want, mesh)
        if first is not None:
            start = add(start, mul(-1, local_start(size, first, mesh)))
        stop = add(start, step.after.local_shape(shape)[step.dim])
        starts = [start if i == step.dim else 0 for i in range(x.ndim)]
        stops = [stop if i == step.dim else d for i, d in enumerate(x.shape)]
        return build("slice", x, start=starts, stop=stops, step=[1] * x.ndim)
    if mesh.count(step.axes) == 1:
        return x
    attrs: dict[str, object] = {
        "axes": list(step.axes), "sizes": [mesh.size(a) for a in step.axes], "member": mesh.index(step.axes),
        "cause": cause, "fix": fix,
    }
    if step.kind in ("all_reduce", "reduce_scatter"):
        attrs["combine"] = step.combine
    if step.kind != "all_reduce":
        attrs["dim"] = step.dim
        attrs["shape"] = list(step.after.local_shape(shape))
    if step.kind == "all_to_all":
        attrs["split_dim"] = step.split_dim
    return build(step.kind, x, **attrs)
