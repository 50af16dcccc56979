"""Partitioning: a graph over whole tensors becomes one device's program with explicit collectives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tessera.dist import attention
from tessera.dist.convert import apply_step, exchange_cost, steps_between
from tessera.dist.cost import Machine, assumed_size, share, typical_elements
from tessera.dist.factors import Factors
from tessera.dist.hints import find_hints
from tessera.dist.layout import spec_of
from tessera.dist.rules import CREATIONS, create, local_node, node_factors
from tessera.dist.strategy import Strategy, all_whole, is_zero, strategies
from tessera.errors import ArgumentError, ShapeError, UnsupportedError
from tessera.ir.attribute import attributes_key
from tessera.ir.dims import Dim, add, mul
from tessera.ir.graph import Graph
from tessera.ir.provenance import location
from tessera.ir.sharding import MeshShape, Sharding, effective, split_over, whole
from tessera.ir.value import CONSTANT, INPUT, LEAVES, PARAM, Node, TensorType, Value
from tessera.op.collective import FULL_TO_SHARD, LAID_OUT, NAMES, SHARD_TO_FULL, manual_axes, stated_sharding
from tessera.op.opdef import apply, build


@dataclass(frozen=True, slots=True)
class Partitioned:
    """One device's program, and how the tensors that it takes, gives and keeps lie on the mesh.

    ``graph`` has local shapes; ``inputs``, ``outputs`` and ``state`` give the sharding by name; ``global_types`` the
    types over whole tensors by (kind, name); ``annotated`` is the graph over whole tensors with a sharding on each
    value's type.
    """

    graph: Graph
    mesh: MeshShape
    inputs: dict[str, Sharding]
    outputs: dict[str, Sharding]
    state: dict[str, Sharding]
    global_types: dict[tuple[str, str], TensorType]
    shardings: dict[Value, Sharding]


def partition(graph: Graph, mesh: MeshShape, machine: Machine, exact: bool = False) -> Partitioned:
    """Partition a graph of primitives (and ``constrain``); leaves may have shardings in their types.

    Inputs without one take the layout that their readers wish, parameters and constants without one are replicated.
    ``exact``: no device holds a part of a floating-point sum.
    """
    return _Partitioner(graph, mesh, machine, exact).run()


class _Partitioner:
    def __init__(self, graph: Graph, mesh: MeshShape, machine: Machine, exact: bool) -> None:
        self.graph, self.mesh, self.machine, self.exact = graph, mesh, machine, exact
        self.assumed = assumed_size(mesh)
        self.nodes = graph.nodes()
        check_bodies(graph, self.nodes)
        self.inside = inside_bodies(self.nodes)
        self.factors = _all_factors([n for n in self.nodes if n not in self.inside and n.op != SHARD_TO_FULL])
        self.hints = find_hints(graph, self.factors)
        self.readers: Counter[Value] = Counter(v for n in self.nodes for v in n.operands)
        self.lies: dict[Value, Sharding] = {}  # how each value first lies; created ones have no entry
        self.local: dict[tuple[Value, Sharding], Value] = {}
        self.forms: dict[Value, tuple[Sharding, ...]] = {}  # the shardings that ``local`` has of each value
        self.ranked: dict[Hashable, list[Strategy]] = {}
        self.leaves: dict[Value, Value] = {}
        self.body: dict[Value, Value] = {}  # what was written for one device already
        self.origin: dict[Value, str] = {}  # of partial values: what would avoid their reduction

    def run(self) -> Partitioned:
        for node in self.nodes:
            if node.op in LEAVES:
                self._leaf(node)
            elif node.op == "constrain":
                wanted = stated_sharding(node.attrs, node.operands[0].shape)
                value = node.results[0]
                self._define(value, wanted, self._as(node.operands[0], wanted, node))
            elif node in self.inside:
                self._inside(node)
            elif node.op == FULL_TO_SHARD:
                self._enter(node)
            elif node.op == SHARD_TO_FULL and "manual" in node.attrs:
                self._leave(node)
            elif node.op in NAMES:
                self._exchanged(node)
            elif node.op == SHARD_TO_FULL:
                value = node.results[0]
                self._define(value, stated_sharding(node.attrs, value.shape), self._in_body(node.operands[0], node))
            elif node.op not in CREATIONS:
                self._divide(node)
        return self._finish()

    def _inside(self, node: Node) -> None:
        """A node of a body of ``dist.shard_map``: it is one device's as it stands."""
        if node.op == FULL_TO_SHARD:
            value = node.operands[0]
            found = (self._as(value, stated_sharding(node.attrs, value.shape), node),)
        else:
            found = apply(node.op, [self._in_body(v, node) for v in node.operands], node.attrs, node.loc)
        self.body.update(zip(node.results, found, strict=True))

    def _in_body(self, value: Value, reader: Node) -> Value:
        """A value as a body reads it: its own, or a whole tensor."""
        found = self.body.get(value)
        return self._as(value, whole(self.mesh, value.ndim), reader) if found is None else found

    # Bodies that are written for some axes: along the others their nodes are divided like all nodes.

    def _enter(self, node: Node) -> None:
        """Along the axes of the body a device's part; along others the tensor lies as it does, where that is possible."""
        value, manual = node.operands[0], set(manual_axes(node.attrs))
        stated = stated_sharding(node.attrs, value.shape)
        have = self.lies.get(value, whole(self.mesh, value.ndim))
        kept = tuple(
            None if s is not None or split is None or manual & set(split.axes) else split
            for s, split in zip(stated.dims, have.dims, strict=True)
        )
        partial = tuple(p for p in have.partial if p[0] not in manual)
        wanted = Sharding(self.mesh, tuple(s or k for s, k in zip(stated.dims, kept, strict=True)), partial)
        self._define(node.results[0], Sharding(self.mesh, kept, partial), self._as(value, wanted, node))

    def _leave(self, node: Node) -> None:
        value, result = node.operands[0], node.results[0]
        stated = stated_sharding(node.attrs, result.shape)
        have = self._summable(value)
        kept = tuple(None if s is not None else k for s, k in zip(stated.dims, have.dims, strict=True))
        local = self._as(value, Sharding(self.mesh, kept, have.partial), node)
        dims = tuple(s or k for s, k in zip(stated.dims, kept, strict=True))
        partial = tuple(sorted({*stated.partial, *have.partial}, key=lambda p: self.mesh.names.index(p[0])))
        self._define(result, Sharding(self.mesh, dims, partial), local)
        if partial:
            self.origin[result] = "change the body that gives it in parts"

    def _exchanged(self, node: Node) -> None:
        """A collective of such a body: the same on each part along other axes."""
        have = self._summable(node.operands[0])
        if node.attrs.get("combine", "sum") != "sum":
            have = have.complete()
        found = apply(node.op, [self._as(node.operands[0], have, node)], node.attrs, node.loc)
        self._define(node.results[0], have, found[0])

    def _summable(self, value: Value) -> Sharding:
        """How a value lies, with nothing partial but sums."""
        have = self.lies.get(value, whole(self.mesh, value.ndim))
        return have if all(c == "sum" for _, c in have.partial) else have.complete()

    def _leaf(self, node: Node) -> None:
        value = node.results[0]
        sharding = value.type.sharding
        if sharding is None and node.op == INPUT:
            sharding = self._wish(value)
        sharding = whole(self.mesh, value.ndim) if sharding is None else effective(sharding)
        shape = sharding.local_shape(value.shape)
        held = sharding.padded_shape(value.shape) if node.op == PARAM else shape
        made = Node(node.op, (), node.attrs, (TensorType(value.dtype, held),), node.loc, node.payload).results[0]
        self.leaves[value] = made
        if held != shape:
            with location(node.loc):
                made = build("slice", made, start=[0] * len(shape), stop=list(shape), step=[1] * len(shape))
        self._define(value, sharding, made)

    def _define(self, value: Value, sharding: Sharding, local: Value) -> None:
        self.lies[value] = sharding
        self._keep(value, sharding, local)

    def _keep(self, value: Value, sharding: Sharding, local: Value) -> None:
        self.local[value, sharding] = local
        self.forms[value] = (*self.forms.get(value, ()), sharding)

    # --- conversions ---

    def _as(self, value: Value, wanted: Sharding, reader: Node | None, at: int = 0) -> Value:
        """The local value in a wanted sharding: as it lies, converted, or made."""
        found = self.local.get((value, wanted))
        if found is not None:
            return found
        node = value.node
        if value in self.body:
            raise ArgumentError(_leaked(node))
        if value not in self.lies:
            with location(node.loc):
                operands = tuple(self._as(v, whole(self.mesh, v.ndim), node) for v in node.operands)
                found = create(node, operands, wanted)
        else:
            return self._converted(value, wanted, reader)
        self._keep(value, wanted, found)
        return found

    def _converted(self, value: Value, wanted: Sharding, reader: Node | None) -> Value:
        before = self._nearest(value, wanted)
        found = self.local[value, before]
        loc = reader.loc if reader is not None and reader.loc is not None else value.node.loc
        cause = reader.op if reader is not None else "output"
        with location(loc):
            for step in steps_between(value.shape, before, wanted):
                known = self.local.get((value, step.after))
                if known is not None:
                    found = known
                else:
                    fix = self._fix(value, wanted, step.kind)
                    found = apply_step(found, step, before, value.shape, cause, fix)
                    self._keep(value, step.after, found)
                before = step.after
        return found

    def _nearest(self, value: Value, wanted: Sharding) -> Sharding:
        """The sharding in which the value is there already from which the wanted one costs least."""
        options = self._known(value)
        if wanted.partial or len(options) == 1:  # what is complete is not taken apart again
            return options[0]
        return min(options, key=lambda s: (self._exchange(value, s, wanted), s != self.lies[value], str(s)))

    def _known(self, value: Value) -> list[Sharding]:
        first = self.lies[value]
        complete = first.complete()
        return [first, complete] if complete is not first and (value, complete) in self.local else [first]

    def _exchange(self, value: Value, source: Sharding, target: Sharding) -> float:
        return exchange_cost(value.shape, value.dtype, source, target, self.machine)

    def _fix(self, value: Value, wanted: Sharding, kind: str) -> str:
        if kind in ("all_reduce", "reduce_scatter") and value in self.origin:
            return self.origin[value]
        return f"lay out {_described(value)} as {spec_of(wanted)!r}"

    def _wish(self, value: Value) -> Sharding | None:
        hint = self.hints.get(value)
        return None if hint is None else hint.sharding

    # --- nodes ---

    def _divide(self, node: Node) -> None:
        have = [self.lies.get(v) for v in node.operands]
        key = self._situation(node, have)
        ranked = self.ranked.get(key)
        if ranked is None:
            options = strategies(node, self.factors[node], have, self._wish(node.results[0]), self.mesh, self.exact)
            costs = [self._cost(node, have, option) for option in options]
            ranked = self.ranked[key] = [options[i] for i in sorted(range(len(options)), key=lambda i: (costs[i], i))]
        for option in ranked:
            if self._apply(node, option, have):
                return
        if not self._apply(node, all_whole(node, self.mesh), have):
            raise UnsupportedError(f"[{node.op}] cannot run on a mesh{_at(node)}")

    def _situation(self, node: Node, have: Sequence[Sharding | None]) -> Hashable:
        """All that the choice of a strategy depends on: equal for the same node of another layer."""
        operands = [
            (v.type, s, self.forms.get(v, ()), self.readers[v], is_zero(v))
            for v, s in zip(node.operands, have, strict=True)
        ]
        return node.op, attributes_key(node.attrs), tuple(operands), self.hints.get(node.results[0])

    def _apply(self, node: Node, chosen: Strategy, have: Sequence[Sharding | None]) -> bool:
        try:
            with location(node.loc):
                operands = tuple(
                    self._as(v, self._required(v, h, want), node)
                    for v, h, want in zip(node.operands, have, chosen.operands, strict=True)
                )
                results = local_node(node, operands, chosen)
        except ShapeError:  # sizes that cannot be shown to fit; whole operands always do
            return False
        for value, sharding, local in zip(node.results, chosen.results, results, strict=True):
            self._define(value, sharding, local)
            if sharding.partial:
                self.origin[value] = self._origin(node, chosen, sharding)
        return True

    @staticmethod
    def _required(value: Value, have: Sharding | None, want: Sharding) -> Sharding:
        """A zero is a part of itself: it need not be partial."""
        return want.complete() if want.partial and have is None and is_zero(value) else want

    def _origin(self, node: Node, chosen: Strategy, sharding: Sharding) -> str:
        for value in node.operands:
            if chosen.carried and value in self.origin:
                return self.origin[value]
        for value, want in zip(node.operands, chosen.operands, strict=True):
            split = {a for a, _ in sharding.partial} & want.used
            if split:
                now = self.lies.get(value, want)
                dims = tuple(None if s is not None and set(s.axes) & split else s for s in now.dims)
                return f"lay out {_described(value)} as {spec_of(Sharding(want.mesh, dims))!r}"
        return ""

    def _cost(self, node: Node, have: Sequence[Sharding | None], option: Strategy) -> float:
        total = 0.0
        touched = 0.0
        for value, now, want in zip(node.operands, have, option.operands, strict=True):
            touched += share(self.mesh, typical_elements(value.shape, self.assumed), want.used) * value.dtype.itemsize
            if now is None or now == want or (value, want) in self.local:
                continue
            cost = self._exchange(value, now, want)
            total += cost / max(1, self.readers[value]) if now.partial else cost
        for t, sharding in zip(node.types, option.results, strict=True):
            touched += share(self.mesh, typical_elements(t.shape, self.assumed), sharding.used) * t.dtype.itemsize
        total += self.machine.compute(share(self.mesh, _operations(node, self.assumed), option.axes), touched)
        for value, result in zip(node.results, option.results, strict=True):
            hint = self.hints.get(value)
            goal = hint.goal(result) if hint is not None else result.complete()
            total += self._exchange(value, result, goal)
        return total

    # --- the whole ---

    def _finish(self) -> Partitioned:
        outputs: dict[str, Value] = {}
        lie: dict[str, Sharding] = {}
        for name, value in self.graph.outputs.items():
            lie[name] = self._final(value)
            outputs[name] = self._as(value, lie[name], None)
        inputs = [self.leaves[v] for v in self.graph.inputs]
        updates = {self.leaves[p]: self._new_state(p, v) for p, v in self.graph.updates.items()}
        local = Graph(outputs, name=self.graph.name, inputs=inputs, updates=updates)
        types: dict[tuple[str, str], TensorType] = {("output", k): v.type for k, v in self.graph.outputs.items()}
        for node in self.nodes:
            if node.op in LEAVES:
                types[node.op, node.attrs["name"]] = node.types[0]
        return Partitioned(
            local, self.mesh, self._leaves(INPUT), lie, self._leaves(PARAM), types, dict(self.lies)
        )

    def _new_state(self, param: Value, value: Value) -> Value:
        """The new value of a parameter, as long as its storage."""
        new, held = self._as(value, self.lies[param], None), self.leaves[param].shape
        if new.shape == held:
            return new
        high = [add(d, mul(-1, n)) for d, n in zip(held, new.shape, strict=True)]
        with location(value.node.loc):
            return build("pad", new, low=[0] * len(held), high=high, value=0.0 if new.dtype.is_float else 0)

    def _leaves(self, op: str) -> dict[str, Sharding]:
        return {n.attrs["name"]: self.lies[n.results[0]] for n in self.nodes if n.op == op}

    def _final(self, value: Value) -> Sharding:
        """How an output lies: as computed, or as its readers wish, and complete."""
        now = self.lies.get(value)
        hint = self._wish(value)
        if now is None:
            return hint if hint is not None else whole(self.mesh, value.ndim)
        if not now.partial:
            return now
        if hint is not None and not hint.partial_axes:
            return hint
        axes = tuple(a for a in self.mesh.names if a in now.partial_axes)
        count = self.mesh.count(axes)
        for dim in reversed(range(value.ndim)):  # a part of the sum for each device is half the traffic
            size = value.shape[dim]
            if now.dims[dim] is None and isinstance(size, int) and size >= count:
                dims = tuple(split_over(size, axes, self.mesh) if i == dim else s for i, s in enumerate(now.dims))
                return Sharding(self.mesh, dims)
        return now.complete()


def inside_bodies(nodes: Sequence[Node]) -> set[Node]:
    """The nodes in the bodies of ``dist.shard_map`` that are written for all axes: they follow from one device's part."""
    found: set[Node] = set()
    for node in nodes:
        follows = node.op != SHARD_TO_FULL and any(v.node in found for v in node.operands)
        if follows or (node.op == FULL_TO_SHARD and "manual" not in node.attrs):
            found.add(node)
    return found


def check_bodies(graph: Graph, nodes: Sequence[Node]) -> None:
    """Raise ArgumentError when a tensor of a body for some axes is used outside of it without coming out of it."""
    found: set[Node] = set()
    for node in nodes:
        enters = node.op == FULL_TO_SHARD and "manual" in node.attrs
        if enters or (node.op != SHARD_TO_FULL and any(v.node in found for v in node.operands)):
            found.add(node)
    for value in (*graph.outputs.values(), *graph.updates.values()):
        if value.node in found:
            raise ArgumentError(_leaked(value.node))


def _leaked(node: Node) -> str:
    return (
        f"[{node.op}] a tensor of the body of dist.shard_map is used outside of it{_at(node)}; return it from the body, "
        "with its layout in out_specs"
    )


def _all_factors(nodes: Sequence[Node]) -> dict[Node, Factors]:
    """The factors of each node that is divided; those of equal nodes are looked up once."""
    known: dict[Hashable, Factors] = {}
    found: dict[Node, Factors] = {}
    for node in nodes:
        if _divisible(node):
            zero = bool(node.operands) and is_zero(node.operands[0])
            key = (node.op, tuple(v.type for v in node.operands), attributes_key(node.attrs), zero)
            if key not in known:
                known[key] = node_factors(node)
            found[node] = known[key]
    return found


def _divisible(node: Node) -> bool:
    return node.op not in LEAVES and node.op not in CREATIONS and node.op not in LAID_OUT and node.op not in NAMES


def _operations(node: Node, assumed: int) -> float:
    """Arithmetic of the whole node."""
    if node.op == "matmul":
        terms = typical_elements((node.operands[0].shape[-1],), assumed)
        return 2 * typical_elements(node.types[0].shape, assumed) * terms
    if node.op in (attention.FORWARD, attention.GRADIENT):
        return attention.operations(node, assumed)
    sizes: list[tuple[Dim, ...]] = [*(v.shape for v in node.operands), *(t.shape for t in node.types)]
    return max(typical_elements(shape, assumed) for shape in sizes)


def _described(value: Value) -> str:
    """A value as a user knows it."""
    node = value.node
    while node.op in ("cast", "stop_gradient") and len(node.operands) == 1:
        node = node.operands[0].node
    if node.op in LEAVES:
        kind = {INPUT: "input", PARAM: "parameter", CONSTANT: "constant"}[node.op]
        return f"{kind} {node.attrs['name']!r}"
    return f"the result of {node.op}{_at(node)}"


def _at(node: Node) -> str:
    return "" if node.loc is None else f" at {node.loc}"
