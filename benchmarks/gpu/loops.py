"""Loop kernels on a Hopper GPU: every function and operator against NumPy, then bandwidth beside PyTorch and JAX.

    PYTHONPATH=python:. python benchmarks/gpu/loops.py [functions] [operators] [speed] [peers]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.gpu.device import SM90, Device, Launches, run_kernel  # isort: skip
import torch
from tessera import op
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.op.opdef import REGISTRY, get
from tessera.op.reference import evaluate, rounded
from tessera.schedule.machine import GPU
from tessera.schedule.plan import KernelCall
from tessera.target.triton import compile as driver
from tessera.target.triton import tiles
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.tile import interpret
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_primitives

ROWS, COLUMNS = 16384, 8192
_DTYPES = ("f64", "f32", "bf16", "f16", "i64", "i32", "u8", "bool")
_SAMPLES = 4


def _compiled(programs: list[Any]) -> dict[str, Any]:
    found = {}
    for program in programs:
        key = driver.key_of(program, "sm_90a")
        if driver._cache.find(key) is None:
            found[key] = driver.compile_program(program, "cuda", 90, 32)
            driver._cache.add(key, found[key])
    return found


def _operator(task: tuple[str, str]) -> dict[str, Any]:
    from tests.ops.harness import cases, joined

    name, dtype = task
    group = cases(REGISTRY[name], dtype)[:_SAMPLES]
    if not group:
        return {}
    graph, _ = joined(group)
    plan = build_plan(to_primitives(graph), None, GPU)
    return _compiled([p for k in plan.kernels for p in generate(k, Options()).programs])


def _function(task: tuple[str, str]) -> dict[str, Any]:
    from tests.target.test_compute import kernel
    from tests.target.test_triton_compute import _TRUTH, _TWO

    function, name = task
    dtype = DTYPES[name]
    sources = (dtype,) * (2 if function in _TWO else 1)
    one = kernel(function, sources, DTYPES["bool"] if function in _TRUTH else dtype)
    return _compiled(list(generate(one, Options()).programs))


def _safely(job: tuple[Callable[[Any], dict[str, Any]], Any]) -> dict[str, Any]:
    try:
        return job[0](job[1])
    except Exception as error:  # noqa: BLE001 - reported where the kernel is run
        print(f"compile {job[1]}: {type(error).__name__} {str(error)[:200]}", flush=True)
        return {}


def compile_all(jobs: list[tuple[Callable[[Any], dict[str, Any]], Any]]) -> None:
    """Fill the cache, on all cores."""
    start = time.time()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as pool:
        for found in pool.map(_safely, jobs, chunksize=1):
            for key, value in found.items():
                driver._cache._known[key] = value
    print(f"compiled {len(driver._cache._known)} kernels in {time.time() - start:.1f} s", flush=True)


def function_tasks() -> list[tuple[str, str]]:
    from tessera.tile.ir import COMPUTES

    from tests.target.test_triton_compute import dtypes_of

    return [
        (f, str(d)) for f in COMPUTES if f not in ("cast", "where") for d in dtypes_of(f)
        if str(d) in ("f64", "f32", "bf16", "i64", "i32", "u8", "bool")
    ]


def operator_tasks() -> list[tuple[str, str]]:
    from tests.ops.harness import each, operators

    return [(n, str(d)) for n in operators() for _, d in each([n]) if str(d) in _DTYPES]


def check_functions(device: Device) -> list[str]:
    from tests.target.harness import filled
    from tests.target.test_compute import kernel, seeded, values
    from tests.target.test_triton_compute import _TRUTH, _TWO, equal, wide

    wrong = []
    for function, name in function_tasks():
        dtype = DTYPES[name]
        random = seeded(function, dtype)
        args = [values(dtype, random, 400)]
        if function in _TWO:
            other = values(dtype, random, 400)
            random.shuffle(other)
            if function.startswith("shift"):
                least = -2 if dtype.kind == "int" else 0
                other = random.integers(least, dtype.bits + 3, len(other)).astype(other.dtype)
            args.append(other)
        target = DTYPES["bool"] if function in _TRUTH else dtype
        out = filled(len(args[0]), target, 1)
        try:
            with np.errstate(all="ignore"):
                exact = [a.astype(np.float64) if name == "f32" and function not in ("floordiv", "mod") else wide(a)
                         for a in args]
                expected = rounded(np.asarray(get(function).reference(*exact)), target)
            one = kernel(function, (dtype,) * len(args), target)
            run_kernel(device, one, [*args, out], {"n": len(out)})
            equal(out, expected, target, 4)
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{function} {name}: {' '.join(str(error).split())[:300]}")
    return wrong


def check_operators(device: Device) -> list[str]:
    from tests.ops.harness import assert_close, cases, joined

    wrong = []
    interpret.run_kernel = lambda k, arrays, sizes, shuffle=None: run_kernel(device, k, arrays, sizes)
    for name, dtype in operator_tasks():
        group = cases(REGISTRY[name], dtype)[:_SAMPLES]
        if not group:
            continue
        try:
            graph, feeds = joined(group)
            expected = evaluate(graph, feeds)
            primitives = to_primitives(graph)
            constants = {v.node.attrs["name"]: np.asarray(v.node.payload) for v in primitives.constants()}
            found = interpret.run_plan(build_plan(primitives, None, GPU), feeds, constants=constants)[0]
            for case in group:
                for output in case.outputs():
                    assert_close(found[output], expected[output], 2 * case.sample.tolerance, output)
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{name} {dtype}: {type(error).__name__} {' '.join(str(error).split())[:300]}")
    return wrong


# Speed.


def median_us(run: Callable[[], None], repeats: int = 30) -> float:
    """Median time of one call on the device."""
    for _ in range(5):
        run()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for first, last in events:
        first.record()
        run()
        last.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in events) * 1e3


def graphed_us(run: Callable[[], None], times: int = 10) -> float:
    """Median time of one of several calls in a captured graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(times):
                run()
        return median_us(graph.replay, 10) / times


def programs_of(name: str) -> tuple[Graph, list[str]]:
    x, r = (op.tensor((ROWS, COLUMNS), "bf16", name=n) for n in "xr")
    s, b = (op.tensor((COLUMNS,), "bf16", name=n) for n in "sb")
    outputs = {
        "gelu": lambda: op.gelu(x * s + b) + r,
        "softmax": lambda: op.softmax(x),
        "layer_norm": lambda: op.layer_norm(x, s, b),
        "column_sum": lambda: op.sum(x, axis=0),
        "copy": lambda: -x,
        "row_sum": lambda: op.sum(x, axis=1),
        "transpose": lambda: op.transpose(x, (1, 0)) * 2.0,
        "embedding_gradient": lambda: op.index_add(
            op.zeros((50257, 768), "bf16"), op.tensor((ROWS,), "i64", name="i"),
            op.tensor((ROWS, 768), "bf16", name="u"), axis=0),
    }
    graph = Graph({"y": outputs[name]()})
    return graph, [v.node.attrs["name"] for v in graph.inputs]


class Measured:
    """One graph, scheduled, compiled and bound to tensors on the device."""

    def __init__(self, device: Device, name: str) -> None:
        graph, inputs = programs_of(name)
        plan = build_plan(to_primitives(graph), None, GPU)
        self.plan = plan
        self.launches = Launches(device, [generate(k, Options()) for k in plan.kernels])
        torch.manual_seed(0)
        self.buffers = []
        for b in plan.buffers:
            assert isinstance(b.bytes, int)
            self.buffers.append(torch.full((b.bytes,), 0x7F, dtype=torch.uint8, device="cuda"))
        for t in plan.inputs:
            kind = {"bf16": torch.bfloat16, "i64": torch.int64}[t.dtype.name]
            shape = tuple(map(int, t.shape))
            data = torch.randn(shape, device="cuda").to(kind) if kind == torch.bfloat16 else _tokens(shape)
            self.buffers[t.buffer].view(kind).view(shape).copy_(data)

    def input(self, name: str) -> torch.Tensor:
        t = next(t for t in self.plan.inputs if t.name == name)
        kind = {"bf16": torch.bfloat16, "i64": torch.int64}[t.dtype.name]
        return self.buffers[t.buffer].view(kind).view(tuple(map(int, t.shape)))

    def output(self) -> torch.Tensor:
        t = self.plan.outputs[0]
        return self.buffers[t.buffer].view(torch.bfloat16).view(tuple(map(int, t.shape)))

    def run(self) -> None:
        for i in self.plan.instructions:
            if isinstance(i, KernelCall):
                self.launches.run(i.kernel, [self.buffers[b] for b in i.buffers], {}, [int(d) for d in i.sizes])


def _tokens(shape: tuple[int, ...]) -> torch.Tensor:
    """Word numbers as in a text: the n-th most frequent with a probability like 1 / n."""
    weights = 1.0 / torch.arange(1, 50258, device="cuda")
    return torch.multinomial(weights, shape[0], replacement=True)


def expected_of(name: str, m: Measured) -> torch.Tensor:
    f = torch.nn.functional
    x = m.input("x").float() if name != "embedding_gradient" else None
    if name == "gelu":
        y = (m.input("x") * m.input("s") + m.input("b"))
        return f.gelu(y.float()).bfloat16() + m.input("r")
    if name == "softmax":
        return torch.softmax(x, 1)
    if name == "layer_norm":
        return f.layer_norm(x, (COLUMNS,), m.input("s").float(), m.input("b").float())
    if name == "column_sum":
        return x.sum(0)
    if name == "row_sum":
        return x.sum(1)
    if name == "transpose":
        return x.T * 2
    if name == "copy":
        return -x
    out = torch.zeros((50257, 768), device="cuda")
    return out.index_add(0, m.input("i"), m.input("u").float())


def variants(name: str) -> dict[str, dict[str, int]]:
    """Settings of tiles.py to measure beside its own."""
    if name == "gelu":
        return {"": {}, "256 threads": {"THREADS": 256}}
    return {"": {}, "128": {"SIDE": 128}} if name == "transpose" else {"": {}}


def speed(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    a = torch.randn(ROWS, COLUMNS, device="cuda").bfloat16()
    c = torch.empty_like(a)
    found["torch copy"] = median_us(lambda: c.copy_(a))
    for name in ("copy", "gelu", "softmax", "layer_norm", "column_sum", "row_sum", "transpose", "embedding_gradient"):
        for label, settings in variants(name).items():
            saved = {k: getattr(tiles, k) for k in settings}
            for k, v in settings.items():
                setattr(tiles, k, v)
            try:
                m = Measured(device, name)
                m.run()
                torch.cuda.synchronize()
                first = m.output().clone()
                error = (first.float() - expected_of(name, m).float()).norm() / expected_of(name, m).float().norm()
                us = graphed_us(m.run)
                m.run()
                torch.cuda.synchronize()
                same = torch.equal(first.view(torch.int16), m.output().view(torch.int16))
                kernels = [(k.name, k.threads, k.registers, k.grid[0]) for k in m.launches.image.kernels]
                found[f"{name} {label}".strip()] = us
                print(f"{name:12} {label:18} {us:8.1f} us  error {error:.1e}  repeats {same}  {kernels}", flush=True)
                del m
            except Exception:  # noqa: BLE001
                print(name, label, traceback.format_exc()[-600:], flush=True)
            finally:
                for k, v in saved.items():
                    setattr(tiles, k, v)
    return found


PEERS = '''
import json, sys, time, torch
R, C = 16384, 8192
found = {}
f = torch.nn.functional
x, r = (torch.randn(R, C, device="cuda").bfloat16() for _ in range(2))
s, b = (torch.randn(C, device="cuda").bfloat16() for _ in range(2))
def median(run):
    for _ in range(5): run()
    ev = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(30)]
    for a, c in ev:
        a.record(); run(); c.record()
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(c) for a, c in ev)[15] * 1e3
work = {"gelu": lambda: f.gelu(x * s + b) + r, "softmax": lambda: torch.softmax(x, 1),
        "layer_norm": lambda: f.layer_norm(x, (C,), s, b), "column_sum": lambda: x.sum(0)}
for name, run in work.items():
    found["torch eager " + name] = median(run)
    try: found["torch compiled " + name] = median(torch.compile(run))
    except Exception as e: print(name, str(e)[:200])
i = torch.multinomial(1.0 / torch.arange(1, 50258, device="cuda"), R, replacement=True)
u = torch.randn(R, 768, device="cuda").bfloat16()
found["torch embedding_gradient"] = median(lambda: torch.ops.aten.embedding_dense_backward(u, i, 50257, -1, False))
print("PEERS " + json.dumps(found))
'''
JAX_PEERS = '''
import json, time, jax, jax.numpy as jnp, statistics
R, C = 16384, 8192
k = jax.random.split(jax.random.key(0), 4)
x, r = (jax.random.normal(k[n], (R, C), jnp.bfloat16) for n in (0, 1))
s, b = (jax.random.normal(k[n], (C,), jnp.bfloat16) for n in (2, 3))
def ln(x):
    y = x.astype(jnp.float32); y = y - y.mean(1, keepdims=True)
    return (y * jax.lax.rsqrt((y * y).mean(1, keepdims=True) + 1e-5) * s + b).astype(x.dtype)
work = {"gelu": lambda x: jax.nn.gelu(x * s + b, approximate=False) + r, "softmax": lambda x: jax.nn.softmax(x, 1),
        "layer_norm": ln, "column_sum": lambda x: x.sum(0)}
found = {}
for name, fn in work.items():
    g = jax.jit(fn); g(x).block_until_ready()
    times = []
    for _ in range(10):
        t = time.perf_counter()
        for _ in range(20): y = g(x)
        y.block_until_ready(); times.append((time.perf_counter() - t) / 20 * 1e6)
    found["jax " + name] = statistics.median(times)
print("PEERS " + json.dumps(found))
'''


def peers() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text, environment in ((PEERS, {}), (JAX_PEERS, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"})):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=150,
                              env={**os.environ, **environment})
        line = next((x for x in done.stdout.splitlines() if x.startswith("PEERS ")), "PEERS {}")
        found |= json.loads(line[6:])
        if line == "PEERS {}":
            print(done.stderr[-800:])
    return found


def main() -> None:
    wanted = set(sys.argv[1:]) or {"functions", "operators", "speed", "peers"}
    jobs: list[Any] = []
    if "functions" in wanted:
        jobs += [(_function, t) for t in function_tasks()]
    if "operators" in wanted:
        jobs += [(_operator, t) for t in operator_tasks()]
    start = time.time()
    compile_all(jobs)
    device = Device()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, SM90.name, flush=True)
    results: dict[str, Any] = {}
    if "speed" in wanted:
        results |= speed(device)
    if "functions" in wanted:
        wrong = check_functions(device)
        print(f"{len(wrong)} of {len(function_tasks())} functions differ; {time.time() - start:.0f} s")
        print("\n".join(wrong))
    if "operators" in wanted:
        wrong = check_operators(device)
        print(f"{len(wrong)} of {len(operator_tasks())} operators differ; {time.time() - start:.0f} s")
        print("\n".join(wrong))
    if "peers" in wanted:
        results |= peers()
    print(json.dumps({k: round(v, 1) for k, v in results.items()}))


if __name__ == "__main__":
    main()
