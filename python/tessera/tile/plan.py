"""From a graph of primitives to a plan: fusion, kernels, order, memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera.errors import UnsupportedError
from tessera.ir.attribute import attributes_text
from tessera.ir.dims import Dim, bounds, mul, sym
from tessera.ir.graph import Graph
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule import cost
from tessera.schedule.fusion import Group, fuse
from tessera.schedule.index import Axes
from tessera.schedule.materialise import place
from tessera.schedule.memory import Storage, lay_out
from tessera.schedule.options import Schedule
from tessera.schedule.order import Order, typical_bytes
from tessera.schedule.pieces import CHECK, DOT, PORTABLE, SCATTER, cut
from tessera.schedule.placement import Placement
from tessera.schedule.plan import (
    Copy,
    Instruction,
    KernelCall,
    Operand,
    Plan,
    PlanBuffer,
    PlanTensor,
    PortableCall,
    RangeCheck,
    SizeCheck,
)
from tessera.schedule.prepare import prepare
from tessera.tile.aliasing import may_replace, share
from tessera.tile.canonical import canonicalise
from tessera.tile.collapse import collapse
from tessera.tile.dot import DotBuilder
from tessera.tile.emission import Argument
from tessera.tile.ir import Kernel
from tessera.tile.loop import LoopBuilder, ScatterBuilder
from tessera.tile.printer import content_key


def build_plan(graph: Graph, options: Schedule | None = None) -> Plan:
    """Schedule a decomposed, simplified graph.

    Kernels are Tile IR; a target compiles ``plan.kernels`` and ``plan.to_json`` joins the two. Raises UnsupportedError
    when the working memory cannot be brought under ``options.memory_budget``.
    """
    options = options or Schedule()
    graph = prepare(graph, graph.nodes())
    levels = {"none": [0], "auto": [cost.CHEAP], "all": [cost.MOST_WORK]}[options.recompute]
    if options.memory_budget is not None and options.recompute == "auto":
        levels = [cost.CHEAP, 30, cost.MOST_WORK]
    best: Plan | None = None
    for recompute in levels:
        plan = _Builder(graph, options, recompute).build()
        plan.threads = options.threads
        if best is None or cost.typical(plan.arena) < cost.typical(best.arena):
            best = plan
        if options.memory_budget is None or _highest(plan.arena) <= options.memory_budget:
            return plan
    assert best is not None
    raise UnsupportedError(
        f"[Schedule] memory_budget = {options.memory_budget} bytes: the least working memory found is "
        f"{best.arena} bytes; raise the budget, or make the batch smaller"
    )


def _highest(arena: Dim) -> int:
    """The arena at its largest sizes; at typical sizes when they are unbounded."""
    high = bounds(arena)[1]
    return cost.typical(arena) if high is None else high


@dataclass(slots=True)
class _Draft:
    """A kernel of a group before memory is assigned."""

    kernel: Kernel
    arguments: list[Argument]


@dataclass(slots=True)
class _Bindings:
    """Where stored values live."""

    buffers: list[PlanBuffer] = field(default_factory=list)
    of: dict[int, int] = field(default_factory=dict)

    def add(self, kind: str, size: Dim, label: str) -> int:
        self.buffers.append(PlanBuffer(kind, size, label))
        return len(self.buffers) - 1


def _bytes(v: Value) -> Dim:
    return mul(v.size, v.dtype.itemsize)


class _Builder:
    """One attempt at a plan."""

    def __init__(self, graph: Graph, options: Schedule, recompute: int) -> None:
        self.graph = graph
        self.nodes = graph.nodes()
        self.axes = Axes()
        self.placement: Placement = place(graph, self.nodes, options, recompute)
        self.groups = fuse(cut(graph, self.nodes, self.placement, self.axes), self.axes, options)
        self.bindings = _Bindings()
        self.writers: dict[int, Group] = {}
        for group in self.groups:
            for root in group.roots:
                self.writers[root] = group
        self.multiple = _written_in_parts(self.groups)
        self.drafts: dict[Group, _Draft] = {}
        self.final: list[tuple[int, int, Dim]] = []
        self.saves: list[tuple[int, int, Dim]] = []

    def build(self) -> Plan:
        external = self._external()
        for group in self.groups:
            if group.kind not in (CHECK, PORTABLE):
                self.drafts[group] = self._draft(group, external)
        self.order = Order(self.groups)
        inputs, state, constants = self._bind_leaves()
        outputs = self._bind_outputs()
        self._bind_updates()
        sequence = self._sequence(external)
        arena = self._arena(sequence)
        return self._assemble(sequence, arena, inputs, outputs, state, constants)

    # Kernels.

    def _external(self) -> set[int]:
        """Values that some other group, or the caller, reads from memory."""
        found: set[int] = set()
        for v in (*self.graph.outputs.values(), *self.graph.updates.values()):
            root = self.placement.root(v)
            assert root is not None
            found.add(id(root))
        for group in self.groups:
            found.update(root for root in group.reads if root not in group.roots)
            if group.kind in (CHECK, PORTABLE, SCATTER):
                found.update(group.reads)
        return found

    def _draft(self, group: Group, external: set[int]) -> _Draft:
        builder = {DOT: DotBuilder, SCATTER: ScatterBuilder}.get(group.kind, LoopBuilder)
        kernel, arguments = builder(group, self.placement, self.axes, external).build()
        return _Draft(collapse(kernel), arguments)

    # Where values live.

    def _bind_leaves(self) -> tuple[list[PlanTensor], list[PlanTensor], list[PlanTensor]]:
        lists = []
        for kind, leaves in (
            ("input", self.graph.inputs), ("state", self.graph.params()), ("constant", self.graph.constants())
        ):
            found = []
            for v in leaves:
                name = v.node.attrs["name"]
                number = self.bindings.of[id(v)] = self.bindings.add(kind, _bytes(v), name)
                mutated = v in self.graph.updates and self.placement.root(self.graph.updates[v]) is not v
                trainable = bool(v.node.attrs.get("trainable", False))
                found.append(PlanTensor(name, v.dtype, v.shape, number, trainable, mutated))
            lists.append(found)
        return lists[0], lists[1], lists[2]

    def _bind_outputs(self) -> list[PlanTensor]:
        found = []
        for name, v in self.graph.outputs.items():
            number = self.bindings.add("output", _bytes(v), name)
            found.append(PlanTensor(name, v.dtype, v.shape, number))
            root = self.placement.root(v)
            assert root is not None
            if root.node.op not in LEAVES and id(root) not in self.bindings.of:
                self.bindings.of[id(root)] = number
            else:
                self.final.append((id(root), number, _bytes(v)))
        return found

    def _bind_updates(self) -> None:
        mutated = {id(p) for p, v in self.graph.updates.items() if self.placement.root(v) is not p}
        copies: list[tuple[int, int, Dim]] = []
        for param, v in self.graph.updates.items():
            root = self.placement.root(v)
            assert root is not None
            if root is param:
                continue
            number = self.bindings.of[id(param)]
            if self._in_place(param, root):
                self.bindings.of[id(root)] = number
            else:
                copies.append((id(root), number, _bytes(param)))
        self._save_old_state(mutated)
        for source, target, size in copies:
            if source in mutated:  # the old value of another parameter that changes too
                source = self._saved(source, size)
            self.final.append((source, target, size))

    def _in_place(self, param: Value, root: Value) -> bool:
        """Whether the new value can be written over the old one by the kernel that computes it."""
        if root.node.op in LEAVES or id(root) in self.bindings.of or id(root) in self.multiple:
            return False
        writer = self.writers[id(root)]
        draft = self.drafts.get(writer)
        if draft is None:
            return False
        sources = [i for i, a in enumerate(draft.arguments) if a.root is param]
        targets = [i for i, a in enumerate(draft.arguments) if a.root is root]
        if len(targets) != 1 or not all(may_replace(draft.kernel, s, targets[0]) for s in sources):
            return False
        return self.order.write_in_place(writer, param)

    def _save_old_state(self, mutated: set[int]) -> None:
        """Outputs that are old values of parameters that change: copied before anything is written."""
        kept = []
        for source, target, size in self.final:
            if source in mutated:
                self.saves.append((self.bindings.of[source], target, size))
            else:
                kept.append((source, target, size))
        self.final = kept

    def _saved(self, source: int, size: Dim) -> int:
        """A copy of a parameter's old value, made before anything is written; its key among the bindings."""
        number = self.bindings.add("arena", size, f"old {self.bindings.buffers[self.bindings.of[source]].label}")
        self.saves.append((self.bindings.of[source], number, size))
        key = -number - 1
        self.bindings.of[key] = number
        return key

    # Order and memory.

    def _sequence(self, external: set[int]) -> list[Group]:
        sizes = {
            id(v): typical_bytes(v)
            for v in self.placement.values() if id(v) in external and id(v) not in self.bindings.of
        }
        return self.order.sequence(sizes)

    def _arena(self, sequence: list[Group]) -> Dim:
        """Bind what is left to the arena; instructions are numbered as in the sequence, after the saves."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        shift = len(self.saves)
        values: dict[int, Value] = {}
        for step, group in enumerate(sequence, shift):
            for root in group.roots:
                first.setdefault(root, step)
                last[root] = step
            for root in group.reads:
                last[root] = step
        for v in self.placement.values():
            values[id(v)] = v
        end = shift + len(sequence) + len(self.final)
        for source, _, _ in self.final:
            last[source] = end
        storages: list[tuple[Storage, int]] = []
        owner: dict[int, Storage] = {}
        for step, group in enumerate(sequence, shift):
            for root in group.roots:
                if root in self.bindings.of or root not in values or root not in self._needed(group):
                    continue
                v = values[root]
                storage = self._taken_over(group, v, step, last, owner)
                if storage is None:
                    number = self.bindings.add("arena", _bytes(v), v.node.op)
                    storage = Storage(_bytes(v), first[root], last[root])
                    storages.append((storage, number))
                    self.bindings.of[root] = number
                owner[root] = storage
        for number, buffer in enumerate(self.bindings.buffers):
            if buffer.kind == "arena" and not any(n == number for _, n in storages):
                storages.append((Storage(buffer.bytes, 0, end), number))
        arena = lay_out([s for s, _ in storages])
        for storage, number in storages:
            buffer = self.bindings.buffers[number]
            buffer.offset, buffer.live = storage.offset, (storage.first, storage.last)
        return arena

    def _needed(self, group: Group) -> set[int]:
        if group.kind == PORTABLE:
            return set(group.roots)
        return {id(a.root) for a in self.drafts[group].arguments}

    def _taken_over(
        self, group: Group, v: Value, step: int, last: dict[int, int], owner: dict[int, Storage]
    ) -> Storage | None:
        """The storage of an operand that dies here, when the value may be written over it."""
        draft = self.drafts.get(group)
        if draft is None or id(v) in self.multiple:
            return None
        targets = [i for i, a in enumerate(draft.arguments) if a.root is v]
        for number, argument in enumerate(draft.arguments):
            key = id(argument.root)
            storage = owner.get(key)
            if storage is None or argument.written or last.get(key) != step or storage.last != step:
                continue
            if storage.bytes != _bytes(v) or sum(a.root is argument.root for a in draft.arguments) != 1:
                continue
            if len(targets) == 1 and may_replace(draft.kernel, number, targets[0]):
                storage.last = last[id(v)]
                self.bindings.of[id(v)] = self.bindings.of[key]
                return storage
        return None

    # The plan.

    def _assemble(
        self, sequence: list[Group], arena: Dim, inputs: list[PlanTensor], outputs: list[PlanTensor],
        state: list[PlanTensor], constants: list[PlanTensor],
    ) -> Plan:
        instructions: list[Instruction] = [Copy(s, t, n) for s, t, n in self.saves]
        kernels: list[Kernel] = []
        keys: dict[str, int] = {}
        for group in sequence:
            if not self._writes_nothing(group):
                instructions.append(self._instruction(group, kernels, keys))
        instructions += [Copy(self.bindings.of[s], t, n) for s, t, n in self.final]
        return Plan(
            tuple(self.graph.symbols()), inputs, outputs, state, constants, self.bindings.buffers, arena, kernels,
            instructions, size_checks(self.nodes), list(keys),
        )

    def _writes_nothing(self, group: Group) -> bool:
        """Whether a kernel has only empty results."""
        draft = self.drafts.get(group)
        if draft is None:
            return False
        return all(self.bindings.buffers[self.bindings.of[id(a.root)]].bytes == 0 for a in draft.arguments if a.written)

    def _instruction(self, group: Group, kernels: list[Kernel], keys: dict[str, int]) -> Instruction:
        if group.kind == CHECK:
            return self._range_check(group.anchor.node)
        if group.kind == PORTABLE:
            return self._portable(group.anchor.node)
        draft = self.drafts[group]
        numbers = [self.bindings.of[id(a.root)] for a in draft.arguments]
        shared: dict[int, list[int]] = {}
        for argument, number in enumerate(numbers):
            shared.setdefault(number, []).append(argument)
        groups = [g for g in shared.values() if len(g) > 1 and any(draft.arguments[i].written for i in g)]
        kernel, kept = share(draft.kernel, groups) if groups else (draft.kernel, list(range(len(numbers))))
        kernel, sizes = canonicalise(kernel)
        key = content_key(kernel)
        if key not in keys:
            keys[key] = len(kernels)
            kernels.append(kernel)
        return KernelCall(keys[key], tuple(numbers[i] for i in kept), tuple(sym(s) for s in sizes), kernel.loc)

    def _range_check(self, node: Node) -> RangeCheck:
        operand = node.operands[0]
        root = self.placement.root(operand)
        a = node.attrs
        return RangeCheck(
            self.bindings.of[id(root)], operand.dtype, operand.size, a["low"], a["high"], a["ignore"], a["what"],
            node.loc,
        )

    def _portable(self, node: Node) -> PortableCall:
        def operand(v: Value) -> Operand:
            return Operand(self.bindings.of[id(self.placement.root(v) or v)], v.dtype, v.shape)

        results = tuple(map(operand, node.results))
        return PortableCall(node.op, attributes_text(node.attrs), tuple(map(operand, node.operands)), results, node.loc)


def _written_in_parts(groups: list[Group]) -> set[int]:
    return {r for g in groups for r, p in g.roots.items() if p.part is not None}


def size_checks(nodes: list[Node]) -> list[SizeCheck]:
    """Conditions on symbolic sizes that operators need: extrema have at least one element."""
    found: dict[tuple[str, str], SizeCheck] = {}
    for node in nodes:
        rule = None if node.op in LEAVES else get(node.op).lower
        if not isinstance(rule, low.Reduction) or rule.combine in ("sum", "prod"):
            continue
        axes = node.attrs["axes"] if "axes" in node.attrs else [node.attrs["axis"]]
        for axis in axes:
            d = node.operands[0].shape[axis]
            if bounds(d)[0] < 1:
                message = f"[{node.op}] axis {axis} of size {d} is empty; an extremum needs at least one element"
                found.setdefault((str(d), node.op), SizeCheck(d, 1, message, node.loc))
    return list(found.values())
