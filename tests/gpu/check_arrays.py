"""Arrays and programs on a GPU from Python: ``test_model.py`` runs this on the model, ``run.sh`` on a real device.

``TESSERA_TEST_DEVICE`` names the device: ``cuda:0`` (the default) or ``rocm:0``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tessera
from tessera import Array, op
from tessera._core import Program, default_runtime
from tessera.artifact import writer
from tessera.errors import ArgumentError, DeviceError, IndexRangeError, NameMissingError, ShapeError, TesseraError
from tessera.interop.parameters import bind_parameters
from tessera.op.parameter import Parameter

DEVICE = os.environ.get("TESSERA_TEST_DEVICE", "cuda:0")
MODEL = bool(os.environ.get("TESSERA_CUDA_LIBRARY"))
TARGET = "ptx" if DEVICE.startswith("cuda") else "hsaco"
LEVEL = "sm_90" if TARGET == "ptx" else "gfx90a"
KERNELS = Path(__file__).with_name("kernels.ptx").read_bytes() + b"\0"


def tensor(name: str, dtype: str, shape: list, buffer: int, **more: object) -> dict:
    return {"name": name, "dtype": dtype, "shape": shape, "buffer": buffer, **more}


def kernel(symbol: str, arguments: list, threads: int = 128) -> dict:
    return {"name": symbol, "module": 0, "symbol": symbol, "threads": threads, "shared": 0, "arguments": arguments}


N64 = {"size": 0, "type": "i64"}
LOW, HIGH = {"size": 1, "type": "i64"}, {"size": 2, "type": "i64"}
FLAG = {"status": "flag"}
BLOCKS = ["(N + 127) // 128", 1, 1]


def artifact(plan: dict, weights: dict[str, np.ndarray] | None = None, **more: str) -> bytes:
    """The bytes of a .tsr file with one plan."""
    kind = "ptx" if TARGET == "ptx" else "hsaco"
    plan = {"version": 1, "target": TARGET, "level": LEVEL, "constants": [], "state": [], "arena": 0, **plan,
            "modules": [{"offset": 0, "bytes": len(KERNELS) - 1, "format": kind}]}
    metadata = {"tessera.format": "1", f"tessera.plan.{TARGET}.{LEVEL}": json.dumps(plan), **more}
    sections = [writer.section(f"tessera.kernels.{TARGET}.{LEVEL}", KERNELS)]
    return writer.to_bytes(metadata, sections + [writer.section(n, a) for n, a in (weights or {}).items()])


def sum_plan() -> dict:
    """out = x + y."""
    return {
        "dims": [{"name": "N", "min": 0, "max": None, "multiple_of": 1}],
        "inputs": [tensor("x", "f32", ["N"], 0), tensor("y", "f32", ["N"], 1)],
        "outputs": [tensor("out", "f32", ["N"], 2)],
        "buffers": [{"kind": kind, "bytes": "4*N"} for kind in ("input", "input", "output")],
        "kernels": [kernel("add", [{"buffer": 0}, {"buffer": 1}, {"buffer": 2}, N64])],
        "instructions": [{"kernel": 0, "buffers": [0, 1, 2], "sizes": ["N"], "grid": BLOCKS, "loc": "a.py:1"}],
    }


def step_plan() -> dict:
    """labels in [0, 9]; w += w; counter += 1; out = x + w as it was."""
    return {
        "dims": [{"name": "N", "min": 0, "max": None, "multiple_of": 1}],
        "inputs": [tensor("labels", "i64", ["N"], 0), tensor("x", "f32", [128], 1)],
        "outputs": [tensor("out", "f32", [128], 2)],
        "state": [
            tensor("w", "f32", [128], 3, trainable=True, mutated=True),
            tensor("counter", "i64", [1], 4, mutated=True),
        ],
        "buffers": [
            {"kind": kind, "bytes": size}
            for kind, size in (("input", "8*N"), ("input", 512), ("output", 512), ("state", 512), ("state", 8))
        ],
        "kernels": [
            kernel("check_range", [{"buffer": 0}, N64, LOW, HIGH, FLAG, {"status": "check"}]),
            kernel("add_checked", [{"buffer": 0}, {"buffer": 1}, {"buffer": 2}, N64, FLAG]),
            kernel("increment", [{"buffer": 0}, FLAG], 32),
        ],
        "instructions": [
            {
                "check_range": 0, "dtype": "i64", "count": "N", "low": 0, "high": 9, "ignore": None, "what": "label",
                "loc": "b.py:3", "kernel": 0, "buffers": [0], "sizes": ["N", 0, 9], "grid": BLOCKS,
            },
            {"kernel": 1, "buffers": [1, 3, 2], "sizes": [128], "grid": [1, 1, 1]},
            {"kernel": 1, "buffers": [3, 3, 3], "sizes": [128], "grid": [1, 1, 1]},
            {"kernel": 2, "buffers": [4], "sizes": [], "grid": [1, 1, 1]},
        ],
    }


def run(program: Program, *inputs: object, **more: object) -> Array:
    return program.run(default_runtime(), [tessera.array(x) for x in inputs], None, **more)[0]


def test_arrays_go_there_and_back() -> None:
    for dtype in ("f64", "f32", "bf16", "f16", "f8e4m3", "i64", "i32", "i16", "i8", "u8", "bool"):
        for shape in ((), (3,), (0, 4), (2, 3, 5)):
            host = tessera.array(np.arange(int(np.prod(shape))).reshape(shape) % 2, dtype)
            there = host.to(DEVICE)
            assert there.device == DEVICE and there.shape == host.shape and there.dtype == dtype
            np.testing.assert_array_equal(there.numpy(), host.numpy())
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    there = tessera.array(values.T, device=DEVICE)  # strides
    np.testing.assert_array_equal(there.numpy(), values.T)
    assert there.to(DEVICE) is not None and there.is_contiguous()
    assert f"device={DEVICE}" in repr(there) and "12." in repr(there)
    np.testing.assert_array_equal(there[1:3, ::2].numpy(), values.T[1:3, ::2])
    assert there[1].device == DEVICE and there.T.shape == (4, 6) and float(there[2, 1]) == 8.0
    there[0] = 7.0
    assert (there.numpy()[0] == 7).all() and there.numpy()[1, 0] == 1
    assert (there == there).numpy().all() and there.tolist()[5][3] == 23.0
    assert tessera.array(there, "f64").device == DEVICE
    np.testing.assert_array_equal(np.asarray(there), there.numpy())
    import copy
    import pickle

    for again in (copy.deepcopy(there), pickle.loads(pickle.dumps(there))):
        np.testing.assert_array_equal(again.numpy(), there.numpy())


def test_devices_that_are_not_there() -> None:
    array = tessera.array([1.0])
    with pytest.raises(DeviceError, match="'gpu' is not known"):
        array.to("gpu")
    with pytest.raises(DeviceError, match="'cuda:x' is not known"):
        array.to("cuda:x")
    with pytest.raises(DeviceError, match="does not exist"):
        array.to(DEVICE[:-1] + "77")
    with pytest.raises(ShapeError):
        array.to(DEVICE).copy_from(tessera.array([1.0, 2.0]))


def test_dlpack_between_arrays() -> None:
    there = tessera.array(np.arange(6, dtype=np.float32), device=DEVICE)
    again = tessera.from_dlpack(there)
    assert again.device == DEVICE and again.data_ptr == there.data_ptr
    np.testing.assert_array_equal(again.numpy(), np.arange(6))
    assert there.__dlpack_device__()[0] == (2 if TARGET == "ptx" else 10)
    with pytest.raises(DeviceError, match="use .to"):
        there.__dlpack__(dl_device=(1, 0))
    there.__dlpack__(stream=-1, max_version=(1, 0))


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_program_takes_arrays_from_anywhere(size: int) -> None:
    program = Program.load_bytes(artifact(sum_plan()))
    assert (program.target, program.level, program.device) == (TARGET, LEVEL, DEVICE)
    x, y = np.arange(size, dtype=np.float32), np.full(size, 3, np.float32)
    for a in (x, tessera.array(x, device=DEVICE)):
        for b in (y, tessera.array(y, device=DEVICE), np.stack([y, y], 1)[:, 0]):
            for _ in range(3):
                out = run(program, a, b)
                assert out.device == DEVICE
                np.testing.assert_array_equal(out.numpy(), x + y)
    host = np.zeros(size, np.float32)
    given = tessera.array(host)
    program.run(default_runtime(), [tessera.array(x), tessera.array(y)], [given])
    np.testing.assert_array_equal(host, x + y)  # an output in host memory is waited for
    there = tessera.array(host, device=DEVICE)
    there[...] = 0
    program.run(default_runtime(), [tessera.array(x), tessera.array(y)], [there])
    np.testing.assert_array_equal(there.numpy(), x + y)


def test_targets_are_chosen() -> None:
    data = artifact(sum_plan())
    for target in (TARGET, f"{TARGET}.{LEVEL}", f"{TARGET}:0", f"{TARGET}.{LEVEL}:0"):
        assert Program.load_bytes(data, target=target).device == DEVICE
    refused = {
        f"{TARGET}:88": "does not exist", f"{TARGET}.sm_70": "no plan for", "cpu": "no program of the file",
        "portable": "no portable program", "tpu": "cannot run here",
    }
    for target, words in refused.items():
        with pytest.raises(TesseraError, match=words):
            Program.load_bytes(data, target=target)
    with pytest.raises(TesseraError, match="native code was not allowed"):
        Program.load_bytes(data, allow_native_code=False)
    other = data.replace(LEVEL.encode(), b"sm_99" if TARGET == "ptx" else b"gfx942")
    with pytest.raises(DeviceError, match="no code of the file runs on"):
        Program.load_bytes(other, verify=False)


def test_state_lives_on_the_device(tmp_path: Path) -> None:
    w = np.arange(128, dtype=np.float32)
    data = artifact(step_plan(), {"w": w, "counter": np.array([41])})
    program = Program.load_bytes(data)
    state = program.state_array("w")
    assert state.device == DEVICE
    x = np.ones(128, np.float32)
    for i in range(4):
        out = run(program, np.array([3, 9]), x)
        np.testing.assert_array_equal(out.numpy(), x + w * 2**i)
        np.testing.assert_array_equal(state.numpy(), w * 2 ** (i + 1))
    file = str(tmp_path / "state.safetensors")
    program.save_state(file)
    run(program, np.array([0]), x)
    program.load_state(file)
    np.testing.assert_array_equal(state.numpy(), w * 16)
    assert program.state_array("counter").numpy() == [45]


def test_a_failed_check_changes_nothing() -> None:
    w = np.arange(128, dtype=np.float32)
    program = Program.load_bytes(artifact(step_plan(), {"w": w, "counter": np.array([0])}))
    x = np.zeros(128, np.float32)
    good = run(program, np.array([1]), x)
    bad = run(program, np.array([1, 2, 10]), x)
    after = run(program, np.array([1]), x)
    with pytest.raises(IndexRangeError, match=r"label at position \[2\] is outside 0 to 9\n  at b.py:3"):
        bad.numpy()
    np.testing.assert_array_equal(good.numpy(), w)
    np.testing.assert_array_equal(after.numpy(), 2 * w)
    np.testing.assert_array_equal(program.state_array("w").numpy(), 4 * w)
    with pytest.raises(IndexRangeError, match="label"):
        default_runtime().wait()
    default_runtime().wait()  # it was told once


def test_parameters_move_to_where_they_are_used() -> None:
    w = Parameter("w", (128,), init=np.arange(128, dtype=np.float32))
    counter = Parameter("counter", (1,), "i64", trainable=False)
    program = Program.load_bytes(artifact(step_plan()))
    with pytest.raises(NameMissingError, match="bind_state"):
        run(program, np.array([1]), np.zeros(128, np.float32))
    bind_parameters(program, {"w": w, "counter": counter})
    assert w.device == DEVICE
    run(program, np.array([1]), np.zeros(128, np.float32))
    np.testing.assert_array_equal(w.value, 2 * np.arange(128))
    assert w.device == DEVICE
    w.value = np.ones(128, np.float32)
    run(program, np.array([1]), np.zeros(128, np.float32))
    np.testing.assert_array_equal(np.asarray(w), np.full(128, 2.0))
    double = tessera.graph.compile(w.leaf() * 2.0, target="cpu")  # on the CPU it comes back
    np.testing.assert_array_equal(double().numpy(), np.full(128, 4.0))
    assert w.device == "cpu"
    bind_parameters(program, {"w": w, "counter": counter})
    run(program, np.array([1]), np.zeros(128, np.float32))
    np.testing.assert_array_equal(double().numpy(), np.full(128, 8.0))


def test_operators_of_the_cpu_refuse_what_is_elsewhere() -> None:
    there = tessera.array(np.ones(3, np.float32), device=DEVICE)
    x = op.tensor((3,), name="x")
    with pytest.raises(DeviceError, match="x"):
        tessera.graph.compile(x + 1.0, target="cpu")(there)
    with pytest.raises(DeviceError):
        tessera.graph.compile(x + 1.0, target="portable")(there)


def test_calls_run_where_their_arrays_lie() -> None:
    x = op.tensor((op.dim("N", min=1, max=99),), name="x")
    y, values = op.exp(x) * 2, np.linspace(-1, 1, 9, dtype=np.float32)
    step = tessera.graph.training_step(lambda batch: {"y": op.exp(batch["x"]) * 2})
    np.testing.assert_allclose(y(values).numpy(), 2 * np.exp(values), rtol=1e-5)
    np.testing.assert_allclose(step({"x": values})["y"].numpy(), 2 * np.exp(values), rtol=1e-5)
    there = tessera.array(values, device=DEVICE)
    for call in (lambda: y(there), lambda: step({"x": there})["y"]):
        if MODEL or TARGET != "ptx":  # no kernel can run: it is the kernel's code that is refused
            with pytest.raises(DeviceError, match="does not take the code of"):
                call()
        else:
            assert call().device == DEVICE
            np.testing.assert_allclose(call().numpy(), 2 * np.exp(values), rtol=1e-5)
    assert y(values).device == "cpu" and step.compilations == 2


def _torch():  # noqa: ANN202
    if MODEL or TARGET != "ptx" or importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch and an NVIDIA device")
    import torch

    return torch


def test_pytorch_in_the_same_process() -> None:
    torch = _torch()
    program = Program.load_bytes(artifact(sum_plan()))
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            for i in range(20):
                x = torch.randn(1 << 20, device="cuda")
                y = (x * 2 + i).sin()  # under way when it is handed over
                out = run(program, x, y)
                back = torch.from_dlpack(out)
                assert back.data_ptr() == out.data_ptr
                assert torch.equal(back, x + y)
                mine = run(program, x, y, stream=stream.cuda_stream)
                assert torch.equal(torch.from_dlpack(mine), x + y)
    strided = torch.randn(64, 2, device="cuda")[:, 1]
    np.testing.assert_array_equal(run(program, strided, strided).numpy(), (strided + strided).cpu().numpy())
    grad = torch.ones(4, device="cuda", requires_grad=True)
    np.testing.assert_array_equal(run(program, grad, grad).numpy(), np.full(4, 2.0))


def test_a_run_can_be_part_of_a_graph_that_pytorch_captures() -> None:
    torch = _torch()
    program = Program.load_bytes(artifact(sum_plan()))
    x, y = torch.ones(512, device="cuda"), torch.full((512,), 2.0, device="cuda")
    out = torch.zeros(512, device="cuda")
    mine, a, b = tessera.from_dlpack(out), tessera.from_dlpack(x), tessera.from_dlpack(y)
    program.run(default_runtime(), [a, b], [mine])
    default_runtime().wait()
    for array in (mine, a, b):
        array.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        program.run(default_runtime(), [a, b], [mine], stream=torch.cuda.current_stream().cuda_stream)
    x.fill_(5.0)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, torch.full_like(out, 7.0))


def test_jax_in_the_same_process() -> None:
    if MODEL or TARGET != "ptx" or importlib.util.find_spec("jax") is None:
        pytest.skip("needs JAX and an NVIDIA device")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import jax.numpy as jnp

    program = Program.load_bytes(artifact(sum_plan()))
    for i in range(10):
        x = jnp.arange(1 << 16, dtype=jnp.float32) * (i + 1)
        y = jnp.sin(x)
        out = run(program, x, y)
        np.testing.assert_array_equal(out.numpy(), np.asarray(x + y))
        back = jax.dlpack.from_dlpack(run(program, x, y))
        np.testing.assert_array_equal(np.asarray(back), np.asarray(x + y))


def test_the_page_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs/guide/streams_and_memory.md"
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "docs"}
    for block in re.findall(r"^```py\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if "graph.compile" in block and (MODEL or TARGET != "ptx"):
            continue  # generated kernels
        exec(block.replace("cuda:0", DEVICE), scope)
    if not MODEL and TARGET == "ptx":
        durations = []
        for _ in range(5):  # what a busy machine puts between an event and a launch counts as the kernel's time
            one, = (e for e in json.loads(Path("trace.json").read_text())["traceEvents"] if e["cat"] == "kernel")
            assert one["name"] == "exp_mul" and one["args"]["device"] == DEVICE and one["dur"] > 0
            durations.append(one["dur"])
            exec("trace = tessera.Trace(); compiled.run([x], trace=trace); trace.save('trace.json')", scope)
        assert min(durations) < 1000


def test_wrong_streams() -> None:
    program = Program.load_bytes(artifact(sum_plan()))
    x = np.ones(4, np.float32)
    if MODEL:  # a real driver cannot tell
        with pytest.raises(DeviceError):
            run(program, x, x, stream=12345)
    with pytest.raises(TesseraError):
        tessera.graph.compile(op.tensor((4,), name="x") + 1.0, target="cpu").program().run(
            default_runtime(), [tessera.array(x)], None, stream=5)
    with pytest.raises(ArgumentError):
        tessera.array(x).__dlpack__(stream=1)
