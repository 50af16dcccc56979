"""Attention as cuDNN is asked for it: when it is offered, and what plans, artefacts and findings hold of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tessera import config, graph, op
from tessera.artifact import reader
from tessera.cli.inspect import inspect
from tessera.graph import tuning
from tessera.graph.tuning import Tuner
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.target.ptx.architectures import ARCHITECTURES
from tessera.target.triton.candidates import Candidate, candidates, choose_by_model
from tessera.target.triton.head import Options
from tessera.tile.ir import AttentionKernel, Kernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators

OPTIONS = Options("sm_90a")
BOTH = ("cublaslt", "cudnn")


def graph_of(
    q: tuple[Any, ...] = (2, 4, 256, 64), shared: int = 0, dtype: str = "bf16", causal: bool = True,
    mask: bool = False, gradient: bool = False,
) -> Graph:
    k = (*q[:1], shared or q[1], *q[2:])
    tensors = [op.tensor(shape, dtype, name=name) for name, shape in zip("qkv", (q, k, k))]
    masks = {"mask": op.tensor((q[2], q[2]), "bool", name="mask")} if mask else {}
    out = op.scaled_dot_product_attention(*tensors, causal=causal, **masks)
    if not gradient:
        return Graph({"out": out})
    found = gradients([out], tensors, [op.tensor(q, dtype, name="g")])
    return Graph(dict(zip(("dq", "dk", "dv"), found)))


def kernel(gradient: bool = False, **more: Any) -> AttentionKernel:
    plan = build_plan(to_gpu_operators(graph_of(gradient=gradient, **more)), None, GPU)
    found, = (k for k in plan.kernels if isinstance(k, AttentionKernel) and k.backward == gradient)
    return found


def names(one: AttentionKernel, options: Options = OPTIONS, libraries: tuple[str, ...] = BOTH) -> list[str]:
    return [c.name for c in candidates(one, options, libraries)]


def test_what_is_offered() -> None:
    for causal in (False, True):
        assert names(kernel(causal=causal)) == ["generated", "cudnn"]
    assert names(kernel(shared=2, dtype="f16")) == ["generated", "cudnn"]
    length = op.dim("L", min=1, max=4096)
    assert names(kernel(q=(2, 4, length, 128))) == ["generated", "cudnn"]
    assert names(kernel(), replace(OPTIONS, architecture="sm_80")) == ["generated", "cudnn"]
    for one, options, libraries in (
        (kernel(mask=True), OPTIONS, BOTH), (kernel(q=(2, 4, 256, 32)), OPTIONS, BOTH),
        (kernel(), OPTIONS, ("cublaslt",)), (kernel(), replace(OPTIONS, architecture="gfx942"), BOTH),
        (kernel(), replace(OPTIONS, guarded=True), BOTH),
    ):
        assert names(one, options, libraries) == ["generated"]


def test_scales_and_heads_that_the_library_computes_otherwise_are_not_offered() -> None:
    for gradient in (False, True):
        one = kernel(gradient)
        for scale in (0.0, -0.125, 1e-42, 1e39, float("inf"), float("-inf"), float("nan")):
            assert names(replace(one, scale=scale)) == ["generated"], scale
        assert names(replace(one, scale=2.0)) == ["generated", "cudnn"]
    some = op.dim("B", min=1)
    for batch, expected in ((8191, ["generated", "cudnn"]), (8192, ["generated"]), (some, ["generated", "cudnn"])):
        assert names(kernel(q=(batch, 8, 256, 64))) == expected


def test_gradients_are_the_same_in_every_run_unless_they_need_not_be() -> None:
    def offered(q: tuple[Any, ...], **more: Any) -> bool | None:
        found = candidates(kernel(gradient=True, q=q), replace(OPTIONS, **more), BOTH)
        return found[-1].library.function.deterministic if found[-1].library else None  # type: ignore[union-attr]

    small, large = (2, 4, 256, 64), (4, 16, 4096, 128)
    any_length = (2, 4, op.dim("L", min=1), 64)
    assert offered(small) is True and offered(large) is None and offered(any_length) is None
    assert offered(small, architecture="sm_80") is None
    assert [offered(q, deterministic=False) for q in (small, large, any_length)] == [False] * 3


def test_the_table_gives_long_causal_attention_to_the_library() -> None:
    def choice(libraries: tuple[str, ...] = BOTH, architecture: str = "sm_90a", **shape: Any) -> str:
        options = replace(OPTIONS, deterministic=False, architecture=architecture)
        return choose_by_model([kernel(**shape)], [options], libraries)[0].candidate.name

    long = (16, 12, 1024, 64)
    assert choice(q=long) == choice(q=(4, 16, 4096, 128)) == "cudnn"
    assert choice(libraries=("cublaslt",), q=long) == "generated"
    assert choice(architecture="sm_80", q=long) == "generated"
    assert choice(q=long, causal=False) == choice(q=(16, 12, 1023, 64)) == choice() == "generated"
    assert choice(gradient=True, q=long) == choice(q=long, shared=4) == "generated"


class Stub:
    """Measurements by which cuDNN is the fastest."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, kernel: Kernel, options: Options, found: list[Candidate], seconds: float) -> dict[str, float]:
        self.asked.append([c.name for c in found])
        return {c.name: 5.0 if c.name == "cudnn" else 9.0 for c in found}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stub:
    """A GPU on which cuDNN is the fastest."""
    made = Stub()
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "prepare", lambda *_: None)
    monkeypatch.setattr(tuning, "present", lambda target: ["sm_90a"])
    monkeypatch.setattr(tuning, "device_name", lambda target: "GPU A")
    monkeypatch.setattr(tuning.DeviceMeasurement, "measure", lambda self, *a: made(*a))
    tuning.forget()
    return made


def test_plans_hold_the_call_and_what_takes_its_place(stub: Stub, tmp_path: Path) -> None:
    made = graph_of(shared=2, gradient=True)
    schedule = graph.Schedule(autotune=True, deterministic=False)
    compiled = graph.compile(made.outputs, target="ptx", arch="sm_90a", schedule=schedule)
    shown = compiled.schedule()
    assert "8 x 256 x 256 x 64 bf16, 2 heads for one of keys, causal: cudnn, measured on GPU A: 5.0 us" in shown
    assert "generated 9.0" in shown
    compiled.save(tmp_path / "tuned.tsr")
    artifact = reader.load(tmp_path / "tuned.tsr")
    forward, backward = (i for i in artifact.plans()["ptx", "sm_90a"]["instructions"] if "library" in i)
    assert (forward["function"], backward["function"]) == ("attention", "attention_gradient")
    sizes = {"batch": 1, "heads": 8, "shared": 4, "length": 256, "keys": 256, "size": 64}
    sizes |= {"scale": 0.125, "causal": True}
    for call in (forward, backward):
        assert call["library"] == "cudnn" and call["attrs"] == sizes and call["otherwise"] and not call["then"]
    assert [o["dtype"] for o in forward["results"]] == ["bf16", "f32"]
    assert [len(backward[n]) for n in ("operands", "results")] == [6, 3]
    # Both go together with generated kernels: the sums are the same.
    assert backward["operands"][4]["buffer"] == forward["results"][1]["buffer"]
    assert forward["operands"][0] == {"buffer": forward["operands"][0]["buffer"], "dtype": "bf16", "shape": [131072]}
    assert "call of cudnn: attention at" in inspect(str(tmp_path / "tuned.tsr"))
    record = json.loads(artifact.metadata["tessera.choices.ptx.sm_90a"])[0]
    assert record["choice"] == "cudnn" and record["attention"].startswith("8 x 256")
    alone = graph.compile(
        made.outputs, target="ptx", arch="sm_90a", schedule=graph.Schedule(autotune=True, libraries=[]))
    assert '"library":' not in alone._built.metadata["tessera.plan.ptx.sm_90a"]


def test_findings_depend_on_the_version_of_cudnn_alone(stub: Stub) -> None:
    def choose(**versions: int) -> None:
        tuner = Tuner(ARCHITECTURES["sm_90a"], 1.0, measure=stub)
        tuner.versions = versions
        choice, = tuner.choose([kernel()], [OPTIONS], BOTH)
        assert choice.why == "measured" and choice.candidate.name == "cudnn"

    choose(cublaslt=130100, cudnn=91900)
    choose(cublaslt=140000, cudnn=91900)
    assert stub.asked == [["generated", "cudnn"]]
    choose(cublaslt=140000, cudnn=92000)
    assert len(stub.asked) == 2


def test_files_of_cudnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    file.parent.mkdir(parents=True)
    file.touch()
    (file.parent / "libcudnn_graph.so.9").touch()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delenv("TESSERA_CUDNN_LIBRARY", raising=False)
    assert config.vendor_library_files("cudnn") == [str(file)]
    monkeypatch.setenv("TESSERA_CUDNN_LIBRARY", "/opt/libcudnn.so")
    assert config.vendor_library_files("cudnn") == ["/opt/libcudnn.so"]
