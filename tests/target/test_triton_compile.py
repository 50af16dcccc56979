"""Kernels compiled for every GPU architecture, without a GPU: what comes out, and how wide it reads."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tessera import graph, op
from tessera.cli import main
from tessera.errors import ArgumentError, CompileError, DeviceError, UnsupportedError
from tessera.ir.dtype import DType, bf16, bool_, f8e4m3, f16, f32, f64, i32, i64, u8
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.machine import GPU
from tessera.schedule.plan import Plan
from tessera.target.hsaco.compile import compile_kernels as compile_hsaco
from tessera.target.ptx.compile import compile_kernels as compile_ptx
from tessera.target.triton import compile as driver
from tessera.target.triton import toolchain
from tessera.target.triton.launch import Image
from tessera.tile.ir import COMPUTES, Axis, Buffer, Compute, Const, Load, LoopKernel, Op, Ref, Stage, Store
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_primitives

from tests.target.test_compute import INDEX, N, sym
from tests.target.test_triton_compute import _TRUTH, _TWO, dtypes_of

NVIDIA, AMD = ("sm_80", "sm_90a", "sm_100a"), ("gfx90a", "gfx942")


def plan_of(*outputs: Value) -> Plan:
    return build_plan(to_primitives(Graph({f"y{i}": v for i, v in enumerate(outputs)})), None, GPU)


def images(kernels: list, architectures: tuple[str, ...] = (*NVIDIA, *AMD)) -> list[Image]:
    return [(compile_ptx if a in NVIDIA else compile_hsaco)(kernels, a) for a in architectures]


def representative() -> list:
    """One kernel of each form."""
    x, r = (op.tensor((op.dim("rows"), 768), "bf16", name=n) for n in "xr")
    s = op.tensor((768,), "bf16", name="s")
    labels = op.tensor((op.dim("rows"),), "i64", name="labels")
    long = op.tensor((4096, 20000), "f16", name="long")
    a, b = op.tensor((33, 65), "f32", name="a"), op.tensor((65, 40), "f32", name="b")
    outputs = [
        op.gelu(x * s + s) + r,
        op.layer_norm(x, s, s),
        op.softmax(long),
        op.sum(long, axis=0),
        op.argmax(op.cumsum(a, axis=1), axis=1),
        op.index_add(op.zeros((500, 768), "bf16"), labels, x, axis=0),
        op.relu(a @ b),
    ]
    return [k for y in outputs for k in plan_of(y).kernels]


def test_every_form_for_every_architecture() -> None:
    kernels = representative()
    for image in images(kernels):
        assert len(image.launches) == len(kernels) and not any(m.bytes == 0 for m in image.modules)
        machine = {"cubin": b"\x7fELF", "hsaco": b"\x7fELF", "ptx": b"//\n"}
        for m in image.modules:
            assert image.code[m.offset :].startswith(machine[m.format]) and m.offset % 64 == 0
            assert m.alternative == (m.format == "ptx") and (m.format != "ptx" or image.level == "sm_80")
        for k in image.kernels:
            assert k.threads % 32 == 0 and k.threads <= 1024 and k.shared <= 64 * 1024 and k.symbol == k.name
            assert k.registers is not None and 0 < k.registers <= 512
            assert [list(a.plan()) for a in k.arguments[-2:]] == [["global_scratch"], ["profile_scratch"]]


def test_memory_is_read_16_bytes_at_a_time() -> None:
    x, r = (op.tensor((op.dim("rows"), 768), "bf16", name=n) for n in "xr")
    image = compile_ptx(plan_of(op.gelu(x) + r).kernels, "sm_80")
    module = next(m for m in image.modules if m.alternative)
    text = image.code[module.offset : module.offset + module.bytes].decode()
    wide = text.count("ld.global.v4.b32")
    assert wide and wide == text.count("ld.global") and text.count("st.global.v4.b32") == text.count("st.global")


def everything(dtype: DType) -> LoopKernel:
    """All functions that a dtype has, in one kernel with one output for numbers and one for truths."""
    ops: list[Op] = [Load(0, (sym(INDEX),)), Load(1, (sym(INDEX),)), Const(False, bool_)]
    number, truth = Ref(0, 0), Ref(0, 2)
    for function in COMPUTES:
        if function in ("cast", "where") or dtype not in dtypes_of(function):
            continue
        args = (number, Ref(0, 1)) if function in _TWO else (number,)
        ops.append(Compute(function, args, bool_ if function in _TRUTH else dtype))
        last = Ref(0, len(ops) - 1)
        if function in _TRUTH:
            ops.append(Compute("logical_xor", (truth, last), bool_))
            truth = Ref(0, len(ops) - 1)
        elif dtype != bool_:
            number = last
    for target in (f64, bf16, i64, u8):
        ops += [Compute("cast", (number,), target)]
        ops += [Compute("cast", (Ref(0, len(ops) - 1),), dtype)]
        number = Ref(0, len(ops) - 1)
    ops += [Compute("where", (truth, number, Ref(0, 0)), dtype)]
    ops += [Store(2, (sym(INDEX),), Ref(0, len(ops) - 1)), Store(3, (sym(INDEX),), truth)]
    kinds = (dtype, dtype, dtype, bool_)
    buffers = tuple(
        Buffer(f"x{i}", d, (sym(N),), (1,), "in" if i < 2 else "out") for i, d in enumerate(kinds)
    )
    return LoopKernel(f"everything_{dtype}", (N,), buffers, (Axis(INDEX, sym(N)),), (Stage((), tuple(ops)),))


def test_every_function_compiles() -> None:
    integers = [everything(d) for d in (i64, i32, u8, bool_)]
    assert len(compile_ptx([*integers, everything(f32)], "sm_90").kernels) == 5
    assert len(compile_hsaco([*integers, everything(f64)], "gfx90a").kernels) == 5


def test_8_bit_floats_need_no_instructions_of_their_own() -> None:
    x = op.tensor((64, 64), "f8e4m3", name="x")
    images(plan_of(op.cast(op.cast(x, "f32") * 2.0, "f8e5m2")).kernels, ("sm_80", "gfx90a"))


# Artefacts.


def test_a_plan_of_an_artefact(tmp_path: Path) -> None:
    rows = op.dim("rows", min=0)
    x, i = op.tensor((rows, 8), name="x"), op.tensor((rows,), "i64", name="i")
    table = op.parameter((10, 8), name="gpu.table")
    compiled = graph.compile(op.take(table, i, axis=0) + x, target=["ptx", "hsaco", "cpu"], arch=["sm_80", "gfx942"])
    metadata = compiled._built.metadata
    plan = json.loads(metadata["tessera.plan.ptx.sm_80"])
    assert [m["format"] for m in plan["modules"]][:2] == ["cubin", "ptx"]
    check = next(c for c in plan["instructions"] if "check_range" in c)
    kernel = plan["kernels"][check["kernel"]]
    assert {"status": "check"} in kernel["arguments"] and check["sizes"] == ["rows", 0, 9]
    written = next(c for c in plan["instructions"] if c.get("kernel") is not None and "check_range" not in c and any(
        plan["buffers"][b]["kind"] == "output" for b in c["buffers"]))
    assert {"status": "flag"} in plan["kernels"][written["kernel"]]["arguments"]
    assert all(len(c["grid"]) == 3 for c in plan["instructions"] if "kernel" in c)
    sources = json.loads(metadata["tessera.source.hsaco.gfx942"])
    assert all("@triton.jit" in s for s in sources) and len(sources) == len(plan["kernels"])
    compiled.save(tmp_path / "both.tsr")
    x0 = np.ones((3, 8), np.float32)
    expected = compiled(np.arange(3), x0)
    assert graph.load(tmp_path / "both.tsr")(np.arange(3), x0).numpy().tolist() == expected.numpy().tolist()


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kernels with what is known of them, and their text."""
    file = str(tmp_path / "inspected.tsr")
    graph.compile(op.tanh(op.tensor((5, 77), name="x")) * 3.5, target="ptx", arch=["sm_80", "sm_90a"]).save(file)
    assert main(["inspect", file]) == 0
    out = capsys.readouterr().out
    assert "target ptx sm_90a: 1 kernels" in out and " threads, " in out and " registers)" in out
    assert main(["inspect", file, "--source", "tanh_mul"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# ptx sm_80: ") and "# ptx sm_90a: " in out and "def tanh_mul(b0, b1):" in out
    assert "test_triton_compile.py" in out and "libdevice.tanh" in out and out.count("@triton.jit") == 1
    assert main(["inspect", file, "--source", "sinh"]) == 1
    assert "there is no GPU kernel 'sinh'; the file has source of: tanh_mul" in capsys.readouterr().err


def test_compilation_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In memory and on disk, by content; a damaged entry is compiled again."""
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_cache", driver.ProgramCache())
    x = op.tensor((5, 77), name="x")
    kernels = plan_of(op.tanh(x) * 3.5).kernels
    first = compile_ptx(kernels, "sm_90a")
    entry, = tmp_path.glob("gpu-sm_90a-*.bin")
    monkeypatch.setattr(driver, "compile_program", None)
    monkeypatch.setattr(driver, "_cache", driver.ProgramCache())
    assert compile_ptx(kernels, "sm_90a") == first
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(driver, "_cache", driver.ProgramCache())
    with pytest.raises(TypeError):
        compile_ptx(kernels, "sm_90a")


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    x = op.tensor((5, 3), name="x")
    with pytest.raises(ArgumentError, match="arch 'sm_70' is unknown; use .*sm_80"):
        graph.compile(x + 1, target="ptx", arch="sm_70")
    with pytest.raises(ArgumentError, match='arch is for the targets "ptx" and "hsaco"'):
        graph.compile(x + 1, arch="sm_80")
    with pytest.raises(ArgumentError, match='arch \'sm_1\' is unknown for target "ptx"'):
        compile_ptx([], "sm_1")
    with pytest.raises(ArgumentError, match='arch \'gfx1\' is unknown for target "hsaco"'):
        compile_hsaco([], "gfx1")
    compiled = graph.compile(x * 2, target="hsaco", arch="gfx942")
    with pytest.raises(DeviceError):
        compiled(np.ones((5, 3), np.float32))
    monkeypatch.setattr(toolchain, "version", lambda _: "3.1.0")
    with pytest.raises(UnsupportedError, match=r"needs the package triton 3.6.0, and 3.1.0 is installed; pip install"):
        graph.compile(x + 3, target="ptx")

    def missing(name: str) -> str:
        raise toolchain.PackageNotFoundError(name)

    monkeypatch.setattr(toolchain, "version", missing)
    with pytest.raises(UnsupportedError, match=r"which is not installed; pip install 'tessera\[gpu\]'"):
        graph.compile(x + 3, target="ptx")


def test_what_triton_refuses_is_a_compile_error() -> None:
    from tessera.target.triton.build import compile_program
    from tessera.target.triton.launch import Program

    program = Program("broken", "import triton\n@triton.jit\ndef broken():\n    missing()\n", (), (1, 1, 1))
    with pytest.raises(CompileError, match="kernel broken: Triton does not compile it for 80"):
        compile_program(program, "cuda", 80, 32)


def test_threads_that_come_while_triton_is_imported() -> None:
    text = """
        import threading, time
        from tessera.errors import CompileError
        from tessera.target.triton.build import compile_program
        from tessera.target.triton.launch import Program

        program = Program("broken", "import triton\\n@triton.jit\\ndef broken():\\n    missing()\\n", (), (1, 1, 1))
        refused = []

        def one():
            try:
                compile_program(program, "cuda", 80, 32)
            except CompileError as error:
                refused.append(error)

        threads = [threading.Thread(target=one) for _ in range(100)]
        for thread in threads:
            thread.start()
            time.sleep(0.005)
        for thread in threads:
            thread.join()
        assert len(refused) == 100, len(refused)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_processes_that_compile() -> None:
    """What does not compile, or ends its process, is None, and the rest is done."""
    from tessera.target.triton import worker
    from tessera.target.triton.launch import Program

    head = "import os\nimport triton\n"

    def program(name: str, before: str = "", body: str = "pass") -> Program:
        return Program(name, f"{head}{before}@triton.jit\ndef {name}():\n    {body}\n", (), (1, 1, 1))

    programs = [program("broken", body="missing()"), program("fatal", "os._exit(3)\n"), program("a"), program("b")]
    with worker.started(3):
        found = worker.compile_in_processes([(p, "cuda", 80, 32) for p in programs], 2)
        left = list(worker._waiting)
    assert [f is not None for f in found] == [False, False, True, True]
    assert len(left) == 1 and left[0].poll() is not None and not worker._waiting


def test_dtypes_of_the_table() -> None:
    assert f8e4m3 not in dtypes_of("add") and f16 in dtypes_of("add")
