"""The plan of a GPU target: kernels with their arguments and grids, checks of ranges as kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.errors import UnsupportedError
from tessera.ir.dims import Dim, Symbol, add, ceildiv, dmax, mul, substitute
from tessera.schedule.plan import (
    Copy,
    Instruction,
    KernelCall,
    Plan,
    PlanBuffer,
    PortableCall,
    RangeCheck,
    dim,
    place,
    plain_instruction,
)
from tessera.target.triton.check import COUNT, guarded_copy, range_check
from tessera.target.triton.compile import Architecture, build_image
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.launch import CompiledKernel, Generated, Image

_ALIGN = 64


@dataclass(frozen=True, slots=True)
class CompiledPlan:
    """What an artefact holds for one architecture: the plan's text, the image, the Triton text of each kernel."""

    level: str
    text: str
    code: bytes
    sources: str
    image: Image


def compile_plan(plan: Plan, architecture: Architecture, deterministic: bool = True) -> CompiledPlan:
    """Generate and compile everything that a plan runs.

    Raises CompileError, or UnsupportedError naming operator and line for what no GPU kernel does.
    """
    for i in plan.instructions:
        if isinstance(i, PortableCall):
            at = f"\n  at {i.loc}" if i.loc else ""
            raise UnsupportedError(f'[{i.op}] has no GPU kernel; use target="cpu" or "portable"{at}')
    guarded = _guarded(plan)
    options = [Options(architecture.name, g, deterministic, plan.tiles, plan.float32) for g in guarded]
    generated = [generate(kernel, o) for kernel, o in zip(plan.kernels, options)]
    extra = _Extra(plan, len(generated))
    image = build_image([*generated, *extra.programs], architecture)
    return _Writer(plan, image, extra).compiled(architecture)


def _checked(plan: Plan) -> bool:
    return any(isinstance(i, RangeCheck) for i in plan.instructions)


def _guarded(plan: Plan) -> list[bool]:
    """Per kernel, whether it writes what outlives the run, in a plan that can fail while it runs."""
    found = [False] * len(plan.kernels)
    if _checked(plan):
        for i in plan.instructions:
            if isinstance(i, KernelCall):
                roles = [b.role for b in plan.kernels[i.kernel].buffers]
                kept = [plan.buffers[n].kind in ("state", "output") for n in i.buffers]
                found[i.kernel] |= any(k and role != "in" for k, role in zip(kept, roles))
    return found


class _Extra:
    """The programs of a plan beside its kernels, each once; ``number`` of an instruction's in the image's list."""

    def __init__(self, plan: Plan, first: int) -> None:
        self.programs: list[Generated] = []
        self.numbers: dict[int, int] = {}
        known: dict[Any, int] = {}
        checked = _checked(plan)
        for at, i in enumerate(plan.instructions):
            if isinstance(i, RangeCheck):
                key: Any = (i.dtype, i.ignore)
            elif isinstance(i, Copy) and checked and plan.buffers[i.target].kind in ("state", "output"):
                key = "copy"
            else:
                continue
            if key not in known:
                known[key] = first + len(self.programs)
                program = range_check(i.dtype, i.ignore) if isinstance(i, RangeCheck) else guarded_copy()
                self.programs.append(Generated((program,)))
            self.numbers[at] = known[key]


class _Writer:
    def __init__(self, plan: Plan, image: Image, extra: _Extra) -> None:
        self.plan, self.image, self.extra = plan, image, extra
        self.workspace: Dim = 0
        for i in plan.instructions:
            if isinstance(i, KernelCall):
                self.workspace = dmax(self.workspace, self._workspace(i))

    def _workspace(self, call: KernelCall) -> Dim:
        return substitute(self.image.workspaces[call.kernel], self.plan.kernel_sizes(call))

    def compiled(self, architecture: Architecture) -> CompiledPlan:
        """The plan as text, with the image."""
        plan, image = self.plan, self.image
        sources = list(dict.fromkeys(k.source for k in image.kernels))
        kernels = [
            {
                "name": k.name, "module": k.module, "symbol": k.symbol, "threads": k.threads, "shared": k.shared,
                "cluster": list(k.cluster), "scratch": k.scratch, "arguments": [a.plan() for a in k.arguments],
                "registers": k.registers, "source": sources.index(k.source),
            }
            for k in image.kernels
        ]
        modules = [
            {"offset": m.offset, "bytes": m.bytes, "format": m.format, "alternative": m.alternative}
            for m in image.modules
        ]
        more: dict[str, Any] = {"modules": modules}
        extra: list[PlanBuffer] = []
        if self.workspace != 0:
            end = mul(ceildiv(plan.arena, _ALIGN), _ALIGN)
            extra = [PlanBuffer("arena", self.workspace, "workspace", end)]
            more["arena"] = more["peak"] = dim(add(end, self.workspace))
        instructions = [one for at, i in enumerate(plan.instructions) for one in self._instruction(at, i)]
        text = plan.text(architecture.target, architecture.name, kernels, instructions, extra, **more)
        return CompiledPlan(architecture.name, text, image.code, json.dumps(sources, ensure_ascii=False), image)

    def _instruction(self, at: int, i: Instruction) -> list[dict[str, Any]]:
        if isinstance(i, KernelCall):
            buffers = list(i.buffers)
            if self.image.workspaces[i.kernel] != 0:
                buffers.append(len(self.plan.buffers))
            values = self.plan.kernel_sizes(i)
            return [self._launch(k, buffers, i.sizes, values, i.loc) for k in self.image.launches[i.kernel]]
        number = self.extra.numbers.get(at)
        if number is None:
            return [plain_instruction(i)]
        kernel, = self.image.launches[number]
        if isinstance(i, RangeCheck):
            launch = self._launch(kernel, [i.buffer], (i.count, i.low, i.high), {COUNT: i.count}, i.loc)
            return [{**plain_instruction(i), **launch}]
        assert isinstance(i, Copy)
        return [self._launch(kernel, [i.source, i.target], (i.bytes,), {COUNT: i.bytes}, i.loc)]

    def _launch(
        self, number: int, buffers: Sequence[int], sizes: Sequence[Dim], values: Mapping[Symbol, Dim], loc: Any
    ) -> dict[str, Any]:
        kernel: CompiledKernel = self.image.kernels[number]
        return {
            "kernel": number, "buffers": list(buffers), "sizes": [dim(d) for d in sizes],
            "grid": [dim(substitute(d, values)) for d in kernel.grid], "loc": place(loc),
        }
