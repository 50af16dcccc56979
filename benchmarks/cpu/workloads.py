"""The work that every peer does: data, sizes and the timing loop.

A peer is a function from a ``Workload`` to a ``Prepared``: a call without arguments that does the work
once, and a function that gives the results to compare. Everything else is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SEED = 20260101
LEARNING_RATE = 0.01
MOMENTUM = 0.9
CHECK_STEPS = 5


@dataclass(frozen=True)
class Workload:
    """One row of the table: a name, what it does, its flops and bytes, and its NumPy data."""

    name: str
    title: str
    flops: float
    bytes: float
    data: dict[str, np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """``call`` does the work once; ``result`` gives named arrays after ``CHECK_STEPS`` calls from a fresh start."""

    call: Callable[[], object]
    result: Callable[[], dict[str, np.ndarray]]


def _layers(rng: np.random.Generator, sizes: list[int]) -> dict[str, np.ndarray]:
    data: dict[str, np.ndarray] = {}
    for i, (n_in, n_out) in enumerate(zip(sizes, sizes[1:])):
        data[f"w{i}"] = (rng.standard_normal((n_in, n_out)) * np.sqrt(2.0 / n_in)).astype(np.float32)
        data[f"b{i}"] = (rng.standard_normal(n_out) * 0.01).astype(np.float32)
    return data


def _matmul_flops(batch: int, sizes: list[int], training: bool) -> float:
    forward = [2.0 * batch * a * b for a, b in zip(sizes, sizes[1:])]
    return sum(forward) * (3 if training else 1) - (forward[0] if training else 0)


def w1() -> Workload:
    """A training step of a classifier: forward, backward, SGD with momentum."""
    rng = np.random.default_rng(SEED)
    sizes = [784, 512, 512, 10]
    data = _layers(rng, sizes)
    data["x"] = rng.standard_normal((256, 784)).astype(np.float32)
    data["labels"] = rng.integers(0, 10, 256)
    weights = 4.0 * sum(v.size for k, v in data.items() if k[0] in "wb")
    return Workload("W1", "training step, batch 256, 784-512-512-10, relu, cross entropy, SGD momentum",
                    _matmul_flops(256, sizes, True), 5 * weights, data)


def w3() -> Workload:
    """Inference of a small MLP at batch 1."""
    rng = np.random.default_rng(SEED)
    sizes = [64, 256, 256, 8]
    data = _layers(rng, sizes)
    data["x"] = rng.standard_normal((1, 64)).astype(np.float32)
    return Workload("W3", "inference, batch 1, 64-256-256-8, relu", _matmul_flops(1, sizes, False),
                    4.0 * sum(v.size for v in data.values()), data)


def w6a() -> Workload:
    """A pointwise chain, bound by memory."""
    rng = np.random.default_rng(SEED)
    n = 4096
    data = {
        "x": rng.standard_normal((n, n), dtype=np.float32),
        "r": rng.standard_normal((n, n), dtype=np.float32),
        "s": rng.standard_normal(n, dtype=np.float32),
        "b": rng.standard_normal(n, dtype=np.float32),
    }
    return Workload("W6a", "gelu_erf(x*s+b)+r, 4096x4096, caller's output buffer", 0.0, 12.0 * n * n, data)


WORKLOADS: dict[str, Callable[[], Workload]] = {"W1": w1, "W3": w3, "W6a": w6a}


def measure(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Run ``call`` for about ``seconds`` after a warm-up; seconds per call: min, median, and the count.

    Calls shorter than 50 µs are timed in batches, so that the clock does not weigh in.
    """
    for _ in range(3):
        call()
    begin = time.perf_counter()
    call()
    once = max(time.perf_counter() - begin, 1e-7)
    batch = max(1, int(200e-6 / once)) if once < 50e-6 else 1
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < stop:
        begin = time.perf_counter()
        for _ in range(batch):
            call()
        times.append((time.perf_counter() - begin) / batch)
    return {"min": min(times), "median": float(np.median(times)), "count": float(len(times) * batch)}
