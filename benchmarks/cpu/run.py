"""`make bench-cpu`: every workload by every peer, results compared, one table with ratios.

Each peer runs each workload in a process of its own, all with the same threads, in interleaved rounds;
the table holds the least time of all rounds. Each result is compared with PyTorch eager's and the
table says whether it agrees.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.cpu.cold import cold_rows
from benchmarks.cpu.workloads import WORKLOADS

PEERS = (("tessera", "compiled"), ("tessera", "c++"), ("torch", "eager"), ("torch", "compiled"), ("jax", "jit"),
         ("onnxruntime", "io binding"))
SKIPPED = {("W1", "onnxruntime", "io binding"), ("W1", "tessera", "c++"), ("W6a", "tessera", "c++")}
REFERENCE = ("torch", "eager")
TOLERANCE = {"W1": 2e-4, "W3": 2e-5, "W6a": 2e-5}


def cpu_name() -> str:
    """The processor's name and widest vector extension."""
    info = Path("/proc/cpuinfo").read_text()
    name = next(line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name"))
    return f"{name}, {'AVX-512' if ' avx512f' in info else 'AVX2' if ' avx2' in info else 'SSE'}"


def run_worker(peer: str, variant: str, work: str, threads: int, seconds: float, results: Path) -> dict[str, float]:
    """One measurement in a new process; its JSON line, or the error's last line."""
    command = [sys.executable, "-m", "benchmarks.cpu.worker", "--peer", peer, "--variant", variant, "--work", work,
               "--threads", str(threads), "--seconds", str(seconds), "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return {"error": lines[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def agreement(results: Path, reference: Path, tolerance: float) -> str:
    """``agrees`` with the largest error relative to each array's largest value, or ``DIFFERS``."""
    with np.load(results) as got, np.load(reference) as expected:
        error = max(
            float(np.max(np.abs(got[k].astype(np.float64) - expected[k])) / max(np.max(np.abs(expected[k])), 1e-30))
            for k in expected.files
        )
    return f"{'agrees' if error <= tolerance else 'DIFFERS'} ({error:.1e})"


def bench(work_name: str, threads: int, seconds: float, rounds: int, folder: Path) -> list[str]:
    """The table rows of one workload."""
    work = WORKLOADS[work_name]()
    peers = [p for p in PEERS if (work_name, *p) not in SKIPPED]
    best: dict[tuple[str, str], dict[str, float]] = {}
    for _ in range(rounds):
        for peer in peers:
            row = run_worker(*peer, work_name, threads, seconds, folder / f"{work_name}-{peer[0]}-{peer[1]}.npz")
            if peer not in best or row.get("min", np.inf) < best[peer].get("min", np.inf):
                best[peer] = row
            print(work_name, *peer, row, flush=True)
    rival = min(row["min"] for (name, _), row in best.items() if name != "tessera" and "min" in row)
    reference = folder / f"{work_name}-{REFERENCE[0]}-{REFERENCE[1]}.npz"
    lines = []
    for peer, row in best.items():
        if "error" in row:
            lines.append(f"| {work_name} | {peer[0]} {peer[1]} | – | – | – | – | {row['error']} |")
            continue
        check = agreement(folder / f"{work_name}-{peer[0]}-{peer[1]}.npz", reference, TOLERANCE[work_name])
        least, median = row["min"], row["median"]
        rate = f"{work.flops / least / 1e9:.0f} GFLOP/s" if work.flops else f"{work.bytes / least / 1e9:.1f} GB/s"
        lines.append(
            f"| {work_name} | {peer[0]} {row['version']} {peer[1]} | {least * 1e6:.1f} | {median * 1e6:.1f} | {rate} | "
            f"{rival / least:.2f} | {check} |"
        )
    return lines


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=3.0, help="measuring time of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/cpu-DATE.md")
    arguments = parser.parse_args()
    today = datetime.date.today().isoformat()
    output = arguments.output or Path(__file__).parents[1] / "results" / f"cpu-{today}.md"
    machine = f"{cpu_name()}, {arguments.threads} threads, Python {platform.python_version()}, {platform.release()}"
    rounds = f"{arguments.rounds} rounds of {arguments.seconds:g} s a row, least time of all"
    lines = [f"# CPU, {today}", "", f"Machine: {machine}.", f"Command: `make bench-cpu` ({rounds}).", ""]
    lines += [f"- {w}: {WORKLOADS[w]().title}" for w in arguments.work]
    lines += ["", "| work | by | min µs | median µs | rate | best peer / this | result |"]
    lines += ["|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for work in arguments.work:
            lines += bench(work, arguments.threads, arguments.seconds, arguments.rounds, Path(folder))
    lines += ["", "## Cold start and size", "", "| what | measured | aim |", "|---|---|---|", *cold_rows()]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(lines) + "\n")
    print(output.read_text())


if __name__ == "__main__":
    main()
