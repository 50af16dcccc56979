"""C++ operators in Python: signature, composition, gradients, symbolic sizes, compilation, artefacts, errors."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import tessera
from tessera import graph, op
from tessera.errors import (
    ArgumentError,
    DTypeError,
    FileAccessError,
    FormatError,
    IndexRangeError,
    NameMissingError,
    OutOfMemoryError,
    ShapeError,
    TesseraError,
    VersionError,
)
from tessera.ir.parser import parse_graph
from tessera.ir.printer import print_graph
from tessera.ir.verify import verify
from tessera.op.opdef import REGISTRY

from tests.custom.build import library

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module", autouse=True)
def sample():
    names = tessera.load_library(library("sample_library.cpp"))
    assert names == [
        f"sample::{name}"
        for name in ("affine", "row_range", "echo", "sorted", "cubed", "cubed_slope", "failing")
    ]
    assert tessera.load_library(library("sample_library.cpp")) == names  # again
    return op.sample


def test_signature_and_documentation():
    signature = inspect.signature(op.sample.affine)
    assert str(signature) == "(x: 'Value', factor: 'float' = 2.0, shift: 'float | None' = None) -> 'Value'"
    assert op.sample.affine.__doc__.startswith("factor * x + shift, for f32 and bf16.")
    assert "sample::affine(x: tensor(f32|bf16)" in op.sample.affine.__doc__
    assert op.sample.affine.__module__ == "tessera.op.sample"


def test_composes_and_fuses_around():
    x = op.tensor((3, 4), name="x")
    y = op.exp(op.sample.affine(op.sqrt(x + 1), factor=0.5, shift=1)) * 2
    compiled = graph.compile(y)
    expected = np.exp(0.5 * np.sqrt(X + 1) + 1) * 2
    assert np.allclose(compiled(X).numpy(), expected, rtol=1e-5)
    schedule = compiled.schedule()
    assert "sample::affine" in schedule, schedule
    assert np.allclose(graph.compile(y, target="portable")(X).numpy(), expected, rtol=1e-5)


def test_half_precision_and_broadcast_numbers():
    import ml_dtypes

    x = op.tensor((3, 4), "bf16", name="x")
    found = op.sample.affine(x, shift=0.5)(X.astype(ml_dtypes.bfloat16))
    assert np.array_equal(found.numpy().astype(np.float32), 2 * X + 0.5)
    assert op.sample.affine(3.0).numpy() == 6  # a number is a tensor


def test_several_results_and_lists():
    a, b = op.tensor(("A", 3), name="a"), op.tensor(("B", 3), name="b")
    found = op.sample.row_range(a, [b, a], keep=True)
    assert found.low.shape == found[0].shape and str(found.high.type) == "f32[2*A + B, 1]"
    low, high = found
    values = {"a": np.array([[3, 1, 2]], np.float32), "b": np.array([[9, 8, 7], [0, 5, 1]], np.float32)}
    for target in ("cpu", "portable"):
        compiled = graph.compile({"low": low, "span": high - low}, target=target)
        result = compiled(**values)
        assert result["low"].numpy().ravel().tolist() == [1, 7, 0, 1]
        assert result["span"].numpy().ravel().tolist() == [2, 2, 5, 2]
    assert graph.compile(high)(**values).numpy().ravel().tolist() == [3, 9, 5, 3]  # the other result is not used


def test_every_kind_of_attribute():
    n = op.dim("N", min=1)
    x = op.tensor((n,), name="x")
    y = op.sample.echo(n, flag=True, name='a"b\\', list=[4], reals=[1.5], maybe=3) + op.sum(x).astype("i64")
    assert str(y.type) == "i64[N + 7]"
    compiled = graph.compile(y, target=["cpu", "portable"])
    for size in (1, 5):
        assert compiled(np.zeros(size, np.float32)).tolist()[:7] == [size, 1, 4, 6, 4, 15, 3]
    again = parse_graph(print_graph(y.graph))
    verify(again)
    assert print_graph(again) == print_graph(y.graph)


def test_scratch_memory():
    x = op.tensor((op.dim("N", min=0),), "i64", name="x")
    compiled = graph.compile(op.sample.sorted(x), target="cpu")
    for size in (0, 1, 1000):
        values = np.random.default_rng(size).integers(0, 99, size)
        assert np.array_equal(compiled(values).numpy(), np.sort(values))


def test_gradient_by_function():
    x = op.tensor(("B", 4), name="x")
    loss = op.sum(op.sample.affine(x * x, factor=3.0))
    slope = graph.backward(loss, wrt=x)
    assert np.allclose(slope(X).numpy(), 6 * X)
    assert str(slope.type) == "f32[B, 4]"
    second = graph.backward(op.sum(slope * slope), wrt=x)
    assert np.allclose(second(X).numpy(), 72 * X)


def test_gradient_by_another_operator():
    x = op.tensor(("B", 4), name="x")
    slope = graph.backward(op.sum(op.sample.cubed(x * 2) * x), wrt=x)
    for target in ("cpu", "portable"):
        assert np.allclose(graph.compile(slope, target=target)(X).numpy(), 32 * X**3)
    with pytest.raises(TesseraError, match="sample::cubed_slope has no gradient: one is enough"):
        graph.backward(op.sum(slope), wrt=x)


def test_no_gradient():
    a = op.tensor((2, 3), name="a")
    with pytest.raises(TesseraError, match=r"sample::row_range has no gradient: it is made of comparisons"):
        graph.backward(op.sum(op.sample.row_range(a, [], keep=False).low), wrt=a)
    x = op.tensor((3,), name="x")
    with pytest.raises(TesseraError, match=r"\[sample::failing\] no gradient today"):
        graph.backward(op.sum(op.sample.failing(x, "no")), wrt=x)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (lambda x: ((), {}), ArgumentError, r"\[sample::affine\] x \(tensor\(f32\|bf16\)\) is missing"),
        (lambda x: ((x, 1, 2, 3), {}), ArgumentError, "takes 3 arguments, 4 are given"),
        (lambda x: ((x,), {"factor": "a"}), ArgumentError, r"\[sample::affine\] factor is 'a'; expected float"),
        (lambda x: ((x,), {"fraction": 1}), ArgumentError, "there is no argument 'fraction'"),
        (lambda x: ((x, 1.0), {"factor": 1}), ArgumentError, "factor is given twice"),
        (lambda x: ((x.astype("i32"),), {}), DTypeError, r"x has type i32\[3, 4\]; expected dtype f32, bf16: cast it"),
    ],
)
def test_wrong_arguments(arguments, error, text):
    args, kwargs = arguments(op.tensor((3, 4), name="x"))
    with pytest.raises(error, match=text):
        op.sample.affine(*args, **kwargs)


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("shape", DTypeError, "the shape function fails"),
        ("negative", ShapeError, "is or can be negative"),
        ("foreign", ShapeError, "no operand has the size Z"),
    ],
)
def test_shape_functions_that_fail(how, error, text):
    with pytest.raises(error, match=rf"(?s)\[sample::failing\] .*{text}.*test_library.py:"):
        op.sample.failing(op.tensor((3,), name="x"), how)


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("error", IndexRangeError, "the kernel fails"),
        ("exception", TesseraError, "some exception"),
        ("int", TesseraError, "no std::exception"),
        ("memory", OutOfMemoryError, "could not be allocated"),
        ("range", TesseraError, "the first range fails"),
    ],
)
def test_kernels_that_fail(how, error, text, target):
    compiled = graph.compile(op.sample.failing(op.tensor((3,), name="x"), how) + 1, target=target)
    for _ in range(2):
        with pytest.raises(error, match=rf"(?s)\[sample::failing\] .*{text}.*at .*test_library.py:\d+"):
            compiled(np.zeros(3, np.float32))


def test_shape_function_is_asked_again_for_the_sizes_of_a_run():
    x = op.tensor(("B",), name="x")
    y = graph.compile(op.sample.failing(x, "none"))
    assert y(np.zeros(5, np.float32)).shape == (5,)


def test_artefact_names_what_it_needs(tmp_path):
    x = op.tensor((op.dim("B"), 4), name="x")
    path = tmp_path / "model.tsr"
    graph.compile({"y": op.sample.affine(x)}, target=["cpu", "portable"]).save(path, {"made": "here"})
    loaded = graph.load(path)
    assert np.array_equal(loaded(X).numpy(), 2 * X)
    y = loaded.outputs["y"]
    assert np.allclose(graph.backward(op.sum(y * y), wrt=loaded.inputs["x"])(X).numpy(), 8 * X)

    code = (
        "import sys, numpy as np, tessera\nfrom tessera import graph\nfrom tessera._core import Program\n"
        "for load in (graph.load, Program.load_file):\n"
        "    try: load(sys.argv[1])\n"
        "    except tessera.errors.NameMissingError as error: print(error)\n"
        "tessera.load_library(sys.argv[2])\n"
        "print(graph.load(sys.argv[1])(np.ones((2, 4), np.float32)).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), library("sample_library.cpp")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    message = (
        f"{path} needs custom operators that are missing or differ:\n"
        "  sample::affine(x: tensor(f32|bf16), factor: float = 2.0, shift: float? = none) -> (result) of "
        "libsample_library.so\nLoad the libraries named with tessera::load_library, in Python tessera.load_library, "
        "first\n"
    )
    assert done.stdout == message * 2 + "[[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]]\n"


def test_artefact_of_another_version_of_the_operator(tmp_path, monkeypatch):
    from dataclasses import replace

    from tessera._core import Program
    from tessera.op import custom_ops

    x = op.tensor((3, 4), name="x")
    compiled = graph.compile(op.sample.affine(x, factor=7.0))
    other = replace(custom_ops.CUSTOM["sample::affine"], hash="0" * 16)
    monkeypatch.setitem(custom_ops.CUSTOM, "sample::affine", other)
    compiled2 = graph.compile(op.sample.affine(x, factor=8.0))
    monkeypatch.undo()
    compiled2.save(tmp_path / "model.tsr")
    compiled.save(tmp_path / "same.tsr")
    graph.load(tmp_path / "same.tsr")
    for load in (graph.load, lambda p: Program.load_file(str(p))):
        with pytest.raises(NameMissingError, match="another one is loaded, .*libsample_library.so"):
            load(tmp_path / "model.tsr")


def test_libraries_that_are_refused(tmp_path):
    with pytest.raises(FileAccessError, match="nowhere.so"):
        tessera.load_library("/nowhere.so")
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(FormatError, match="cannot be loaded"):
        tessera.load_library(tmp_path / "text.so")
    with pytest.raises(VersionError, match="version 2 of the operator ABI.*update Tessera"):
        tessera.load_library(library("broken_library.c", "-DBROKEN=1"))
    with pytest.raises(ArgumentError, match="sample::affine is there already, from .*libsample_library.so"):
        tessera.load_library(library("broken_library.c", "-DBROKEN=8"))
    assert "broken::op" not in REGISTRY


def test_many_threads():
    from concurrent.futures import ThreadPoolExecutor

    compiled = graph.compile(op.sample.affine(op.tensor(("B", 4), name="x") + 1))

    def work(i: int) -> bool:
        x = np.full((i + 1, 4), i, np.float32)
        return bool((compiled(x).numpy() == 2 * (i + 1)).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, list(range(16)) * 4))
