"""Kernels over long rows: loops without masks, rows in registers and in shared memory, labels, the instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import triton
from tessera import op
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.machine import GPU
from tessera.target.triton import ahead, exponentials, loops, points, shared_rows
from tessera.target.triton.build import compile_program
from tessera.target.triton.head import Options
from tessera.target.triton.kept import values_kept
from tessera.target.triton.launch import Binary, Program
from tessera.target.triton.tiles import Blocks, choose
from tessera.tile.interpret import run_kernel
from tessera.tile.ir import Compute, Load, LoopKernel, Ref, Store
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.target import triton_interpreter


def largest(outputs: dict[str, Value]) -> LoopKernel:
    """The kernel of most stages of a plan."""
    kernels = build_plan(to_primitives(Graph(outputs)), None, GPU).kernels
    return max((k for k in kernels if isinstance(k, LoopKernel)), key=lambda k: len(k.stages))


def cross_entropy(rows: int, columns: int, dtype: str = "bf16") -> LoopKernel:
    """Loss and gradient of logits, in f32."""
    logits, labels = op.tensor((rows, columns), dtype, name="logits"), op.tensor((rows,), "i64", name="labels")
    loss = op.cross_entropy(op.cast(logits, "f32"), labels)
    gradient, = gradients([loss], [logits])
    return largest({"loss": loss, "gradient": gradient})


def in_place(kernel: LoopKernel) -> LoopKernel:
    """The kernel with its gradient in the place of the logits."""
    wide = next(i for i, b in enumerate(kernel.buffers) if b.role == "out" and len(b.shape) == 2)
    stages = tuple(
        replace(s, ops=tuple(replace(o, buffer=0) if isinstance(o, Store) and o.buffer == wide else o for o in s.ops))
        for s in kernel.stages)
    return replace(kernel, stages=stages, buffers=(replace(kernel.buffers[0], role="inout"), *kernel.buffers[1:]))


def arrays_of(kernel: LoopKernel, seed: int) -> list[np.ndarray]:
    """Logits with rows of NaN and infinities, labels at both ends, between, and ignored."""
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for b in kernel.buffers:
        shape = tuple(int(d) for d in b.shape)  # type: ignore[arg-type]
        if b.dtype.is_integer:
            array = random.integers(0, int(kernel.buffers[0].shape[1]), shape)  # type: ignore[arg-type]
            array[:4] = [0, -100, int(kernel.buffers[0].shape[1]) - 1, 5]  # type: ignore[arg-type]
        elif b.role == "out":
            array = np.full(shape, 77).astype(b.dtype.numpy)
        else:
            array = np.asarray(random.standard_normal(shape) * 4).astype(b.dtype.numpy)
        found.append(array)
    logits = found[0]
    logits[3, 5], logits[4], logits[5, 1], logits[6, ::3], logits[7] = np.nan, -np.inf, np.inf, -np.inf, -1e30
    return found


def assert_same(found: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> None:
    for a, b in zip(found, right, strict=True):
        rtol = 1e-2 if a.dtype == ml_dtypes.bfloat16 else 1e-5
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("written_over", [False, True])
def test_picks_at_the_label(written_over: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewritten kernel means the same, and compares no positions with labels."""
    monkeypatch.setattr(points, "SHORTEST", 2)
    kernel = cross_entropy(17, 70)
    kernel = in_place(kernel) if written_over else kernel
    other = points.at_points(kernel)
    looped = [o for s in other.stages if s.axes for o in s.ops]
    assert not any(isinstance(o, Compute) and o.function in ("eq", "where") for o in looped)
    assert sum(isinstance(o, Store) and o.mask is not None for s in other.stages for o in s.ops) == 1
    found, right = arrays_of(kernel, 1), arrays_of(kernel, 1)
    run_kernel(other, found, {})
    run_kernel(kernel, right, {})
    assert_same(found, right)


def test_what_is_no_pick_stays() -> None:
    """Short rows, sums of something else elsewhere, positions that are not the axis."""
    x, labels = op.tensor((64, 4096), "f32", name="x"), op.tensor((64, 1), "i64", name="labels")
    places = op.arange(4096)
    for y in (
        op.sum(op.where(places == labels, x, 1.0), axis=1), op.max(op.where(places == labels, x, 0.0), axis=1),
        op.sum(op.where(places * 2 == labels, x, 0.0), axis=1), op.sum(op.where(places <= labels, x, 0.0), axis=1),
    ):
        kernel = largest({"y": y})
        assert points.at_points(kernel) is kernel
    picked = largest({"y": op.sum(op.where(places == labels, x, 0.0), axis=1)})
    rewritten = points.at_points(picked)
    assert not any(s.axes and any(isinstance(o, Load) for o in s.ops) for s in rewritten.stages)


@pytest.mark.parametrize("written_over", [False, True])
@pytest.mark.parametrize("columns", [140, 128, 9])
@pytest.mark.parametrize(("dtype", "kept"), [("bf16", False), ("f32", False), ("bf16", True)])
def test_blocks_in_triton(
    columns: int, dtype: str, kept: bool, written_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole blocks, a rest, neither of them; in loops and kept."""
    monkeypatch.setattr(points, "SHORTEST", 2)
    kernel = cross_entropy(17, columns, dtype)
    kernel = in_place(kernel) if written_over else kernel
    axis = next(s.axes[0].symbol for s in kernel.stages if s.axes)
    program = loops.generate(kernel, Options(), Blocks({axis: (0, 64)}, 1, 1, kept=kept))
    assert program.source.count("mask=j0_inside") == (0 if columns == 128 else 2 if kept or columns == 9 else 4)
    assert ("exp_of_difference" in program.source) == (dtype == "bf16")
    assert program.source.count("debug_barrier") == (2 if written_over else 1)
    if kept:
        wide = [line for line in program.source.splitlines() if "tl.load(b0" in line and "j0" in line]
        assert len(wide) == -(-columns // 64) and " in range(" not in program.source
    found, right = arrays_of(kernel, columns), arrays_of(kernel, columns)
    triton_interpreter.launch(program, found, [], (17, 1, 1))
    run_kernel(kernel, right, {})
    assert_same(found, right)


def test_what_is_kept() -> None:
    """One value of each element for the stages that follow, of 32 bits, in as few threads as hold it."""
    x, g = (op.tensor((4096, 40000), "bf16", name=n) for n in "xg")
    y, wide = op.softmax(x), op.tensor((4096, 40000), "f64", name="wide")
    gradient, = gradients([y], [x], [g])
    for value, count in (
        (y, 1), (op.layer_norm(x, g[0], g[0]), 1), (gradient, 2), (op.softmax(wide), None),
        (op.sum(x, axis=1), 0),
    ):
        kernel = largest({"y": value})
        axis = next(s.axes[0] for s in kernel.stages if s.axes)
        assert values_kept(kernel, axis) == count and choose(kernel).kept == (count == 1), kernel.name
    short = choose(largest({"y": op.softmax(op.tensor((4096, 20000), "bf16", name="x"))}))
    assert short.kept and short.warps == 16
    for columns in (8192, 60000, op.dim("columns")):
        assert not choose(largest({"y": op.softmax(op.tensor((4096, columns), "bf16", name="x"))})).kept


@pytest.mark.parametrize("columns", [140, 131])
def test_rows_asked_for(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program asks for the row of the one that follows it, in units of 16 bytes; the last ones for none."""
    monkeypatch.setitem(ahead.MULTIPROCESSORS, "sm_90a", 5)
    kernel = cross_entropy(17, columns)
    axis = next(s.axes[0].symbol for s in kernel.stages if s.axes)
    program = loops.generate(kernel, Options(), Blocks({axis: (0, 64)}, 1, 16, 64, kept=True))
    arrays = arrays_of(kernel, columns)
    triton_interpreter.asked.clear()
    triton_interpreter.launch(program, arrays, [], (17, 1, 1))
    begin, row = arrays[0].ctypes.data, 2 * columns
    rows = [begin + n * row for n in range(10, 17)]
    assert begin % 16 == 0
    assert triton_interpreter.asked == [(at // 16 * 16, row // 16 * 16) for at in rows]


def test_where_rows_are_asked_for() -> None:
    """Where a row of many is kept, on devices that fetch in bulk: each row that a program has for itself, once."""
    x, g = (op.tensor((4, 1024, 40000), "bf16", name=n) for n in "xg")
    few, some = (op.tensor((n, 20000), "bf16", name="x") for n in (264, op.dim("rows")))
    for y, architecture, count in (
        (op.softmax(x), "sm_90a", 1), (op.softmax(x), "sm_80", 0), (op.layer_norm(x, g[0, 0], g[0, 0]), "sm_90a", 1),
        (op.softmax(few), "sm_90a", 0), (op.softmax(some), "sm_100a", 1), (op.sum(x, axis=2), "sm_90a", 0),
    ):
        program = loops.generate(largest({"y": y}), Options(architecture))
        assert program.source.count("ask_for(b") == count, program.source


def test_exponentials_of_16_bit_rows_only() -> None:
    """The machine's power of 2 where the error does not count."""
    for dtype, build, expected in (
        ("bf16", op.softmax, True), ("f16", op.log_softmax, True), ("bf16", op.safe_softmax, True),
        ("f32", op.softmax, False), ("bf16", lambda x: op.exp(x - op.max(x, axis=1, keepdims=True)), False),
    ):
        kernel = largest({"y": build(op.tensor((64, 512), dtype, name="x"))})
        assert is_marked(kernel) == expected, (dtype, build)


def is_marked(kernel: LoopKernel) -> bool:
    """Whether the exponentials are those of differences, all of them or none."""
    marked = exponentials.of_differences(kernel)
    found = {o.function for s in marked.stages for o in s.ops if isinstance(o, Compute)}
    assert (exponentials.FUNCTION in found) != ("exp" in found)
    return exponentials.FUNCTION in found


def test_exponentials_of_what_the_maximum_is_of_only() -> None:
    """Differences that may be above 0 keep the exponential that is right everywhere."""
    x, y = (op.cast(op.tensor((64, 512), "bf16", name=n), "f32") for n in "xy")
    half = op.cast(x * 0.5, "bf16")

    def less(a: Value, b: Value, other: float | None = None) -> LoopKernel:
        top = op.max(b, axis=1, keepdims=True)
        top = top if other is None else op.where(top == float("-inf"), other, top)
        return largest({"y": op.sum(op.exp(a - top), axis=1)})

    assert is_marked(less(x, x)) and is_marked(less(x, x, 0.0)) and is_marked(less(op.cast(half, "f32"), half))
    assert is_marked(largest({"y": op.logsumexp(op.cast(x, "bf16"), axis=1)}))
    top = op.max(x, axis=1, keepdims=True)
    for kernel in (
        less(x, y), less(x, half), less(x, -x), less(x, x, 1.0), less(x, x[:, :256]),
        largest({"y": op.sum(op.exp(x - op.cast(op.cast(top * 1.0, "f8e4m3"), "f32")), axis=1)}),
        largest({"y": op.sum(op.exp(x - op.where(top > 3.0, 0.0, top)), axis=1)}),
    ):
        assert not is_marked(kernel), kernel


def test_exponentials_of_elements_that_were_written_since() -> None:
    kernel = largest({"y": op.softmax(op.tensor((64, 512), "bf16", name="x"))})
    load, store = kernel.stages[0].ops[0], kernel.stages[-1].ops[-1]
    assert isinstance(load, Load) and isinstance(store, Store) and is_marked(kernel)

    def with_store(number: int, at: int, new: Store) -> LoopKernel:
        stage = kernel.stages[number]
        changed = replace(stage, ops=(*stage.ops[:at], new, *stage.ops[at:]))
        return replace(kernel, stages=(*kernel.stages[:number], changed, *kernel.stages[number + 1 :]))

    last = len(kernel.stages) - 1
    here = replace(store, buffer=load.buffer)
    there = replace(here, index=(here.index[0], 0))
    assert is_marked(with_store(last, len(kernel.stages[last].ops), here))
    for number, new in ((1, replace(here, value=Ref(1, 0))), (1, replace(there, value=Ref(1, 0)))):
        found = exponentials.of_differences(with_store(number, len(kernel.stages[number].ops), new))
        functions = [[o.function for o in s.ops if isinstance(o, Compute)] for s in found.stages]
        assert "exp" in functions[last] and exponentials.FUNCTION not in functions[last]
    found = exponentials.of_differences(with_store(last, len(kernel.stages[last].ops), there))
    assert any(isinstance(o, Compute) and o.function == "exp" for o in found.stages[last].ops)


@pytest.mark.parametrize("written_over", [False, True])
@pytest.mark.parametrize(("columns", "dtype"), [(4104, "bf16"), (4096, "bf16"), (2052, "f32")])
def test_rows_in_shared_memory(
    columns: int, dtype: str, written_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block is waited for once, and with a rest only that one has masks; nothing is read again at other places."""
    small_rows_in_shared_memory(monkeypatch)
    kernel = cross_entropy(17, columns, dtype)
    kernel = in_place(kernel) if written_over else kernel
    program = shared_rows.generate(kernel, Options())
    assert program is not None and program.gluon
    text, blocks, masked = program.source, -(-columns * (2 if dtype == "bf16" else 4) // 4096), columns != 4096
    assert text.count("wait_group(") == text.count("commit_group(") == text.count("allocate_shared_memory(") == blocks
    assert text.count(".load(line)") == 3 * blocks and text.count("mask=j0_inside") == (2 if masked else 0)
    assert text.count("tl.thread_barrier()") == (2 if written_over else 1)
    found, right = arrays_of(kernel, columns), arrays_of(kernel, columns)
    triton_interpreter.launch(program, found, [], (17, 1, 1))
    run_kernel(kernel, right, {})
    assert_same(found, right)


def test_two_rows_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of softmax needs two rows twice."""
    small_rows_in_shared_memory(monkeypatch)
    x, g = (op.tensor((9, 2056), "bf16", name=n) for n in "xg")
    y = op.softmax(x)
    gradient, = gradients([y], [x], [g])
    kernel = largest({"gradient": gradient})
    program = shared_rows.generate(kernel, Options())
    assert program is not None and program.source.count("async_copy_global_to_shared(") == 4
    random = np.random.default_rng(0)
    found = [random.standard_normal((9, 2056)).astype(b.dtype.numpy) for b in kernel.buffers]
    right = [a.copy() for a in found]
    triton_interpreter.launch(program, found, [], (9, 1, 1))
    run_kernel(kernel, right, {})
    for a, b in zip(found, right, strict=True):
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=2e-2, atol=1e-3)


def small_rows_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the interpreter can take count as long ones."""
    monkeypatch.setattr(shared_rows, "LONGEST_ROW", 64)
    monkeypatch.setattr(points, "SHORTEST", 2)
    monkeypatch.setitem(shared_rows.MULTIPROCESSORS, "sm_90a", 5)


def test_what_is_in_shared_memory() -> None:
    """Many rows that a program has for itself and reads more than once, in whole units of 16 bytes, if two fit."""
    x, g = (op.tensor((4, 1024, 40000), "bf16", name=n) for n in "xg")
    wide, odd, part = op.tensor((1024, 27000), name="w"), op.tensor((1024, 20001), "f16", name="o"), x[0, :, 4:20004]
    some = op.tensor((op.dim("rows"), 20000), "f16", name="s")
    mask = op.tensor((1024, 27000), "bool", name="mask")
    for y, count in (
        (op.softmax(x), 2), (op.layer_norm(x), 2), (op.softmax(wide), 2), (op.softmax(some), 4), (op.sum(x, axis=2), 0),
        (op.layer_norm(x, g[0, 0], g[0, 0]), 0), (op.softmax(odd), 0), (op.softmax(part), 0), (op.softmax(x) + g, 0),
        (op.softmax(op.tensor((132, 20000), "bf16", name="few")), 0), (op.softmax(op.gelu(x)), 0),
        (op.softmax(op.dropout(x, 0.1)), 0),
        (op.softmax(op.where(mask, wide, -1e9)), 0), (op.softmax(op.tensor((1024, 60000), "bf16", name="x")), 0),
    ):
        kernel = largest({"y": y})
        program = shared_rows.generate(kernel, Options())
        assert (program is not None) == (count > 0), kernel.name
        assert program is None or program.registers == 65536 // (256 * count)
        assert shared_rows.generate(kernel, Options("sm_80")) is None


def instructions(program: Program) -> tuple[list[str], Binary]:
    """The machine instructions of a program, and its binary."""
    binary = compile_program(program, "cuda", 90, 32)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.code)
        file.flush()
        text = subprocess.run([str(tool), "-sass", file.name], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", text, re.MULTILINE), binary


def test_instructions_of_rows_in_shared_memory() -> None:
    """Some 15 for each element of a thread, nothing spilled, 16 bytes in what moves rows, two programs at a time."""
    for kernel in (cross_entropy(8192, 50304), in_place(cross_entropy(8192, 50304))):
        program = shared_rows.generate(kernel, Options())
        assert program is not None
        found, binary = instructions(program)
        assert len(found) <= 16 * 50304 // 256 and binary.registers is not None and binary.registers <= 128
        assert 2 * (binary.shared + 1024) <= 228 << 10
        assert not any("STL" in i or "LDL" in i for i in found)
        assert sum("MUFU.EX2" in i for i in found) <= 2 * 8 * 25 + 4
        assert sum("LDGSTS" in i and ".128" in i for i in found) == sum("STG.E.128" in i for i in found) == 25
        assert sum("LDS.128" in i for i in found) <= 75 and sum("BAR.SYNC" in i for i in found) <= 33


def test_instructions_of_rows_in_registers() -> None:
    """Some 14 for each element of a thread, one exponential among them, next to nothing spilled."""
    for kernel in (cross_entropy(8192, 50304), in_place(cross_entropy(8192, 50304))):
        found, binary = instructions(loops.generate(kernel, Options()))
        assert len(found) <= 16 * 49 and binary.registers is not None and binary.registers <= 64
        assert sum("MUFU.EX2" in i for i in found) <= 52
        assert sum("STL" in i or "LDL" in i for i in found) <= 8
        assert sum("UBLKPF" in i for i in found) == 1


def test_instructions_of_loops() -> None:
    """A row that does not fit: two are worked on at a time, nothing is spilled."""
    found, binary = instructions(loops.generate(cross_entropy(8192, 128256), Options()))
    assert len(found) <= 1100 and binary.registers is not None and binary.registers <= 32
    assert not any("STL" in i or "LDL" in i for i in found)


def test_instructions_of_softmax() -> None:
    """Some 14 for each element of a thread."""
    x = op.tensor((16384, 8192), "bf16", name="x")
    found, binary = instructions(loops.generate(largest({"y": op.softmax(x)}), Options()))
    assert len(found) <= 16 * 8192 // 256 and binary.registers is not None and binary.registers <= 64
    assert sum("MUFU.EX2" in i for i in found) == 8192 // 256


def launched(outputs: dict[str, Value], columns: int) -> tuple[LoopKernel, list[np.ndarray], list[np.ndarray]]:
    """The kernel, what the generated program stores, and what the kernel means; labels are below ``columns``."""
    kernel, random = largest(outputs), np.random.default_rng(0)
    found = [
        random.integers(0, min(columns, 100), b.shape).astype(b.dtype.numpy) if b.dtype.is_integer
        else random.standard_normal(b.shape).astype(b.dtype.numpy) for b in kernel.buffers
    ]
    expected = [a.copy() for a in found]
    triton_interpreter.run_kernel(kernel, found, {})
    run_kernel(kernel, expected, {})
    return kernel, found, expected


def test_what_is_stored_at_the_label_is_read_back() -> None:
    """Kept rows read a buffer again once the label has changed it, whichever piece it lies in."""
    x, labels = op.tensor((270, 20000), name="x"), op.tensor((270, 1), "i64", name="labels")
    y = op.where(op.iota((270, 20000), 1, "i64") == labels, x * 2 + 5, x)
    kernel, found, expected = launched({"y": y, "z": y * x / op.sum(op.abs(x), axis=1, keepdims=True)}, 20000)
    assert choose(kernel).kept and points.at_points(kernel) != kernel
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "picked"), [("i8", False), ("u8", False), ("i16", True), ("i32", True)])
def test_positions_that_do_not_fit_are_compared(dtype: str, picked: bool) -> None:
    """2100 positions repeat in 8 bits, so that a label is at several of them."""
    x, labels = op.tensor((270, 2100), name="x"), op.tensor((270, 1), dtype, name="labels")
    y = op.where(op.iota((270, 2100), 1, dtype) == labels, x, 0.0)
    kernel, found, expected = launched({"y": op.sum(y, axis=1)}, 2100)
    assert (points.at_points(kernel) != kernel) == picked
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
