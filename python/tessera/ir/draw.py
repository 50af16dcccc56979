"""Drawings of a graph: SVG for notebooks, DOT text for Graphviz.

The layout is layered (Sugiyama, Tagawa, Toda 1981, without crossing nodes for long edges): a node stands
below all of its operands, and within a layer nodes are ordered by the mean position of their operands.
"""

from __future__ import annotations

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
    """A node as it is drawn: two lines of text, a tooltip, a colour; (x, y) is the upper left corner."""

    title: str
    detail: str
    tip: str
    fill: str
    sources: list[int]
    layer: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return max(len(self.title), len(self.detail)) * _CHARACTER + 16


def to_svg(graph: Graph) -> str:
    """The graph as an SVG picture; one of more than 400 nodes as a table of its operators."""
    boxes = _boxes(graph)
    if len(boxes) > MAX_NODES:
        return _summary(graph)
    width, height = _lay_out(boxes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="11">',
        f"<title>{escape(graph.name)}</title>",
    ]
    parts += [_edge(boxes[s], box) for box in boxes for s in box.sources]
    parts += [_box_svg(box) for box in boxes]
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
    lines += [f"  n{s} -> n{i};" for i, box in enumerate(boxes) for s in box.sources]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _boxes(graph: Graph) -> list[_Box]:
    """Boxes of nodes, outputs and updates, operands first. Scalar constants stand in their users' text."""
    number: dict[Node, int] = {}
    boxes: list[_Box] = []
    for node in graph.nodes():
        if _is_literal(node):
            continue
        number[node] = len(boxes)
        boxes.append(_node_box(node, number))

    def end(kind: str, name: str, value: Value) -> None:
        sources = [number[value.node]] if value.node in number else []
        boxes.append(_Box(f"{kind} {name}", _literal(value) or str(value.type), "", _FILL[kind], sources))

    for name, value in graph.outputs.items():
        end("output", name, value)
    for param, value in graph.updates.items():
        end("update", str(param.node.attrs["name"]), value)
    return boxes


def _node_box(node: Node, number: dict[Node, int]) -> _Box:
    title = f"{node.op} {node.attrs['name']}" if node.op in LEAVES else node.op
    literals = [text for v in node.operands if (text := _literal(v))]
    if literals:
        title += f" ({', '.join(literals)})"
    tip = "\n".join(x for x in (attributes_text(node.attrs), "" if node.loc is None else str(node.loc)) if x)
    detail = ", ".join(str(t) for t in node.types)
    sources = [number[v.node] for v in node.operands if v.node in number]
    return _Box(_short(title), _short(detail), tip, _FILL.get(node.op, "#f4f4f5"), sources)


def _is_literal(node: Node) -> bool:
    return node.op == "full" and node.types[0].shape == ()


def _literal(value: Value) -> str:
    return attribute_text(value.node.attrs["value"]) if _is_literal(value.node) else ""


def _short(text: str) -> str:
    return text if len(text) <= 44 else text[:43] + "…"


def _lay_out(boxes: list[_Box]) -> tuple[float, float]:
    """Give every box its place; the size of the picture."""
    for box in boxes:
        box.layer = 1 + max((boxes[s].layer for s in box.sources), default=-1)
    users: list[list[int]] = [[] for _ in boxes]
    for i, box in enumerate(boxes):
        for s in box.sources:
            users[s].append(i)
    for i in reversed(range(len(boxes))):  # leaves move down to just above their first user
        if not boxes[i].sources and users[i]:
            boxes[i].layer = min(boxes[u].layer for u in users[i]) - 1
    layers: list[list[_Box]] = [[] for _ in range(1 + max((b.layer for b in boxes), default=0))]
    for box in boxes:
        layers[box.layer].append(box)
    widths = [sum(b.width + _GAP_X for b in layer) for layer in layers]
    width = max(widths, default=0.0) + 2 * _MARGIN
    for depth, layer in enumerate(layers):
        if depth:
            layer.sort(key=lambda b: _mean([boxes[s].x + boxes[s].width / 2 for s in b.sources], width / 2))
        x = (width - widths[depth] + _GAP_X) / 2
        for box in layer:
            box.x, box.y = x, _MARGIN + depth * (_BOX_HEIGHT + _GAP_Y)
            x += box.width + _GAP_X
    return width, 2 * _MARGIN + len(layers) * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y


def _mean(numbers: list[float], default: float) -> float:
    return sum(numbers) / len(numbers) if numbers else default


def _edge(source: _Box, target: _Box) -> str:
    x1, y1 = source.x + source.width / 2, source.y + _BOX_HEIGHT
    x2, y2 = target.x + target.width / 2, target.y
    middle = (y1 + y2) / 2
    path = f"M{x1:.1f},{y1:.1f} C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"
    return f'<path d="{path}" fill="none" stroke="#9ca3af"/>'


def _box_svg(box: _Box) -> str:
    middle = box.x + box.width / 2
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
