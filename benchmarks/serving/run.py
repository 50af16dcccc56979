"""`make bench-cpp`: what a run costs from C++, throughput of several threads, loading a large file, sizes.

The work is an empty graph (one input given back) and the MLP 64→256→256→8 with relu on one row, with the same weights
for all: Tessera, ONNX Runtime's C API and PyTorch's AOTInductor, each from C++ with one thread per run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.run import cpu_name

SOURCES = Path(__file__).parent / "cpp"
SIZES = (64, 256, 256, 8)
GIB = 1 << 30


def weights() -> dict[str, np.ndarray]:
    """The MLP's parameters."""
    rng = np.random.default_rng(0)
    out = {}
    for i, (rows, columns) in enumerate(zip(SIZES, SIZES[1:], strict=False)):
        out[f"w{i}"] = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        out[f"b{i}"] = rng.standard_normal(columns).astype(np.float32)
    return out


def save_tessera(name: str, path: Path) -> None:
    """A graph as a .tsr file for this machine's CPU."""
    from tessera import graph, op

    x = op.tensor((1, SIZES[0]), name="x")
    y: Any = op.reshape(x, (1, SIZES[0]))
    if name == "mlp":
        values, y = weights(), x
        for i in range(3):
            w, b = (op.parameter(values[k].shape, name=k, init=values[k]) for k in (f"w{i}", f"b{i}"))
            y = op.add(op.matmul(y, w), b)
            y = op.relu(y) if i < 2 else y
    graph.compile({"y": y}).save(str(path))


def save_onnx(name: str, path: Path) -> None:
    """The same as an ONNX model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, value = [], "x"
    if name == "mlp":
        for i in range(3):
            nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], ["y" if i == 2 else f"z{i}"]))
            value = "y" if i == 2 else f"h{i}"
            if i < 2:
                nodes.append(helper.make_node("Relu", [f"z{i}"], [value]))
    else:
        nodes.append(helper.make_node("Identity", ["x"], ["y"]))
    results = SIZES[-1] if name == "mlp" else SIZES[0]
    shape = helper.make_tensor_value_info
    onnx.save(helper.make_model(
        helper.make_graph(nodes, name, [shape("x", TensorProto.FLOAT, (1, SIZES[0]))],
                          [shape("y", TensorProto.FLOAT, (1, results))],
                          [numpy_helper.from_array(v, k) for k, v in weights().items()] if name == "mlp" else []),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def save_inductor(name: str, path: Path) -> None:
    """The same as an AOTInductor package."""
    import torch

    values = {k: torch.from_numpy(v) for k, v in weights().items()}

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for key, value in values.items():
                self.register_buffer(key, value)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if name != "mlp":
                return x.clone()
            for i in range(3):
                x = torch.addmm(getattr(self, f"b{i}"), x, getattr(self, f"w{i}"))
                x = torch.relu(x) if i < 2 else x
            return x

    with torch.no_grad():
        exported = torch.export.export(Model(), (torch.zeros(1, SIZES[0]),))
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path))


def compile_program(source: str, output: Path, *flags: str) -> Path:
    """A program of this folder, built with ``c++ -O2``."""
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-O2", "-std=c++17", str(SOURCES / source), "-o", str(output), *flags], check=True)
    return output


def tessera_flags() -> list[str]:
    """Flags for programs that use the installed package."""
    done = [subprocess.run([sys.executable, "-m", "tessera", o], check=True, capture_output=True, text=True).stdout
            for o in ("--cflags", "--libs")]
    return " ".join(done).split()


def torch_flags() -> list[str]:
    """Flags for programs that use PyTorch's C++ library."""
    import torch

    root = Path(torch.__file__).parent
    return ["-std=c++20", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", f"-I{root}/include",
            f"-I{root}/include/torch/csrc/api/include", f"-L{root}/lib", f"-Wl,-rpath,{root}/lib",
            "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl", "-pthread"]


def measure(*command: str | Path) -> dict[str, Any]:
    """The JSON that a program prints, or its last line of errors."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def attempt(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, or why not."""
    try:
        return make()
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:100]}


def submit_rows(folder: Path, seconds: float) -> list[str]:
    """The table of overheads and rates."""
    program = compile_program("tessera_bench.cpp", folder / "tessera_bench", *tessera_flags(), "-pthread")
    rows = []

    def add(work: str, peer: str, how: str, result: dict[str, Any], key: str) -> None:
        if "error" in result:
            rows.append(f"| {work} | {peer} | {how} | {result['error']} | | | | |")
            return
        rates = [result["rates"].get(n, {}).get(key) for n in ("1", "2", "4")]
        shown = [f"{r / 1e3:.0f}" if r else "" for r in rates]
        time = result[key]
        rows.append(f"| {work} | {peer} | {how} | {time['min']:.0f} | {time['median']:.0f} | {' | '.join(shown)} |")

    for work in ("empty", "mlp"):
        columns, results = SIZES[0], SIZES[-1] if work == "mlp" else SIZES[0]
        save_tessera(work, folder / f"{work}.tsr")
        ours = measure(program, "submit", folder / f"{work}.tsr", "1", str(seconds))
        peer = f"Tessera {ours.get('version', '')}"
        add(work, peer, "Binding, on the calling thread", ours, "run")
        add(work, peer, "Binding::submit, Run::wait", ours, "submit")
        add(work, peer, "submit by name, outputs given", ours, "named")
        add(work, peer, "submit by name, new outputs", ours, "named_new")

        def onnx(work: str = work, columns: int = columns, results: int = results) -> dict[str, Any]:
            import onnxruntime

            library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
            save_onnx(work, folder / f"{work}.onnx")
            bench = compile_program("onnxruntime_bench.cpp", folder / "onnxruntime_bench", "-ldl", "-pthread")
            return measure(bench, library, folder / f"{work}.onnx", "1", str(columns), str(results), str(seconds))

        result = attempt(onnx)
        add(work, f"ONNX Runtime {result.get('version', '')}", "C API, outputs given", result, "run")

        def inductor(work: str = work, columns: int = columns) -> dict[str, Any]:
            import torch

            save_inductor(work, folder / f"{work}.pt2")
            bench = folder / "aoti_bench"
            if not bench.exists():
                compile_program("aoti_bench.cpp", bench, *torch_flags())
            result = measure(bench, folder / f"{work}.pt2", "1", str(columns), str(seconds))
            return {**result, "version": torch.__version__}

        result = attempt(inductor)
        add(work, f"PyTorch {result.get('version', '')}", "AOTInductor, C++", result, "run")
    return rows


def load_rows(folder: Path) -> list[str]:
    """The table of loading a file of 1 GiB."""
    from tessera import graph, op

    program = compile_program("tessera_bench.cpp", folder / "tessera_bench", *tessera_flags(), "-pthread")
    table = np.zeros((GIB // 4 // 1024, 1024), np.float32)
    table[::64] = 1.5
    index = op.tensor((op.dim("B"),), dtype="i64", name="index")
    rows_of = op.take(op.parameter(table.shape, name="table", init=table), index, axis=0)
    graph.compile({"y": rows_of}).save(str(folder / "large.tsr"))
    del table
    rows = []
    for verify in ("skip", "verify"):
        tries = [measure(program, "load", folder / "large.tsr", verify) for _ in range(3)]
        best = min(tries, key=lambda r: r["seconds"])
        rows.append(f"| Graph::load of 1 GiB, {'hashes verified' if verify == 'verify' else 'no hashes'} "
                    f"| {best['seconds'] * 1e3:.2f} ms, {best['resident'] / 2**20:.1f} MiB resident |")
    (folder / "large.tsr").unlink()
    return rows


def size_rows(folder: Path) -> list[str]:
    """The sizes of the library and of a program that holds it."""
    import tessera

    root = Path(__file__).parents[2]
    shared = next(Path(tessera.__file__).parent.rglob("libtessera.so"))
    rows = [f"| libtessera.so, stripped | {shared.stat().st_size / 1024:.0f} KiB |"]
    build, prefix = folder / "static", folder / "prefix"
    quiet = {"check": True, "capture_output": True}
    subprocess.run(["cmake", "-S", str(root), "-B", str(build), f"-DCMAKE_INSTALL_PREFIX={prefix}"], **quiet)
    subprocess.run(["cmake", "--build", str(build), "-j", "2", "--target", "tessera", "tessera_static"], **quiet)
    subprocess.run(["cmake", "--install", str(build)], **quiet)
    library = next(prefix.rglob("libtessera.a"))
    include = f"-I{prefix}/include"
    options = ["-s", "-Wl,--gc-sections", "-pthread", "-ldl"]
    for name, more in (("libtessera.a in it", ()), ("libtessera.a and the C++ library in it",
                                                     ("-static-libstdc++", "-static-libgcc"))):
        demo = compile_program("demo.cpp", folder / "demo", include, str(library), *options, *more)
        subprocess.run([str(demo), str(folder / "mlp.tsr")], **quiet)
        rows.append(f"| a program that loads and runs a graph, {name} | {demo.stat().st_size / 1024:.0f} KiB |")
    return rows


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time of one number")
    parser.add_argument("--parts", nargs="*", default=["submit", "load", "size"], choices=["submit", "load", "size"])
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/cpp-DATE.md")
    arguments = parser.parse_args()
    today = datetime.date.today().isoformat()
    output = arguments.output or Path(__file__).parents[1] / "results" / f"cpp-{today}.md"
    machine = f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, {platform.release()}"
    lines = [f"# C++, {today}", "", f"Machine: {machine}; {sysconfig.get_config_var('CXX') or 'c++'}.",
             f"Command: `make bench-cpp` ({arguments.seconds:g} s a number).", ""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "submit" in arguments.parts:
            lines += ["| work | by | how | min ns | median ns | 10³ runs/s, 1 thread | 2 threads | 4 threads |",
                      "|---|---|---|---|---|---|---|---|", *submit_rows(folder, arguments.seconds), ""]
        rows = load_rows(folder) if "load" in arguments.parts else []
        rows += size_rows(folder) if "size" in arguments.parts else []
        lines += ["| what | measured |", "|---|---|", *rows]
    output.write_text("\n".join(lines) + "\n")
    print(output.read_text())


if __name__ == "__main__":
    main()
