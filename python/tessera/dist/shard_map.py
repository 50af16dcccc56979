"""Programs written for one device of a mesh, inside a graph over whole tensors, with explicit collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import product as combinations
from typing import Any

from tessera.dist.layout import ShardSpec, attributes_of
from tessera.dist.mesh import Mesh
from tessera.errors import ArgumentError, NameMissingError, ShapeError
from tessera.ir.dims import Dim, Expr, Symbol, add, substitute, symbols
from tessera.ir.dtype import i64
from tessera.ir.graph import keep, topological
from tessera.ir.sharding import COORDINATE, Sharding, Split, local_size, split_over
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import as_tensor
from tessera.op.arguments import one_axis, shape_text
from tessera.op.collective import FULL_TO_SHARD, NAMES, PERMUTE, SHARD_TO_FULL
from tessera.op.opdef import build


@dataclass(slots=True)
class _Body:
    """The body that is being traced: its mesh, the axes that it is written for, and the whole sizes of the split
    dimensions that are known.
    """

    mesh: Mesh
    manual: tuple[str, ...]
    sizes: dict[tuple[Dim, tuple[str, ...]], Dim] = field(default_factory=dict[tuple[Dim, tuple[str, ...]], Dim])

    def whole_size(self, what: str, size: Dim, axes: tuple[str, ...]) -> Dim:
        """The sum of a size over the devices along axes."""
        known = self.sizes.get((size, axes))
        if known is not None:
            return known
        layout = self.mesh.layout
        free = symbols(size) if isinstance(size, Expr) else ()
        own = {COORDINATE + a for a in axes}
        if any(s.name not in own for s in free):
            raise ShapeError(
                f"{what}: the size {size} of one device does not tell that of all along {' and '.join(axes)}; use a tensor "
                "whose size there is a number, or that of an argument that is split over these axes"
            )
        total: Dim = 0
        for place in combinations(*(range(layout.size(a)) for a in axes)):
            at: dict[Symbol, Dim] = {s: place[axes.index(s.name.removeprefix(COORDINATE))] for s in free}
            total = add(total, substitute(size, at))
        return total


_MOVING = frozenset({"all_gather", "reduce_scatter", "all_to_all"})

_current: ContextVar[_Body | None] = ContextVar("body of dist.shard_map", default=None)


def _body(what: str) -> _Body:
    found = _current.get()
    if found is None:
        raise ArgumentError(
            f"dist.{what}: only the body of dist.shard_map is written for one device; outside of it use dist.constrain, "
            "and exchanges follow from layouts"
        )
    return found


@contextmanager
def _tracing(body: _Body) -> Iterator[None]:
    token = _current.set(body)
    try:
        yield
    finally:
        _current.reset(token)


# --- in the body -----------------------------------------------------------------------------------------------------


def axis_index(axes: str | Sequence[str]) -> Value:
    """The coordinate along an axis of the device that runs, as an i64 scalar; row-major over several axes.

    Raises ArgumentError outside of the body of ``shard_map`` and NameMissingError for an unknown axis; so do the
    collectives.
    """
    body = _body("axis_index")
    return build("full", shape=[], value=body.mesh.layout.index(_axes("axis_index", body, axes)), dtype=i64)


def axis_size(axes: str | Sequence[str]) -> int:
    """How many devices there are along an axis, or along several together."""
    body = _body("axis_size")
    return body.mesh.layout.count(_axes("axis_size", body, axes))


def all_reduce(x: Any, axes: str | Sequence[str], combine: str = "sum") -> Value:
    """What the tensors of all devices along ``axes`` give together, on each of them; same shape and dtype.

    ``combine``: sum, prod, max or min; only the sum has a gradient. Shapes must be equal on all these devices:
    ShapeError.
    """
    body, names, x = _exchange("all_reduce", x, axes)
    _alike("all_reduce", x, names, None)
    return _collective("all_reduce", body, names, x, combine=combine)


def all_gather(x: Any, axes: str | Sequence[str], dim: int = 0) -> Value:
    """The tensors of all devices along ``axes`` joined along ``dim``, on each of them.

    They may differ in size along ``dim``, and in no other dimension: ShapeError.
    """
    body, names, x = _exchange("all_gather", x, axes)
    dim = one_axis("all_gather", dim, x.ndim, "dim")
    _alike("all_gather", x, names, dim)
    size = body.whole_size("dist.all_gather", x.shape[dim], names)
    return _collective("all_gather", body, names, x, dim=dim, shape=_with(x.shape, dim, size))


def reduce_scatter(x: Any, axes: str | Sequence[str], dim: int = 0, combine: str = "sum") -> Value:
    """What the tensors of all devices along ``axes`` give together, of which each gets its part along ``dim``.

    A size n over k devices is cut in blocks of ceil(n / k), as everywhere. Shapes must be equal on all these devices.
    """
    body, names, x = _exchange("reduce_scatter", x, axes)
    dim = one_axis("reduce_scatter", dim, x.ndim, "dim")
    _alike("reduce_scatter", x, names, None)
    part = _part(body, x.shape[dim], names)
    return _collective("reduce_scatter", body, names, x, dim=dim, combine=combine, shape=_with(x.shape, dim, part))


def all_to_all(x: Any, axes: str | Sequence[str], split_dim: int, concat_dim: int) -> Value:
    """Each device cuts its tensor along ``split_dim``, gives every device its part, and joins what it gets.

    It is joined along ``concat_dim``, another dimension, in the order of the devices. Sizes may differ between devices
    along ``concat_dim`` only.
    """
    body, names, x = _exchange("all_to_all", x, axes)
    split_dim = one_axis("all_to_all", split_dim, x.ndim, "split_dim")
    concat_dim = one_axis("all_to_all", concat_dim, x.ndim, "concat_dim")
    if split_dim == concat_dim:
        raise ArgumentError(
            f"dist.all_to_all: split_dim and concat_dim are both {split_dim}; what is cut is joined along another dimension"
        )
    _alike("all_to_all", x, names, concat_dim)
    shape = _with(x.shape, split_dim, _part(body, x.shape[split_dim], names))
    shape[concat_dim] = body.whole_size("dist.all_to_all", x.shape[concat_dim], names)
    return _collective("all_to_all", body, names, x, dim=concat_dim, split_dim=split_dim, shape=shape)


def collective_permute(x: Any, axes: str | Sequence[str], pairs: Sequence[tuple[int, int]]) -> Value:
    """The tensor of another device: of each pair (source, target) the target gets what the source has.

    Devices are numbered along ``axes``, row-major over several; each may be source of one pair and target of one. Those
    that are target of none get zeros. Shapes must be equal on all these devices: ShapeError. Raises ArgumentError for
    pairs that are not as said. The gradient goes back along the pairs.
    """
    body, names, x = _exchange(PERMUTE, x, axes)
    _alike(PERMUTE, x, names, None)
    return _collective(PERMUTE, body, names, x, pairs=[[int(source), int(target)] for source, target in pairs])


def _axes(what: str, body: _Body, axes: Any) -> tuple[str, ...]:
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    for name in names:
        if name not in body.mesh.axes:
            raise NameMissingError(
                f"dist.{what}: {body.mesh!r} has no axis {name!r}; its axes are {', '.join(body.mesh.axes)}"
            )
        if name not in body.manual:
            raise ArgumentError(
                f"dist.{what}: the body of dist.shard_map is written for {', '.join(body.manual)}; along {name} it is one "
                f"whole tensor: leave the exchange to the layouts, or name {name} in axes of shard_map"
            )
    if what in _MOVING and len(body.manual) < len(body.mesh.axes):
        raise ArgumentError(
            f"dist.{what}: the body of dist.shard_map is written for {', '.join(body.manual)} alone; there it may use "
            "all_reduce and collective_permute"
        )
    if not names or len(set(names)) != len(names):
        raise ArgumentError(f"dist.{what}: axes are {names!r}; name one mesh axis or several, each once")
    return names


def _exchange(what: str, x: Any, axes: Any) -> tuple[_Body, tuple[str, ...], Value]:
    body = _body(what)
    return body, _axes(what, body, axes), as_tensor(x)


def _collective(kind: str, body: _Body, axes: tuple[str, ...], x: Value, **attrs: Any) -> Value:
    layout = body.mesh.layout
    return build(
        kind, x, axes=list(axes), sizes=[layout.size(a) for a in axes], member=layout.index(axes), cause="shard_map",
        fix="change the body of dist.shard_map", **attrs,
    )


def _alike(what: str, x: Value, axes: Sequence[str], free: int | None) -> None:
    """Raise ShapeError when the devices along the axes have other sizes than in dimension ``free``."""
    for i, d in enumerate(x.shape):
        if i != free and _coordinates(d) & set(axes):
            raise ShapeError(
                f"dist.{what}: dimension {i} of the operand, of shape {shape_text(x.shape)}, differs between the devices "
                f"along {' and '.join(axes)}; give all of them the same size, with op.pad or a size that divides evenly"
            )


def _with(shape: Sequence[Dim], dim: int, size: Dim) -> list[Dim]:
    return [size if i == dim else d for i, d in enumerate(shape)]


def _part(body: _Body, size: Dim, axes: tuple[str, ...]) -> Dim:
    """A device's part of a size, remembered with the whole."""
    layout = body.mesh.layout
    found = local_size(size, split_over(size, axes, layout), layout)
    body.sizes[found, axes] = size
    return found


def _coordinates(value: Any) -> set[str]:
    """The mesh axes on whose coordinates a size, or an attribute with sizes, depends."""
    if isinstance(value, Expr):
        return {s.name.removeprefix(COORDINATE) for s in symbols(value) if s.name.startswith(COORDINATE)}
    return set[str]().union(*map(_coordinates, value)) if isinstance(value, (list, tuple)) else set()


# --- around the body -------------------------------------------------------------------------------------------------


def shard_map(
    body: Callable[..., Any],
    mesh: Mesh,
    in_specs: ShardSpec | Sequence[ShardSpec],
    out_specs: Any,
    axes: str | Sequence[str] | None = None,
) -> Callable[..., Any]:
    """``body``, which is written for one device of a mesh, as a function of whole tensors inside a graph.

    The body gets what the device holds of each argument as ``in_specs`` (one ShardSpec for each, or one for all) lay
    them out, and exchanges data with other devices by ``all_reduce``, ``all_gather``, ``reduce_scatter``,
    ``all_to_all`` and ``collective_permute`` only. Each of its results is the device's part of a whole tensor laid out as its ShardSpec in
    ``out_specs`` says; ``out_specs`` is one, or a tuple, list or dict of them like what the body returns. Tensors from
    outside that the body uses without taking them as arguments are whole on every device. Everything has gradients.

    Shapes inside are those of one device; where sizes do not divide evenly they are expressions over its coordinates. A
    random draw is the same on every device.

    ``axes``: the mesh axes for which the body is written; None for all. Along the others tensors in the body are whole,
    and are divided by layouts as outside: specs name only ``axes``, of the collectives the body may use ``all_reduce``
    and ``collective_permute`` over them, and ``dist.constrain`` over the others.

    Raises ArgumentError when the specs do not fit the arguments or results, when a result differs between devices that
    its spec says hold the same, and for a ``shard_map`` inside another one; ShapeError when the parts of a result are
    not blocks of a whole tensor; NameMissingError for axes that the mesh does not have.
    """
    if not callable(body):
        raise ArgumentError(f"dist.shard_map: the body must be a function, not {type(body).__name__}")
    if not isinstance(mesh, Mesh):
        raise ArgumentError(f"dist.shard_map: the mesh must be a dist.Mesh, not {type(mesh).__name__}")
    given = in_specs if isinstance(in_specs, ShardSpec) else _specs("in_specs", in_specs)
    manual = mesh.axes if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
    for name in manual:
        if name not in mesh.axes:
            raise NameMissingError(f"dist.shard_map: {mesh!r} has no axis {name!r}; its axes are {', '.join(mesh.axes)}")

    def mapped(*args: Any) -> Any:
        return call(body, _Body(mesh, tuple(manual)), given, out_specs, args)

    return mapped


def _specs(what: str, given: Any) -> tuple[ShardSpec, ...]:
    if not isinstance(given, (tuple, list)) or not all(isinstance(s, ShardSpec) for s in given):
        raise ArgumentError(f"dist.shard_map: {what} must be dist.ShardSpec, or a tuple of them, not {given!r}")
    return tuple(given)


def body_on(mesh: Mesh, axes: Sequence[str]) -> _Body:
    """A body for some axes of a mesh, to be traced by ``call``."""
    return _Body(mesh, tuple(axes))


def call(
    body: Callable[..., Any], state: _Body, in_specs: Any, out_specs: Any, args: tuple[Any, ...],
    summands: Sequence[str] = (),
) -> Any:
    """Trace a body; along ``summands`` its results are summands of what comes out."""
    mesh = state.mesh
    if _current.get() is not None:
        raise ArgumentError("dist.shard_map: it is called in the body of another one; call the function directly")
    specs = (in_specs,) * len(args) if isinstance(in_specs, ShardSpec) else in_specs
    if len(specs) != len(args):
        raise ArgumentError(
            f"dist.shard_map: {len(args)} arguments are given, in_specs has {len(specs)}; give a ShardSpec for each"
        )
    entered = [_enter(as_tensor(x), spec, state) for x, spec in zip(args, specs, strict=True)]
    with _tracing(state):
        returned = body(*entered)
    paired, join = _pairs(returned, out_specs)
    results = _closed([as_tensor(v) for _, v, _ in paired], entered, state)
    differ = _differences(results)
    return join([
        _leave(where, value, spec, differ[value], state, summands)
        for (where, _, spec), value in zip(paired, results, strict=True)
    ])


def _laid_out(state: _Body) -> dict[str, Any]:
    mesh = state.mesh
    found: dict[str, Any] = {"mesh": [[name, size] for name, size in mesh.layout.axes], "kind": mesh.kind}
    return found if len(state.manual) == len(mesh.axes) else {**found, "manual": list(state.manual)}


def _stated(what: str, x_shape: Sequence[Dim], spec: ShardSpec, state: _Body) -> Sharding:
    sharding = spec.sharding(tuple(x_shape), state.mesh)
    if other := sorted(sharding.used - set(state.manual)):
        raise ArgumentError(
            f"dist.shard_map: {what} name the axis {other[0]}, but the body is written for {', '.join(state.manual)}; lay "
            "tensors out along other axes with dist.constrain"
        )
    return sharding


def _enter(x: Value, spec: ShardSpec, state: _Body) -> Value:
    sharding = _stated("in_specs", x.shape, spec, state)
    out = build(FULL_TO_SHARD, x, **{**attributes_of(sharding), **_laid_out(state)})
    for split, here, size in zip(sharding.dims, out.shape, x.shape, strict=True):
        if split is not None:
            state.sizes[here, split.axes] = size
    return out


def _pairs(
    returned: Any, specs: Any
) -> tuple[list[tuple[str, Any, ShardSpec]], Callable[[list[Value]], Any]]:
    """(name, tensor, ShardSpec) of each result, and what puts results together as they were returned."""
    if isinstance(specs, ShardSpec):
        if isinstance(returned, (tuple, list, Mapping)):
            raise ArgumentError(
                f"dist.shard_map: the body returns a {type(returned).__name__}, out_specs is one ShardSpec; give one for "
                "each result, in the same structure"
            )
        return [("the result", returned, specs)], lambda values: values[0]
    if isinstance(specs, Mapping):
        if not isinstance(returned, Mapping) or set(returned) != set(specs):
            have = list(returned) if isinstance(returned, Mapping) else _kind(returned)
            raise ArgumentError(f"dist.shard_map: out_specs are for {list(specs)}, the body returns {have}")
        keys = list(returned)
        _specs("out_specs", [specs[k] for k in keys])
        return [(f"result {k!r}", returned[k], specs[k]) for k in keys], lambda v: dict(zip(keys, v, strict=True))
    several = _specs("out_specs", specs)
    if not isinstance(returned, (tuple, list)) or len(returned) != len(several):
        have = f"{len(returned)} results" if isinstance(returned, (tuple, list)) else _kind(returned)
        raise ArgumentError(f"dist.shard_map: out_specs has {len(several)} entries, the body returns {have}")
    kind = type(returned) if type(returned) in (tuple, list) else tuple
    named = [(f"result {i}", v, s) for i, (v, s) in enumerate(zip(returned, several, strict=True))]
    return named, kind


def _kind(returned: Any) -> str:
    return "one tensor" if isinstance(returned, Value) else f"a {type(returned).__name__}"


def _closed(results: list[Value], entered: Sequence[Value], state: _Body) -> list[Value]:
    """The results with all tensors from outside taken in whole, so that their gradients are those of all devices."""
    own = set(entered)
    for node in topological(v.node for v in results):
        coordinates = set[str]().union(*(_coordinates(a) for a in node.attrs.values()))
        if (coordinates and node.op != SHARD_TO_FULL) or any(v in own for v in node.operands):
            own.update(node.results)
    new: dict[Value, Value] = {v: v for v in entered}

    def taken(value: Value) -> Value:
        if value not in new:
            new[value] = build(FULL_TO_SHARD, value, **_laid_out(state), dims=[[] for _ in value.shape])
        return new[value]

    for node in topological(v.node for v in results):
        if node.results[0] in own and node.results[0] not in new:
            if node.op == "constrain" and not _is_over_others(node, state):
                at = "" if node.loc is None else f"\n  at {node.loc}"
                raise ArgumentError(
                    "dist.constrain: in the body of dist.shard_map a tensor is one device's and has no layout; exchange "
                    f"data with dist.all_gather, dist.all_to_all or dist.reduce_scatter{at}"
                )
            made = keep(node, tuple(taken(v) for v in node.operands))
            new.update(zip(node.results, made, strict=True))
    return [taken(v) for v in results]


def _is_over_others(node: Node, state: _Body) -> bool:
    """Whether a layout is along axes alone for which the body is not written."""
    named = {axis for axes in node.attrs["dims"] for axis in axes}
    return len(state.manual) < len(state.mesh.axes) and named.isdisjoint(state.manual)


def _differences(results: Sequence[Value]) -> dict[Value, frozenset[str]]:
    """The axes along which devices may hold different values, of everything in the body."""
    found: dict[Value, frozenset[str]] = {}
    for node in topological(v.node for v in results):
        found.update(dict.fromkeys(node.results, _differs(node, found)))
    return found


def _differs(node: Node, found: Mapping[Value, frozenset[str]]) -> frozenset[str]:
    if node.op == FULL_TO_SHARD:
        return frozenset(axis for axes in node.attrs["dims"] for axis in axes)
    if node.op in LEAVES or node.op == SHARD_TO_FULL:
        return frozenset()
    before = frozenset[str]().union(*(found[v] for v in node.operands))
    if node.op in NAMES:
        group = set(node.attrs["axes"])
        return before - group if node.op in ("all_reduce", "all_gather") else before | group
    return before.union(*(_coordinates(a) for a in node.attrs.values()))


def _leave(
    where: str, value: Value, spec: ShardSpec, differ: frozenset[str], state: _Body, summands: Sequence[str]
) -> Value:
    mesh = state.mesh
    splits = _stated("out_specs", value.shape, spec, state).dims
    stated = {*summands, *(axis for split in splits if split is not None for axis in split.axes)}
    wrong = [a for a in mesh.axes if a in differ and a not in stated and mesh.layout.size(a) > 1]
    if wrong:
        names = " and ".join(wrong)
        raise ArgumentError(
            f"dist.shard_map: {where} differs between the devices along {names}, but its ShardSpec in out_specs does not "
            f"name {'it' if len(wrong) == 1 else 'them'}: split a dimension over {names}, or make it the same on all with "
            f"dist.all_reduce or dist.all_gather over {names}"
        )
    shape = [_whole_size(where, i, d, split, state) for i, (d, split) in enumerate(zip(value.shape, splits, strict=True))]
    attrs = {**attributes_of(spec.sharding(shape, mesh)), **_laid_out(state)}
    return build(SHARD_TO_FULL, value, **attrs, shape=shape, partial=list(summands))


def _whole_size(where: str, dim: int, size: Dim, split: Split | None, state: _Body) -> Dim:
    layout = state.mesh.layout
    if split is None:
        if _coordinates(size):
            raise ShapeError(
                f"dist.shard_map: dimension {dim} of {where} has {size} elements, other ones on other devices, but "
                "out_specs does not split it"
            )
        return size
    found = state.whole_size(f"dist.shard_map: dimension {dim} of {where}", size, split.axes)
    whole = split_over(found, split.axes, layout)
    if local_size(found, whole, layout) != size:
        raise ShapeError(
            f"dist.shard_map: dimension {dim} of {where} has {size} elements on a device, which are {found} in all, but "
            f"not in blocks of {whole.block}; give every device the same number, or lay out an argument in that size"
        )
    return found
