"""`make bench-dist-gpu`: work on meshes of this machine's GPUs, Tessera beside JAX and PyTorch, and its own prediction.

    python -m benchmarks.dist.gpu [WORK...] [--by VARIANT...] [--devices N] [--output FILE] [--results FOLDER]

Each row of a work, mesh and variant is a process of its own (PyTorch: one for each GPU). What was found is kept as files
of ``--results``, and the table is made of all that lie there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.run import device

ROOT = Path(__file__).parents[2]
TIMEOUT = 200
"""Seconds that a process may take."""
OURS = ("tessera", "tessera, in order", "tessera, processes")
FULL = "tessera, fully sharded"
WORKS = {
    "matmul": ("W·Wᵀ, 16384², rows over dp, columns over tp, the result alike", (*OURS, "jax", "torch")),
    "mlp": ("MLP 4096-8192-4096, training step with AdamW, 8192 rows for each of dp", (*OURS, FULL, "jax", "torch")),
    "gpt2": ("GPT-2 124M training step, 16 × 1024 tokens for each of dp", OURS),
}
Found = dict[str, Any]


def meshes(work: str, devices: int) -> list[tuple[int, int]]:
    """(dp, tp): one device, and all ways to arrange all of them."""
    grids = [(n, devices // n) for n in range(devices, 0, -1) if devices % n == 0]
    return [(1, 1), *(g for g in grids if g != (1, 1) and (work != "gpt2" or g[1] == 1))]


def jobs(works: list[str], by: list[str] | None, devices: int) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """(work, variant, mesh) of every process."""
    for work in works:
        for mesh in meshes(work, devices):
            for variant in WORKS[work][1]:
                alone = mesh == (1, 1) and variant in (*OURS[1:], FULL)
                if not alone and (by is None or variant in by):
                    yield work, variant, mesh


def measured(work: str, variant: str, mesh: tuple[int, int]) -> Found:
    """What one row took, or the error."""
    command = [sys.executable, "-m", f"benchmarks.dist.gpu_{variant.split(',')[0]}", work, variant, *map(str, mesh)]
    each = mesh[0] * mesh[1] if variant in ("torch", "tessera, processes") else 1
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    processes = []
    for rank in range(each):
        launcher = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(each), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port} if each > 1 or variant == "torch" else {}
        processes.append(subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "NCCL_NVLS_ENABLE": os.environ.get("NCCL_NVLS_ENABLE", "0"), **launcher},
        ))
    found: Found = {"work": work, "by": variant, "mesh": list(mesh)}
    try:
        ended = [p.communicate(timeout=TIMEOUT) for p in processes]
    except subprocess.TimeoutExpired:
        for p in processes:
            p.kill()
        return {**found, "error": f"more than {TIMEOUT} s"}
    lines = [line for out, _ in ended for line in out.splitlines() if line.startswith("{")]
    if any(p.returncode for p in processes) or not lines:
        errors = [why for (_, why), p in zip(ended, processes) if p.returncode] or [ended[0][1]]
        print(errors[0][-1500:], file=sys.stderr)
        return {**found, "error": (errors[0].strip().splitlines() or ["no output"])[-1][:200]}
    return {**found, **json.loads(lines[0])}


def cell(found: Found | None) -> str:
    """Milliseconds, and the prediction where there is one."""
    if found is None:
        return "–"
    if "error" in found:
        return found["error"].replace("|", "/")
    predicted = f" ({found['predicted'] * 1e3:.2f})" if "predicted" in found else ""
    return f"{found['median'] * 1e3:.2f}{predicted}"


def table(found: list[Found]) -> list[str]:
    """The lines of the table."""
    by = {(f["work"], f["by"], *f["mesh"]): f for f in found}
    variants = list(dict.fromkeys(v for _, vs in WORKS.values() for v in vs))
    lines = [f"| work | mesh | {' | '.join(variants)} |", f"|---|---|{'---|' * len(variants)}"]
    for work, (title, _) in WORKS.items():
        for dp, tp in dict.fromkeys((f["mesh"][0], f["mesh"][1]) for f in found if f["work"] == work):
            cells = (cell(by.get((work, v, dp, tp))) for v in variants)
            lines.append(f"| {title} | ({dp}, {tp}) | {' | '.join(cells)} |")
    return lines


def kept(folder: Path) -> list[Found]:
    """What lies in the folder."""
    return [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", help=f"of {', '.join(WORKS)}; all without")
    parser.add_argument("--by", nargs="*")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench-dist-gpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    name = device()
    if name is None:
        raise SystemExit("bench-dist-gpu: no NVIDIA GPU is here")
    arguments.results.mkdir(parents=True, exist_ok=True)
    for work, variant, mesh in jobs(arguments.work or list(WORKS), arguments.by, arguments.devices):
        found = measured(work, variant, mesh)
        print(work, variant, mesh, {k: v for k, v in found.items() if k not in ("work", "by", "mesh")}, flush=True)
        file = f"{work}-{variant.replace(', ', '-').replace(' ', '-')}-{mesh[0]}x{mesh[1]}.json"
        (arguments.results / file).write_text(json.dumps(found))
    today = datetime.date.today().isoformat()
    found = kept(arguments.results)
    versions = ", ".join(sorted({f["version"] for f in found if "version" in f}))
    lines = [
        f"# Meshes of GPUs, {today}", "", f"Machine: {arguments.devices} × {name.removeprefix('one ')}, "
        f"Python {platform.python_version()}, {versions}. Command: `make bench-dist-gpu`.",
        "Milliseconds: medians of rounds of calls that follow each other, by the wall's clock; in brackets what "
        "`dist.simulate` predicts. bf16.", "", *table(found),
    ]
    output = arguments.output or ROOT / "benchmarks" / "results" / f"dist-gpu-{today}.md"
    output.write_text("\n".join(lines) + "\n")
    print(output.read_text())


if __name__ == "__main__":
    main()
