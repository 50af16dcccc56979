"""Updates of an optimizer on warps of their own, beside the products of the gradient's next tile."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import triton
from tessera import graph, op, optim
from tessera.ir.dims import evaluate
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.schedule.plan import KernelCall, Plan
from tessera.target.triton import dot
from tessera.target.triton.build import compile_program
from tessera.target.triton.head import Options
from tessera.target.triton.hopper import Tile
from tessera.target.triton.launch import Program
from tessera.tile.interpret import run_kernel
from tessera.tile.ir import DotKernel
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_gpu_operators

GUARDED = Options("sm_90a", guarded=True)
OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "adamw": lambda: optim.AdamW(1e-2, weight_decay=0.1),
    "no master weights": lambda: optim.AdamW(1e-2, master_weights=False),
    "momentum": lambda: optim.SGD(1e-2, momentum=0.9),
}


def plan_of(loss: Any, optimizer: optim.Optimizer) -> Plan:
    """The plan of a training step."""
    step = Graph({"loss": loss}, updates=optimizer.updates(graph.backward(loss)))
    return build_plan(to_gpu_operators(step), None, GPU)


def updates_of(plan: Plan) -> list[DotKernel]:
    """The products that update a parameter."""
    return [k for k in plan.kernels if isinstance(k, DotKernel) and dot.is_heavy(k)]


def update(optimizer: str, m: int, n: int, k: int, dtype: str = "bf16") -> DotKernel:
    """The product of a weight's gradient with the update of an m × n weight."""
    x, g = op.tensor((k, m), dtype, name="x"), op.tensor((k, n), dtype, name="g")
    w = op.parameter((m, n), dtype, name="weight")
    loss = op.sum(op.cast(op.matmul(x, w), "f32") * op.cast(g, "f32"))
    return updates_of(plan_of(loss, OPTIMIZERS[optimizer]()))[0]


def programs(kernel: DotKernel, form: dot.Form | None = None) -> tuple[Program, ...]:
    """The launches of a product."""
    found = dot.generate(kernel, GUARDED, form)
    assert found is not None
    return found.programs


def stack_bytes(code: bytes, path: Path) -> int:
    """The bytes of registers that a thread keeps in memory."""
    path.write_bytes(code)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    return sum(int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", told))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("sizes", [(4096, 8192, 8192, 256), (4104, 8200, 8192, 128)])
def test_updates_have_warps_of_their_own(optimizer: str, sizes: tuple[int, int, int, int], tmp_path: Path) -> None:
    *extents, columns = sizes
    program, = programs(update(optimizer, *extents), dot.Form(Tile(columns)))
    assert f"{program.name}_fetch(" in program.source and not program.contract
    binary = compile_program(program, "cuda", 90, 32)
    assert binary.threads == 384 and binary.shared <= 227 * 1024
    assert stack_bytes(binary.code, tmp_path / "kernel.cubin") == 0


def test_a_training_step_has_no_other_kernels_for_updates() -> None:
    """Nothing reads a weight after it was updated."""
    model = op.mlp(in_dim=4096, hidden=[8192], out_dim=4096, dtype="bf16")
    loss = op.cross_entropy(model(op.tensor((8192, 4096), "bf16", name="x")), op.tensor((8192,), "i64", name="labels"))
    plan = plan_of(loss, optim.AdamW(1e-4))
    updates = updates_of(plan)
    assert len(updates) == 2 and all(len(programs(k)) == 1 for k in updates)
    calls = [i for i in plan.instructions if isinstance(i, KernelCall)]
    for kernel in updates:
        at = next(i for i, call in enumerate(calls) if plan.kernels[call.kernel] is kernel)
        written = {n for n, b in zip(calls[at].buffers, kernel.buffers) if b.role != "in"}
        assert len(written) == 4 and not any(written & set(call.buffers) for call in calls[at + 1 :])


@pytest.mark.parametrize("kernel", [
    lambda: update("adamw", 512, 512, 512), lambda: update("adamw", 4096, 8192, 256),
    lambda: update("adamw", 2048, 2048, 8192, dtype="f32"),
], ids=["few results", "few terms", "f32"])
def test_others_are_kernels_of_their_own(kernel: Callable[[], DotKernel]) -> None:
    made = kernel()
    assert not any("_finish" in p.source for p in (dot.generate(made, GUARDED) or dot.Generated(())).programs)


# What the warps of an update compute, by the text that is generated for them.


class _Values(np.ndarray):
    """A block of values."""

    def to(self, dtype: Any) -> _Values:
        return self.astype(dtype)


class _Pointer:
    """An address in a tensor, or a block of them."""

    def __init__(self, data: np.ndarray, at: Any = 0) -> None:
        self.data, self.at = data, at

    def __add__(self, offset: Any) -> _Pointer:
        return _Pointer(self.data, self.at + offset)


class _Language:
    """What generated text calls of ``tl``, for one program of a launch."""

    float32, bfloat16, int32, int64, constexpr = np.float32, ml_dtypes.bfloat16, np.int32, np.int64, None

    def __init__(self, number: int, count: int) -> None:
        self.program_id, self.num_programs = lambda _: number, lambda _: count

    BlockedLayout = SliceLayout = staticmethod(lambda *_: None)
    where, sqrt_rn, div_rn = staticmethod(np.where), staticmethod(np.sqrt), staticmethod(np.divide)
    maximum, PropagateNan = staticmethod(lambda a, b, **_: np.maximum(a, b)), SimpleNamespace(ALL=None)
    convert_layout = staticmethod(lambda x, *_, **__: x)

    @staticmethod
    def sum(x: _Values, axis: int) -> _Values:
        return np.sum(x, axis=axis, dtype=np.float32).view(_Values)

    @staticmethod
    def arange(low: int, high: int, layout: object) -> _Values:
        return np.arange(low, high).view(_Values)

    @staticmethod
    def full(shape: tuple[int, ...], value: float, dtype: Any) -> _Values:
        return np.full(shape, value, dtype).view(_Values)

    @staticmethod
    def load(at: _Pointer, mask: Any = True, other: int = 0) -> _Values:
        inside = np.broadcast_to(mask, np.shape(at.at))
        found = np.where(inside, at.data[np.where(inside, at.at, 0)], at.data.dtype.type(other))
        return np.asarray(found, at.data.dtype).view(_Values)

    @staticmethod
    def store(at: _Pointer, value: Any, mask: Any = True) -> None:
        inside = np.broadcast_to(mask, np.shape(at.at))
        at.data[at.at[inside]] = np.broadcast_to(value, inside.shape)[inside]


class _Pieces:
    """Stands for barriers, and for the rounded tiles as the warps that multiply leave them, piece by piece."""

    def __init__(self, *pieces: Iterator[np.ndarray]) -> None:
        self.pieces = pieces

    def index(self, at: Any) -> _Pieces:
        return self

    def load(self, layout: object) -> _Values:
        return next(self.pieces[0]).view(_Values)


class _Barrier:
    wait = arrive = staticmethod(lambda *_, **__: None)


def run_updates(program: Program, arrays: list[np.ndarray], result: np.ndarray, columns: int) -> None:
    """Run the warps that update, of all programs, on flat arrays and the product as it is rounded."""
    name, count = program.name, evaluate(program.grid[0], {})
    own = re.compile(rf"def {name}_(place|store|fetch|finish)\(")
    text = "\n".join(t for t in program.source.split("@gluon.jit\n") if own.match(t))
    height = re.search(r"tl\.arange\(0, (\d+), layout=tl\.SliceLayout\(1", text)
    assert height is not None
    rows = int(height.group(1))
    tiles = -(-result.shape[0] // 128) * -(-result.shape[1] // columns)
    padded = np.zeros([-(-n // size) * size for n, size in zip(result.shape, (128, columns))], result.dtype)
    padded[: result.shape[0], : result.shape[1]] = result
    pointers = [_Pointer(a) for a in arrays]

    def pieces(place: Callable[..., tuple[int, int]], first: int) -> Iterator[np.ndarray]:
        for tile in range(first, tiles, count):
            m, n = place(*pointers, tile)
            for column in range(n, n + columns, 64):
                for row in range(m, m + 128, rows):
                    yield padded[row : row + rows, column : column + 64]

    for number in range(count):
        names: dict[str, Any] = {"tl": _Language(number, count), "mbarrier": _Barrier, "core": _Language}
        names |= {"packed_pairs": lambda x: x, "unpacked_pairs": lambda x, _: x}
        exec(text, names)  # noqa: S102
        left = pieces(names[f"{name}_place"], number)
        names[f"{name}_finish"](*pointers, _Pieces(left), _Pieces(), _Pieces())
        assert next(left, None) is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("m", "n", "columns"), [(200, 328, 256), (512, 256, 256), (1160, 72, 128)])
def test_values(optimizer: str, m: int, n: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every element is updated once, and to the bits that the kernel stands for."""
    monkeypatch.setattr(dot, "is_hidden", lambda *_: True)
    kernel = update(optimizer, m, n, 64)
    program, = programs(kernel, dot.Form(Tile(columns)))
    random = np.random.default_rng(m)
    arrays: list[np.ndarray] = []
    for i, b in enumerate(kernel.buffers):
        size = evaluate(b.strides[0], {}) * evaluate(b.shape[0], {}) if b.shape else 1
        values = random.integers(-4, 5, size) if i < 2 else random.random(size) / 8 + 0.5  # the product is exact
        arrays.append(values.astype(b.dtype.numpy))
    expected = [a.copy() for a in arrays]
    run_kernel(kernel, expected, {})
    x, g = (a.reshape(64, -1).astype(np.float32) for a in arrays[:2])
    with np.errstate(all="ignore"):
        run_updates(program, arrays, (x.T @ g).astype(ml_dtypes.bfloat16), columns)
    for i, (found, right) in enumerate(zip(arrays, expected)):
        assert np.array_equal(found.view(np.uint8), right.view(np.uint8)), kernel.buffers[i].name
