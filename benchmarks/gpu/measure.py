"""Checks and times the kernels of a file that ``kernels.py`` wrote, beside cuBLAS and cuDNN through PyTorch.

Needs PyTorch and Triton, not Tessera. Times are medians over graphs of ten launches, the two sides in turn; errors are
‖x − reference‖ / ‖reference‖ against f32. Inputs are drawn anew, results begin as NaN.
"""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.experimental.gluon import language as gluon
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16, "i32": torch.int32}
LAUNCHES, ROUNDS = 10, 7


def function_of(program: dict[str, Any]) -> Any:
    """The program's function, as Triton sees it."""
    file = f"<{program['name']} {hash(program['source'])}>"
    linecache.cache[file] = (len(program["source"]), None, program["source"].splitlines(True), file)
    names: dict[str, Any] = {"__name__": "kernel"}
    exec(compile(program["source"], file, "exec"), names)
    return names[program["name"]]


def runner(case: dict[str, Any], tensors: Sequence[torch.Tensor]) -> Callable[[], None]:
    """All launches of a kernel."""
    workspace = torch.empty(max(4, case["workspace"] + 3) // 4, dtype=torch.int32, device="cuda")
    calls = []
    for program in case["programs"]:
        arguments: list[Any] = []
        for a in program["arguments"]:
            if "value" in a:
                arguments.append(a["value"])
            elif "map" in a:
                base = tensors[a["map"]] if a["map"] < len(tensors) else workspace.view(DTYPES[a["dtype"]])
                layout = gluon.NVMMASharedLayout(
                    swizzle_byte_width=128, element_bitwidth=base.element_size() * 8, rank=len(a["block"])
                )
                arguments.append(TensorDescriptor(base, a["shape"], a["strides"], a["block"], layout))
            elif a["buffer"] < len(tensors):
                arguments.append(tensors[a["buffer"]])
            else:
                arguments.append(workspace.view(DTYPES[a["dtype"]]))
        options = {"num_warps": program["warps"], "num_stages": program["stages"]}
        calls.append((function_of(program), tuple(program["grid"]), arguments, options))

    def run() -> None:
        for function, grid, arguments, options in calls:
            function[grid](*arguments, **options)

    return run


def graphed(run: Callable[[], Any]) -> Callable[[], None]:
    """Several launches as one graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            run()
    return graph.replay


def medians(runs: Sequence[Callable[[], Any]]) -> list[float]:
    """Microseconds of a launch of each, measured in turn."""
    times: list[list[float]] = [[] for _ in runs]
    for at in range(ROUNDS + 2):
        for run, found in zip(runs, times):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            if at >= 2:
                found.append(start.elapsed_time(end) * 1e3 / LAUNCHES)
    return [sorted(t)[len(t) // 2] for t in times]


def error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """The relative error in the Frobenius norm; NaN stays NaN."""
    return ((found.double() - reference.double()).norm() / reference.double().norm()).item()


def product(case: dict[str, Any], tensors: list[torch.Tensor]) -> tuple[list[torch.Tensor], Callable[[], Any]]:
    """The reference of a product with its epilogue, and what cuBLAS does without it."""
    inputs = [t for t, b in zip(tensors, case["buffers"]) if b["role"] == "in"]
    a, b = inputs[0], inputs[1]
    a, b = a.T if case["a_turned"] else a, b.T if case["b_turned"] else b
    result = torch.matmul(a, b).float()
    if case["epilogue"] == "gelu":
        result = functional.gelu(result + inputs[2].float())
    elif case["epilogue"] == "residual":
        result = result + inputs[2].float()
    return [result], lambda: torch.matmul(a, b)


def attention(case: dict[str, Any], tensors: list[torch.Tensor]) -> tuple[list[torch.Tensor], Callable[[], Any]]:
    """The reference (f32, for the first heads), and what cuDNN does."""
    q, k, v = tensors[:3]
    group = q.shape[0] // k.shape[0]
    leaves = [x[:n].float().requires_grad_() for x, n in ((q, 2 * group), (k, 2), (v, 2))]
    wide_k, wide_v = (x.repeat_interleave(group, 0) for x in leaves[1:])
    scores = leaves[0] @ wide_k.transpose(-1, -2) * case["scale"]
    if case["causal"]:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], device="cuda", dtype=torch.bool).triu(1), -torch.inf)
    out = torch.softmax(scores, -1) @ wide_v
    q4, k4, v4 = (x.unflatten(0, (case["batch"], -1)) for x in (q, k, v))
    options: dict[str, Any] = {"is_causal": case["causal"], "enable_gqa": group > 1}
    if case["kind"] == "attention":
        def peer() -> Any:
            return functional.scaled_dot_product_attention(q4, k4, v4, **options)

        return [out.detach(), torch.logsumexp(scores, -1).detach()], peer
    mine = [x.detach().requires_grad_() for x in (q4, k4, v4)]
    result = functional.scaled_dot_product_attention(*mine, **options)
    tensors[3].copy_(result.detach().flatten(0, 1))
    for head in range(q.shape[0]):
        row = q[head].float() @ k[head // group].float().T * case["scale"]
        if case["causal"]:
            row = row.masked_fill(torch.ones(row.shape, device="cuda", dtype=torch.bool).triu(1), -torch.inf)
        tensors[4][head] = torch.logsumexp(row, -1)
    out.backward(tensors[5][: 2 * group].float())
    given = tensors[5].unflatten(0, (case["batch"], -1))
    return [x.grad for x in leaves], lambda: torch.autograd.grad(result, mine, given, retain_graph=True)


def measure(case: dict[str, Any]) -> str:
    """A row of the table."""
    tensors = []
    for b in case["buffers"]:
        t = torch.randn(b["shape"], device="cuda").to(DTYPES[b["dtype"]])
        tensors.append(t.fill_(torch.nan) if b["role"] == "out" else t)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        references, peer = (product if case["kind"] == "product" else attention)(case, tensors)
        run = runner(case, tensors)
        run()
        outputs = [t for t, b in zip(tensors, case["buffers"]) if b["role"] == "out"]
        errors = " ".join(f"{error(o[: len(r)], r):.1e}" for o, r in zip(outputs, references))
        first = [o.clone() for o in outputs]
        run()
        torch.cuda.synchronize()
        equal = all(map(torch.equal, first, outputs))
        if case["kind"] == "gradient":  # autograd cannot be put into a graph
            peers = [lambda: [peer() for _ in range(LAUNCHES)]]
        else:
            peers = [graphed(peer)]
        mine, other = medians([graphed(run), *peers])
    name = f"{case['label']}{', gradient' if case['kind'] == 'gradient' else ''}"
    rate = ""
    if case["kind"] == "product":
        m, n, k = case["sizes"]
        rate = f"{2 * m * n * k / mine / 1e6:.0f} / {2 * m * n * k / other / 1e6:.0f}"
    return f"| {name} | {mine:.1f} | {other:.1f} | {rate} | {errors} | {'yes' if equal else 'NO'} |"


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, Triton {triton.__version__}")
    print("| work | Tessera µs | peer µs | TFLOP/s | errors | repeats are equal |\n|---|---|---|---|---|---|")
    with open(sys.argv[1], encoding="utf-8") as file:
        for one in json.load(file):
            print(measure(one), flush=True)
