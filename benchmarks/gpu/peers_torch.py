"""The rows by PyTorch: eager, compiled, tuned, as a CUDA graph; attention by cuDNN and by its flash kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.timing import Work

WIDTH, HIDDEN, BATCH = 4096, 8192, 8192


def version() -> str:
    """The version measured."""
    return torch.__version__


def drawn(*shape: int, **more: Any) -> Tensor:
    """Normal numbers in bf16 on the device."""
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16, **more)


def compiled(function: Any, variant: str) -> Any:
    """A function or module as the variant runs it."""
    if variant == "torch compiled":
        return torch.compile(function)
    return torch.compile(function, mode="max-autotune") if variant == "torch max-autotune" else function


def work(call: Callable[[], Any]) -> Work:
    """A call that the device is waited for."""
    return Work(call, lambda _: torch.cuda.synchronize())


def mlp() -> nn.Module:
    """The guide's MLP."""
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)).to("cuda", torch.bfloat16)


def mlp_training(variant: str, adamw: bool) -> Work:
    """Loss and gradients, perhaps with AdamW on parameters and moments in bf16."""
    model, x, labels = mlp(), drawn(BATCH, WIDTH), torch.randint(WIDTH, (BATCH,), device="cuda")
    loss = compiled(lambda x, labels: F.cross_entropy(model(x).float(), labels), variant)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        found = loss(x, labels)
        found.backward()
        if adamw:
            optimizer.step()
        return found

    return work(step)


def mlp_inference(batch: int, variant: str) -> Work:
    """The MLP alone."""
    model, x = mlp().requires_grad_(requires_grad=False), drawn(batch, WIDTH)
    if variant == "torch eager":
        return work(lambda: model(x))
    model(x)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        model(x)
    return work(captured.replay)


class Block(nn.Module):
    """A block of GPT-2, the three projections of attention as one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, width] → the same."""
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT2(nn.Module):
    """GPT-2 small with a tied head, its loss."""

    def __init__(
        self, layers: int = 12, width: int = 768, heads: int = 12, length: int = 1024, words: int = 50304
    ) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0.0, 0.02)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The mean cross entropy."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.token.weight)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def gpt2(variant: str) -> Callable[[], Tensor]:
    """A training step: f32 parameters, bf16 by autocast, clipped gradients, fused AdamW."""
    torch.set_float32_matmul_precision("high")
    model = GPT2().cuda()
    run = compiled(model, variant)
    optimizer = torch.optim.AdamW(model.parameters(), 6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    windows = torch.randint(50304, (16, 1025), device="cuda")
    tokens, labels = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def step() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            loss = run(tokens, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def gpt2_step(variant: str) -> Work:
    """A training step, which has to learn its batch."""
    step = gpt2(variant)
    losses = [float(step()) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.5, f"the loss does not fall: {losses}"
    return work(step)


def compile_seconds(variant: str) -> float:
    """What the first step takes longer than a later one."""
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    step = gpt2(variant)
    step().item()
    first = time.perf_counter() - start
    start = time.perf_counter()
    step().item()
    return first - (time.perf_counter() - start)


def loop(row: str, variant: str) -> Work:
    """A kernel bound by memory."""
    shape = (16384, 8192)
    x, s, b = drawn(*shape), drawn(shape[1]), drawn(shape[1])
    if row == "gelu":
        r = drawn(*shape)
        run = compiled(lambda x, s, b, r: F.gelu(x * s + b) + r, variant)
        return work(lambda: run(x, s, b, r))
    functions: dict[str, Callable[..., Tensor]] = {
        "softmax": lambda x, s, b: torch.softmax(x, 1),
        "layer_norm": lambda x, s, b: F.layer_norm(x, (shape[1],), s, b),
        "column_sum": lambda x, s, b: x.sum(0),
    }
    run = compiled(functions[row], variant)
    return work(lambda: run(x, s, b))


def cross_entropy(variant: str) -> Work:
    """Loss and gradient of the logits."""
    logits, labels = drawn(8192, 50304, requires_grad=True), torch.randint(50304, (8192,), device="cuda")
    run = compiled(lambda x, y: F.cross_entropy(x, y), variant)
    return work(lambda: torch.autograd.grad(run(logits, labels), logits))


def attention(row: str, variant: str) -> Work:
    """Causal attention, perhaps with its gradients."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = SDPBackend.CUDNN_ATTENTION if "cuDNN" in variant else SDPBackend.FLASH_ATTENTION
    q, k, v = (drawn(4, 16, 4096, 128, requires_grad=row != "attention") for _ in range(3))
    g = drawn(4, 16, 4096, 128)

    def run() -> Any:
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out if row == "attention" else torch.autograd.grad(out, (q, k, v), g)

    return work(run)


def prepare(row: str, variant: str) -> Work | float:
    """The work of a row, or what it took."""
    torch.manual_seed(0)
    with torch.no_grad() if row.startswith("mlp_") and row[4:5].isdigit() else nullcontext():
        if row in ("mlp_gradients", "mlp_adamw"):
            return mlp_training(variant, row == "mlp_adamw")
        if row.startswith("mlp_"):
            return mlp_inference(int(row.split("_")[1]), variant)
    if row == "gpt2_step":
        return gpt2_step(variant)
    if row.startswith("compile"):
        return compile_seconds(variant)
    if row == "cross_entropy":
        return cross_entropy(variant)
    return attention(row, variant) if row.startswith("attention") else loop(row, variant)
