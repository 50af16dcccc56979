"""PyTorch: eager, and torch.compile of the whole step."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional

from benchmarks.cpu.workloads import CHECK_STEPS, LEARNING_RATE, MOMENTUM, Prepared, Workload


def _tensors(work: Workload) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v.copy()) for k, v in work.data.items()}


def _mlp(t: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = torch.relu(torch.addmm(t["b0"], x, t["w0"]))
    x = torch.relu(torch.addmm(t["b1"], x, t["w1"]))
    return torch.addmm(t["b2"], x, t["w2"])


def _training(work: Workload, compiled: bool) -> Prepared:
    def start() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        t = _tensors(work)
        names = [k for k in t if k[0] in "wb"]
        for k in names:
            t[k].requires_grad_(True)
        return t, {k: torch.zeros_like(t[k]) for k in names}

    def step(t: dict[str, torch.Tensor], momenta: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = functional.cross_entropy(_mlp(t, t["x"]), t["labels"])
        grads = torch.autograd.grad(loss, [t[k] for k in momenta])
        with torch.no_grad():
            for (k, v), g in zip(momenta.items(), grads):
                v.mul_(MOMENTUM).add_(g)
                t[k].sub_(v, alpha=LEARNING_RATE)
        return loss.detach()

    run = torch.compile(step, dynamic=False) if compiled else step
    state, momenta = start()

    def result() -> dict[str, np.ndarray]:
        t, v = start()
        for _ in range(CHECK_STEPS):
            loss = run(t, v)
        return {"loss": loss.numpy(), **{k: t[k].detach().numpy() for k in v}}

    return Prepared(lambda: run(state, momenta), result)


def _inference(work: Workload, compiled: bool) -> Prepared:
    t = _tensors(work)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return _mlp(t, x)

    run = torch.compile(forward, dynamic=False) if compiled else forward

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return run(t["x"])

    return Prepared(call, lambda: {"y": call().numpy()})


def _pointwise(work: Workload, compiled: bool) -> Prepared:
    t = _tensors(work)
    out = torch.empty_like(t["x"])

    def forward(x: torch.Tensor, s: torch.Tensor, b: torch.Tensor, r: torch.Tensor, out: torch.Tensor) -> None:
        torch.add(functional.gelu(x * s + b), r, out=out) if not compiled else out.copy_(functional.gelu(x * s + b) + r)

    run = torch.compile(forward, dynamic=False) if compiled else forward

    def call() -> None:
        with torch.inference_mode():
            run(t["x"], t["s"], t["b"], t["r"], out)

    def result() -> dict[str, np.ndarray]:
        call()
        return {"y": out.numpy()}

    return Prepared(call, result)


_BY_NAME = {"W1": _training, "W3": _inference, "W6a": _pointwise}


def prepare(work: Workload, threads: int, variant: str) -> Prepared:
    """The workload in PyTorch; variant ``eager`` or ``compiled``."""
    torch.set_num_threads(threads)
    return _BY_NAME[work.name](work, variant == "compiled")


def version() -> str:
    """The version that was measured."""
    return torch.__version__
