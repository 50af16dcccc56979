"""The plan of a GPU target: kernels with their arguments and grids, checks of ranges as kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tessera.errors import UnsupportedError
from tessera.ir.dims import Dim, Symbol, add, ceildiv, dmax, floordiv, mul, substitute
from tessera.ir.dtype import DType, f32
from tessera.op.custom_ops import CUSTOM
from tessera.schedule.plan import (
    CollectiveCall,
    Copy,
    CustomCall,
    Instruction,
    KernelCall,
    Plan,
    PlanBuffer,
    PortableCall,
    RangeCheck,
    Wait,
    dim,
    place,
    plain_instruction,
)
from tessera.target.triton import grouped
from tessera.target.triton.candidates import Choice, Chooser, LibraryCall, choose_by_model
from tessera.target.triton.check import COUNT, guarded_copy, range_check
from tessera.target.triton.compile import Architecture, build_image
from tessera.target.triton.head import Options
from tessera.target.triton.launch import CompiledKernel, Generated, Image
from tessera.target.triton.library_attention import LibraryAttention
from tessera.target.triton.library_product import Matrix

_ALIGN = 64
_LIBRARY_SCRATCH = 32 << 20
"""Bytes that a library may ask for beside its operands; what it takes is known when its kernel is chosen."""


@dataclass(frozen=True, slots=True)
class CompiledPlan:
    """What an artefact holds for one architecture: the plan's text, the image, the Triton text of each kernel.

    ``choices``: JSON list of what was chosen for kernels that there is more than one way to compute.
    """

    level: str
    text: str
    code: bytes
    sources: str
    image: Image
    choices: str = "[]"


def compile_plan(
    plan: Plan, architecture: Architecture, deterministic: bool = True, choose: Chooser = choose_by_model
) -> CompiledPlan:
    """Generate and compile everything that a plan runs. ``choose``: among the ways to compute a kernel.

    Raises CompileError, or UnsupportedError naming operator and line for what no GPU kernel does.
    """
    for i in plan.instructions:
        if isinstance(i, PortableCall):
            _check_kernel(i, architecture)
    guarded = _guarded(plan)
    options = [Options(architecture.name, g, deterministic, plan.tiles, plan.float32) for g in guarded]
    choices = choose(plan.kernels, options, plan.libraries)
    runs = grouped.runs(plan)
    used = _called_alone(plan, runs)
    generated = [c.candidate.generate(o) if one else Generated(()) for c, o, one in zip(choices, options, used)]
    rests = [Generated(c.candidate.rest(o)) for c, o in zip(choices, options)]
    extra = _Extra(plan, len(generated) + len(rests))
    first = len(generated) + len(rests) + len(extra.programs)
    extra.runs = {run.instructions[0]: (first + n, run) for n, run in enumerate(runs)}
    extra.inside = {at for run in runs for at in run.instructions}
    together = [grouped.generate(plan, run, options) for run in runs]
    image = build_image([*generated, *rests, *extra.programs, *together], architecture)
    return _Writer(plan, image, extra, choices).compiled(architecture)


def _called_alone(plan: Plan, runs: Sequence[grouped.Run]) -> list[bool]:
    """Per kernel, whether some call of it is in no run."""
    inside = {at for run in runs for at in run.instructions}
    found = [False] * len(plan.kernels)
    for at, i in enumerate(plan.instructions):
        if isinstance(i, KernelCall) and at not in inside:
            found[i.kernel] = True
    return found


def _check_kernel(call: PortableCall, architecture: Architecture) -> None:
    """UnsupportedError unless the call is of a custom operator with a kernel for the target's devices."""
    if isinstance(call, CustomCall):
        kind, device = ("CUDA", "cuda") if architecture.target == "ptx" else ("HIP", "hip")
        custom = CUSTOM[call.op]
        if device in custom.devices:
            return
        why = f"has no {kind} kernel; {custom.library} has to declare one, or use"
    else:
        why = "has no GPU kernel; use"
    at = f"\n  at {call.loc}" if call.loc else ""
    raise UnsupportedError(f'[{call.op}] {why} target="cpu" or "portable"{at}')


def _checked(plan: Plan) -> bool:
    return any(isinstance(i, RangeCheck) for i in plan.instructions)


def _guarded(plan: Plan) -> list[bool]:
    """Per kernel, whether it writes what outlives the run, in a plan that can fail while it runs."""
    found = [False] * len(plan.kernels)
    if _checked(plan):
        for i in plan.instructions:
            if isinstance(i, KernelCall):
                roles = [b.role for b in plan.kernels[i.kernel].buffers]
                kept = [plan.outlives(n) for n in i.buffers]
                found[i.kernel] |= any(k and role != "in" for k, role in zip(kept, roles))
    return found


def _targets(i: Copy | CustomCall | CollectiveCall) -> list[int]:
    """The buffers that an instruction without code of ours writes."""
    if isinstance(i, CollectiveCall):
        return [i.result.buffer]
    return [i.target] if isinstance(i, Copy) else [r.buffer for r in i.results]


class _Extra:
    """The programs of a plan beside its kernels, each once; ``number`` of an instruction's in the image's list."""

    def __init__(self, plan: Plan, first: int) -> None:
        self.programs: list[Generated] = []
        self.numbers: dict[int, int] = {}
        self.runs: dict[int, tuple[int, grouped.Run]] = {}
        self.inside: set[int] = set()
        known: dict[Any, int] = {}
        checked = _checked(plan)
        for at, i in enumerate(plan.instructions):
            if isinstance(i, RangeCheck):
                key: Any = (i.dtype, i.ignore)
            elif isinstance(i, (Copy, CustomCall, CollectiveCall)) and checked and any(map(plan.outlives, _targets(i))):
                key = "copy"
            else:
                continue
            if key not in known:
                known[key] = first + len(self.programs)
                program = range_check(i.dtype, i.ignore) if isinstance(i, RangeCheck) else guarded_copy()
                self.programs.append(Generated((program,)))
            self.numbers[at] = known[key]


class _Writer:
    def __init__(self, plan: Plan, image: Image, extra: _Extra, choices: Sequence[Choice]) -> None:
        self.plan, self.image, self.extra, self.choices = plan, image, extra, choices
        self.buffers: list[PlanBuffer] = []
        self.end = plan.arena
        workspace: Dim = 0
        for i in plan.instructions:
            if isinstance(i, KernelCall):
                workspace = dmax(workspace, self._workspace(i))
        self.workspace = None if workspace == 0 else self._temporary(workspace, "workspace")
        self.at_once = {i.start for at, i in enumerate(plan.instructions)
                        if isinstance(i, CollectiveCall) and at in extra.numbers}
        """Exchanges whose results go on by a guarded copy: they are waited for where they start."""

    def _temporary(self, size: Dim, label: str) -> int:
        """A buffer behind those of the plan."""
        offset = mul(ceildiv(self.end, _ALIGN), _ALIGN)
        self.buffers.append(PlanBuffer("arena", size, label, offset))
        self.end = add(offset, size)
        return len(self.plan.buffers) + len(self.buffers) - 1

    def _workspace(self, call: KernelCall) -> Dim:
        values = self.plan.kernel_sizes(call)
        needed = substitute(self.image.workspaces[call.kernel], values)
        library = self.choices[call.kernel].candidate.library
        return needed if library is None else dmax(needed, substitute(library.function.workspace, values))

    def compiled(self, architecture: Architecture) -> CompiledPlan:
        """The plan as text, with the image."""
        plan, image = self.plan, self.image
        sources = list(dict.fromkeys(k.source for k in image.kernels))
        kernels = [
            {
                "name": k.name, "module": k.module, "symbol": k.symbol, "threads": k.threads, "shared": k.shared,
                "cluster": list(k.cluster), "scratch": k.scratch, "arguments": [a.plan() for a in k.arguments],
                "registers": k.registers, "source": sources.index(k.source),
                **({"early": True} if k.early else {}),
            }
            for k in image.kernels
        ]
        modules = [
            {"offset": m.offset, "bytes": m.bytes, "format": m.format, "alternative": m.alternative}
            for m in image.modules
        ]
        more: dict[str, Any] = {"modules": modules}
        instructions = [one for at, i in enumerate(plan.instructions) for one in self._instruction(at, i)]
        if self.buffers:
            more["arena"] = more["peak"] = dim(self.end)
        text = plan.text(architecture.target, architecture.name, kernels, instructions, self.buffers, **more)
        made = [c.described(k) for c, k in zip(self.choices, plan.kernels) if c.why != "model" or c.candidate.library]
        return CompiledPlan(
            architecture.name, text, image.code, json.dumps(sources, ensure_ascii=False), image,
            json.dumps(made, ensure_ascii=False),
        )

    def _instruction(self, at: int, i: Instruction) -> list[dict[str, Any]]:
        if at in self.extra.inside:
            return self._run(at, i)
        if isinstance(i, KernelCall):
            return self._kernel(i)
        number = self.extra.numbers.get(at)
        if number is None:
            return [] if isinstance(i, Wait) and i.start in self.at_once else [plain_instruction(i)]
        kernel, = self.image.launches[number]
        if isinstance(i, RangeCheck):
            launch = self._launch(kernel, [i.buffer], (i.count, i.low, i.high), {COUNT: i.count}, i.loc)
            return [{**plain_instruction(i), **launch}]
        if isinstance(i, CustomCall):
            return self._guarded_call(i, kernel)
        if isinstance(i, CollectiveCall):
            return self._guarded_exchange(i, kernel)
        assert isinstance(i, Copy)
        return [self._copy(kernel, i.source, i.target, i.bytes, i.loc)]

    def _kernel(self, i: KernelCall) -> list[dict[str, Any]]:
        """The launches of a kernel, or the call of a library with these in its place."""
        buffers = list(i.buffers)
        if self._workspace(i) != 0:
            assert self.workspace is not None
            buffers.append(self.workspace)
        values = self.plan.kernel_sizes(i)

        def launches(number: int) -> list[dict[str, Any]]:
            return [self._launch(k, buffers, i.sizes, values, i.loc) for k in self.image.launches[number]]

        library = self.choices[i.kernel].candidate.library
        generated = launches(i.kernel)
        if library is None:
            return generated
        call = _library_call(self.plan, library, buffers, [*self.plan.buffers, *self.buffers], values)
        rest = launches(len(self.choices) + i.kernel)
        return [{**call, "then": rest, "otherwise": generated, "loc": place(i.loc)}]

    def _run(self, at: int, i: Instruction) -> list[dict[str, Any]]:
        """The launches of calls that run together, in the place of the first."""
        if at not in self.extra.runs:
            return []
        number, run = self.extra.runs[at]
        assert isinstance(i, KernelCall)
        return [self._launch(k, run.buffers, (), {}, i.loc) for k in self.image.launches[number]]

    def _copy(self, kernel: int, source: int, target: int, size: Dim, loc: Any) -> dict[str, Any]:
        return self._launch(kernel, [source, target], (size,), {COUNT: size}, loc)

    def _guarded_exchange(self, i: CollectiveCall, kernel: int) -> list[dict[str, Any]]:
        """As a library's call: an exchange takes place whatever a check found."""
        target = self.plan.buffers[i.result.buffer]
        own = self._temporary(target.bytes, target.label)
        exchange = replace(i, result=replace(i.result, buffer=own), start=None)
        return [plain_instruction(exchange), self._copy(kernel, own, i.result.buffer, target.bytes, i.loc)]

    def _guarded_call(self, i: CustomCall, kernel: int) -> list[dict[str, Any]]:
        """What a library computes knows nothing of failed checks: results that outlive the run go there by a copy."""
        plan, results = self.plan, list(i.results)
        copies: list[dict[str, Any]] = []
        for n, r in enumerate(i.results):
            if plan.outlives(r.buffer):
                target = plan.buffers[r.buffer]
                own = self._temporary(target.bytes, target.label)
                results[n] = replace(r, buffer=own)
                copies.append(self._copy(kernel, own, r.buffer, target.bytes, i.loc))
        return [plain_instruction(replace(i, results=tuple(results))), *copies]

    def _launch(
        self, number: int, buffers: Sequence[int], sizes: Sequence[Dim], values: Mapping[Symbol, Dim], loc: Any
    ) -> dict[str, Any]:
        kernel: CompiledKernel = self.image.kernels[number]
        return {
            "kernel": number, "buffers": list(buffers), "sizes": [dim(d) for d in sizes],
            "grid": [dim(substitute(d, values)) for d in kernel.grid], "loc": place(loc),
        }


def _library_call(
    plan: Plan, library: LibraryCall, buffers: Sequence[int], all_buffers: Sequence[PlanBuffer],
    values: Mapping[Symbol, Dim],
) -> dict[str, Any]:
    """The instruction that calls a library; ``buffers``: of the kernel that it stands for, then the workspace."""
    p = library.function

    def here(d: Dim) -> int | str:
        return dim(substitute(d, values))

    def matrix(m: Matrix) -> dict[str, Any]:
        found: dict[str, Any] = {"step": here(m.step), "batch_step": here(m.batch_step)}
        return {**found, **({"offset": here(m.offset)} if m.offset != 0 else {}),
                **({"transposed": True} if m.transposed else {})}

    def operand(buffer: int, dtype: DType) -> dict[str, Any]:
        number = buffers[buffer]
        elements = floordiv(all_buffers[number].bytes, dtype.itemsize)
        return {"buffer": number, "dtype": dtype.name, "shape": [dim(elements)]}

    if isinstance(p, LibraryAttention):
        return {"library": library.name, **p.instruction(here, operand)}
    attrs: dict[str, Any] = {
        "rows": here(p.rows), "columns": here(p.columns), "terms": here(p.terms), "batch": here(p.batch),
        "a": matrix(p.a), "b": matrix(p.b), "d": matrix(p.d),
    }
    operands = [operand(p.a.buffer, p.a.dtype), operand(p.b.buffer, p.b.dtype)]
    if p.bias is not None:
        attrs["bias"] = True
        operands.append(operand(p.bias[0], p.bias[1]))
    if p.c is not None:
        attrs |= {"c": matrix(p.c), "beta": p.beta}
        operands.append(operand(p.c.buffer, p.c.dtype))
    if p.scales:
        attrs["scales"] = len(p.scales)
        operands += [operand(buffer, f32) for buffer in p.scales]
    attrs |= {"alpha": p.alpha} if p.alpha != 1 else {}
    attrs |= {"activation": p.activation} if p.activation else {}
    attrs |= {"tf32": True} if plan.float32 == "tf32" else {}
    attrs |= {"algorithm": library.algorithm, "version": library.version} if library.algorithm else {}
    return {
        "library": library.name, "function": "matmul", "attrs": attrs, "operands": operands,
        "results": [operand(p.d.buffer, p.d.dtype)], "scratch": _LIBRARY_SCRATCH,
    }
