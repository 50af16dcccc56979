"""`make bench-dist`: what a mesh of virtual devices costs on the CPU against one device with the same total work.

Tessera and JAX, every row in a process of its own, in interleaved rounds; the table holds the least times.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks.cpu.run import cpu_name
from benchmarks.dist.work import CLASSES, HIDDEN, ROWS, SIDE, WIDTH

MESHES = ((1, 1), (8, 1), (4, 2), (2, 4), (1, 8))
TITLES = {
    "mlp": f"MLP {WIDTH}→{HIDDEN}→{CLASSES}, {ROWS} rows, f32: training step with AdamW, rows over dp, hidden over tp",
    "matmul": f"W·Wᵀ, {SIDE}², f32, rows over dp, columns over tp, the result sharded alike",
}


def measure(peer: str, work: str, mesh: tuple[int, int], seconds: float) -> dict[str, float]:
    """One process; no number where it fails."""
    command = [sys.executable, "-m", "benchmarks.dist.work", peer, work, *map(str, mesh), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print("\n".join(done.stderr.strip().splitlines()[-3:]), file=sys.stderr)
        return {}
    return json.loads(done.stdout.strip().splitlines()[-1])


def rows_of(work: str, seconds: float, rounds: int) -> list[str]:
    """The table rows of one work."""
    best: dict[tuple[str, tuple[int, int]], float] = {}
    for _ in range(rounds):
        for mesh in MESHES:
            for peer in ("tessera", "jax"):
                found = measure(peer, work, mesh, seconds).get("min", float("inf"))
                best[peer, mesh] = min(best.get((peer, mesh), float("inf")), found)
                print(work, peer, mesh, f"{found * 1e3:.2f} ms", flush=True)
    lines = []
    for mesh in MESHES:
        ours, theirs = (best[peer, mesh] for peer in ("tessera", "jax"))
        ratios = (f"{best[peer, mesh] / best[peer, (1, 1)]:.2f}" for peer in ("tessera", "jax"))
        lines.append(f"| {work} | {mesh[0]}×{mesh[1]} | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | {' | '.join(ratios)} |")
    return lines


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="measuring time of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs="*", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/dist-cpu-DATE.md")
    arguments = parser.parse_args()
    import jax
    import tessera

    today = datetime.date.today().isoformat()
    output = arguments.output or Path(__file__).parents[1] / "results" / f"dist-cpu-{today}.md"
    cores = len(os.sched_getaffinity(0))
    lines = [f"# Meshes on the CPU, {today}", "",
             f"Machine: {cpu_name()}, {cores} cores, Python {platform.python_version()}, {platform.release()}. "
             f"Tessera {tessera.__version__}, JAX {jax.__version__}.",
             f"Command: `make bench-dist` ({arguments.rounds} rounds of {arguments.seconds:g} s a row, least times). "
             "1×1 is one device with all cores; the devices of the other meshes share them. Aim: ≤ 1.3.", ""]
    lines += [f"- {name}: {TITLES[name]}" for name in arguments.work]
    lines += ["", "| work | mesh | Tessera ms | JAX ms | Tessera, mesh / one device | JAX, mesh / one device |"]
    lines += ["|---|---|---|---|---|---|"]
    for work in arguments.work:
        lines += rows_of(work, arguments.seconds, arguments.rounds)
    output.write_text("\n".join(lines) + "\n")
    print(output.read_text())


if __name__ == "__main__":
    main()
