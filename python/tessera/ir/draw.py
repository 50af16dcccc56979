"""Drawings of a graph: SVG for notebooks, DOT text for Graphviz.

The layout is layered (Sugiyama, Tagawa, Toda 1981): a node stands below all of its operands; an edge over
several layers runs through a point in each of them, shared by all users of the value; within a layer boxes
and points are ordered and placed by the mean position of what they come from.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from html import escape

from tessera.ir.attribute import attribute_text, attributes_text
from tessera.ir.graph import Graph
from tessera.ir.value import INPUT, LEAVES, PARAM, Node, Value

MAX_NODES = 400
"""Larger graphs are summarised."""

_BOX_HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 36, 14, 34, 12
_CHARACTER = 6.7  # width of a character of the 11 px monospace font
_FILL = {INPUT: "#dbeafe", PARAM: "#fde9c8", "constant": "#e9e5f5", "output": "#d9f2dd", "update": "#fbdcdc"}


@dataclass(slots=True)
class _Box:
    """A node as it is drawn: two lines of text, a tooltip, a colour; or without a title a point of a long edge.

    ``sources``: the boxes that edges come from; ``(x, y)``: the upper left corner.
    """

    title: str
    detail: str
    tip: str
    fill: str
    sources: list[_Box]
    layer: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return max(len(self.title), len(self.detail)) * _CHARACTER + 16 if self.title else 4

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def to_svg(graph: Graph) -> str:
    """The graph as an SVG picture; one of more than 400 nodes as a table of its operators."""
    boxes = _boxes(graph)
    if len(boxes) > MAX_NODES:
        return _summary(graph)
    boxes, width, height = _lay_out(boxes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="11">',
        f"<title>{escape(graph.name)}</title>",
    ]
    parts += [_edge(source, box) for box in boxes for source in box.sources]
    parts += [_box_svg(box) for box in boxes if box.title]
    return "\n".join([*parts, "</svg>"])


def to_html(graph: Graph) -> str:
    """The drawing in a frame that scrolls, for a notebook."""
    return f'<div style="overflow:auto; max-height:720px; background:#fff">{to_svg(graph)}</div>'


def to_dot(graph: Graph) -> str:
    """The graph in the DOT language of Graphviz."""
    lines = [f"digraph {_dot_string(graph.name)} {{", '  node [shape=box, style=filled, fontname="monospace"];']
    boxes = _boxes(graph)
    for i, box in enumerate(boxes):
        label = _dot_string(f"{box.title}\n{box.detail}")
        lines.append(f'  n{i} [label={label}, tooltip={_dot_string(box.tip)}, fillcolor="{box.fill}"];')
    number = {id(box): i for i, box in enumerate(boxes)}
    lines += [f"  n{number[id(source)]} -> n{i};" for i, box in enumerate(boxes) for source in box.sources]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _boxes(graph: Graph) -> list[_Box]:
    """Boxes of nodes, outputs and updates, operands first. Scalar constants stand in their users' text."""
    drawn: dict[Node, _Box] = {}
    for node in graph.nodes():
        if not _is_literal(node):
            drawn[node] = _node_box(node, drawn)
    boxes = list(drawn.values())

    def end(kind: str, name: str, value: Value) -> None:
        sources = [drawn[value.node]] if value.node in drawn else []
        detail = _literal(value) or str(value.type)
        boxes.append(_Box(_short(f"{kind} {name}"), _short(detail), "", _FILL[kind], sources))

    for name, value in graph.outputs.items():
        end("output", name, value)
    for param, value in graph.updates.items():
        end("update", str(param.node.attrs["name"]), value)
    return boxes


def _node_box(node: Node, drawn: dict[Node, _Box]) -> _Box:
    title = f"{node.op} {node.attrs['name']}" if node.op in LEAVES else node.op
    literals = [text for v in node.operands if (text := _literal(v))]
    if literals:
        title += f" ({', '.join(literals)})"
    tip = "\n".join(x for x in (attributes_text(node.attrs), "" if node.loc is None else str(node.loc)) if x)
    detail = ", ".join(str(t) for t in node.types)
    sources = list(dict.fromkeys(v.node for v in node.operands if v.node in drawn))
    return _Box(_short(title), _short(detail), tip, _FILL.get(node.op, "#f4f4f5"), [drawn[n] for n in sources])


def _is_literal(node: Node) -> bool:
    return node.op == "full" and node.types[0].shape == ()


def _literal(value: Value) -> str:
    return attribute_text(value.node.attrs["value"]) if _is_literal(value.node) else ""


def _short(text: str) -> str:
    return text if len(text) <= 44 else text[:43] + "…"


def _lay_out(boxes: list[_Box]) -> tuple[list[_Box], float, float]:
    """Give every box its place; the boxes with the points of long edges, and the size of the picture."""
    _assign_layers(boxes)
    boxes = boxes + _split_long_edges(boxes)
    layers: list[list[_Box]] = [[] for _ in range(1 + max((b.layer for b in boxes), default=0))]
    for box in boxes:
        layers[box.layer].append(box)
    for depth, layer in enumerate(layers):
        _place(layer, {id(b): _mean_middle(b.sources) for b in layer if b.sources})
        for box in layer:
            box.y = _MARGIN + depth * (_BOX_HEIGHT + _GAP_Y)
    left = min((b.x for b in boxes), default=0.0) - _MARGIN
    for box in boxes:
        box.x -= left
    width = max((b.x + b.width for b in boxes), default=0.0) + _MARGIN
    return boxes, width, 2 * _MARGIN + len(layers) * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y


def _mean_middle(sources: list[_Box]) -> float:
    """The mean middle, of those that are not leaves where there are any: parameters do not pull a model aside."""
    chosen = [s for s in sources if s.sources] or sources
    return sum(s.middle for s in chosen) / len(chosen)


def _assign_layers(boxes: list[_Box]) -> None:
    """Each box just below its lowest source; leaves just above their first user."""
    for box in boxes:
        box.layer = 1 + max((s.layer for s in box.sources), default=-1)
    first_user: dict[int, int] = {}
    for box in boxes:
        for source in box.sources:
            first_user[id(source)] = min(box.layer, first_user.get(id(source), box.layer))
    for box in boxes:
        if not box.sources and id(box) in first_user:
            box.layer = first_user[id(box)] - 1


def _split_long_edges(boxes: list[_Box]) -> list[_Box]:
    """Lead edges over several layers through a chain of points, one chain for each source."""
    chains: dict[int, list[_Box]] = {}
    points: list[_Box] = []
    for box in boxes:
        for i, source in enumerate(box.sources):
            chain = chains.setdefault(id(source), [source])
            while chain[-1].layer < box.layer - 1:
                point = _Box("", "", "", "", [chain[-1]], chain[-1].layer + 1)
                chain.append(point)
                points.append(point)
            box.sources[i] = chain[box.layer - 1 - source.layer]
    return points


def _place(layer: list[_Box], wanted: dict[int, float]) -> None:
    """Order the boxes of a layer by the middle that each wants, and put them as close to it as the gaps allow."""
    layer.sort(key=lambda b: wanted.get(id(b), math.inf))
    right = -math.inf
    shift: list[float] = []
    for box in layer:
        middle = wanted.get(id(box))
        target = box.x if middle is None else middle - box.width / 2
        if middle is None and right > -math.inf:
            target = right
        box.x = max(target, right)
        if middle is not None:
            shift.append(target - box.x)
        right = box.x + box.width + _GAP_X
    move = sum(shift) / len(shift) if shift else -right / 2
    for box in layer:
        box.x += move


def _edge(source: _Box, target: _Box) -> str:
    x1, y1 = source.middle, source.y + _BOX_HEIGHT
    x2, y2 = target.middle, target.y
    middle = (y1 + y2) / 2
    path = f"M{x1:.1f},{y1:.1f} C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"
    if not target.title:  # straight through the layer of a point
        path += f" L{x2:.1f},{y2 + _BOX_HEIGHT:.1f}"
    return f'<path d="{path}" fill="none" stroke="#9ca3af"/>'


def _box_svg(box: _Box) -> str:
    middle = box.middle
    tip = f"<title>{escape(box.tip)}</title>" if box.tip else ""
    return (
        f'<g>{tip}<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{_BOX_HEIGHT}" rx="4" '
        f'fill="{box.fill}" stroke="#6b7280"/>'
        f'<text x="{middle:.1f}" y="{box.y + 15:.1f}" text-anchor="middle">{escape(box.title)}</text>'
        f'<text x="{middle:.1f}" y="{box.y + 29:.1f}" text-anchor="middle" fill="#6b7280">'
        f"{escape(box.detail)}</text></g>"
    )


def _summary(graph: Graph) -> str:
    """Inputs, outputs and how often each operator occurs, as text in a picture."""
    nodes = graph.nodes()
    counts = Counter(n.op for n in nodes)
    lines = [f"{graph.name}: {len(nodes)} nodes, {len(graph.updates)} updates"]
    lines += [f"input {v.node.attrs['name']} : {v.type}" for v in graph.inputs]
    lines += [f"output {name} : {v.type}" for name, v in graph.outputs.items()]
    lines += [f"{count} × {op}" for op, count in counts.most_common()]
    lines = [_short(line) for line in lines[:60]]
    height, width = 16 * len(lines) + 2 * _MARGIN, 46 * _CHARACTER + 2 * _MARGIN
    texts = [f'<text x="{_MARGIN}" y="{_MARGIN + 12 + 16 * i}">{escape(line)}</text>' for i, line in enumerate(lines)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        'font-family="monospace" font-size="11">'
    )
    return "\n".join([head, *texts, "</svg>"])
