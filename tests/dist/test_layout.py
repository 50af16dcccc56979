"""Layouts: what a ShardSpec means, its errors, parameters in shards, and the text form of shardings in both languages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import dist, op
from tessera._core import normalize_graph_text
from tessera.dist import Mesh, ShardSpec
from tessera.dist.layout import spec_of
from tessera.dist.placement import shard_ranges
from tessera.errors import ArgumentError, GraphError, NameMissingError, ShapeError, TesseraError, UnsupportedError
from tessera.ir.dims import evaluate
from tessera.ir.parser import parse_graph
from tessera.ir.sharding import MeshShape, Sharding, Split, local_size, local_start, split_over

MESH = Mesh(["dp", "tp"], range(8))


def text(spec, shape, mesh=MESH):
    return spec.sharding(shape, mesh).text(shape)


def test_entries_name_dimensions():
    assert text(ShardSpec(("row", "col"), ("dp", "tp")), (8, 8)) == "split [dp, tp]"
    assert text(ShardSpec(("col",), ("tp",)), (2, 3, 4)) == "split [-, -, tp]"
    assert text(ShardSpec((0, -1), ("tp", "dp")), (2, 3, 4)) == "split [tp, -, dp]"
    assert text(ShardSpec((None, "row"), (None, "dp")), (2, 3)) == "split [dp, -]"
    assert text(ShardSpec((0,), (("dp", "tp"),)), (16,)) == "split [dp*tp]"
    assert text(ShardSpec((0, 0), ("tp", "dp")), (16,)) == "split [tp*dp]"
    assert text(ShardSpec(), (3, 3)) == "split [-, -]"
    assert text(ShardSpec(("col",), ("dp",)), (5,)) == "split [dp]"


def test_a_sharding_gives_its_spec_back():
    for spec, shape in ((ShardSpec(("row", "col"), ("dp", "tp")), (4, 4)), (ShardSpec((1,), (("dp", "tp"),)), (4, 4, 4))):
        again = spec_of(spec.sharding(shape, MESH))
        assert again.sharding(shape, MESH) == spec.sharding(shape, MESH)


@pytest.mark.parametrize("make, error, words", [
    (lambda: ShardSpec(("row",), ("dp", "tp")), ArgumentError, "give one axis"),
    (lambda: ShardSpec("row", ("dp",)), ArgumentError, "partition must be a tuple"),
    (lambda: ShardSpec(("row", "col"), ("dp", "dp")), ArgumentError, "axis 'dp' is used twice"),
    (lambda: ShardSpec(("row",), (("dp", "dp"),)), ArgumentError, "axis 'dp' is used twice"),
    (lambda: ShardSpec(("rows",), ("dp",)), ArgumentError, "'rows' is not a dimension"),
    (lambda: ShardSpec((None,), ("dp",)), ArgumentError, "give both or neither"),
    (lambda: ShardSpec((0,), (3,)), ArgumentError, "3 is not a mesh axis"),
    (lambda: text(ShardSpec((2,), ("dp",)), (4, 4)), ArgumentError, "no dimension 2"),
    (lambda: text(ShardSpec(("row",), ("dp",)), (4,)), ArgumentError, "no 'row'"),
    (lambda: text(ShardSpec((0,), ("pp",)), (4, 4)), NameMissingError, "no axis 'pp'; its axes are dp, tp"),
    (lambda: dist.tensor((4, 4), layout="dp", mesh=MESH), ArgumentError, "must be a dist.ShardSpec"),
    (lambda: dist.tensor((4, 4), layout=ShardSpec(), mesh=8), ArgumentError, "must be a dist.Mesh"),
    (lambda: dist.tensor(("B", 4), layout=ShardSpec(), mesh=MESH), ShapeError, "not an integer"),
    (lambda: dist.place(op.tensor((3,)), ShardSpec(), MESH), ArgumentError, "is not a parameter"),
])
def test_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_used_parameters_are_not_placed():
    w = op.parameter((4, 4), init=1.0)
    op.parameter_of(w).storage()
    with pytest.raises(UnsupportedError, match="has storage already"):
        dist.place(w, ShardSpec((0,), ("dp",)), MESH)


@given(st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_shards_cover_a_dimension_once(size, count):
    mesh = MeshShape((("a", count),))
    split = split_over(size, ("a",), mesh)
    seen = []
    for rank in range(count):
        place = mesh.coordinates(rank)
        start, n = evaluate(local_start(size, split, mesh), place), evaluate(local_size(size, split, mesh), place)
        assert [(start, start + n)] == list(shard_ranges(Sharding(mesh, (split,)), (size,), rank))
        seen += range(start, start + n)
    assert seen == list(range(size))


@pytest.mark.parametrize("init", ["xavier_normal", "uniform", 0.25, op.initializer.normal(1.0, 2.0)])
@pytest.mark.parametrize("shape, layout", [
    ((10, 7), ShardSpec(("row", "col"), ("dp", "tp"))), ((9, 5), ShardSpec((0,), (("tp", "dp"),))),
    ((3, 5, 6), ShardSpec((1,), ("tp",))), ((3, 2), ShardSpec(("row",), ("tp",))), ((0, 4), ShardSpec((0,), ("dp",))),
])
def test_initial_values_do_not_depend_on_the_mesh(shape, layout, init):
    whole = op.parameter_of(op.parameter(shape, name="same", init=init))
    split = op.parameter_of(dist.tensor(shape, layout=layout, mesh=MESH, name="same", init=init))
    placement = split.placement
    held = max(placement.shard(split, r).size for r in range(8))
    assert held < max(whole.value.size, 1) or whole.value.size == 0
    np.testing.assert_array_equal(split.value, whole.value)
    split.value = np.full(shape, 3, np.float32)
    assert all((placement.shard(split, r) == 3).all() for r in range(8))
    split.reset()
    np.testing.assert_array_equal(split.value, whole.value)


def test_a_placed_parameter_has_no_storage_in_one_piece():
    w = op.parameter_of(dist.tensor((4, 4), layout=ShardSpec((0,), ("dp",)), mesh=MESH))
    with pytest.raises(UnsupportedError, match="lies in shards"):
        w.storage()


TEXT = """\
tessera.graph 1
graph "main" {
  mesh dp = 2, tp = 4
  dim B in [1, 64] multiple_of 1
  %0 = input {name = "x"} : f32[B, 10] split [dp, -]
  %1 = param {name = "w", trainable = true} : f32[10, 16] split [-, tp]
  %2 = matmul(%0, %1) : f32[B, 16] split [dp, tp/5] at "train.py":3
  %3 = sum(%2) {axes = [0, 1], keepdims = false} : f32[] split [] partial [dp sum, tp sum]
  %4 = constant {name = "t"} : i64[7] split [dp*tp]
  output "y" = %3
  output "t" = %4
}
"""


def test_shardings_print_and_parse_in_both_languages():
    graph = parse_graph(TEXT)
    assert str(graph) == TEXT
    assert normalize_graph_text(TEXT) == TEXT
    x, w = graph.inputs[0].type.sharding, graph.params()[0].type.sharding
    assert x.dims[0].axes == ("dp",) and w.dims == (None, Split(("tp",), 4))
    assert graph.outputs["y"].type.sharding.partial == (("dp", "sum"), ("tp", "sum"))


@pytest.mark.parametrize("old, new, words", [
    ("[dp, -]", "[pp, -]", "no axis 'pp'"), ("[dp, -]", "[dp, dp]", "used twice"), ("[dp, -]", "[dp]", "split|,"),
    ("[dp, tp/5]", "[dp, tp/3]", "do not hold 16"), ("  mesh dp = 2, tp = 4\n", "", "mesh"),
    ("dp = 2, tp = 4", "dp = 2, dp = 4", "declared twice"), ("tp = 4", "tp = 0", "no device"), ("tp sum", "tp mean", "mean"),
])
def test_malformed_shardings_are_refused(old, new, words):
    wrong = TEXT.replace(old, new, 1)
    with pytest.raises(TesseraError, match=words):
        parse_graph(wrong)
    if "hold" not in words:  # blocks are judged where shardings mean something
        with pytest.raises(GraphError, match=words):
            normalize_graph_text(wrong)


def test_a_sharding_does_not_make_another_type():
    w = dist.tensor((4, 4), layout=ShardSpec((0,), ("dp",)), mesh=MESH)
    assert w.type == op.tensor((4, 4)).type and "split [dp, -]" in str(w.type)
    assert op.relu(w).type.sharding is None
