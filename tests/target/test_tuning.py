"""The autotuner without a GPU: what is measured and when, what is kept, what artefacts and reports show."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tessera
from tessera import config, graph, op
from tessera.artifact import reader
from tessera.cli.inspect import inspect, source
from tessera.errors import ArgumentError, DeviceError
from tessera.graph import pipeline, tuning
from tessera.graph.tuning import Tuner, TuningWarning
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.schedule.options import Schedule
from tessera.target.ptx.architectures import ARCHITECTURES
from tessera.target.triton import candidates as offered
from tessera.target.triton.candidates import Candidate, candidates, choose_by_model
from tessera.target.triton.head import Options
from tessera.tile.ir import DotKernel, Kernel
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_gpu_operators

HOPPER = ARCHITECTURES["sm_90a"]
OPTIONS = Options("sm_90a")


def product(m: int = 512, n: int = 1024, k: int = 512, dtype: str = "bf16") -> DotKernel:
    x, w = op.tensor((m, k), dtype, name="x"), op.tensor((k, n), dtype, name="w")
    kernel, = build_plan(to_gpu_operators(Graph({"y": op.matmul(x, w)})), None, GPU).kernels
    assert isinstance(kernel, DotKernel)
    return kernel


class Stub:
    """Measurements as told, noted."""

    def __init__(self, times: Callable[[str], float | None]) -> None:
        self.times = times
        self.asked: list[list[str]] = []

    def __call__(
        self, kernel: Kernel, options: Options, found: Sequence[Candidate], seconds: float
    ) -> dict[str, float]:
        self.asked.append([c.name for c in found])
        times = {c.name: self.times(c.name) for c in found}
        return {name: t for name, t in times.items() if t is not None}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Sets the name of the GPU that is present, "" for none; the cache is a fresh folder."""
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "prepare", lambda *_: None)

    def there(name: str) -> None:
        tuning.forget()
        monkeypatch.setattr(tuning, "present", lambda target: ["sm_90a"] if name else [])
        monkeypatch.setattr(tuning, "device_name", lambda target: name)

    there("GPU A")
    return there


def choose(stub: Stub, kernel: Kernel, libraries: Sequence[str] = ("cublaslt",)) -> offered.Choice:
    return Tuner(HOPPER, 1.0, measure=stub).choose([kernel], [OPTIONS], libraries)[0]


def test_what_is_measured() -> None:
    names = [c.name for c in candidates(product(), OPTIONS, ("cublaslt",), {"cublaslt": 130100})]
    assert names[0] == "generated" and len(names) == len(set(names))
    assert any(n.startswith("tiles of 128 x ") for n in names)
    assert names[-4:] == ["cublaslt", *(f"cublaslt, proposal {n}" for n in (2, 3, 4))]
    assert "cublaslt" not in [c.name for c in candidates(product(), OPTIONS)]
    names = [c.name for c in candidates(product(), replace(OPTIONS, architecture="sm_80"), ("cublaslt",))]
    assert any(n.startswith("blocks of ") for n in names) and names[-1] == "cublaslt"
    names = [c.name for c in candidates(product(), replace(OPTIONS, architecture="gfx942"), ("cublaslt",))]
    assert "cublaslt" not in names
    found = candidates(product(), OPTIONS)
    assert len({repr(c.generate(OPTIONS)) for c in found}) == len(found)


def test_the_fastest_is_chosen(device: Callable[[str], None]) -> None:
    stub = Stub(lambda name: 5.0 if name == "cublaslt, proposal 2" else 9.0)
    tuner = Tuner(HOPPER, 1.0, measure=stub)
    tuner.versions = {"cublaslt": 130100}
    choice, = tuner.choose([product()], [OPTIONS], ("cublaslt",))
    assert choice.candidate.name == "cublaslt, proposal 2" and choice.why == "measured" and choice.device == "GPU A"
    call = choice.candidate.library
    assert call is not None and (call.algorithm, call.version) == (1, 130100)
    assert choice.microseconds["generated"] == 9.0
    device("")  # without a device the number of the proposal is that of the version that was measured
    choice, = Tuner(HOPPER, 1.0, measure=stub).choose([product()], [OPTIONS], ("cublaslt",))
    call = choice.candidate.library
    assert call is not None and (call.algorithm, call.version) == (1, 130100) and len(stub.asked) == 1


def test_what_measurements_cannot_tell_apart_is_the_same(device: Callable[[str], None]) -> None:
    assert choose(Stub(lambda name: 9.9 if "cublaslt" in name else 10.0), product()).candidate.name == "generated"
    assert choose(Stub(lambda name: 9.0 if "cublaslt" in name else 10.0), product(n=128)).candidate.name == "cublaslt"


def test_findings_are_kept(device: Callable[[str], None], tmp_path: Path) -> None:
    stub = Stub(lambda name: float(len(name)))
    first = choose(stub, product())
    assert first.candidate.name == "cublaslt"
    assert choose(stub, product()).candidate.name == first.candidate.name and len(stub.asked) == 1
    tuning.forget()  # another process
    assert choose(stub, product()).candidate.name == first.candidate.name and len(stub.asked) == 1
    assert choose(stub, product(), ()).candidate.name == "generated" and len(stub.asked) == 1  # the others are known
    choose(stub, product(n=2048), ())
    choose(stub, product(n=2048))  # with a library: not all are
    choose(stub, product(dtype="f16"))
    assert len(stub.asked) == 4
    device("GPU B")  # another device is measured anew
    choose(stub, product())
    assert len(stub.asked) == 5
    other_version = Tuner(HOPPER, 1.0, measure=stub)
    other_version.versions = {"cublaslt": 140000}  # and another library
    other_version.choose([product()], [OPTIONS], ("cublaslt",))
    assert len(stub.asked) == 6
    device("")  # a machine without one takes the last that was measured
    other = choose(Stub(lambda name: pytest.fail("measured")), product())
    assert other.candidate.name == first.candidate.name and other.device == "GPU B"
    assert choose(stub, product(n=4096)).why == "model"
    assert len(stub.asked) == 6


def test_entries_that_cannot_be_understood_are_measured_anew(device: Callable[[str], None], tmp_path: Path) -> None:
    stub = Stub(lambda name: float(len(name)))
    choose(stub, product())
    for file in tmp_path.glob("tuned-*"):
        tuning.disk_cache.write(file.name[: -len(".bin")], {"microseconds": 5}, b"")
    tuning.forget()
    choose(stub, product())
    assert len(stub.asked) == 2
    for file in tmp_path.glob("tuned-*"):
        tuning.disk_cache.write(
            file.name[: -len(".bin")], {"device": "GPU A", "microseconds": {"gone": 1.0}, "versions": {}}, b"")
    tuning.forget()
    choose(stub, product())  # names that no candidate has
    assert len(stub.asked) == 3


def test_what_cannot_be_measured_is_left_to_the_model(device: Callable[[str], None]) -> None:
    def broken(*_: object) -> dict[str, float]:
        raise DeviceError("the device is lost\nfor good")

    words = r"no candidate for matmul.* on GPU A: the device is lost; the model chooses"
    with pytest.warns(TuningWarning, match=words):
        choice, = Tuner(HOPPER, 1.0, measure=broken).choose([product()], [OPTIONS], ())
    assert choice.why == "model" and choice.candidate.name == "generated"
    assert choose(Stub(lambda name: 3.0 if name == "cublaslt" else None), product()).candidate.name == "cublaslt"


def test_other_kernels_and_equal_ones_are_not_measured(device: Callable[[str], None]) -> None:
    x = op.tensor((64, 64), "f32", name="x")
    loop, = build_plan(to_gpu_operators(Graph({"y": op.exp(x)})), None, GPU).kernels
    stub = Stub(lambda name: 1.0)
    made = Tuner(HOPPER, 1.0, measure=stub).choose([loop, product(), product()], [OPTIONS] * 3, ())
    assert [c.why for c in made] == ["model", "measured", "measured"] and len(stub.asked) == 1


def test_artefacts_hold_choices(
    device: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = Stub(lambda name: 5.25 if name == "cublaslt" else 9.5 if name == "generated" else 30.0)
    monkeypatch.setattr(tuning.DeviceMeasurement, "measure", lambda self, *a: stub(*a))
    x, w = op.tensor((op.dim("B", min=1, max=64), 64), "bf16", name="x"), op.tensor((64, 128), "bf16", name="w")
    y = op.gelu(op.matmul(x, w))
    compiled = graph.compile(y, target="ptx", arch="sm_90a", schedule=graph.Schedule(autotune=True))
    text = compiled.schedule()
    assert "choices for sm_90a:\n" in text
    assert "cublaslt, measured on GPU A: 5.2 us; generated 9.5; " in text
    file = tmp_path / "tuned.tsr"
    compiled.save(file)
    artifact = reader.load(file)
    record, = json.loads(artifact.metadata["tessera.choices.ptx.sm_90a"])
    assert record["choice"] == "cublaslt" and record["microseconds"]["generated"] == 9.5
    call, = (i for i in artifact.plans()["ptx", "sm_90a"]["instructions"])
    assert call["library"] == "cublaslt" and len(call["then"]) == 1 and len(call["otherwise"]) == 1
    shown = inspect(str(file))
    assert f"call of cublaslt: matmul at {call['loc']}; without it matmul" in shown and "measured on GPU A" in shown
    assert json.loads(inspect(str(file), as_json=True))["targets"][0]["library_calls"][0]["library"] == "cublaslt"
    names = [k["name"] for k in artifact.plans()["ptx", "sm_90a"]["kernels"]]
    assert all(call["loc"] in source(str(file), name) for name in names)
    plain = graph.compile(y, target="ptx", arch="sm_90a", schedule=graph.Schedule(autotune=True, libraries=[]))
    assert "cublaslt" not in plain.schedule() and "measured on GPU A" in plain.schedule()
    assert '"library":' not in plain._built.metadata["tessera.plan.ptx.sm_90a"]


def test_a_loaded_graph_is_not_measured_again(
    device: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = Stub(lambda name: 5.0 if name == "cublaslt" else 9.0)
    monkeypatch.setattr(tuning.DeviceMeasurement, "measure", lambda self, *a: stub(*a))
    x, w = op.tensor((96, 64), "bf16", name="x"), op.tensor((64, 128), "bf16", name="w")
    tuned = graph.Schedule(autotune=True)
    graph.compile(op.matmul(x, w), target="ptx", arch="sm_90a", schedule=tuned).save(tmp_path / "tuned.tsr")
    monkeypatch.setenv("TESSERA_CACHE_DIR", "")
    pipeline._builds.clear()
    for there in ("GPU A", ""):  # the device that was measured, and none
        device(there)
        again = graph.load(tmp_path / "tuned.tsr").compile(target="ptx", arch="sm_90a", schedule=tuned)
        assert "cublaslt, measured on GPU A" in again.schedule()
        pipeline._builds.clear()
    assert len(stub.asked) == 1
    for broken in ("[5]", "{}", '[{"why": "measured", "key": "k", "microseconds": 3}]', "nothing"):
        tuning.learn(broken)


def test_without_a_gpu_the_model_chooses(device: Callable[[str], None]) -> None:
    device("")
    x, w = op.tensor((32, 64), "bf16", name="x"), op.tensor((64, 128), "bf16", name="w")
    compiled = graph.compile(op.matmul(x, w), target="ptx", arch="sm_80", schedule=graph.Schedule(autotune=True))
    assert "choices" not in compiled.schedule()


def test_results_that_agree() -> None:
    right = np.array([1.0, -2.0, np.nan, np.inf, 0.0])
    assert tuning.agree(right, right, 0.0)
    assert tuning.agree(right * 1.001, right, 2e-3) and not tuning.agree(right * 1.01, right, 2e-3)
    for other in (np.zeros(5), np.full(5, np.nan), -right, np.where(np.isinf(right), 0, right)):
        assert not tuning.agree(other, right, 2e-2)
    assert not tuning.agree(np.arange(3), np.array([0, 1, 3]), 1.0)


def test_what_is_looked_at_of_a_large_result() -> None:
    large = tessera.array(np.arange(3 << 22, dtype=np.float32).reshape(-1, 1024))
    parts = tuning._parts(large)
    assert [int(p.numpy()[0, 0]) for p in parts] == [0, ((3 << 12) - 682) // 2 * 1024, ((3 << 12) - 682) * 1024]
    assert int(parts[-1].numpy()[-1, -1]) == (3 << 22) - 1
    assert len(tuning._parts(tessera.array(np.zeros(7)))) == 1


def test_the_table() -> None:
    """What is called without a measurement: f64, and f32 without matrix units, on what was measured."""
    def chosen(dtype: str, n: int = 1024, **more: str) -> str:
        return choose_by_model([product(n=n, dtype=dtype)], [replace(OPTIONS, **more)], ("cublaslt",))[0].why

    assert chosen("f64") == chosen("f32") == "table"
    assert chosen("f32", float32="tf32") == chosen("bf16") == chosen("f32", n=64) == "model"
    assert chosen("f64", architecture="sm_80") == chosen("f64", architecture="gfx942") == "model"


def test_guarded_products_are_called_beside_what_is_kept() -> None:
    found = offered.library_call(product(), replace(OPTIONS, guarded=True), ("cublaslt",))
    assert found is not None and found.function.rest is not None
    assert choose_by_model([product()], [OPTIONS], ())[0].candidate.name == "generated"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"libraries": ["cudnn9"]}, r"libraries = \['cudnn9'\]: give a list of 'cublaslt', 'cudnn', or \[\]"),
        ({"libraries": "cublaslt"}, "libraries = 'cublaslt': give a list"),
        ({"autotune": -1}, "autotune = -1: use True, False or the seconds"),
        ({"autotune": float("inf")}, "autotune = inf"),
        ({"autotune": "yes"}, "autotune = 'yes'"),
    ],
)
def test_settings_that_are_not_legal(settings: dict, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Schedule(**settings)


def test_settings() -> None:
    assert Schedule().allowed_libraries == ("cublaslt", "cudnn") and Schedule(libraries=[]).allowed_libraries == ()
    assert Schedule(libraries=["cublaslt", "cublaslt"]) == Schedule(libraries=("cublaslt",))
    assert [Schedule(autotune=a).tuning_seconds for a in (False, True, 0.5)] == [0, 2, 0.5]
    hash(Schedule(libraries=["cublaslt"]))
    assert pipeline.Options(schedule=Schedule(libraries=[])) != pipeline.Options()
    assert config.vendor_library_files("cublaslt") is not None


def test_files_of_vendor_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("cublas/lib/libcublasLt.so.12", "cu13/lib/libcublasLt.so.13", "cudnn/lib/libcudnn.so.9"):
        file = tmp_path / "nvidia" / name
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.setattr("sys.path", [str(tmp_path), str(tmp_path)])
    monkeypatch.delenv("TESSERA_CUBLASLT_LIBRARY", raising=False)
    found = config.vendor_library_files("cublaslt")
    assert [Path(f).name for f in found] == ["libcublasLt.so.12", "libcublasLt.so.13"]  # the best last
    monkeypatch.setenv("TESSERA_CUBLASLT_LIBRARY", "/opt/libcublasLt.so")
    assert config.vendor_library_files("cublaslt") == ["/opt/libcublasLt.so"]


@pytest.mark.parametrize(
    ("m", "n", "k", "library"),
    [(768, 3072, 16384, True), (768, 768, 16384, True), (768, 3072, 4096, False), (8192, 4096, 8192, False),
     (64, 3072, 16384, False)],
)
def test_few_results_of_many_terms_call_the_library(m: int, n: int, k: int, library: bool) -> None:
    a, b = op.tensor((k, m), "bf16", name="a"), op.tensor((k, n), "bf16", name="b")
    graph = Graph({"y": op.matmul(op.transpose(a, [1, 0]), b)})
    kernel, = build_plan(to_gpu_operators(graph), None, GPU).kernels
    choice, = choose_by_model([kernel], [Options("sm_90a")], ["cublaslt"])
    assert (choice.candidate.library is not None) == library
    choice, = choose_by_model([kernel], [Options("sm_90a")], [])
    assert choice.candidate.library is None
