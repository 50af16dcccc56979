"""Meshes: inferred shapes, sub-meshes, and an error for everything that makes no sense."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.dist import Mesh
from tessera.errors import ArgumentError, DeviceError, NameMissingError


@pytest.mark.parametrize("count, axes, shape", [
    (8, 2, (2, 4)), (16, 2, (4, 4)), (12, 2, (3, 4)), (7, 2, (1, 7)), (8, 3, (2, 2, 2)), (12, 3, (2, 2, 3)), (1, 2, (1, 1)),
    (6, 1, (6,)),
])
def test_shape_is_as_square_as_it_can_be(count, axes, shape):
    mesh = Mesh([f"a{i}" for i in range(axes)], range(count))
    assert mesh.shape == shape and mesh.size == count
    assert repr(mesh).startswith("Mesh(" + ", ".join(f"a{i}={s}" for i, s in enumerate(shape)))


@given(st.integers(1, 96), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_other_shape_is_more_square(count, axes):
    shape = Mesh([f"a{i}" for i in range(axes)], count).shape
    assert math.prod(shape) == count and list(shape) == sorted(shape)
    divisors = [d for d in range(1, count + 1) if count % d == 0]
    if axes == 2:
        assert all(max(d, count // d) / min(d, count // d) >= shape[1] / shape[0] for d in divisors)


def test_given_shape_and_parts_of_it():
    assert Mesh(["dp", "tp"], 12, (None, 2)).shape == (6, 2)
    assert Mesh(["dp", "tp"], 12, (3, -1)).shape == (3, 4)
    assert Mesh(["dp"], shape=(5,)).size == 5
    assert Mesh(["dp"], ["cpu:3", "cpu:1"]).devices == (3, 1)


def test_submesh_is_the_devices_at_coordinates():
    mesh = Mesh(["dp", "tp"], range(10, 16), (2, 3))
    assert mesh.submesh(dp=1).devices == (13, 14, 15) and mesh.submesh(dp=1).axes == ("tp",)
    assert mesh.submesh(tp=2).devices == (12, 15)
    assert mesh.coordinates(4) == {"dp": 1, "tp": 1}


def test_equal_meshes_are_equal():
    assert Mesh(["dp"], 4) == Mesh(["dp"], range(4)) and hash(Mesh(["dp"], 4)) == hash(Mesh(["dp"], range(4)))
    assert Mesh(["dp"], 4) != Mesh(["tp"], 4) and Mesh(["dp"], 4) != Mesh(["dp"], 4, kind="cuda")


@pytest.mark.parametrize("make, error, words", [
    (lambda: Mesh("dp", 4), ArgumentError, "axes must be a list of names"),
    (lambda: Mesh(["dp", "dp"], 4), ArgumentError, "the axis 'dp' is given twice"),
    (lambda: Mesh(["d p"], 4), ArgumentError, "not a name for an axis"),
    (lambda: Mesh([], 4), ArgumentError, "at least one axis"),
    (lambda: Mesh(["dp"], []), DeviceError, "there is no device"),
    (lambda: Mesh(["dp"], [0, 0]), ArgumentError, "device 0 is given twice"),
    (lambda: Mesh(["dp"], ["cpu:0", "cuda:1"]), ArgumentError, "several kinds .cpu, cuda."),
    (lambda: Mesh(["dp"], ["gpu0"]), ArgumentError, "'gpu0' is not a device"),
    (lambda: Mesh(["dp"], 4, kind="tpu"), ArgumentError, "use cpu, cuda, hip"),
    (lambda: Mesh(["dp", "tp"], 4, (2, 4)), DeviceError, "needs at least 8 devices, but 4 are given"),
    (lambda: Mesh(["dp", "tp"], 9, (2, 4)), ArgumentError, "give 8 devices or another shape"),
    (lambda: Mesh(["dp", "tp"], 9, (2, None)), ArgumentError, "do not fill a mesh"),
    (lambda: Mesh(["dp", "tp"], 4, (4,)), ArgumentError, "1 sizes for 2 axes"),
    (lambda: Mesh(["dp"], 4, (0,)), ArgumentError, "at least 1"),
    (lambda: Mesh(["dp"]), ArgumentError, "shape must give the size of every axis"),
    (lambda: Mesh(["dp"], 4).submesh(tp=0), NameMissingError, "no axis 'tp'"),
    (lambda: Mesh(["dp", "tp"], 4).submesh(tp=2), ArgumentError, "not a coordinate"),
    (lambda: Mesh(["dp"], 4).submesh(dp=1), ArgumentError, "leave at least one"),
])
def test_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()
