"""Drawn graphs: well-formed, complete, escaped, and summarised when large."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from tessera import op
from tessera.ir.draw import MAX_NODES, to_dot, to_html, to_svg
from tessera.ir.graph import Graph
from tessera.ir.provenance import Location, location
from tessera.ir.value import Node, Value
from tessera.op.opdef import build

SVG = "{http://www.w3.org/2000/svg}"


def small() -> Graph:
    with location(Location('<"&file>.py', 3)):
        x = op.tensor((op.dim("B", min=1), 4), dtype="f32", name='<x> & "y"')
        w = Node("param", (), {"name": "w", "trainable": True}, op.tensor((4, 4), dtype="f32").node.types).results[0]
        y = op.relu(x @ w) * 2.0
    return Graph({"out</svg>": y}, updates={w: w * 0.5})


def texts(svg: str) -> list[str]:
    return [t.text or "" for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_svg_shows_every_node_with_its_type() -> None:
    svg = to_svg(small())
    found = texts(svg)
    for expected in (
        'input <x> & "y"',
        "param w",
        "matmul",
        "mul (2.0)",
        "mul (0.5)",
        "output out</svg>",
        "update w",
        "f32[B, 4]",
    ):
        assert expected in found
    tips = [t.text or "" for t in ElementTree.fromstring(svg).iter(f"{SVG}title")]
    assert any('<"&file>.py:3' in tip for tip in tips)


def test_boxes_do_not_overlap_and_lie_below_their_operands() -> None:
    boxes = [
        tuple(float(r.attrib[k]) for k in ("x", "y", "width", "height"))
        for r in ElementTree.fromstring(to_svg(small())).iter(f"{SVG}rect")
    ]
    for i, (x1, y1, w1, h1) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:i]:
            assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1


def test_notebook_methods() -> None:
    graph = small()
    assert graph._repr_svg_() == to_svg(graph)
    assert graph._repr_html_() == to_html(graph) and "overflow:auto" in to_html(graph)


def test_dot_text() -> None:
    dot = to_dot(small())
    assert dot.startswith('digraph "main" {') and dot.count(" -> ") == to_svg(small()).count("<path")
    assert '\\"y\\"' in dot


def test_large_graphs_are_summarised() -> None:
    value: Value = op.tensor((2,), dtype="f32", name="x")
    for _ in range(MAX_NODES + 1):
        value = build("neg", value)
    svg = to_svg(Graph({"y": value}))
    assert f"{MAX_NODES + 1} × neg" in texts(svg) and len(svg) < 4000


def test_empty_graph() -> None:
    ElementTree.fromstring(to_svg(Graph({})))
