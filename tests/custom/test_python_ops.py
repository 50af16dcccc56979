"""Operators written in Python: NumPy functions called back by the runtime, and composites."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tessera import graph, op
from tessera.cli.op_check import check_operators
from tessera.errors import ArgumentError, DTypeError, FormatError, NameMissingError, ShapeError, TesseraError
from tessera.ir.dtype import i64
from tessera.ir.parser import parse_graph
from tessera.ir.printer import print_graph
from tessera.op.custom_ops import CUSTOM

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


@op.custom(
    "py::softclip",
    shape=lambda x, limit: x,
    gradient=lambda g, x, limit: g.of() * (1 - op.square(g.result() / limit)),
    shard="*->*",
    dtypes=("f64", "f32"),
    samples=[op.Sample((op.Input((3, 4)),)), op.Sample((op.Input((5,)),), {"limit": 0.5})],
)
def softclip(x, limit: float = 1.0):
    """limit · tanh(x / limit)."""
    return np.tanh(x / np.asarray(limit, x.dtype)) * np.asarray(limit, x.dtype)


def top_types(x, count, names):
    if isinstance(x.shape[0], int) and x.shape[0] < count:
        raise ShapeError(f"x has {x.shape[0]} elements, {count} are wanted")
    return op.TensorType(x.dtype, (count,)), op.TensorType(i64, (count,))


@op.custom(
    "py::top",
    shape=top_types,
    results=("values", "indices"),
    no_gradient="which elements are largest is a decision",
    samples=[op.Sample((op.Input((9,), "f32"),), {"count": 4})],
)
def top(x: np.ndarray, count: int, names: list[str] | None = None):
    """The largest elements and where they are."""
    order = np.argsort(-x, kind="stable")[:count]
    return x[order], order


@op.custom("py::scaled", composite=True, shard="*,*->*", samples=[op.Sample((op.Input((2, 3)), op.Input((2, 3))))])
def scaled(x: np.ndarray, y: np.ndarray, factor: float = 2.0):
    """x · tanh(y) · factor, of other operators."""
    return x * op.tanh(y) * factor


def test_numpy_function():
    x = op.tensor((op.dim("B", min=0), 4), name="x")
    y = op.exp(op.py.softclip(x * 2, limit=0.5))
    expected = np.exp(np.tanh(X * 2 / 0.5) * 0.5)
    for target in ("cpu", "portable"):
        compiled = graph.compile(y, target=target)
        assert np.allclose(compiled(X).numpy(), expected, rtol=1e-5)
        assert compiled(X[:0]).shape == (0, 4)
    slope = graph.backward(op.sum(softclip(x)), wrt=x)
    assert np.allclose(slope(X).numpy(), 1 - np.tanh(X) ** 2, rtol=1e-4, atol=1e-6)
    assert "limit · tanh" in op.py.softclip.__doc__ and op.py.softclip is not None
    text = print_graph(y.graph)
    assert "= py::softclip(" in text and print_graph(parse_graph(text)) == text


def test_several_results_and_optional_lists():
    x = op.tensor((6,), name="x")
    found = op.py.top(x, 2, names=["a", "b"])
    values = np.array([1, 5, 3, 9, 2, 0], np.float32)
    program = graph.compile({"v": found.values, "i": found.indices})
    assert program(values)["v"].tolist() == [9, 5] and program(values)["i"].tolist() == [3, 1]
    with pytest.raises(TesseraError, match="py::top has no gradient: which elements"):
        graph.backward(op.sum(found.values), wrt=x)


def test_composite():
    x, y = op.tensor((2, 3), name="x"), op.tensor((2, 3), name="y")
    z = op.py.scaled(x, y)
    a, b = X[:2, :3], X[1:, 1:]
    assert np.allclose(z(a, b).numpy(), a * np.tanh(b) * 2, rtol=1e-5)
    assert np.allclose(graph.backward(op.sum(z), wrt=y)(a, b).numpy(), 2 * a * (1 - np.tanh(b) ** 2), rtol=1e-4)
    assert "py::scaled" in str(z.graph)


def test_all_checks_hold():
    report = check_operators(["py::softclip", "py::top", "py::scaled"])
    failures = [f for checks in report.values() for o in checks.values() for f in o.failures]
    assert not failures
    assert report["py::softclip"]["gradient"].mark == report["py::scaled"]["gradient"].mark == "ok"
    assert report["py::softclip"]["sharding"].mark == "ok" and report["py::top"]["gradient"].mark == "skipped"


def test_many_threads_call_back():
    compiled = graph.compile(op.py.softclip(op.tensor(("B",), name="x")))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: compiled(np.full(i + 1, i, np.float32)).numpy(), list(range(8)) * 3))
    assert all(np.allclose(a, np.tanh(i % 8)) for i, a in enumerate(found))


FAILING = {
    "py::raises": (lambda x: x, lambda x: 1 // 0, TesseraError, "ZeroDivisionError"),
    "py::typed": (lambda x: x, lambda x: (_ for _ in ()).throw(IndexError("no")), TesseraError, "IndexError: no"),
    "py::wrong_shape": (lambda x: x, lambda x: x[:1], ShapeError, r"result 0 the shape \(1,\)"),
    "py::wrong_dtype": (lambda x: op.TensorType(i64, x.shape), lambda x: x, DTypeError, "expected int64"),
    "py::wrong_count": (lambda x: x, lambda x: (x, x), ShapeError, "gives 2 results, expected 1"),
}


@pytest.mark.parametrize("name", FAILING)
def test_failures_name_operator_and_line(name):
    shape, function, error, text = FAILING[name]
    operator = op.custom(name, shape=shape)(function)
    compiled = graph.compile(operator(op.tensor((3,), name="x")))
    for _ in range(2):
        with pytest.raises(error, match=rf"(?s)\[{name}\] .*{text}.*test_python_ops.py:\d+"):
            compiled(np.zeros(3, np.float32))


def test_operands_may_be_kept():
    kept = []

    @op.custom("py::keeping", shape=lambda x: x)
    def keeping(x):
        kept.append(x)
        return x

    compiled = graph.compile(keeping(op.tensor((3,), name="x") + 1))
    for i in range(3):
        compiled(np.full(3, i, np.float32))
    assert [k.tolist() for k in kept] == [[i + 1] * 3 for i in range(3)]


@pytest.mark.parametrize(
    ("declare", "error", "text"),
    [
        (lambda: op.custom("py::top", shape=lambda x: x)(lambda x: x), ArgumentError, "is there already, from test_py"),
        (lambda: op.custom("softclip", shape=lambda x: x)(lambda x: x), ArgumentError, "expected library::name"),
        (lambda: op.custom("add::one", shape=lambda x: x)(lambda x: x), ArgumentError, "op.add is there already"),
        (lambda: op.custom("py::a")(lambda x: x), ArgumentError, "give shape="),
        (lambda: op.custom("py::b", shape=lambda x: x, shard="a->b->c")(lambda x: x), FormatError, "sharding rule"),
        (lambda: op.custom("py::c", shape=lambda x: x, shard="a->ab")(lambda x: x), FormatError, "mark it as whole"),
        (lambda: op.custom("py::d", shape=lambda x: x)(lambda *x: x), ArgumentError, "no plain parameter"),
        (lambda: op.custom("py::e", shape=lambda x: x)(lambda x, y=(): x), ArgumentError, "parameter y must be"),
    ],
)
def test_declarations_that_are_refused(declare, error, text):
    with pytest.raises(error, match=text):
        declare()


def test_factor_string_must_fit_the_ranks():
    @op.custom("py::matrix", shape=lambda x: x, shard="ab->ab")
    def matrix(x):
        return x

    matrix(op.tensor((2, 3)))
    with pytest.raises(ShapeError, match=r"\[py::matrix\] the sharding rule 'ab->ab' gives operand 0 2 dimensions"):
        matrix(op.tensor((2,)))


def test_gradient_by_another_operator():
    @op.custom("py::cube_gradient", shape=lambda x, dy: x)
    def cube_gradient(x, dy):
        return 3 * x * x * dy

    @op.custom("py::cube", shape=lambda x: x, gradient="py::cube_gradient", dtypes=["f32"])
    def cube(x):
        return x**3

    x = op.tensor(("B", 4), name="x")
    assert np.allclose(graph.backward(op.sum(cube(x)), wrt=x)(X).numpy(), 3 * X * X, rtol=1e-5)
    lost = op.custom("py::lost", shape=lambda x: x, gradient="py::nowhere")(lambda x: x)
    with pytest.raises(NameMissingError, match="py::lost: its gradient is the operator py::nowhere"):
        graph.backward(op.sum(lost(x)), wrt=x)
    wrong = op.custom("py::wrong_gradient", shape=lambda x: x, gradient=lambda g, x: op.sum(x))(lambda x: x)
    with pytest.raises(TesseraError, match="py::wrong_gradient: the gradient of operand 0, a f32"):
        graph.backward(op.sum(wrong(x)), wrt=x)


def test_artefact_needs_the_registration(tmp_path):
    path = tmp_path / "model.tsr"
    x, y = op.tensor((3, 4), name="x"), op.tensor((3, 4), name="y")
    graph.compile({"z": op.py.scaled(op.py.softclip(x), y)}, target=["cpu", "portable"]).save(path)
    code = (
        "import sys, tessera\nfrom tessera import graph\nfrom tessera._core import Program\n"
        "for load in (graph.load, Program.load_file):\n"
        "    try: load(sys.argv[1])\n"
        "    except tessera.errors.NameMissingError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needed = "py::softclip(x: tensor(f64|f32), limit: float = 1.0) -> (result) of test_python_ops.py"
    assert done.stdout.count(needed) == 2
    assert done.stdout.count("py::scaled(") == 1  # the runtime does not need the composite
    loaded = graph.load(path)
    assert loaded(X, X).shape == (3, 4)
    assert CUSTOM["py::scaled"].composite
