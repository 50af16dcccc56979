"""Train GPT-2 over bytes on the source of Python's own standard library, then let it write.

``python train.py --size tiny`` takes a minute on a CPU; ``--target ptx --size 124M --rate 6e-4`` is GPT-2 small in bf16
with f32 master weights, on a GPU. The whole step, with AdamW, is one compiled program. The trained model is saved as
``gpt2.tsr``.
"""

from __future__ import annotations

import argparse
import sysconfig
import time
from pathlib import Path

import numpy as np
import tessera
from model import GPT2, SIZES
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tessera import graph, op, optim

LIMIT = 8 << 20


def text() -> np.ndarray:
    """The library's sources, one after the other, as bytes: 8 MiB at most."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts, size = [], 0
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= LIMIT:
            break
    return np.frombuffer(b"".join(parts)[:LIMIT], np.uint8)


def batch(data: np.ndarray, rng: np.random.Generator, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Random windows, and the same one byte later."""
    starts = rng.integers(0, len(data) - length - 1, rows)
    windows = data[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


def train(model: GPT2, steps: int, rows: int, rate: float, target: str | None) -> None:
    """Train, and print how well it does on text that it has not seen."""
    config, data = model.config, text()
    cut = len(data) * 9 // 10
    warm = max(1, steps // 20)
    optimizer = optim.AdamW(
        optim.warmup(optim.cosine(rate, max(1, steps - warm), rate / 10), warm), weight_decay=0.1, betas=(0.9, 0.95)
    )

    @graph.training_step(target=target)
    def step(tokens, labels):  # noqa: ANN001, ANN202
        loss = model.loss(tokens, labels)
        optimizer.apply(optim.clip_by_global_norm(graph.backward(loss), 1.0))
        return loss

    tokens, labels = (op.tensor((rows, config.length), "i64", name=n) for n in ("tokens", "labels"))
    unseen = graph.compile(model.loss(tokens, labels), target=target)
    rng, fixed = np.random.default_rng(0), np.random.default_rng(1)
    checks = [batch(data[cut:], fixed, rows, config.length) for _ in range(4)]

    def held_out() -> float:
        return float(np.mean([unseen(*c).item() for c in checks]))

    print(f"{len(data):,} bytes of text; held out before training: {held_out():.3f} nats a byte", flush=True)
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=steps, loss=float("nan"))
        begin, seen = 0.0, 0
        for number in range(steps):
            loss = step(*batch(data[:cut], rng, rows, config.length))
            if number == 0:
                loss.item()
                begin = time.perf_counter()  # the first step compiles
            else:
                seen += rows * config.length
            if number % 10 == 9 or number == steps - 1:
                progress.update(task, completed=number + 1, loss=loss.item())
        rate_seen = seen / max(time.perf_counter() - begin, 1e-9)
    print(f"held out after {steps} steps: {held_out():.3f} nats a byte; {rate_seen:,.0f} bytes a second")


def write(path: Path, prompt: bytes, count: int, length: int, seed: int = 0) -> bytes:
    """What the saved model writes after the prompt, byte by byte."""
    model = graph.load(path)
    rng, out = np.random.default_rng(seed), bytearray(prompt)
    for _ in range(count):
        window = np.zeros((1, length), np.int64)
        recent = np.frombuffer(bytes(out[-length:]), np.uint8)
        window[0, : len(recent)] = recent  # what comes later does not change what is read: attention is causal
        logits = np.asarray(model(window), np.float32)[0, len(recent) - 1, :256]
        odds = np.exp((logits - logits.max()) / 0.8)
        out.append(int(rng.choice(256, p=odds / odds.sum())))
    return bytes(out)


def main() -> None:
    """Train, save, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--target", help="cpu, or ptx for an NVIDIA GPU; default: cpu")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--write", type=int, default=200, help="bytes to write at the end")
    parser.add_argument("--output", type=Path, default=Path("gpt2.tsr"))
    arguments = parser.parse_args()
    tessera.manual_seed(0)
    model = GPT2(SIZES[arguments.size])
    train(model, arguments.steps, arguments.batch, arguments.rate, arguments.target)
    tokens = op.tensor((op.dim("B", min=1), model.config.length), "i64", name="tokens")
    graph.compile({"logits": model(tokens)}, target=arguments.target).save(arguments.output)
    print(write(arguments.output, b"def ", arguments.write, model.config.length).decode(errors="replace"))


if __name__ == "__main__":
    main()
