"""The rows of the GPU table: what is measured, by whom, and what is aimed at."""

from __future__ import annotations

from dataclasses import dataclass

TORCH, TUNED, EAGER, GRAPH, JAX = "torch compiled", "torch max-autotune", "torch eager", "torch CUDA graph", "jax"


@dataclass(frozen=True)
class Row:
    """One work. ``aim`` and all measurements are in ``unit``, the smaller the better.

    ``group``: rows that one process of each peer measures, one after the other. ``alone``: every call is waited for
    before the next one, else calls follow each other.
    """

    name: str
    title: str
    unit: str
    aim: float | None
    peers: tuple[str, ...]
    group: str
    alone: bool = False
    ours: tuple[str, ...] = ("tessera",)


_MLP = "MLP 4096-8192-4096, batch 8192"
_WIDE = "16384×8192"
_TUNED = ("tessera", "tessera, autotuned")
_LOOPS = (EAGER, TORCH, JAX)
_INFERENCE = (EAGER, GRAPH, JAX)
_ANY_ORDER = "tessera, autotuned, sums in any order"
_ATTENTION = ("torch cuDNN", "torch flash", "jax cuDNN")

ROWS: dict[str, Row] = {r.name: r for r in (
    Row("mlp_gradients", f"{_MLP}: loss and gradients", "ms", 4.2, (EAGER, TORCH, TUNED, JAX), "mlp",
        ours=_TUNED),
    Row("mlp_adamw", f"{_MLP}: training step with AdamW", "ms", 4.5, (TORCH, TUNED, JAX), "mlp",
        ours=(*_TUNED, "tessera, no master weights")),
    *(
        Row(f"mlp_{batch}{'_alone' if alone else ''}",
            f"MLP 4096-8192-4096, inference, batch {batch}, {'each waited for' if alone else 'pipelined'}",
            "µs", None if alone else aim, _INFERENCE, "inference", alone, _TUNED)
        for batch, aim in ((1, 50), (16, 52), (256, 75)) for alone in (False, True)
    ),
    Row("gpt2_step", "GPT-2 124M training step, 16 × 1024 tokens, AdamW, f32 master weights, gradients clipped", "ms",
        29, (TORCH, JAX), "gpt2", ours=_TUNED),
    Row("gelu", f"gelu(x·s + b) + r on {_WIDE}", "µs", 275, _LOOPS, "loops"),
    Row("softmax", f"softmax on {_WIDE}", "µs", 185, _LOOPS, "loops"),
    Row("layer_norm", f"layer norm on {_WIDE}", "µs", 185, _LOOPS, "loops"),
    Row("column_sum", f"column sum of {_WIDE}", "µs", 95, _LOOPS, "loops"),
    Row("cross_entropy", "cross entropy on 8192×50304: loss and gradient", "µs", 620, (EAGER, TORCH, JAX), "loops"),
    Row("attention", "attention 4×16×4096×128, causal: forward", "ms", 0.558, _ATTENTION, "attention",
        ours=_TUNED),
    Row("attention_gradient", "attention 4×16×4096×128, causal: forward and backward", "ms", 2.06, _ATTENTION,
        "attention", ours=(*_TUNED, _ANY_ORDER)),
    Row("compile_cold", "GPT-2 124M step: traced and compiled, nothing cached", "s", 6, (TORCH, JAX), "compile"),
    Row("compile_cached", "GPT-2 124M step: traced and compiled in a new process, kernels from the cache", "s", 1,
        (TORCH, JAX), "compile"),
    Row("cpp_start", "C++ process start to the first result of the MLP, batch 1 (134 MB of weights)", "s", 0.5, (),
        "cpp"),
)}
"""Every row by name, in the order of the table. All work is in bf16 unless the title says more."""


def peer(variant: str) -> str:
    """Whose a variant is: tessera, torch or jax."""
    return variant.replace(",", " ").split()[0]
