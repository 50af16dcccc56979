"""Every operator and its gradient, compiled for every GPU architecture that is promised."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import pytest
from tessera import op
from tessera.ir.graph import Graph
from tessera.op.lowering import Pointwise
from tessera.op.opdef import REGISTRY, apply
from tessera.schedule.machine import GPU
from tessera.schedule.plan import CollectiveCall, PortableCall
from tessera.target.hsaco import architectures as amd
from tessera.target.ptx import architectures as nvidia
from tessera.target.triton.build import compile_program
from tessera.target.triton.cache import key_of
from tessera.target.triton.compile import Architecture
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.launch import Binary, Program
from tessera.target.triton.worker import Job, compile_in_processes
from tessera.tile.ir import Kernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators

from tests.ops.harness import cases, each, operators
from tests.ops.test_compiled import DIFFERENTIABLE, pointwise

ARCHITECTURES = {**nvidia.ARCHITECTURES, **amd.ARCHITECTURES}
NAMES = ("sm_80", "sm_90a", "sm_100a", "gfx90a", "gfx942")


def graphs() -> Iterator[tuple[str, Graph]]:
    """Each operator in one of its dtypes, and its gradient in f32; functions of elements many in one graph."""
    together = {n for n in operators(composite=False) if isinstance(REGISTRY[n].lower, Pointwise)}
    seen: set[str] = set()
    for count, dtype in product((1, 2), ("f32", "i64")):
        names = pointwise(count, dtype)
        leaves = [op.tensor((4, 33), dtype, name=f"x{i}") for i in range(count)]
        results = {n: op.build(n, *leaves) for n in names}
        yield f"functions of {count} {dtype}", Graph(results, inputs=leaves)
        seen |= set(names)
        if dtype == "f32":
            each_of = [(n, gradients([results[n]], leaves, [results[n] + 1.0])) for n in names if n in DIFFERENTIABLE]
            outputs = {f"{n}_{i}": g for n, found in each_of for i, g in enumerate(found)}
            yield f"gradients of functions of {count}", Graph(outputs, inputs=leaves)
    activations = [n for n in operators(composite=True) if REGISTRY[n].shard == "*->*" and n != "constrain"]
    x = op.tensor((4, 33), name="x")
    values = {n: apply(n, (x,), REGISTRY[n].samples()[0].attrs)[0] for n in activations}
    yield "activations", Graph(values)
    yield "gradients of activations", Graph({n: gradients([y], [x], [y + 1.0])[0] for n, y in values.items()})
    together, seen = together | set(activations), seen | set(activations)
    for name in sorted(set(operators()) - (together & seen)):
        dtypes = [dtype for _, dtype in each([name])]
        for case in cases(REGISTRY[name], dtypes[zlib.crc32(name.encode()) % len(dtypes)])[:1]:
            yield name, case.graph
    for name in sorted(set(DIFFERENTIABLE) - (together & seen)):
        for case in cases(REGISTRY[name], "f32", gradient=True)[:1]:
            wrt = [v for v in case.leaves if v.dtype.is_float]
            floats = [v for v in case.results if v.dtype.is_float]
            if wrt and floats:
                found = gradients(floats, wrt, [r * 0.5 + 1.0 for r in floats])
                yield name, Graph({f"g{i}": g for i, g in enumerate(found)}, inputs=case.leaves)


@lru_cache(maxsize=1)
def kernels() -> tuple[tuple[str, Kernel], ...]:
    """(operator, kernel) of all graphs; what no kernel does has to be a collective, which others test."""
    found: list[tuple[str, Kernel]] = []
    for name, graph in graphs():
        plan = build_plan(to_gpu_operators(graph), None, GPU)
        left = [i for i in plan.instructions if isinstance(i, PortableCall) and not isinstance(i, CollectiveCall)]
        assert not left, f"{name} has no GPU kernel for {left}"
        found += [(name, k) for k in plan.kernels]
    return tuple(found)


@lru_cache(maxsize=1)
def compiled() -> dict[str, list[tuple[str, Program, Binary | None]]]:
    """(operator, program, machine code) of each architecture; none for what does not compile."""
    jobs: list[Job] = []
    names: list[tuple[str, str]] = []
    for arch in NAMES:
        a = ARCHITECTURES[arch]
        programs: dict[str, tuple[str, Program]] = {}
        for name, kernel in kernels():
            for program in generate(kernel, Options(arch)).programs:
                programs.setdefault(key_of(program, arch), (name, program))
        jobs += [(program, a.backend, a.number, a.warp) for _, program in programs.values()]
        names += [(arch, name) for name, _ in programs.values()]
    found: dict[str, list[tuple[str, Program, Binary | None]]] = {arch: [] for arch in NAMES}
    for (arch, name), job, binary in zip(names, jobs, compile_in_processes(jobs, len(os.sched_getaffinity(0)))):
        found[arch].append((name, job[0], binary))
    return found


@pytest.mark.parametrize("arch", NAMES)
def test_every_operator(arch: str) -> None:
    architecture, found = ARCHITECTURES[arch], compiled()[arch]
    assert {name for name, _, _ in found} >= {"matmul", "softmax", "layer_norm", "cross_entropy", "cumsum", "take"}
    assert len(found) > 100
    for name, program, binary in found:
        if binary is None:
            compile_program(program, architecture.backend, architecture.number, architecture.warp)
        assert binary is not None and binary.code.startswith(b"\x7fELF") and 0 < binary.threads <= 1024, name
        assert binary.format == ("hsaco" if architecture.target == "hsaco" else "cubin")
        assert_waits_first(binary, architecture)


def assert_waits_first(binary: Binary, architecture: Architecture) -> None:
    """Kernels of sm_90a and later begin before those before them have ended, and wait before they do anything."""
    text = binary.text.decode()
    if architecture.name in ("sm_80", "gfx90a", "gfx942"):
        assert not binary.early and "griddepcontrol" not in text
        return
    assert binary.early and text.count("griddepcontrol") == 1
    body = text[text.index("\n{\n") :].replace("{", ";", 1)
    statements = [s.strip() for s in re.sub(r"//.*", "", body).split(";")]
    assert next(s for s in statements if s and not s.startswith(".")) == "griddepcontrol.wait"
