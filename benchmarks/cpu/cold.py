"""Cold start, call overhead and size: the rows below the main table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.cpu.program import build_program
from benchmarks.cpu.workloads import measure, w1

REPEATS = 7

COMPILE_W1 = """
import json, time
from benchmarks.cpu.workloads import w1
work = w1()
begin = time.perf_counter()
from benchmarks.cpu.peers_tessera import training_step
imported = time.perf_counter()
step, _ = training_step(work)
step(work.data["x"], work.data["labels"])
print(json.dumps([imported - begin, time.perf_counter() - imported]))
"""

COMPILE_W1_JAX = """
import json, time
from benchmarks.cpu.workloads import w1
from benchmarks.cpu.peers_jax import prepare
import jax
work = w1()
jax.numpy.zeros(3).block_until_ready()
begin = time.perf_counter()
prepare(work, 2, "jit").call()
print(json.dumps([0.0, time.perf_counter() - begin]))
"""


def _python(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _import_seconds() -> float:
    code = "import time, json; b = time.perf_counter(); import tessera; print(json.dumps([time.perf_counter() - b]))"
    return min(_python(code)[0] for _ in range(REPEATS))


def _first_result(path: Path) -> float:
    """Seconds from starting a C++ process to its end, which follows its first result."""
    program = build_program()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        subprocess.run([str(program), "first", str(path)], check=True)
        times.append(time.perf_counter() - begin)
    return min(times)


def _overhead() -> tuple[float, float]:
    """Seconds a call of a graph that adds one to four numbers takes, from Python and from C++."""
    import tessera
    from tessera import graph, op

    compiled = graph.compile({"y": op.tensor((4,), "f32", name="x") + 1.0})
    x = tessera.array(np.zeros(4, np.float32))
    python = measure(lambda: compiled(x), 1.0)["min"]
    with tempfile.TemporaryDirectory() as folder:
        path, data, out = (os.path.join(folder, n) for n in ("add.tsr", "x.bin", "y.bin"))
        compiled.save(path)
        np.zeros(4, np.float32).tofile(data)
        command = [str(build_program()), "time", path, data, out, "2", "1"]
        cpp = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["min"]
    return python, cpp


def _digits(folder: str) -> Path:
    """An artefact like the demo's: the digits MLP with a symbolic batch."""
    from tessera import graph, op

    x = op.tensor((op.dim("B", min=1, max=4096), 64), "f32", name="x")
    path = Path(folder) / "digits.tsr"
    graph.compile({"logits": op.mlp(in_dim=64, hidden=[256, 128], out_dim=10)(x)}).save(path)
    return path


def cold_rows() -> list[str]:
    """The table rows: what, measured, aim."""
    import tessera

    library = Path(tessera.__file__).parent / "lib" / "libtessera.so"
    needed = subprocess.run(["ldd", str(library)], check=True, capture_output=True, text=True).stdout
    names = sorted({line.split()[0] for line in needed.splitlines() if "=>" in line})
    python, cpp = _overhead()
    compiled = min(_python(COMPILE_W1)[1] for _ in range(REPEATS))
    jax_time = min(_python(COMPILE_W1_JAX)[1] for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        first = _first_result(_digits(folder))
    step = w1().title
    return [
        f"| `import tessera` | {_import_seconds():.3f} s | 0.15 s |",
        f"| cold compile and first run of: {step} | {compiled:.2f} s (JAX {jax_time:.2f} s) | 0.5 s |",
        f"| C++ process, start to end, one result of a digits MLP | {first * 1e3:.1f} ms | 20 ms |",
        f"| call of a compiled graph of one tiny kernel, from C++ | {cpp * 1e6:.2f} µs | 5 µs |",
        f"| the same from Python | {python * 1e6:.2f} µs | 10 µs |",
        f"| size of libtessera.so | {library.stat().st_size / 1e6:.2f} MB | 3 MB |",
        f"| libraries it needs | {', '.join(names)} | the C++ standard library |",
    ]
