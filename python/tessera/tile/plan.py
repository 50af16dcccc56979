"""From a graph of primitives to a plan: fusion, kernels, order, memory."""

from __future__ import annotations

from itertools import product as combinations

from tessera.errors import UnsupportedError
from tessera.ir.attribute import attributes_text
from tessera.ir.dims import Dim, bounds, sym
from tessera.ir.graph import Graph
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.collective import received_bytes
from tessera.op.opdef import get
from tessera.schedule import cost
from tessera.schedule.columns import fuse_with_sums
from tessera.schedule.fusion import Group
from tessera.schedule.index import Axes
from tessera.schedule.machine import CPU, Machine
from tessera.schedule.materialise import place
from tessera.schedule.options import Schedule
from tessera.schedule.order import Order, typical_bytes
from tessera.schedule.overlap import Overlap, Step, in_order
from tessera.schedule.pieces import CHECK, PORTABLE, cut
from tessera.schedule.plan import (
    CollectiveCall,
    Copy,
    CustomCall,
    Instruction,
    KernelCall,
    Operand,
    Plan,
    PortableCall,
    RangeCheck,
    SizeCheck,
    Wait,
)
from tessera.schedule.prepare import prepare
from tessera.tile.aliasing import share
from tessera.tile.binding import Binding
from tessera.tile.canonical import canonicalise
from tessera.tile.draft import draft_kernels, has_instruction
from tessera.tile.ir import Kernel
from tessera.tile.printer import content_key
from tessera.tile.seconds import group_seconds
from tessera.tile.sharing import join


def build_plan(graph: Graph, options: Schedule | None = None, machine: Machine = CPU) -> Plan:
    """Schedule a decomposed, simplified graph.

    Kernels are Tile IR; a target compiles ``plan.kernels`` and ``plan.to_json`` joins the two. Raises UnsupportedError
    when the working memory cannot be brought under ``options.memory_budget``.
    """
    options = options or Schedule()
    levels = {"none": [0], "auto": [cost.CHEAP], "all": [cost.MOST_WORK]}[options.recompute]
    if options.memory_budget is not None and options.recompute == "auto":
        levels = [cost.CHEAP, 30, cost.MOST_WORK]
    best: Plan | None = None
    overlaps = machine.overlaps if options.overlap is None else options.overlap is not False
    # Under a budget, exchanges are waited for at once where nothing else helps.
    beside = [True, False] if overlaps and options.memory_budget is not None else [overlaps]
    # A tensor that others lie in is there as long as any of them: parts may need less one by one.
    ready = {True: prepare(graph, graph.nodes(), machine)}
    if options.memory_budget is not None:
        ready[False] = prepare(graph, graph.nodes(), machine, parts=False)
    for recompute, parts, overlap in combinations(levels, ready, beside):
        plan = _Builder(ready[parts], options, recompute, machine, overlap, parts).build()
        plan.threads, plan.tiles, plan.float32 = options.threads, options.tiles, options.float32
        plan.libraries = options.allowed_libraries
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


class _Builder:
    """One attempt at a plan."""

    def __init__(
        self, graph: Graph, options: Schedule, recompute: int, machine: Machine, overlap: bool, parts: bool
    ) -> None:
        self.graph, self.machine = graph, machine
        self.overlap, self.extra = overlap, options.overlap_bytes
        self.nodes = graph.nodes()
        axes = Axes()
        self.placement = place(graph, self.nodes, options, recompute, machine, parts)
        pieces = cut(graph, self.nodes, self.placement, axes)
        groups = fuse_with_sums(pieces, axes, options, machine, self.placement, graph)
        self.drafts = draft_kernels(graph, groups, self.placement, axes, machine)
        self.order = Order(groups)
        self.binding = Binding(graph, self.placement, self.drafts, self.order)

    def build(self) -> Plan:
        """Order, memory, instructions."""
        stored = {id(a.root): a.root for d in self.drafts.values() for a in d.arguments if a.written}
        portable = {root for g in self.order.groups if g.kind == PORTABLE for root in g.roots}
        stored.update(
            (id(v), v) for v in self.placement.values() if id(v) in portable or self.placement.shares_memory(v))
        sizes = {key: typical_bytes(v) for key, v in stored.items() if key not in self.binding.of}
        sequence = self._steps(sizes)
        binding = self.binding
        arena = binding.lay_out_arena(sequence)
        instructions: list[Instruction] = [Copy(s, t, n) for s, t, n in binding.saves]
        kernels: list[Kernel] = []
        keys: dict[str, int] = {}
        numbers: dict[Group, int] = {}
        for step in sequence:
            if not has_instruction(step.group, self.drafts.get(step.group)):
                continue
            if step.kind == "wait":
                instructions.append(Wait(numbers[step.group], step.group.anchor.node.loc))
            else:
                instruction = self._instruction(step.group, kernels, keys)
                if step.kind == "start":
                    assert isinstance(instruction, CollectiveCall)
                    instruction.start = numbers[step.group] = len(numbers)
                instructions.append(instruction)
        instructions += [Copy(binding.of[s], t, n) for s, t, n in binding.final]
        kernels, keys = _join_kernels(kernels, keys, instructions)
        return Plan(
            tuple(self.graph.symbols()), binding.inputs, binding.outputs, binding.state, binding.constants,
            binding.buffers, arena, kernels, instructions, size_checks(self.nodes), list(keys),
        )

    def _steps(self, sizes: dict[int, int]) -> list[Step]:
        """The order of what runs; ``sizes``: typical bytes of the values that live in the arena."""
        sequence = self.order.sequence(sizes, self.machine.together)
        if not self.overlap:
            return in_order(sequence)
        exchanges = {g for g in sequence if g.kind == PORTABLE and _is_exchange(g.anchor.node)}
        overlap = Overlap(self.order, exchanges, lambda g: group_seconds(g, self.drafts.get(g), self.machine), sizes)
        return overlap.steps(sequence, lambda s: cost.typical(self.binding.copy().lay_out_arena(s)), self.extra)

    def _instruction(self, group: Group, kernels: list[Kernel], keys: dict[str, int]) -> Instruction:
        if group.kind == CHECK:
            return self._range_check(group.anchor.node)
        if group.kind == PORTABLE:
            return self._portable(group.anchor.node)
        draft = self.drafts[group]
        numbers = [self.binding.of[id(a.root)] for a in draft.arguments]
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
            self.binding.of[id(root)], operand.dtype, operand.size, a["low"], a["high"], a["ignore"], a["what"],
            node.loc,
        )

    def _portable(self, node: Node) -> PortableCall | CollectiveCall:
        def operand(v: Value) -> Operand:
            root = self.placement.root(v)
            return Operand(self.binding.of[id(v if root is None else root)], v.dtype, v.shape)

        operands, results = tuple(map(operand, node.operands)), tuple(map(operand, node.results))
        rule, text = get(node.op).lower, attributes_text(node.attrs)
        if isinstance(rule, low.Collective):
            return CollectiveCall(
                node.op, tuple(node.attrs["axes"]), text, operands[0], results[0], received_bytes(node), node.loc
            )
        if isinstance(rule, low.Custom):
            scratch = rule.scratch(tuple(v.type for v in node.operands), node.attrs)
            return CustomCall(node.op, text, operands, results, node.loc, scratch)
        return PortableCall(node.op, text, operands, results, node.loc)


def _is_exchange(node: Node) -> bool:
    return isinstance(get(node.op).lower, low.Collective)


def _join_kernels(
    kernels: list[Kernel], keys: dict[str, int], instructions: list[Instruction]
) -> tuple[list[Kernel], dict[str, int]]:
    """The kernels, and their keys, without those that another can do given their constants; calls follow."""
    joined = join(kernels)
    kept: list[Kernel] = []
    new_keys: dict[str, int] = {}
    number: dict[int, int] = {}
    for key, one, kernel in zip(keys, joined, kernels, strict=True):
        if id(one.kernel) not in number:
            number[id(one.kernel)] = len(kept)
            new_keys[key if one.kernel is kernel else content_key(one.kernel)] = len(kept)
            kept.append(one.kernel)
    for call in instructions:
        if isinstance(call, KernelCall):
            one = joined[call.kernel]
            call.kernel, call.sizes = number[id(one.kernel)], (*call.sizes, *one.values)
    return kept, new_keys


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
