"""Nested structures of arrays: leaves, rebuilding, names."""

from collections import namedtuple
from dataclasses import dataclass

from tessera.graph import tree
from tessera.graph.backward import Gradients


@dataclass
class Pair:
    a: object
    b: object


Point = namedtuple("Point", ["x", "y"])


def test_leaves_and_rebuild():
    nested = {"p": Pair(1, [2, 3]), "q": (4, Point(5, {"z": 6})), "empty": {}, "none": None}
    paths = [path for path, _ in tree.leaves(nested)]
    assert paths == [("p", "a"), ("p", "b", 0), ("p", "b", 1), ("q", 0), ("q", 1, "x"), ("q", 1, "y", "z"), ("none",)]
    doubled = tree.rebuild(nested, lambda x: x and 2 * x)
    assert doubled == {"p": Pair(2, [4, 6]), "q": (8, Point(10, {"z": 12})), "empty": {}, "none": None}
    assert isinstance(doubled["q"][1], Point)


def test_gradients_keep_their_parameters():
    grads = Gradients({"w": 1}, {"w": "parameter"})
    again = tree.rebuild(grads, lambda x: x + 1)
    assert isinstance(again, Gradients) and again == {"w": 2} and again.parameters == {"w": "parameter"}


def names(nested):
    return tree.names([path for path, _ in tree.leaves(nested)], "output")


def test_names_are_short_where_they_stay_distinct():
    assert names(({"w": 1, "b": 2}, {"loss": 3})) == ["w", "b", "loss"]
    assert names(1) == ["output"]
    assert names((1, 2)) == ["output.0", "output.1"]
    assert names(({"w": 1}, {"w": 2})) == ["output.0.w", "output.1.w"]
    assert names({"a": {"b": 1}, "c": [2, 3]}) == ["a.b", "c.0", "c.1"]
