"""`make bench-gpu`: one table of work on a GPU, Tessera beside PyTorch, JAX and cuDNN on the same machine.

    python -m benchmarks.gpu.run [ROW...] [--no-peers] [--by PEER...] [--results FOLDER] [--output FILE]

Each peer has a process of its own for each group of rows. What a process found is kept as files of ``--results``, and
the table is made of all that lie there: rows can be measured a few at a time, and those measured anew replace the old.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import ROWS, Row, peer
from benchmarks.gpu.timing import ROUNDS

ROOT = Path(__file__).parents[2]
SCALE = {"s": 1.0, "ms": 1e3, "µs": 1e6}
TIMEOUT = 240
"""Seconds that a process may take."""
OURS = tuple(dict.fromkeys(by for row in ROWS.values() for by in row.ours))
Found = dict[str, Any]


def device() -> str | None:
    """The GPU and its driver; None where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    name, driver = names[int(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or 0) % len(names)].split(", ")
    return f"one {name}, driver {driver}"


def jobs(rows: Iterable[Row], peers: Iterable[str] | None) -> Iterator[tuple[str, list[str]]]:
    """(variant, rows) of each process, peer after peer within a group."""
    for _, members in itertools.groupby(rows, lambda r: r.group):
        group = list(members)
        for by in dict.fromkeys(v for r in group for v in (*r.ours, *r.peers)):
            mine = [r.name for r in group if by in (*r.ours, *r.peers)]
            if peers is None or any(by == p or by.startswith(f"{p} ") for p in peers):
                yield by, mine


def measured(variant: str, rows: list[str], environment: dict[str, str]) -> list[Found]:
    """The rows by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu.worker", variant, *rows]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT, check=False,
                              env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **environment})
        out, why = done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        out, why = (error.stdout or b"").decode(), f"more than {TIMEOUT} s"
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    missing = [r for r in rows if r not in {f["row"] for f in found}]
    last = (why.strip().splitlines() or ["no output"])[-1][:200]
    if any("error" in f for f in found):
        print(why[-2000:], file=sys.stderr)
    return [*found, *({"row": r, "by": variant, "error": last} for r in missing)]


def compiled(variant: str, rows: list[str]) -> list[Found]:
    """Compile times, cold and from the cache: the same process twice, with a cache that is empty at first."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "TESSERA_CACHE_DIR": folder, "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": f"{folder}/triton",
        }
        cold, cached = (measured(variant, ["compile_cold"], environment)[0] for _ in range(2))
    both = [{**cold, "row": "compile_cold"}, {**cached, "row": "compile_cached"}]
    return [f for f in both if f["row"] in rows]


def started(repeats: int = 7) -> Found:
    """From the start of a C++ process to its first result."""
    import tessera

    found: Found = {"row": "cpp_start", "by": "tessera", "version": tessera.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = ("from benchmarks.gpu.peers_tessera import *; m, x = mlp(1); "
                f"graph.compile(m(x), target='ptx').save({str(folder / 'mlp.tsr')!r})")
        package = Path(tessera.__file__).parent / "lib" / "cmake" / "Tessera"
        source, build = str(Path(__file__).parent / "cpp"), str(folder / "build")
        commands = [
            [sys.executable, "-c", code],
            ["cmake", "-S", source, "-B", build, f"-DTessera_DIR={package}", "-DCMAKE_BUILD_TYPE=Release"],
            ["cmake", "--build", build],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            if done.returncode:
                return {**found, "error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
        times: list[tuple[float, ...]] = []
        for _ in range(repeats):
            start = time.monotonic_ns()
            done = subprocess.run([f"{build}/first_result", str(folder / "mlp.tsr")], capture_output=True, text=True,
                                  check=False)
            if done.returncode:
                return {**found, "error": done.stderr.strip()[:200]}
            times.append(tuple((int(t) - start) / 1e9 for t in done.stdout.split()[:3]))
    best = min(times, key=lambda t: t[2])
    middle = sorted(t[2] for t in times)[len(times) // 2]
    parts = f"main after {best[0]:.3f} s, loaded after {best[1]:.3f} s"
    return {**found, "min": best[2], "median": middle, "parts": parts}


def keep(found: Found, results: Path, where: str) -> None:
    """Write what was found as a file of its own."""
    unit = ROWS[found["row"]].unit
    shown = found.get("error") or f"{found['median'] * SCALE[unit]:.4g} {unit} (least {found['min'] * SCALE[unit]:.4g})"
    print(f"{found['row']:20} {found['by']:28} {shown}", flush=True)
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{found['row']}-{found['by'].replace(' ', '_').replace(',', '')}.json"
    if "error" in found and path.exists() and "error" not in json.loads(path.read_text()):
        return
    about = {"device": where, "python": platform.python_version(), "date": datetime.date.today().isoformat()}
    path.write_text(json.dumps({**found, **about}, indent=1) + "\n")


def table(found: dict[tuple[str, str], Found]) -> list[str]:
    """The table's lines: for each row ours and every peer's, the aim, and whether it is met."""
    lines = ["| work | unit | Tessera | aim | met | best peer | all peers |", "|---|---|---|---|---|---|---|"]
    for row in ROWS.values():
        def text(by: str, row: Row = row) -> str:
            one = found.get((row.name, by))
            if one is None:
                return "not measured"
            return "failed" if "error" in one else f"{one['median'] * SCALE[row.unit]:.4g}"

        peers = {by: found[row.name, by]["median"] for by in row.peers if "median" in found.get((row.name, by), {})}
        best = min(peers, key=peers.__getitem__) if peers else None
        mine = text("tessera")
        extra = "".join(f"; {by.split(', ')[1]}: {text(by)}" for by in row.ours[1:] if (row.name, by) in found)
        met = "" if row.aim is None else _met(row, found)
        ahead = f"{text(best)} ({best})" if best else "–"
        others = "; ".join(f"{by} {text(by)}" for by in row.peers if (row.name, by) in found) or "–"
        aim = "" if row.aim is None else f"≤ {row.aim:g}"
        lines.append(f"| {row.title} | {row.unit} | {mine}{extra} | {aim} | {met} | {ahead} | {others} |")
    return lines


def _met(row: Row, found: dict[tuple[str, str], Found]) -> str:
    """Whether the aim is met: as the program comes, or once its kernels are chosen by measurements."""
    within = {
        by: found[row.name, by]["median"] * SCALE[row.unit] <= (row.aim or 0)
        for by in ("tessera", "tessera, autotuned") if "median" in found.get((row.name, by), {})
    }
    if within.get("tessera"):
        return "yes"
    return "autotuned" if any(within.values()) else "no" if "tessera" in within else "?"


def page(results: Path) -> str:
    """The whole page, of all that was measured so far."""
    found = {}
    for path in sorted(results.glob("*.json")):
        one = json.loads(path.read_text())
        if one["row"] in ROWS:
            found[one["row"], one["by"]] = one
    places = sorted({f"{f['device']}, {f['date']}" for f in found.values()})
    names = {"tessera": "Tessera", "torch": "PyTorch", "jax": "JAX"}
    pythons = sorted({f.get("python", platform.python_version()) for f in found.values()})
    versions = sorted({f"{names[peer(f['by'])]} {f['version']}" for f in found.values() if "version" in f})
    rounds = f"medians of {ROUNDS} rounds of calls that follow each other, by the wall's clock, warm"
    lines = [
        "# Work on a GPU, beside PyTorch, JAX and cuDNN", "",
        f"Machine: {'; '.join(places)}. Python {', '.join([*pythons, *versions])}.",
        f"Command: `make bench-gpu` (`python -m benchmarks.gpu.run`): {rounds}; each peer in a process of its "
        "own. bf16 unless a row says more.", "",
        *table(found), "",
        "AdamW on the MLP: Tessera keeps moments in f32, and master weights in f32 unless it says not; PyTorch and JAX "
        "keep parameters and moments in bf16, and so move about half as many bytes. On GPT-2 all keep f32 parameters "
        "and moments. PyTorch's compile time is that of its first step, less a later one. Autotuned: compiled with "
        "`Schedule(autotune=True)`, which may choose cuBLASLt.",
    ]
    failures = [f"- {ROWS[r].title}, {by}: {one['error']}" for (r, by), one in found.items() if "error" in one]
    parts = [f"- {ROWS[r].title}: {one['parts']}." for (r, _), one in found.items() if "parts" in one]
    return "\n".join([*lines, *([""] if failures or parts else []), *parts, *failures]) + "\n"


def main() -> None:
    """Measure, keep, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--no-peers", action="store_true", help="Tessera alone")
    parser.add_argument("--by", nargs="*", help="only these, by whole names or first words: tessera, torch, jax, …")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench-gpu", help="folder of measurements")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu-DATE.md")
    arguments = parser.parse_args()
    if wrong := [r for r in arguments.rows if r not in ROWS]:
        parser.error(f"no row {', '.join(wrong)}; there are {', '.join(ROWS)}")
    rows = [r for r in ROWS.values() if not arguments.rows or r.name in arguments.rows]
    where, peers = device(), OURS if arguments.no_peers else arguments.by
    if where is None:
        parser.error("nvidia-smi finds no NVIDIA GPU on this machine")
    for by, names in jobs(rows, peers):
        found = [started()] if names == ["cpp_start"] else compiled(by, names) if names[0].startswith("compile") \
            else measured(by, names, {})
        for one in found:
            keep(one, arguments.results, where)
    output = arguments.output or ROOT / "benchmarks" / "results" / f"gpu-{datetime.date.today().isoformat()}.md"
    output.write_text(page(arguments.results), encoding="utf-8")
    print("\n" + output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
