"""Kernels in one launch: small ones that follow each other in a plan and touch nothing of each other's.

A program finds out from its number which call it belongs to, takes that call's tensors, and runs its function. An
optimizer's updates of all parameters are a few launches in this way, and so are the sums of a gradient's norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tessera.ir.dims import Dim, substitute
from tessera.ir.dtype import DType
from tessera.schedule.plan import KernelCall, Plan
from tessera.target.triton import columns, loops, scatter
from tessera.target.triton.head import FLAG, Head, Options
from tessera.target.triton.launch import Argument, BufferArgument, Generated, Program
from tessera.target.triton.library import module_text
from tessera.target.triton.text import Writer, identifier
from tessera.tile.ir import LoopKernel

_MOST_TENSORS = 160
"""Pointers of a launch: all parameters are to fit in 4 KiB, and the choice among them costs registers."""
_MOST_FUNCTIONS = 8
_MOST_BYTES = 48 << 20
"""Bytes of the tensors of a call from which its own launch does not matter."""
_BLOCK = "block_of_group"


@dataclass(frozen=True)
class Run:
    """Instructions of a plan, by number, that are launched together, and the buffers that the launches take."""

    instructions: tuple[int, ...]
    buffers: tuple[int, ...]


@dataclass(slots=True)
class _Touched:
    """Memory that calls read and write: buffers, and places in the arena."""

    read: set[int]
    written: set[int]
    read_places: list[tuple[int, int]]
    written_places: list[tuple[int, int]]


def runs(plan: Plan) -> list[Run]:
    """The runs of calls that can be launched together, two at least."""
    found: list[Run] = []
    members: list[int] = []
    touched: list[_Touched] = []

    def finish() -> None:
        if len(members) > 1:
            found.append(Run(tuple(members), _buffers(plan, members)))
        members.clear()
        touched.clear()

    for at, i in enumerate(plan.instructions):
        own = _touched(plan, i) if isinstance(i, KernelCall) and _is_simple(plan, i) else None
        if own is None:
            finish()
            continue
        both = [*members, at]
        if any(_conflict(own, t) for t in touched) or len(_buffers(plan, both)) > _MOST_TENSORS or (
            len({plan.instructions[m].kernel for m in both}) > _MOST_FUNCTIONS  # type: ignore[union-attr]
        ):
            finish()
        members.append(at)
        touched.append(own)
    finish()
    return found


def _is_simple(plan: Plan, call: KernelCall) -> bool:
    """Whether a call is of a loop kernel over constant sizes."""
    kernel = plan.kernels[call.kernel]
    if not isinstance(kernel, LoopKernel) or scatter.is_scatter(kernel) or columns.has_sums(kernel):
        return False
    sizes = [plan.buffers[b].bytes for b in call.buffers]
    if sum(n if isinstance(n, int) else _MOST_BYTES for n in sizes) > _MOST_BYTES:
        return False
    axes = [*kernel.grid, *(a for s in kernel.stages for a in s.axes)]
    values = plan.kernel_sizes(call)
    return all(isinstance(d, int) for d in call.sizes) and all(
        isinstance(n := substitute(a.extent, values), int) and n > 0 for a in axes)


def _buffers(plan: Plan, members: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(b for m in members for b in plan.instructions[m].buffers))  # type: ignore[union-attr]


def _touched(plan: Plan, call: KernelCall) -> _Touched | None:
    """What a call touches; None where that depends on sizes."""
    found = _Touched(set(), set(), [], [])
    for number, buffer in zip(call.buffers, plan.kernels[call.kernel].buffers):
        held = plan.buffers[number]
        ways = [*(["read"] if buffer.role != "out" else []), *(["written"] if buffer.role != "in" else [])]
        for way in ways:
            if held.kind != "arena":
                getattr(found, way).add(number)
            elif isinstance(held.offset, int) and isinstance(held.bytes, int):
                getattr(found, f"{way}_places").append((held.offset, held.offset + held.bytes))
            else:
                return None
    return found


def _conflict(a: _Touched, b: _Touched) -> bool:
    """Whether one writes what the other touches."""
    if a.written & (b.read | b.written) or b.written & a.read:
        return True
    return _meet(a.written_places, b.read_places) or _meet(a.written_places, b.written_places) or (
        _meet(b.written_places, a.read_places))


def _meet(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> bool:
    return any(x < v and u < y for x, y in a for u, v in b)


def generate(plan: Plan, run: Run, options: Sequence[Options]) -> Generated:
    """The launches of a run, one for each number of warps. ``options``: of each of the plan's kernels."""
    heads: dict[int, tuple[Head, Dim, int]] = {}
    calls: dict[int, list[KernelCall]] = {}
    for at in run.instructions:
        call = plan.instructions[at]
        assert isinstance(call, KernelCall)
        kernel = plan.kernels[call.kernel]
        assert isinstance(kernel, LoopKernel)
        if call.kernel not in heads:
            heads[call.kernel] = loops.written(kernel, replace(options[call.kernel], guarded=False))
        calls.setdefault(call.kernel, []).append(call)
    guarded = any(options[k].guarded for k in heads)
    programs: list[Program] = []
    for warps in dict.fromkeys(w for _, _, w in heads.values()):
        kernels = [k for k, (_, _, w) in heads.items() if w == warps]
        programs.append(_Group(plan, run, {k: heads[k] for k in kernels}, calls, guarded).program(warps))
    return Generated(tuple(programs))


class _Group:
    """The text of a launch: its functions, and the function that calls them."""

    def __init__(
        self, plan: Plan, run: Run, heads: dict[int, tuple[Head, Dim, int]], calls: dict[int, list[KernelCall]],
        guarded: bool,
    ) -> None:
        self.plan, self.run, self.heads, self.calls = plan, run, heads, calls
        self.writer = Writer()
        self.arguments: dict[str, Argument] = {}
        self.functions: dict[str, None] = {}
        self.guarded = guarded

    def program(self, warps: int) -> Program:
        """Emit everything."""
        w = self.writer
        texts: list[str] = []
        if self.guarded:
            self.arguments["failed"] = FLAG
            with w.block("if tl.load(failed) != 0:"):
                w.line("return")
        w.line(f"{_BLOCK} = tl.program_id(0)")
        first = 0
        for number, (kernel, (head, count, _)) in enumerate(self.heads.items()):
            function = f"{head.name}_{number}"
            lines = [line.replace("tl.program_id(0)", _BLOCK) for line in head.writer.lines]
            parameters = ", ".join([_BLOCK, *head.parameters])
            texts.append("\n".join(["@triton.jit", f"def {function}({parameters}):", *lines]) + "\n")
            self.functions.update(head.writer.functions)
            first = self._calls(function, kernel, count, first, number)
        name = identifier("_and_".join(dict.fromkeys(h.name for h, _, _ in self.heads.values()))[:80] + "_group")
        signature = f"def {name}({', '.join(self.arguments)}):"
        body = "\n".join(["@triton.jit", signature, *w.lines])
        source = module_text(self.functions, "\n\n".join([*texts, body]))
        return Program(name, source, tuple(self.arguments.values()), (first, 1, 1), warps=warps)

    def _calls(self, function: str, kernel: int, count: Dim, first: int, number: int) -> int:
        """The programs of a kernel's calls, from number ``first``; the number after the last."""
        w, calls = self.writer, self.calls[kernel]
        counts = [substitute(count, self.plan.kernel_sizes(c)) for c in calls]
        starts = [first]
        for n in counts:
            assert isinstance(n, int)
            starts.append(starts[-1] + n)
        last = number == len(self.heads) - 1
        condition = f"{_BLOCK} < {starts[-1]}" if number == 0 else f"({_BLOCK} >= {first}) & ({_BLOCK} < {starts[-1]})"
        if last:
            condition = f"{_BLOCK} >= {first}"
        with w.block(f"if {condition}:"):
            values = [self._values(kernel, c) for c in calls]
            w.line(f"start = {starts[0]}")
            names = [f"a{i}" for i in range(len(values[0]))]
            varying = [i for i in range(len(names)) if len({v[i] for v in values}) > 1]
            for i in varying:
                w.line(f"{names[i]} = {values[0][i]}")
            for start, row in zip(starts[1:-1], values[1:]):
                w.line(f"start = tl.where({_BLOCK} >= {start}, {start}, start)")
                for i in varying:
                    w.line(f"{names[i]} = tl.where({_BLOCK} >= {start}, {row[i]}, {names[i]})")
            arguments = [names[i] if i in varying else values[0][i] for i in range(len(names))]
            w.line(f"{function}({', '.join([f'{_BLOCK} - start', *arguments])})")
        return starts[-1]

    def _values(self, kernel: int, call: KernelCall) -> list[str]:
        """What a call passes: pointers and sizes."""
        found: list[str] = []
        for number, buffer in zip(call.buffers, self.plan.kernels[kernel].buffers):
            found.append(self._pointer(number, buffer.dtype))
        return [*found, *map(str, call.sizes)]

    def _pointer(self, number: int, dtype: DType) -> str:
        """The parameter for a buffer that is read as of a dtype."""
        at = self.run.buffers.index(number)
        name = f"t{at}_{dtype.name}"
        self.arguments.setdefault(name, BufferArgument(at, dtype))
        return name
