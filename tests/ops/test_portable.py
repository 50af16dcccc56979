"""The portable C++ kernels against the operators' NumPy references, and their errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tessera.errors import (
    ArgumentError,
    DTypeError,
    GraphError,
    IndexRangeError,
    NameMissingError,
    ShapeError,
    TesseraError,
)
from tessera.ir.attribute import attributes_text
from tessera.ir.dtype import DTYPES
from tessera.op.collective import NAMES as COLLECTIVES
from tessera.op.lowering import Pointwise
from tessera.op.opdef import REGISTRY

from tests.ops import portable
from tests.ops.harness import assert_close, cases, each, operators, random_for, reference_of

PRIMITIVES = operators(composite=False)


def test_every_primitive_has_a_kernel_and_a_function_in_cpp() -> None:
    from tessera import _core

    assert _core.primitive_names() == PRIMITIVES
    folder = Path(__file__).resolve().parents[2] / "runtime" / "include" / "tessera" / "ops"
    headers = "".join(path.read_text() for path in folder.glob("*.h"))
    functions = set(re.findall(r"^inline Tensor (\w+)\(", headers, re.MULTILINE))
    # Collectives are put in by partitioning; nobody calls them.
    assert not set(PRIMITIVES) - functions - set(COLLECTIVES)


@pytest.mark.parametrize(("name", "dtype"), each(PRIMITIVES))
def test_samples_agree_with_the_reference(name: str, dtype: str) -> None:
    for case in cases(REGISTRY[name], dtype):
        (expected,) = reference_of(case)
        (actual,) = portable.run_text(name, attributes_text(case.sample.attrs), case.arrays)
        assert_close(actual, expected, case.sample.tolerance, f"{name} {dtype} sample {case.number}")


@pytest.mark.parametrize(("name", "dtype"), each(PRIMITIVES, ("f32", "bf16", "i32", "bool")))
def test_operands_may_be_strided(name: str, dtype: str) -> None:
    for case in cases(REGISTRY[name], dtype):
        spread = []
        for array in case.arrays:
            wide = np.zeros((*array.shape, 3), array.dtype)
            wide[..., 1] = array
            moved = np.moveaxis(np.moveaxis(wide, 0, -1).copy(), -1, 0)[..., 1] if array.ndim else wide[1:2].reshape(())
            spread.append(moved)
        attributes = attributes_text(case.sample.attrs)
        (plain,) = portable.run_text(name, attributes, case.arrays)
        (strided,) = portable.run_text(name, attributes, spread)
        assert plain.shape == strided.shape and plain.tobytes() == strided.tobytes()


POINTWISE = [n for n in PRIMITIVES if isinstance(REGISTRY[n].lower, Pointwise) and n not in ("cast", "where")]
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 3e38, -3e38, 1e-40, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("name", [n for n in POINTWISE if "f32" in REGISTRY[n].dtypes])
@pytest.mark.parametrize("dtype", ["f64", "f32"])
def test_special_values_of_floats(name: str, dtype: str) -> None:
    x = SPECIAL.astype(DTYPES[dtype].numpy)
    binary = len(REGISTRY[name].samples()[0].inputs) == 2
    operands = (x[:, None], x[None, :]) if binary else (x,)
    with np.errstate(all="ignore"):
        expected = np.asarray(REGISTRY[name].reference(*operands))  # type: ignore[misc]
        actual = portable.run(name, *operands)
        expected = expected.astype(actual.dtype)
    assert_close(actual, expected, 4.0, name)


def test_extreme_integers() -> None:
    for dtype in ("i64", "i32", "i16", "i8", "u8"):
        info = np.iinfo(DTYPES[dtype].numpy)
        values = [info.min, info.min + 1, -1 if info.min else 1, 0, 1, 2, 7, info.max - 1, info.max]
        x = np.array(values).astype(info.dtype)
        a, b = np.broadcast_arrays(x[:, None], x[None, :])
        for name in ("add", "sub", "mul", "floordiv", "mod", "pow", "maximum", "minimum", "bitwise_xor", "shift_left",
                     "shift_right"):
            if name == "floordiv":  # NumPy leaves the lowest number by -1 to the processor
                keep = ~((a == info.min) & (b == -1)) if info.min else np.ones(a.shape, bool)
                a, b = a[keep], b[keep]
            with np.errstate(all="ignore"):
                expected = REGISTRY[name].reference(a, b)  # type: ignore[misc]
            actual = portable.run(name, np.ascontiguousarray(a), np.ascontiguousarray(b))
            assert_close(actual, expected.astype(x.dtype), 1, name)
        lowest = np.array([info.min], info.dtype)
        if info.min:
            assert portable.run("floordiv", lowest, np.array([-1], info.dtype))[0] == info.min


@pytest.mark.parametrize("target", list(DTYPES))
@pytest.mark.parametrize("source", list(DTYPES))
def test_cast(source: str, target: str) -> None:
    if DTYPES[source].is_float:
        with np.errstate(all="ignore"):
            values = np.concatenate([
                SPECIAL, [127.0, 127.9, 128.0, -128.9, -129.0, 255.5, 256.0, 464.0, 465.0],
                [65504.0, 65519.0, 65520.0, 57344.0, 61440.0],
                [2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 1e30, 6e-8, 3e-8, 2.0**-9, 2.0**-10, 2.0**-16, 2.0**-17],
                random_for(source).normal(0, 100, 300),
            ]).astype(DTYPES[source].numpy)
    elif source == "bool":
        values = np.array([True, False])
    else:
        info = np.iinfo(DTYPES[source].numpy)
        values = random_for(source).integers(info.min, info.max, 300, DTYPES[source].numpy, endpoint=True)
        values[:6] = [info.min, info.max, 0, 1, 100, info.max - 1]
    with np.errstate(all="ignore"):
        expected = REGISTRY["cast"].reference(values, DTYPES[target])  # type: ignore[misc]
    actual = portable.run("cast", values, dtype=DTYPES[target])
    # Bits are compared where they have one meaning: all NaNs are alike.
    if DTYPES[target].is_float:
        nan = np.isnan(expected.astype(np.float64))
        np.testing.assert_array_equal(np.isnan(actual.astype(np.float64)), nan)
        actual, expected = actual[~nan], expected[~nan]
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f8e4m3", "f8e5m2"])
def test_every_narrow_float_survives_a_round_trip(dtype: str) -> None:
    numpy = DTYPES[dtype].numpy
    codes = np.arange(1 << DTYPES[dtype].bits, dtype=np.uint16 if numpy.itemsize == 2 else np.uint8).view(numpy)
    for wide in ("f32", "f64"):
        up = portable.run("cast", codes, dtype=DTYPES[wide])
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(up, codes.astype(DTYPES[wide].numpy))
        down = portable.run("cast", up, dtype=DTYPES[dtype])
        nan = np.isnan(up)
        assert down[~nan].tobytes() == codes[~nan].tobytes() and np.isnan(down[nan].astype(np.float32)).all()


def test_double_is_rounded_once() -> None:
    # Through f32 this would become a tie and round to even, downwards.
    x = np.array([1 + 2.0**-8 + 2.0**-40])
    assert portable.run("cast", x, dtype=DTYPES["bf16"]).astype(np.float64)[0] == 1 + 2.0**-7


LARGE = [
    ("sum", (300_000,), {"axes": [0], "keepdims": False}), ("sum", (1000, 300), {"axes": [0], "keepdims": False}),
    ("sum", (300, 1000), {"axes": [1], "keepdims": True}), ("sum", (50, 70, 90), {"axes": [1], "keepdims": False}),
    ("sum", (50, 70, 90), {"axes": [0, 2], "keepdims": False}), ("max", (200_001,), {"axes": [0], "keepdims": False}),
    ("min", (999, 301), {"axes": [0], "keepdims": False}), ("argmax", (200_001,), {"axis": 0, "keepdims": False}),
    ("argmin", (400, 300), {"axis": 0, "keepdims": False}), ("cumsum", (3, 100_000), {"axis": 1}),
    ("cumsum", (1000, 200), {"axis": 0}), ("transpose", (300, 20, 50), {"perm": [2, 0, 1]}), ("exp", (200_003,), {}),
    ("flip", (100_001, 3), {"axes": [0]}), ("slice", (300_000,), {"start": [1], "stop": [299_999], "step": [3]}),
]


@pytest.mark.parametrize(("name", "shape", "attrs"), LARGE)
def test_large_tensors_give_the_same_for_any_number_of_threads(name: str, shape: tuple[int, ...], attrs: dict) -> None:
    x = random_for(name).normal(0, 1, shape).astype(np.float32)
    one = portable.run(name, x, threads=1, **attrs)
    assert portable.run(name, x, threads=2, **attrs).tobytes() == one.tobytes()
    expected = np.asarray(REGISTRY[name].reference(x.astype(np.float64), **attrs))  # type: ignore[misc]
    assert_close(one, expected.astype(one.dtype), 50, name)


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i64", "i32", "i8", "u8"])
def test_matmul(dtype: str) -> None:
    random = random_for(dtype)
    shapes = (((130, 300), (300, 270)), ((3, 1, 33, 5), (2, 5, 300)), ((1, 700), (700, 1)), ((2, 5, 0), (0, 3)))
    for a_shape, b_shape in shapes:
        a, b = (random.uniform(-4, 4, s).astype(np.float32).astype(DTYPES[dtype].numpy) for s in (a_shape, b_shape))
        one = portable.run("matmul", a, b, threads=1)
        assert portable.run("matmul", a, b, threads=2).tobytes() == one.tobytes()
        wide = np.float64 if DTYPES[dtype].is_float else np.int64
        expected = (a.astype(wide) @ b.astype(wide)).astype(a.dtype)
        assert_close(one, expected, 20, f"matmul {dtype}")


def test_reductions_of_bool_and_of_nothing() -> None:
    flags = np.array([[True, False, True]])
    assert portable.run("sum", flags, axes=[1], keepdims=False).tolist() == [2]
    assert portable.run("max", flags, axes=[1], keepdims=False).tolist() == [True]
    assert portable.run("sum", np.zeros((0, 2), np.float32), axes=[0], keepdims=False).tolist() == [0, 0]
    assert portable.run("prod", np.zeros((0, 2), np.float32), axes=[0], keepdims=False).tolist() == [1, 1]
    assert portable.run("max", np.zeros((3, 0), np.float32), axes=[0], keepdims=False).shape == (0,)


def test_nan_wins() -> None:
    x = np.array([[1, np.nan, 3, np.nan], [4, 2, -np.inf, 4]], np.float32)
    assert np.isnan(portable.run("max", x, axes=[1], keepdims=False)[0])
    assert np.isnan(portable.run("min", x, axes=[0], keepdims=False)[[1, 3]]).all()
    assert portable.run("argmax", x, axis=1, keepdims=False).tolist() == [1, 0]
    assert portable.run("argmin", x, axis=1, keepdims=True).tolist() == [[1], [2]]
    assert portable.run("argmax", np.full((2, 3), -np.inf, np.float32), axis=1, keepdims=False).tolist() == [0, 0]


def test_random_numbers_do_not_depend_on_threads() -> None:
    key = np.array([-5, 7], np.int64)
    attrs = {"shape": [100_000], "dtype": DTYPES["f32"], "id": 9}
    one = portable.run("random_uniform", key, threads=1, **attrs)
    assert portable.run("random_uniform", key, threads=2, **attrs).tobytes() == one.tobytes()
    assert one.min() >= 0 and one.max() < 1 and abs(float(one.mean()) - 0.5) < 0.01
    expected = REGISTRY["random_uniform"].reference(key, **attrs)  # type: ignore[misc]
    np.testing.assert_array_equal(one, expected)


X, N = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int64)
ERRORS: list[tuple[type[TesseraError], str, str, list[np.ndarray], str]] = [
    (NameMissingError, "no_such", "", [X], "unknown operator 'no_such'"),
    (ArgumentError, "add", "", [X], "[add] takes 2 operands, got 1"),
    (ArgumentError, "concat", "{axis = 0}", [], "[concat] takes one operand or more, got 0"),
    (DTypeError, "add", "", [X, N], "[add] operand 1 has dtype i64 but operand 0 has f32"),
    (DTypeError, "exp", "", [N], "[exp] operand 0 has dtype i64; expected f64, f32, bf16 or f16"),
    (ShapeError, "add", "", [X, X.T],
     "[add] operand 0 with shape [2, 3] and operand 1 with shape [3, 2] do not broadcast"),
    (DTypeError, "where", "", [X, X, X], "[where] operand 0 has dtype f32; expected bool"),
    (GraphError, "cast", "", [X], "cast: attribute 'dtype' is missing"),
    (GraphError, "cast", "{dtype = 3}", [X], "cast: attribute 'dtype' is 3; expected a dtype"),
    (GraphError, "sum", "{axes = 1, keepdims = false}", [X],
     "sum: attribute 'axes' is 1; expected a list of integers"),
    (GraphError, "sum", "{axes = [0], keepdims = 1}", [X], "sum: attribute 'keepdims' is 1; expected true or false"),
    (GraphError, "sum", "{axes = [0]", [X],
     "graph text, line 1, column 12: expected ',' but found the end of the text"),
    (ArgumentError, "sum", "{axes = [2], keepdims = false}", [X], "[sum] axes has 2 but the tensor has 2 dimensions"),
    (ArgumentError, "sum", "{axes = [0, 0], keepdims = false}", [X], "[sum] axes has 0 twice"),
    (ArgumentError, "sum", "{axes = [1, 0], keepdims = false}", [X], "[sum] axes must be in ascending order"),
    (ShapeError, "max", "{axes = [0], keepdims = false}", [X[:0]],
     "[max] the operand has shape [0, 3]: dimension 0 is empty"),
    (ArgumentError, "argmax", "{axis = -1, keepdims = false}", [X],
     "[argmax] axis is -1 but the tensor has 2 dimensions"),
    (ShapeError, "matmul", "", [X, X],
     "[matmul] a has shape [2, 3] and b has shape [2, 3]: the last dimension of a (3)"),
    (ShapeError, "matmul", "", [X[0], X], "needs at least two dimensions each"),
    (ShapeError, "reshape", "{shape = [7]}", [X],
     "[reshape] a tensor of shape [2, 3] with 6 elements cannot take the shape [7]"),
    (ShapeError, "reshape", "{shape = [-6, -1]}", [X], "[reshape] a size in [-6, -1] is or can be negative"),
    (ArgumentError, "transpose", "{perm = [0]}", [X],
     "[transpose] perm has 1 entries but the tensor has 2 dimensions"),
    (ShapeError, "broadcast_to", "{shape = [3]}", [X],
     "[broadcast_to] a tensor of shape [2, 3] does not broadcast to [3]"),
    (ShapeError, "slice", "{start = [0, 2], stop = [2, 1], step = [1, 1]}", [X],
     "[slice] dimension 1 of shape [2, 3] is cut"),
    (ArgumentError, "slice", "{start = [0, 0], stop = [2, 3], step = [1, 0]}", [X],
     "the step 0 of dimension 1 must be at"),
    (ArgumentError, "slice", "{start = [0], stop = [2], step = [1]}", [X],
     "[slice] start has 1 entries but the tensor has 2"),
    (ArgumentError, "pad", "{low = [0, -1], high = [0, 0], value = 0.0}", [X],
     "[pad] dimension 1 is padded by -1 and 0"),
    (ShapeError, "concat", "{axis = 0}", [X, X.T],
     "[concat] operand 1 has shape [3, 2] but operand 0 has shape [2, 3]"),
    (DTypeError, "iota", "{axis = 0, dtype = bool, shape = [2]}", [], "[iota] dtype bool cannot count"),
    (GraphError, "full", '{dtype = f32, shape = [2], value = "x"}', [],
     "full: attribute 'value' is \"x\"; expected a number"),
    (ShapeError, "random_uniform", "{dtype = f32, id = 0, shape = [2]}", [N],
     "[random_uniform] the key is i64[2, 3]"),
    (DTypeError, "random_uniform", "{dtype = bf16, id = 0, shape = [2]}", [N[0, :2]],
     "dtype is bf16; expected f32 or f64"),
    (DTypeError, "take", "{axis = 0}", [X, X], "[take] operand 1 (the index) has dtype f32; expected i64 or i32"),
    (ShapeError, "take_along_axis", "{axis = 0}", [X, N[:, :2]],
     "[take_along_axis] the index has shape [2, 2] but x has shape"),
    (ShapeError, "index_add", "{axis = 0}", [X, N[0], X],
     "[index_add] the updates have shape [2, 3]; expected [3, 3]"),
    (DTypeError, "scatter_add", "{axis = 0}", [X, N, N], "[scatter_add] the updates have dtype i64 but x has f32"),
    (IndexRangeError, "take", "{axis = 1}", [X, N[0] + 3],
     "[take] the index at position [0] is 3; expected 0 to 2, as dimension 1"),
    (IndexRangeError, "take", "{axis = 0}", [X, N - 1], "[take] the index at position [0, 0] is -1; expected 0 to 1"),
    (IndexRangeError, "take_along_axis", "{axis = 0}", [X, N + 2],
     "is 2; expected 0 to 1, as dimension 0 of x has size 2"),
    (IndexRangeError, "scatter_add", "{axis = 1}", [X, N + 9, X], "[scatter_add] the index at position [0, 0] is 9"),
    (IndexRangeError, "index_add", "{axis = 0}", [X, N[0] + 2, X[[0, 0, 0]]],
     "[index_add] the index at position [0] is 2"),
    (IndexRangeError, "check_range", '{high = 4, ignore = -100, low = 1, what = "label"}', [N],
     "[check_range] label at position [0, 0] is 0; expected 1 to 4, or -100 to be ignored"),
]


@pytest.mark.parametrize(("kind", "name", "attributes", "arrays", "message"), ERRORS)
def test_errors(kind: type[TesseraError], name: str, attributes: str, arrays: list[np.ndarray], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        portable.run_text(name, attributes, arrays)
    assert type(caught.value) is kind


def test_random_views() -> None:
    random = random_for("views")
    for _ in range(40):
        shape = tuple(int(n) for n in random.integers(0, 6, random.integers(1, 5)))
        x = random.integers(-99, 99, shape).astype(np.int16)
        rank = len(shape)
        perm = [int(p) for p in random.permutation(rank)]
        np.testing.assert_array_equal(portable.run("transpose", x, perm=perm), x.transpose(perm))
        wide = (int(random.integers(1, 4)), *shape)
        np.testing.assert_array_equal(portable.run("broadcast_to", x, shape=list(wide)), np.broadcast_to(x, wide))
        axes = sorted({int(a) for a in random.integers(0, rank, 2)})
        np.testing.assert_array_equal(portable.run("flip", x, axes=axes), np.flip(x, axes))
        low, high = random.integers(0, 3, rank).tolist(), random.integers(0, 3, rank).tolist()
        np.testing.assert_array_equal(
            portable.run("pad", x, low=low, high=high, value=-7), np.pad(x, list(zip(low, high)), constant_values=-7))
        np.testing.assert_array_equal(
            portable.run("sum", x, axes=axes, keepdims=True), x.sum(tuple(axes), dtype=np.int64, keepdims=True))
