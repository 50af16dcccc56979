"""The native Program: artefacts of the portable and the compiled form, state, errors, threads."""

import json
import threading

import numpy as np
import pytest
import tessera
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tessera import _core, graph, op
from tessera.artifact import layout, reader, writer
from tessera.errors import (
    ArgumentError,
    DTypeError,
    FileAccessError,
    FormatError,
    GraphError,
    IndexRangeError,
    NameMissingError,
    ShapeError,
    TesseraError,
    UnsupportedError,
    VersionError,
)

Array = _core.Array

TEXT = """tessera.graph 1
graph "main" {
  dim B in [1, 64] multiple_of 1
  %0 = input {name = "x"} : f32[B, 3]
  %1 = input {name = "i"} : i64[B]
  %2 = param {name = "w", trainable = true} : f32[3]
  %3 = constant {name = "c"} : f32[3]
  %4 = mul(%0, %2) : f32[B, 3]
  %5 = add(%4, %3) : f32[B, 3]
  %6 = add(%2, %3) : f32[3]
  %7 = take(%3, %1) {axis = 0} : f32[B]
  output "y" = %5
  output "t" = %7
  update %2 = %6
}
"""


def artifact(text=TEXT, **metadata):
    """A portable artefact with w = 1, 2, 3 and c = 10, 20, 30."""
    sections = [
        writer.section("w", np.array([1, 2, 3], np.float32)),
        writer.section("tessera.constant.c", np.array([10, 20, 30], np.float32)),
    ]
    entries = {"tessera.format": "1", "tessera.portable": text, "user.note": "hé\n", **metadata}
    return writer.to_bytes(entries, sections)


@pytest.fixture
def program():
    return _core.Program.load_bytes(artifact())


@pytest.fixture(scope="module")
def runtime():
    return _core.Runtime(threads=2)


def arrays(x, i):
    return [Array.from_numpy(np.asarray(x, np.float32)), Array.from_numpy(np.asarray(i, np.int64))]


def test_description(program):
    assert (program.target, program.level) == ("portable", "")
    assert program.inputs() == [("x", "f32", ["B", "3"]), ("i", "i64", ["B"])]
    assert program.outputs() == [("y", "f32", ["B", "3"]), ("t", "f32", ["B"])]
    assert program.state() == [("w", "f32", ["3"])]
    assert program.constants() == [("c", "f32", ["3"])]
    assert program.symbols() == [("B", 1, 64, 1)]
    assert program.metadata()["user.note"] == "hé\n"
    needs = program.requirements({"B": 2})
    assert (needs["inputs"], needs["outputs"], needs["state"]) == (2 * 12 + 2 * 8, 2 * 12 + 2 * 4, 12)


def test_run_and_state(program, runtime, tmp_path):
    y, t = program.run(runtime, arrays(np.ones((2, 3)), [0, 2]))
    assert np.from_dlpack(y).tolist() == [[11, 22, 33]] * 2 and np.from_dlpack(t).tolist() == [10, 30]
    assert np.from_dlpack(program.state_array("w")).tolist() == [11, 22, 33]
    own = Array.empty([2, 3], "f32")
    results = program.run(runtime, arrays(np.ones((2, 3)), [0, 2]), [own, None])
    assert results[0] is own and np.from_dlpack(own)[0].tolist() == [21, 42, 63]

    path = str(tmp_path / "state.safetensors")
    program.save_state(path)
    assert load_file(path)["w"].tolist() == [21, 42, 63]
    fresh = _core.Program.load_bytes(artifact())
    fresh.load_state(path)
    assert np.from_dlpack(fresh.state_array("w")).tolist() == [21, 42, 63]
    shared = np.zeros(3, np.float32)
    fresh.bind_state("w", Array.from_numpy(shared))
    fresh.run(runtime, arrays(np.ones((1, 3)), [0]))
    assert shared.tolist() == [10, 20, 30]


def test_strided_and_readonly_inputs(program, runtime):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    x.flags.writeable = False
    y, _ = program.run(runtime, [Array.from_numpy(x.T), *arrays(0, [0, 0])[1:]])
    assert np.from_dlpack(y).tolist() == (x.T * [1, 2, 3] + [10, 20, 30]).tolist()


@pytest.mark.parametrize(
    ("inputs", "outputs", "error", "message"),
    [
        (arrays(np.ones((2, 3)), [0, 0])[:1], None, NameMissingError, "input 'i' is missing"),
        ([], None, NameMissingError, "no inputs are given"),
        (arrays(np.ones((2, 3)), [0, 0]) * 2, None, ArgumentError, "4 inputs are given, 2 are expected: x, i"),
        (arrays(np.ones((2, 3)), [0, 0])[::-1], None, DTypeError, r"input 'x': expected f32\[B, 3\], got i64\[2\]"),
        (arrays(np.ones((2, 4)), [0, 0]), None, ShapeError, r"input 'x': expected shape \[B, 3\], got \[2, 4\]"),
        (arrays(np.ones(3), [0, 0]), None, ShapeError, "the rank must be 2"),
        (arrays(np.ones((2, 3)), [0]), None, ShapeError, "dimension B is 1 here but 2 in dimension 0 of input 'x'"),
        (arrays(np.ones((65, 3)), [0] * 65), None, ShapeError, "dimension B = 65 is illegal"),
        (arrays(np.ones((2, 3)), [0, 3]), None, IndexRangeError, "take"),
        (arrays(np.ones((2, 3)), [0, 0]), [None], ArgumentError, "1 outputs are given, 2 are expected"),
        (arrays(np.ones((2, 3)), [0, 0]), [Array.empty([2, 2], "f32"), None], ShapeError, "output 'y'"),
        ([np.ones((2, 3)), 1], None, ArgumentError, "input 0 is a ndarray, expected an Array"),
    ],
)
def test_bad_arguments(program, runtime, inputs, outputs, error, message):
    with pytest.raises(error, match=message):
        program.run(runtime, inputs, outputs)
    assert np.from_dlpack(program.state_array("w")).tolist() == [1, 2, 3]


def test_output_that_is_an_input(program, runtime):
    x, i = arrays(np.ones((2, 3)), [0, 0])
    with pytest.raises(ArgumentError, match="output 'y' shares memory with input 'x'"):
        program.run(runtime, [x, i], [x, None])


def test_loading_errors(tmp_path):
    load = _core.Program.load_bytes
    with pytest.raises(FormatError, match="too few"):
        load(b"")
    with pytest.raises(VersionError, match="version 2"):
        load(artifact(**{"tessera.format": "2"}))
    with pytest.raises(GraphError, match="tessera.portable"):
        load(artifact(TEXT.replace("mul(%0, %2)", "mul(%0, %9)")))
    with pytest.raises(TesseraError):
        load(artifact(TEXT.replace("mul(", "no_such_operator(")))
    with pytest.raises(TesseraError):
        load(artifact(TEXT.replace(": f32[B, 3]\n  %5", ": f32[B, 4]\n  %5")))
    good = artifact()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    with pytest.raises(FormatError, match="'tessera.constant.c' does not match its hash"):
        load(bytes(flipped))
    load(bytes(flipped), verify=False)
    with pytest.raises(FileAccessError, match="cannot read"):
        _core.Program.load_file(tmp_path / "nothing.tsr")
    path = tmp_path / "a.tsr"
    path.write_bytes(good)
    assert _core.Program.load_file(path).target == "portable"
    assert _core.Program.load_file(str(path), allow_native_code=False, target="portable").target == "portable"
    path.write_bytes(good[:-4])
    with pytest.raises(FormatError, match="truncated"):
        _core.Program.load_file(path)


def test_weights_left_out(runtime):
    program = _core.Program.load_bytes(writer.to_bytes({"tessera.format": "1", "tessera.portable": TEXT}, []))
    with pytest.raises(NameMissingError, match="state 'w' has no tensor"):
        program.run(runtime, arrays(np.ones((1, 3)), [0]))
    program.bind_state("w", Array.from_numpy(np.ones(3, np.float32)))
    with pytest.raises(NameMissingError, match="constant 'c' has no data"):
        program.run(runtime, arrays(np.ones((1, 3)), [0]))
    program.set_constant("c", Array.from_numpy(np.zeros(3, np.float32)))
    assert np.from_dlpack(program.run(runtime, arrays(np.ones((1, 3)), [0]))[0]).tolist() == [[1, 1, 1]]
    with pytest.raises(NameMissingError, match="there is no state 'v'"):
        program.bind_state("v", Array.empty([3], "f32"))
    with pytest.raises(ShapeError, match="state 'w'"):
        program.bind_state("w", Array.empty([4], "f32"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compiled program of a small model, saved; its file also has the portable form."""
    x = op.tensor((op.dim("B", min=1, max=64), 16), dtype="f32", name="x")
    path = tmp_path_factory.mktemp("compiled") / "mlp.tsr"
    tessera.graph.compile(op.mlp(in_dim=16, hidden=[32], out_dim=4)(x), target=["cpu", "portable"]).save(path)
    return path


def test_compiled_equals_portable(compiled, runtime):
    native, portable = _core.Program.load_file(compiled), _core.Program.load_file(compiled, target="portable")
    assert (native.target, portable.target) == ("cpu", "portable")
    assert _core.Program.load_file(compiled, allow_native_code=False).target == "portable"
    with pytest.raises(UnsupportedError, match="native code, which was not allowed"):
        _core.Program.load_file(compiled, allow_native_code=False, target="cpu")
    for batch in (1, 7, 64):
        x = [Array.from_numpy(np.random.default_rng(batch).standard_normal((batch, 16), np.float32))]
        a, b = (np.from_dlpack(p.run(runtime, x)[0]) for p in (native, portable))
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_same_numbers_with_any_number_of_threads(compiled):
    program = _core.Program.load_file(compiled)
    x = [Array.from_numpy(np.random.default_rng(0).standard_normal((64, 16), np.float32))]
    results = [np.from_dlpack(program.run(_core.Runtime(n), x)[0]).tobytes() for n in (1, 2, 3, 8)]
    assert len(set(results)) == 1


def test_one_program_from_many_threads(compiled, runtime):
    program = _core.Program.load_file(compiled)
    inputs = {n: [Array.from_numpy(np.full((n, 16), n, np.float32))] for n in range(1, 6)}
    expected = {n: np.from_dlpack(program.run(runtime, x)[0]).tobytes() for n, x in inputs.items()}
    wrong = []

    def work(start):
        for k in range(200):
            n = 1 + (start + k) % 5
            if np.from_dlpack(program.run(runtime, inputs[n])[0]).tobytes() != expected[n]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_corrupted_plans_are_rejected_or_harmless(compiled, data):
    """A changed plan never crashes the loader or the evaluation of its sizes; errors are typed."""
    metadata, sections = read(compiled)
    key = next(k for k in metadata if k.startswith("tessera.plan."))
    plan = json.loads(metadata[key])
    odd = ["", "B", "B*B*B*B*B", "1 // 0", "x", None, [], {}, True, 1.5]
    value = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from(odd))
    node, path = plan, []
    while isinstance(node, (dict, list)) and node and (not path or data.draw(st.booleans())):
        path.append(data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node))))))
        parent, node = node, node[path[-1]]
    parent[path[-1]] = data.draw(value)
    metadata[key] = json.dumps(plan)
    try:
        program = _core.Program.load_bytes(writer.to_bytes(metadata, sections))
        program.requirements({"B": data.draw(st.integers(0, 70))})
    except TesseraError:
        pass


def read(path):
    """Metadata and sections of an artefact, to be written again."""
    file = reader.load(path)
    metadata = {k: v for k, v in file.metadata.items() if k != layout.HASHES}
    names = [name for name in file.entries if not name.startswith(layout.PAD)]
    return metadata, [writer.section(name, file.tensor(name)) for name in names]


def compiled_with(change, tmp_path):
    """A compiled artefact whose plan was changed, loaded without verification of hashes."""
    y = op.sum(op.tanh(op.tensor((6, 5), name="x")), axis=1) @ op.tensor((6, 3), name="w")
    path = tmp_path / "changed.tsr"
    graph.compile(y, target="cpu").save(path)
    metadata, sections = read(path)
    key = next(k for k in metadata if k.startswith("tessera.plan."))
    plan = json.loads(metadata[key])
    change(plan)
    metadata[key] = json.dumps(plan)
    return _core.Program.load_bytes(writer.to_bytes(metadata, sections), verify=False)


@pytest.mark.parametrize("shift", [-16, -1, 1, 16, 64])
def test_entries_that_are_no_entries_are_refused(shift, tmp_path):
    def change(plan):
        plan["kernels"][0]["entry"] += shift

    assert compiled_with(lambda plan: None, tmp_path).target == "cpu"
    with pytest.raises(FormatError, match=r"kernel 0 \('\w+'\): entry \d+ is not the start of a kernel"):
        compiled_with(change, tmp_path)


def test_an_entry_of_a_kernel_with_other_arguments_is_refused(tmp_path):
    def swap(plan):
        first, second = plan["kernels"][:2]
        first["entry"], second["entry"] = second["entry"], first["entry"]

    with pytest.raises(FormatError, match=r"takes \d buffers and 0 sizes, the call gives|'writes' names an argument"):
        compiled_with(swap, tmp_path)
