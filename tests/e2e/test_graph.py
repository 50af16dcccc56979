"""Tensors as graphs: calling, evaluating, differentiating, compiling; steps; bad input."""

import gc
import threading
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import tessera
import torch
from tessera import graph, op, optim
from tessera.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GradientError,
    IndexRangeError,
    NameMissingError,
    ShapeError,
    TesseraError,
    UnsupportedError,
)
from tessera.op.parameter import parameter_of

rng = np.random.default_rng(3)


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def linear(rows, columns=4, out=3, name="w"):
    X = op.tensor((rows, columns), name="x")
    W = op.parameter((columns, out), name=name, init=f32(columns, out))
    return X, W, op.relu(X @ W)


def expected(x, W):
    return np.maximum(x @ parameter_of(W).value, 0)


def test_call_with_arrays_of_every_kind():
    X, W, Y = linear(5)
    x = f32(5, 4)
    for given in (x, torch.from_numpy(x), tessera.array(x), x.tolist()):
        found = Y(given)
        assert isinstance(found, tessera.Array)
        np.testing.assert_allclose(found.numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Y(x=x).numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Y({"x": x}).numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Y.eval(x).numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Y.numpy(x), expected(x, W), rtol=1e-5, atol=1e-6)


def test_jax_arrays():
    jax = pytest.importorskip("jax.numpy")
    X, W, Y = linear(5)
    x = f32(5, 4)
    np.testing.assert_allclose(Y(jax.asarray(x)).numpy(), expected(x, W), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_other_constant_batch_sizes(rows):
    X, W, Y = linear(5)
    x = f32(rows, 4)
    np.testing.assert_allclose(Y(x).numpy(), expected(x, W), rtol=1e-5, atol=1e-6)


def test_symbolic_batch_compiles_once(monkeypatch):
    from tessera.graph import evaluate

    X, W, Y = linear(op.dim("B", min=1, max=64))
    count = []
    original = evaluate.compile_graph
    monkeypatch.setattr(evaluate, "compile_graph", lambda *a: count.append(1) or original(*a))
    for rows in (1, 3, 64):
        x = f32(rows, 4)
        np.testing.assert_allclose(Y(x).numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
    assert len(count) == 1


def test_call_with_tensors_substitutes():
    X, W, Y = linear(5)
    Z = op.tensor((op.dim("N", min=1), 4), name="z")
    both = Y(Z * 2.0) + Y(Z)
    z = f32(7, 4)
    np.testing.assert_allclose(both(z).numpy(), 3 * expected(z, W), rtol=1e-5, atol=1e-5)
    assert [v.node.attrs["name"] for v in both.graph.inputs] == ["z"]


def test_partial_application():
    a, b = op.tensor((3,), name="a"), op.tensor((3,), name="b")
    y = a - b
    half = y(b=op.tensor((3,), name="c") * 2.0)
    values = half(a=np.full(3, 5, np.float32), c=np.ones(3, np.float32))
    assert values.numpy().tolist() == [3, 3, 3]


def test_symbol_is_bound_in_attributes():
    N = op.dim("N", min=1)
    x = op.tensor((N, 4), name="x")
    y = op.reshape(x, (N * 4,)) + op.full((N * 4,), 1.0)
    assert y(op.tensor((3, 4))).shape == (12,)
    assert y(np.zeros((2, 4), np.float32)).numpy().tolist() == [1.0] * 8


def test_a_graph_that_is_fixed_to_its_size_says_so():
    x = op.tensor((6, 4), name="x")
    y = op.reshape(x, (24,))
    with pytest.raises(ShapeError, match="declare the sizes that vary with op.dim"):
        y(np.zeros((5, 4), np.float32))


def test_bad_arguments_of_a_call():
    X, W, Y = linear(op.dim("B", min=2, max=8, multiple_of=2))
    good = f32(4, 4)
    for call, error, message in (
        (lambda: Y(good.astype(np.float64)), DTypeError, "x"),
        (lambda: Y(good[0]), ShapeError, "x"),
        (lambda: Y(good[:, :3]), ShapeError, "x|matmul"),
        (lambda: Y(good[:3]), ShapeError, "B"),
        (lambda: Y(f32(10, 4)), ShapeError, "B"),
        (lambda: Y(f32(0, 4)), ShapeError, "B"),
        (lambda: Y(), NameMissingError, "'x' is missing"),
        (lambda: Y(good, good), ArgumentError, "2 arguments for 1 inputs"),
        (lambda: Y(y=good), NameMissingError, "no input 'y'"),
        (lambda: Y(good, x=good), ArgumentError, "given twice"),
        (lambda: Y("text"), ArgumentError, "must be an array"),
        (lambda: Y(good.astype(np.complex64)), DTypeError, "complex64"),
        (lambda: Y(np.array(["a"])), DTypeError, "has no Tessera dtype"),
    ):
        with pytest.raises(error, match=message):
            call()
    np.testing.assert_allclose(Y(good).numpy(), expected(good, W), rtol=1e-5, atol=1e-6)


def test_no_inputs():
    y = op.arange(4) * 2
    assert y.numpy().tolist() == [0, 2, 4, 6]
    assert np.asarray(y).tolist() == [0, 2, 4, 6]
    with pytest.raises(ArgumentError, match="depends on the inputs 'x'"):
        np.asarray(op.tensor((2,), name="x") + 1)


def test_same_name_inputs():
    y = op.tensor((2,), name="x") + op.tensor((2,), name="x")
    with pytest.raises(ArgumentError, match="two inputs are called 'x'"):
        graph.compile(y)


def test_two_parameters_of_one_name():
    y = op.parameter((2,), name="same") + op.parameter((2,), name="same")
    with pytest.raises(ArgumentError, match="two different parameters are called 'same'"):
        y.eval()


def test_programs_are_freed_with_their_tensors():
    from tessera.graph import evaluate

    X, W, Y = linear(2, name="freed")
    Y(f32(2, 4))
    node = weakref.ref(Y.node)
    assert Y.node in evaluate._entries
    del X, W, Y
    gc.collect()
    assert node() is None


def test_print_graph():
    X, W, Y = linear(2, name="printed")
    text = str(Y.graph)
    assert 'param {name = "printed"' in text and "test_graph.py" in text


# --- values -------------------------------------------------------------------------------------------------------


def test_nan_and_infinities_propagate():
    x = op.tensor((4,), name="x")
    y = op.exp(x) + x
    found = y(np.array([np.nan, np.inf, -np.inf, 0], np.float32)).numpy()
    assert np.isnan(found[0]) and found[1] == np.inf and found[2] == -np.inf and found[3] == 1
    m = op.max(op.tensor((3,), name="m"))
    assert np.isnan(m(np.array([1, np.nan, 2], np.float32)).item())


def test_empty_tensors():
    x = op.tensor((op.dim("N", min=0), 3), name="x")
    W = op.parameter((3, 2), name="empty.w", init="ones")
    assert (x @ W)(np.zeros((0, 3), np.float32)).shape == (0, 2)
    assert op.sum(x)(np.zeros((0, 3), np.float32)).item() == 0.0
    assert (op.tensor((2, 0), name="z") + 1.0)(np.zeros((2, 0), np.float32)).shape == (2, 0)


def test_non_contiguous_inputs():
    x = op.tensor((3, 4), name="x")
    base = f32(4, 6)
    for view in (base.T[::2], base[::-1][:3, :4], np.broadcast_to(f32(4), (3, 4))):
        np.testing.assert_array_equal((x + 1.0)(view).numpy(), view + 1)


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8"])
def test_dtypes_in_and_out(dtype):
    x = op.tensor((5,), dtype=dtype, name="x")
    given = tessera.array([0, 1, 2, 3, 4], dtype)
    found = (x + x)(given)
    assert found.dtype == dtype and np.asarray(found, np.float64).tolist() == [0, 2, 4, 6, 8]


def test_bool():
    x = op.tensor((3,), dtype="bool", name="x")
    found = op.logical_not(x)(np.array([True, False, True]))
    assert found.dtype == "bool" and found.tolist() == [False, True, False]


# --- gradients ----------------------------------------------------------------------------------------------------


def test_backward_all_and_wrt():
    X, W, Y = linear(5, name="back")
    loss = op.mean(Y * Y)
    grads = graph.backward(loss)
    assert list(grads) == ["back"] and isinstance(grads, graph.Gradients)
    gx = graph.backward(loss, wrt=X)
    both = graph.backward(loss, wrt=[X, parameter_of(W)])
    x = f32(5, 4)
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(parameter_of(W).value, requires_grad=True)
    (torch.relu(tx @ tw) ** 2).mean().backward()
    np.testing.assert_allclose(grads["back"](x).numpy(), tw.grad.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gx(x).numpy(), tx.grad.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[0](x).numpy(), tx.grad.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[1](x).numpy(), tw.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_gradient_of_gradient():
    x = op.tensor((), dtype="f64", name="x")
    first = graph.backward(op.sin(x) * x, wrt=x)
    second = graph.backward(first, wrt=x)
    third = graph.backward(second, wrt=x)
    v = 0.7
    assert first(v).item() == pytest.approx(np.sin(v) + v * np.cos(v), rel=1e-12)
    assert second(v).item() == pytest.approx(2 * np.cos(v) - v * np.sin(v), rel=1e-12)
    assert third(v).item() == pytest.approx(-3 * np.sin(v) - v * np.cos(v), rel=1e-12)


def test_backward_errors():
    X, W, Y = linear(5, name="errors")
    with pytest.raises(GradientError, match="must be a scalar"):
        graph.backward(Y)
    with pytest.raises(GradientError, match="no trainable parameter"):
        graph.backward(op.sum(X))
    with pytest.raises(ArgumentError, match="must be a symbolic tensor"):
        graph.backward(3.0)
    with pytest.raises(GradientError, match="no gradient|floating-point"):
        graph.backward(op.sum(op.argmax(Y, axis=1)))


# --- steps --------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    input: object
    labels: object


def make_step(**options):
    X, W, Y = linear(8, name=op.parameter((), name=None).node.attrs["name"] + ".w")

    @graph.training_step(**options)
    def step(batch):
        labels = batch.labels if isinstance(batch, Batch) else batch["labels"]
        given = batch.input if isinstance(batch, Batch) else batch["input"]
        loss = op.cross_entropy(Y(given), labels)
        return graph.backward(loss), {"loss": loss, "rows": given.shape[0], "text": "kept"}

    return step, W


def test_guide_step():
    step, W = make_step()
    x, labels = f32(8, 4), rng.integers(0, 3, 8)
    for batch in ({"input": x, "labels": labels}, Batch(x, labels)):
        grads, result = step(batch)
        tw = torch.tensor(parameter_of(W).value, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(torch.relu(torch.tensor(x) @ tw), torch.tensor(labels))
        loss.backward()
        assert result["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert result["rows"] == 8 and result["text"] == "kept"
        np.testing.assert_allclose(next(iter(grads.values())).numpy(), tw.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_shapes_seen_twice_do_not_compile_twice():
    step, _ = make_step()
    for rows in (8, 4, 8, 4, 8):
        step({"input": f32(rows, 4), "labels": rng.integers(0, 3, rows)})
    assert step.compilations == 2


@pytest.mark.parametrize("option", [True, "dim"])
def test_dynamic_batch_compiles_once(option):
    step, _ = make_step(dynamic_batch=op.dim("N", min=1, max=100) if option == "dim" else True)
    losses = {}
    for rows in (8, 4, 1, 8):
        x = np.ones((rows, 4), np.float32)
        _, result = step({"input": x, "labels": np.zeros(rows, np.int64)})
        losses[rows] = result["loss"].item()
    assert step.compilations == 1
    assert max(losses.values()) - min(losses.values()) < 1e-5


def test_step_with_keywords_static_values_and_nothing():
    @graph.training_step
    def scale(x, *, factor=2, flag=True):
        return (x * factor, None) if flag else x

    assert scale(np.ones(2, np.float32))[0].tolist() == [2, 2]
    assert scale(np.ones(2, np.float32), factor=3)[0].tolist() == [3, 3]
    assert scale(np.ones(2, np.float32), flag=False).tolist() == [1, 1]
    assert scale.compilations == 3

    @graph.training_step
    def nothing():
        return {}

    assert nothing() == {}


def test_update_state_directly():
    counter = op.parameter((), "i64", name="counter", trainable=False)

    @graph.training_step
    def count(by):
        graph.update(counter, counter + by)
        return counter * 1

    assert [count(np.int64(2)).item() for _ in range(3)] == [0, 2, 4]
    assert parameter_of(counter).value == 6


def test_label_out_of_range_changes_nothing():
    X, W, Y = linear(8, name="labels.w")
    optimizer = optim.Adam(0.1)

    @graph.training_step
    def step(batch):
        loss = op.cross_entropy(Y(batch["input"]), batch["labels"])
        optimizer.apply(graph.backward(loss))
        return loss

    x, labels = f32(8, 4), rng.integers(0, 3, 8)
    step({"input": x, "labels": labels})
    before = {name: p.value.tobytes() for name, p in {**optimizer.state, "w": parameter_of(W)}.items()}
    for bad in (3, -1, 2**40, -(2**40)):
        wrong = labels.copy()
        wrong[5] = bad
        with pytest.raises(IndexRangeError, match=f"(?s)label.*{bad}.*5|label.*5.*{bad}"):
            step({"input": x, "labels": wrong})
    assert before == {name: p.value.tobytes() for name, p in {**optimizer.state, "w": parameter_of(W)}.items()}


def test_step_errors():
    step, _ = make_step()
    with pytest.raises(ArgumentError, match="concrete arrays"):
        step({"input": op.tensor((8, 4)), "labels": np.zeros(8, np.int64)})
    with pytest.raises(ArgumentError, match="missing|required"):
        step()
    X = op.tensor((2,), name="free")

    @graph.training_step
    def uses_a_free_input(y):
        return X + y

    with pytest.raises(ShapeError, match="depends on the input 'free'"):
        uses_a_free_input(np.zeros(2, np.float32))

    @graph.training_step
    def unhashable(x, options):
        return x

    with pytest.raises(ArgumentError, match="hashable"):
        unhashable(np.zeros(2, np.float32), {1, 2})


def test_dropout_advances_the_random_state_and_is_reproducible():
    x = op.tensor((1000,), name="x")
    y = op.dropout(x, 0.5)
    tessera.manual_seed(5)
    one, two = y(np.ones(1000, np.float32)).numpy(), y(np.ones(1000, np.float32)).numpy()
    assert not np.array_equal(one, two)
    assert set(np.unique(one)) == {0.0, 2.0} and 400 < np.count_nonzero(one) < 600
    tessera.manual_seed(5)
    assert np.array_equal(one, y(np.ones(1000, np.float32)).numpy())


# --- compile --------------------------------------------------------------------------------------------------------


def test_compiled_interface(tmp_path):
    X, W, Y = linear(op.dim("B", min=1, max=32), name="compiled.w")
    compiled = graph.compile({"y": Y, "sum": op.sum(Y)})
    assert [str(i) for i in compiled.inputs] == ["x: f32[B, 4]"]
    assert [i.name for i in compiled.outputs] == ["y", "sum"]
    assert [i.name for i in compiled.state] == ["compiled.w"]
    x = f32(6, 4)
    found = compiled(x)
    np.testing.assert_allclose(found["y"].numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
    out = tessera.array(np.zeros((6, 3), np.float32))
    given = compiled.run({"x": x}, {"y": out})
    np.testing.assert_array_equal(out.numpy(), given[0].numpy())
    np.testing.assert_allclose(out.numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
    assert "compiled.w" in compiled.text and "Compiled(" in repr(compiled)
    assert compiled.peak_memory({"B": 6}) >= 0
    assert isinstance(compiled.schedule(), str)
    with pytest.raises(NameMissingError, match="no input 'z'"):
        compiled.run({"z": x})
    with pytest.raises(TesseraError, match="B"):
        compiled.peak_memory({})


def test_parameters_are_shared():
    X, W, Y = linear(2, name="shared.w")
    compiled = graph.compile(Y)
    x = f32(2, 4)
    parameter_of(W).value = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(
        compiled(x).numpy(), np.maximum(x @ np.ones((4, 3), np.float32), 0), rtol=1e-5, atol=1e-6
    )
    parameter_of(W).value = np.zeros((4, 3), np.float32)
    assert not compiled(x).numpy().any()


def test_compile_a_function_with_symbolic_examples():
    N = op.dim("N", min=1, max=64)

    def double(batch, offset):
        return {"y": batch["x"] * 2.0 + offset}

    compiled = graph.compile(double, {"x": op.tensor((N, 2))}, np.float32(1))
    assert [i.name for i in compiled.inputs] == ["x", "offset"]
    for rows in (1, 5):
        assert compiled({"x": np.ones((rows, 2), np.float32)}, np.float32(1))["y"].numpy().tolist() == [[3, 3]] * rows
    with pytest.raises(NameMissingError, match="missing argument 0\\['x'\\]; unexpected argument 0\\['z'\\]"):
        compiled({"z": np.ones((1, 2), np.float32)}, np.float32(1))
    with pytest.raises(ArgumentError, match="must be an array"):
        compiled({"x": "text"}, np.float32(1))


def test_compile_errors():
    X, W, Y = linear(2, name="compile.w")
    with pytest.raises(ArgumentError, match="unknown target 'tpu'"):
        graph.compile(Y, target="tpu")
    with pytest.raises(ArgumentError, match="no target"):
        graph.compile(Y, target=[])
    with pytest.raises(ArgumentError, match="examples are for functions"):
        graph.compile(Y, np.zeros(2))
    with pytest.raises(ArgumentError, match="expected symbolic tensors"):
        graph.compile({"y": 3})
    with pytest.raises(TesseraError, match="x86-64-v9"):
        graph.compile(Y, level="x86-64-v9")


def test_portable_agrees_with_cpu():
    X, W, Y = linear(op.dim("B", min=0, max=32), name="portable.w")
    y = op.softmax(Y * 0.5)
    a, b = graph.compile(y), graph.compile(y, target="portable")
    assert b.target.startswith("portable")
    for rows in (1, 7, 32):
        x = f32(rows, 4)
        np.testing.assert_allclose(a(x).numpy(), b(x).numpy(), rtol=1e-5, atol=1e-6)


def test_wrong_input_of_a_compiled_graph_runs_nothing():
    counter = op.parameter((), "i64", name="runs", trainable=False)

    @graph.training_step
    def step(x):
        graph.update(counter, counter + 1)
        return x * 2.0

    compiled = graph.compile(step, op.tensor((op.dim("B", min=2, max=8, multiple_of=2), 3), name="x"))
    good = f32(4, 3)
    compiled(good)
    for bad, error in (
        (good.astype(np.float64), DTypeError),
        (good[:3], ShapeError),
        (f32(10, 3), ShapeError),
        (good[0], ShapeError),
        (f32(4, 2), ShapeError),
        (good.astype(np.int32), DTypeError),
    ):
        with pytest.raises(error, match="x"):
            compiled(bad)
    assert parameter_of(counter).value == 1


def test_dynamic_batch_takes_the_declared_range():
    X, W, Y = linear(op.dim("B", min=2, max=8, multiple_of=2), name="range.w")

    @graph.training_step(dynamic_batch=True)
    def step(x):
        return op.sum(Y(x))

    for rows in (2, 8):
        step(f32(rows, 4))
    assert step.compilations == 1
    for rows in (1, 3, 10):
        with pytest.raises(ShapeError, match="batch"):
            step(f32(rows, 4))

    @graph.training_step(dynamic_batch=op.dim("N", min=1, max=8))
    def declared(x):
        return op.sum(Y(x))

    with pytest.raises(ShapeError, match="declare N with the same range"):
        declared(f32(2, 4))
    with pytest.raises(ArgumentError, match="dynamic_batch must be"):
        graph.training_step(dynamic_batch=op.dim("N") * 2)(lambda x: x)


def test_array_on_another_device():
    class Elsewhere:
        def __dlpack_device__(self):
            return (7, 0)

        def __dlpack__(self, **options):
            raise AssertionError("must not be asked for")

    X, W, Y = linear(2, name="device.w")
    with pytest.raises(DeviceError, match="no support for device type 7"):
        Y(Elsewhere())


def test_many_threads_run_one_program():
    X, W, Y = linear(op.dim("B", min=1, max=64), name="threads.w")
    compiled = graph.compile(Y)
    inputs = [f32(rows, 4) for rows in (1, 7, 33, 64)]
    results = [compiled(x).numpy().copy() for x in inputs]
    wrong = []

    def work(first):
        for number in range(200):
            i = (first + number) % 4
            if not np.array_equal(compiled(inputs[i]).numpy(), results[i]):
                wrong.append((first, number))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_outputs_of_the_caller():
    X, W, Y = linear(op.dim("B", min=1, max=9), name="outputs.w")
    compiled = graph.compile({"y": Y, "z": X + 1.0})
    x = f32(4, 4)
    y = np.full((4, 3), np.nan, np.float32)
    found = compiled.run([x], {"y": y})
    np.testing.assert_allclose(y, expected(x, W), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1].numpy(), x + 1)
    z = torch.zeros(4, 4)
    compiled.run([x], {"z": z})
    np.testing.assert_array_equal(z.numpy(), x + 1)
    fixed = np.zeros((4, 3), np.float32)
    fixed.flags.writeable = False
    for outputs, error, message in (
        ([np.zeros((4, 4), np.float32), None], ShapeError, "output 'y': expected shape"),
        ([np.zeros((4, 3)), None], DTypeError, "output 'y': expected f32"),
        ([np.zeros((3, 4), np.float32).T, None], ArgumentError, "not contiguous"),
        ([fixed, None], ArgumentError, "read-only"),
        ([None], ArgumentError, "1 outputs are given, 2 are expected"),
        ([None, x], ArgumentError, "shares memory with input 'x'"),
        ([[[0.0] * 3] * 4, None], ArgumentError, "not list"),
        ({"q": y}, NameMissingError, "no output 'q'"),
    ):
        with pytest.raises(error, match=message):
            compiled.run([x], outputs)
    with pytest.raises(ArgumentError, match="shares memory with state"):
        graph.compile(op.tensor((4, 3), name="q") + W).run([f32(4, 3)], [parameter_of(W).storage()])
    with pytest.raises(NameMissingError, match="no inputs|missing"):
        compiled.run([])
    with pytest.raises(ArgumentError, match="2 inputs are given"):
        compiled.run([x, x])


def test_a_machine_without_code_generator_runs_portable(monkeypatch):
    from tessera.graph import pipeline
    from tessera.target.cpu import levels

    def none():
        raise UnsupportedError("no code for this machine")

    monkeypatch.delenv("TESSERA_CPU_LEVEL", raising=False)
    monkeypatch.setattr(levels, "host_level", none)
    pipeline.default_targets.cache_clear()
    try:
        X, W, Y = linear(2, name="other.w")
        x = f32(2, 4)
        with pytest.warns(graph.TargetWarning, match="no code for this machine"):
            compiled = graph.compile(Y)
        np.testing.assert_allclose(compiled(x).numpy(), expected(x, W), rtol=1e-5, atol=1e-6)
        assert compiled.target == "portable"
    finally:
        pipeline.default_targets.cache_clear()
