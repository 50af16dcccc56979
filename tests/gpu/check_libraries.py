"""Calls of vendor libraries, and the autotuner: ``test_model.py`` runs it on the model, ``run.sh`` on a device."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tessera
from tessera import _core, graph, op
from tessera._core import Program, default_runtime
from tessera.artifact import writer
from tessera.target.triton import candidates
from tessera.tile.ir import AttentionKernel
from tessera.transform.autodiff import gradients

MODEL = bool(os.environ.get("TESSERA_CUDA_LIBRARY"))
KERNELS = Path(__file__).with_name("kernels.ptx").read_bytes() + b"\0"
on_device = pytest.mark.skipif(MODEL or not _core.gpu_levels("ptx"), reason="needs an NVIDIA device")


def product_plan() -> dict:
    """out[M, 8] = x[M, 4] w[4, 8]; without the library, twice the first elements of w."""
    def tensor(name: str, shape: list, buffer: int) -> dict:
        return {"name": name, "dtype": "f32", "shape": shape, "buffer": buffer}

    arguments: list[dict] = [{"buffer": 0}, {"buffer": 1}, {"buffer": 2}, {"size": 0, "type": "i64"}]
    return {
        "version": 1, "target": "ptx", "level": "sm_90", "constants": [], "state": [], "arena": 0,
        "modules": [{"offset": 0, "bytes": len(KERNELS) - 1, "format": "ptx"}],
        "dims": [{"name": "M", "min": 1, "max": None, "multiple_of": 1}],
        "inputs": [tensor("x", ["M", 4], 0), tensor("w", [4, 8], 1)], "outputs": [tensor("out", ["M", 8], 2)],
        "buffers": [{"kind": k, "bytes": n} for k, n in (("input", "16*M"), ("input", 128), ("output", "32*M"))],
        "kernels": [{"name": "add", "module": 0, "symbol": "add", "threads": 128, "shared": 0, "arguments": arguments}],
        "instructions": [{
            "library": "cublaslt", "function": "matmul", "scratch": 1 << 20, "loc": "c.py:5",
            "attrs": {
                "rows": "M", "columns": 8, "terms": 4, "batch": 1, "a": {"step": 4}, "b": {"step": 8}, "d": {"step": 8},
            },
            "operands": [{"buffer": 0, "dtype": "f32", "shape": ["4*M"]}, {"buffer": 1, "dtype": "f32", "shape": [32]}],
            "results": [{"buffer": 2, "dtype": "f32", "shape": ["8*M"]}],
            "otherwise": [{"kernel": 0, "buffers": [1, 1, 2], "sizes": [8], "grid": [1, 1, 1]}],
        }],
    }


def test_a_program_calls_the_library() -> None:
    metadata = {"tessera.format": "1", "tessera.plan.ptx.sm_90": json.dumps(product_plan())}
    data = writer.to_bytes(metadata, [writer.section("tessera.kernels.ptx.sm_90", KERNELS)])
    program = Program.load_bytes(data)
    x, w = np.arange(20, dtype=np.float32).reshape(5, 4), np.arange(32, dtype=np.float32).reshape(4, 8)
    trace = tessera.Trace()
    out, = program.run(default_runtime(), [tessera.array(x), tessera.array(w)], None, trace=trace._native)
    events = [(e["cat"], e["name"]) for e in json.loads(trace.to_json())["traceEvents"]]
    found, = (one for one in _core.doctor()["libraries"] if one["name"] == "cuBLASLt")
    if _core.vendor_library_version("cublaslt"):
        np.testing.assert_array_equal(out.numpy(), x @ w)
        assert ("library", "cublaslt matmul") in events and found["found"]
    else:
        np.testing.assert_array_equal(out.numpy()[0], 2 * w[0])
        assert ("kernel", "add") in events and "there is no cuBLASLt" in found["why"]


def attention_plan() -> dict:
    """Causal attention of 2 heads of 64 elements; without the library, the sums of the first queries' bytes."""
    def tensor(name: str, dtype: str, shape: list, buffer: int) -> dict:
        return {"name": name, "dtype": dtype, "shape": shape, "buffer": buffer}

    plan = product_plan()
    operands = [{"buffer": i, "dtype": "bf16", "shape": ["128*M"]} for i in range(4)]
    operands.append({"buffer": 4, "dtype": "f32", "shape": ["2*M"]})
    call = {
        "library": "cudnn", "function": "attention", "scratch": 64 << 20, "loc": "c.py:5", "operands": operands[:3],
        "results": operands[3:], "otherwise": [{"kernel": 0, "buffers": [0, 0, 3], "sizes": [8], "grid": [1, 1, 1]}],
        "attrs": {"batch": 1, "heads": 2, "shared": 2, "length": "M", "keys": "M", "size": 64, "scale": 0.125,
                  "causal": True},
    }
    return {
        **plan, "inputs": [tensor(n, "bf16", [2, "M", 64], i) for i, n in enumerate("qkv")],
        "outputs": [tensor("out", "bf16", [2, "M", 64], 3), tensor("sums", "f32", [2, "M"], 4)],
        "buffers": [{"kind": "output" if i > 2 else "input", "bytes": "8*M" if i == 4 else "256*M"} for i in range(5)],
        "instructions": [call],
    }


def test_a_program_calls_cudnn() -> None:
    metadata = {"tessera.format": "1", "tessera.plan.ptx.sm_90": json.dumps(attention_plan())}
    program = Program.load_bytes(writer.to_bytes(metadata, [writer.section("tessera.kernels.ptx.sm_90", KERNELS)]))
    q, k, v = (drawn(2, 64 + i, 64)[:, :64] for i in range(3))
    trace = tessera.Trace()
    out, sums = program.run(default_runtime(), [tessera.array(x) for x in (q, k, v)], None, trace=trace._native)
    events = [(e["cat"], e["name"]) for e in json.loads(trace.to_json())["traceEvents"]]
    found, = (one for one in _core.doctor()["libraries"] if one["name"] == "cuDNN")
    if _core.vendor_library_version("cudnn"):
        right = Attention(q, k, v, q, True)
        assert ("library", "cudnn attention") in events and found["found"] and found["version"] >= 91002
        near(out.numpy(), right.out, 1e-2)
        near(sums.numpy(), right.sums, 1e-3)
    else:
        first = [np.ascontiguousarray(x).view(np.float32).reshape(-1)[:8] for x in (out.numpy(), q)]
        np.testing.assert_array_equal(first[0], 2 * first[1])
        assert ("kernel", "add") in events and "there is no cuDNN" in found["why"]


class Attention:
    """Attention of [heads, length, size] in f64, and its gradients for that of the result."""

    def __init__(self, q: Any, k: Any, v: Any, given: Any, causal: bool, scale: float | None = None) -> None:
        q, k, v, given = (wide(x) for x in (q, k, v, given))
        group = q.shape[0] // k.shape[0]
        every_k, every_v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
        scale = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
        scores = q @ every_k.swapaxes(1, 2) * scale
        if causal:
            scores = np.where(np.tri(*scores.shape[1:], dtype=bool), scores, -np.inf)
        top = scores.max(-1, keepdims=True)
        powers = np.exp(scores - top)
        total = powers.sum(-1, keepdims=True)
        weights = powers / total
        self.out, self.sums = weights @ every_v, (top + np.log(total))[..., 0]
        slope = given @ every_v.swapaxes(1, 2)
        change = weights * (slope - (slope * weights).sum(-1, keepdims=True)) * scale
        self.dq = change @ every_k
        self.dk, self.dv = (
            (x.swapaxes(1, 2) @ y).reshape(k.shape[0], group, *k.shape[1:]).sum(1)
            for x, y in ((change, q), (weights, given))
        )


@pytest.mark.skipif(not MODEL, reason="a real device runs the candidates")
def test_candidates_that_a_device_cannot_run_are_left_to_the_model() -> None:
    """The model of GPUs takes no machine code."""
    from tessera.graph.tuning import TuningWarning, device_name

    x, w = op.tensor((64, 64), "bf16", name="x"), op.tensor((64, 128), "bf16", name="w")
    assert device_name("ptx") == "Model GPU 0"
    with pytest.warns(TuningWarning, match="could be measured on Model GPU 0: .* does not take the code of 'sm_90a'"):
        compiled = graph.compile(op.matmul(x, w), target="ptx", schedule=graph.Schedule(autotune=0.1))
    assert "choices" not in compiled.schedule()


# On a device.


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Libraries are called for all that they can do; nothing is taken from earlier builds."""
    if not _core.vendor_library_version("cublaslt"):
        pytest.skip("needs cuBLASLt")
    from tessera.graph import pipeline

    monkeypatch.setattr(candidates, "is_faster_in_library", lambda *_: True)
    pipeline._builds.clear()
    yield
    pipeline._builds.clear()


def drawn(*shape: int, dtype: str = "bf16") -> np.ndarray:
    """Numbers of a dtype."""
    values = np.random.default_rng(sum(shape)).standard_normal(shape)
    return values.astype(ml_dtypes.bfloat16 if dtype == "bf16" else {"f16": "f2", "f32": "f4", "f64": "f8"}[dtype])


def calls(program: Any) -> list[dict]:
    """The calls of libraries of a compiled graph."""
    plan = next(json.loads(v) for k, v in program._built.metadata.items() if k.startswith("tessera.plan.ptx"))
    return [i for i in plan["instructions"] if "library" in i]


def wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def near(found: Any, right: np.ndarray, tolerance: float) -> None:
    assert np.linalg.norm(wide(found) - right) <= tolerance * np.linalg.norm(right)


TOLERANCES = {"bf16": 6e-3, "f16": 1e-3, "f32": 1e-5, "f64": 1e-13}


@on_device
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("turned", [False, True])
def test_dtypes_and_layouts(dtype: str, turned: bool, everything: None) -> None:
    for m, n, k in ((256, 512, 384), (40, 48, 56), (1, 64, 32), (200, 8, 1000)):
        a = op.tensor((k, m) if turned else (m, k), dtype, name="a")
        b = op.tensor((n, k) if turned else (k, n), dtype, name="b")
        x, y = (op.transpose(v, [1, 0]) if turned else v for v in (a, b))
        program = graph.compile({"y": op.matmul(x, y)}, target="ptx")
        assert len(calls(program)) == 1
        given = {"a": drawn(*a.shape, dtype=dtype), "b": drawn(*b.shape, dtype=dtype)}
        left, right = (wide(v).T if turned else wide(v) for v in given.values())
        first = program(**given)["y"]
        near(first, left @ right, TOLERANCES[dtype])
        for _ in range(3):  # captured, and the same bits
            np.testing.assert_array_equal(wide(program(**given)["y"]), wide(first))


@on_device
def test_epilogues(everything: None) -> None:
    x, w, bias, r = drawn(96, 64), drawn(64, 160), drawn(160), drawn(96, 160)
    given = {"x": x, "w": w, "bias": bias, "r": r}
    tensors = {n: op.tensor(v.shape, "bf16", name=n) for n, v in given.items()}
    y = op.matmul(tensors["x"], tensors["w"])
    right = wide(x) @ wide(w)

    def tanh_gelu(v: np.ndarray) -> np.ndarray:
        return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))

    def erf_gelu(v: np.ndarray) -> np.ndarray:
        import math

        return v * 0.5 * (1 + np.vectorize(math.erf)(v / math.sqrt(2)))

    shifted = right + wide(bias)
    for fused, made, expected in (
        (True, y + tensors["bias"], shifted), (True, op.relu(y + tensors["bias"]), np.maximum(shifted, 0)),
        (True, op.gelu(y + tensors["bias"], approximate="tanh"), tanh_gelu(shifted)),
        (True, y + tensors["r"], right + wide(r)), (False, op.gelu(y + tensors["bias"]), erf_gelu(shifted)),
        (False, op.sigmoid(y) * tensors["r"], wide(r) / (1 + np.exp(-right))),
    ):
        program = graph.compile({"y": made}, target="ptx")
        call, = calls(program)
        assert bool(call["then"]) != fused and call["otherwise"]
        names = [i.name for i in program.inputs]
        near(program(**{n: given[n] for n in names})["y"], expected, 8e-3)


@on_device
def test_8_bit_floats_with_scales(everything: None) -> None:
    a, b = op.tensor((256, 512), "f8e4m3", name="a"), op.tensor((384, 512), "f8e4m3", name="b")
    one, two = op.tensor((), name="one"), op.tensor((), name="two")
    program = graph.compile({"y": op.scaled_matmul(a, op.transpose(b, [1, 0]), one, two)}, target="ptx")
    assert calls(program)[0]["attrs"]["scales"] == 2 and not calls(program)[0]["then"]
    x, w = (drawn(*t.shape, dtype="f32").astype(t.dtype.numpy) for t in (a, b))
    trace = tessera.Trace()
    found = program.run({"a": x, "b": w, "one": np.float32(0.5), "two": np.float32(3)}, trace=trace)[0]
    assert "cublaslt matmul" in trace.to_json()
    near(found, wide(x) @ wide(w).T * 1.5, 6e-3)


@on_device
def test_what_is_known_to_be_faster_is_called() -> None:
    """Without measurements: f64 on Hopper."""
    if "sm_90a" not in _core.gpu_levels("ptx") or not _core.vendor_library_version("cublaslt"):
        pytest.skip("needs Hopper and cuBLASLt")
    x, w = op.tensor((256, 256), "f64", name="x"), op.tensor((256, 256), "f64", name="w")
    program = graph.compile({"y": op.matmul(x, w)}, target="ptx")
    assert len(calls(program)) == 1
    a, b = drawn(256, 256, dtype="f64"), drawn(256, 256, dtype="f64")
    near(program(x=a, w=b)["y"], a @ b, 1e-13)


@on_device
def test_nan_and_infinity_stay(everything: None) -> None:
    x, w = op.tensor((16, 32), "bf16", name="x"), op.tensor((32, 16), "bf16", name="w")
    program = graph.compile({"y": op.relu(op.matmul(x, w))}, target="ptx")
    values = np.abs(drawn(16, 32))
    values[3, 5], values[4, 6] = np.nan, np.inf
    found = wide(program(x=values, w=np.ones((32, 16), ml_dtypes.bfloat16))["y"])
    assert np.isnan(found[3]).all() and np.isposinf(found[4]).all() and np.isfinite(np.delete(found, (3, 4), 0)).all()


@on_device
def test_batches_of_any_size(everything: None) -> None:
    rows = op.dim("B", min=0, max=4096)
    x, w = op.tensor((rows, 64), "bf16", name="x"), op.tensor((64, 96), "bf16", name="w")
    program = graph.compile({"y": op.gelu(op.matmul(x, w), approximate="tanh")}, target="ptx")
    assert calls(program)
    weights = drawn(64, 96)
    for size in (1, 77, 0, 1000, 77):
        given = drawn(size, 64)
        v = wide(given) @ wide(weights)
        right = 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
        found = program(x=given, w=weights)["y"]
        assert found.shape == (size, 96)
        near(found, right, 8e-3)


@on_device
def test_what_is_measured_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tessera.graph import tuning

    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path))
    tuning.forget()
    x, w = op.tensor((512, 256), "bf16", name="x"), op.tensor((256, 1024), "bf16", name="w")
    made = op.gelu(op.matmul(x, w))
    program = graph.compile({"y": made}, target="ptx", schedule=graph.Schedule(autotune=0.5))
    record, = next(json.loads(v) for k, v in program._built.metadata.items() if k.startswith("tessera.choices.ptx"))
    times = record["microseconds"]
    assert record["why"] == "measured" and record["device"] and "generated" in times and len(times) > 2
    assert times[record["choice"]] == min(times.values()) and all(0.5 < t < 5000 for t in times.values())
    assert ("cublaslt" in times) == bool(_core.vendor_library_version("cublaslt"))
    a, b = drawn(512, 256), drawn(256, 1024)
    import math

    right = wide(a) @ wide(b)
    right = right * 0.5 * (1 + np.vectorize(math.erf)(right / math.sqrt(2)))
    near(program(x=a, w=b)["y"], right, 8e-3)
    alone = graph.compile({"y": made}, target="ptx", schedule=graph.Schedule(autotune=0.5, libraries=[]))
    assert not calls(alone)
    near(alone(x=a, w=b)["y"], right, 8e-3)
    monkeypatch.setattr(tuning.DeviceMeasurement, "measure", lambda *_: pytest.fail("measured again"))
    tuning.forget()
    from tessera.graph import pipeline

    pipeline._builds.clear()
    again = graph.compile({"y": made}, target="ptx", schedule=graph.Schedule(autotune=0.5))
    assert again.schedule() == program.schedule()


# Attention on a device.


@pytest.fixture
def attention_called(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention is cuDNN's wherever that can do it; nothing is taken from earlier builds."""
    if not _core.vendor_library_version("cudnn"):
        pytest.skip("needs cuDNN")
    from tessera.graph import pipeline

    monkeypatch.setattr(candidates, "is_faster_in_library", lambda k, _: isinstance(k, AttentionKernel))
    pipeline._builds.clear()
    yield
    pipeline._builds.clear()


def attention(
    q: tuple[int, ...], shared: int, dtype: str, causal: bool, deterministic: bool, libraries: list[str],
    scale: float | None = None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """The program of attention and its gradients, and its inputs."""
    k = (q[0], shared, *q[2:])
    shapes = zip("qkvg", (q, k, k, q))
    given = {n: np.roll(drawn(*s, dtype=dtype), 7 * i, axis=-1) for i, (n, s) in enumerate(shapes)}
    tensors = {n: op.tensor(x.shape, dtype, name=n) for n, x in given.items()}
    out = op.scaled_dot_product_attention(*(tensors[n] for n in "qkv"), causal=causal, scale=scale)
    found = gradients([out], [tensors[n] for n in "qkv"], [tensors["g"]])
    schedule = graph.Schedule(deterministic=deterministic, libraries=libraries)
    return graph.compile({"out": out, **dict(zip(("dq", "dk", "dv"), found))}, target="ptx", schedule=schedule), given


def reason(program: Any, inputs: dict[str, np.ndarray]) -> str:
    """Why a library has nothing for the sizes of a program: what it says without the kernels in its place."""
    metadata = dict(program._built.metadata)
    for name, text in metadata.items():
        if name.startswith("tessera.plan.ptx"):
            plan = json.loads(text)
            for i in plan["instructions"]:
                if "library" in i:
                    i["otherwise"] = []
            metadata[name] = json.dumps(plan)
    try:
        alone = Program.load_bytes(writer.to_bytes(metadata, program._built.kernel_sections()))
        alone.run(default_runtime(), [tessera.array(inputs[i.name]) for i in program.inputs], None)
        default_runtime().wait()
    except tessera.errors.TesseraError as error:
        return str(error)
    return "nothing"


SHAPES = [  # queries, heads of keys, dtype, causal
    ((2, 4, 256, 64), 4, "bf16", True), ((2, 4, 256, 128), 4, "bf16", False), ((2, 8, 384, 128), 2, "bf16", True),
    ((1, 4, 256, 64), 1, "f16", False), ((2, 3, 200, 64), 3, "f16", True), ((1, 2, 1024, 128), 2, "bf16", True),
]


@on_device
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("q", "shared", "dtype", "causal"), SHAPES)
def test_attention(
    q: tuple[int, ...], shared: int, dtype: str, causal: bool, deterministic: bool, attention_called: None
) -> None:
    program, given = attention(q, shared, dtype, causal, deterministic, ["cudnn"])
    both = not deterministic or "sm_90a" in _core.gpu_levels("ptx")
    wanted = ["attention", "attention_gradient"] if both else ["attention"]
    assert [c["function"] for c in calls(program)] == wanted
    trace = tessera.Trace()
    found = dict(zip((o.name for o in program.outputs), program.run(given, trace=trace)))
    for name in wanted:
        assert f'"cudnn {name}"' in trace.to_json(), f"cudnn {name} did not run: {reason(program, given)}"
    alone, _ = attention(q, shared, dtype, causal, deterministic, [])
    assert not calls(alone)
    other = alone(**given)
    flat = {n: x.reshape(-1, *x.shape[2:]) for n, x in given.items()}
    right = Attention(*(flat[n] for n in "qkvg"), causal)
    for name in ("out", "dq", "dk", "dv"):
        exact = getattr(right, name).reshape(found[name].shape)
        near(found[name], exact, 2e-2)
        near(other[name], exact, 2e-2)
    again = [program(**given) for _ in range(3)]  # captured
    for name in ("out", "dq", "dk", "dv") if deterministic else ("out", "dk", "dv"):
        for one in again:  # the same bits in every run
            np.testing.assert_array_equal(wide(one[name]), wide(found[name]))


@on_device
def test_attention_that_cudnn_does_not_do_stays_generated(attention_called: None) -> None:
    q, mask = op.tensor((1, 2, 64, 64), "bf16", name="q"), op.tensor((64, 64), "bool", name="mask")
    small = op.tensor((1, 2, 64, 32), "bf16", name="small")
    for tensor, more in ((q, {"mask": mask}), (small, {})):
        out = op.scaled_dot_product_attention(tensor, tensor, tensor, **more)
        assert not calls(graph.compile({"out": out}, target="ptx"))


@on_device
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [-0.5, 0.0])
def test_attention_with_scales_that_are_not_positive(scale: float, causal: bool, attention_called: None) -> None:
    """Scores that do not count are -inf, of whatever sign the scale is."""
    for length, size in ((200, 64), (384, 128)):
        program, given = attention((2, 4, length, size), 2, "bf16", causal, False, ["cudnn"], scale)
        assert not calls(program)
        found = program(**given)
        flat = {n: x.reshape(-1, *x.shape[2:]) for n, x in given.items()}
        right = Attention(*(flat[n] for n in "qkvg"), causal, scale)
        for name in ("out", "dq", "dk", "dv"):
            near(found[name], getattr(right, name).reshape(found[name].shape), 2e-2)


@on_device
@pytest.mark.parametrize("length", [1, 77, 128])
def test_attention_of_any_length(length: int, attention_called: None) -> None:
    """One artefact for all lengths; where cuDNN has nothing, the generated kernel takes its place."""
    size = op.dim("L", min=1, max=4096)
    q, k, v = (op.tensor((2, 2, size, 64), "bf16", name=n) for n in "qkv")
    program = graph.compile({"out": op.scaled_dot_product_attention(q, k, v, causal=True)}, target="ptx")
    assert len(calls(program)) == 1
    given = {n: np.roll(drawn(2, 2, length, 64), i, axis=-1) for i, n in enumerate("qkv")}
    flat = [x.reshape(4, length, 64) for x in given.values()]
    near(program(**given)["out"], Attention(*flat, flat[0], True).out.reshape(2, 2, length, 64), 2e-2)
