"""Runs one device's program for every device of a mesh at once, with NumPy: an oracle without threads or kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tessera.dist.partition import Partitioned
from tessera.dist.placement import shard_ranges, slices, with_sizes
from tessera.ir.dims import evaluate
from tessera.ir.sharding import COORDINATE, MeshShape
from tessera.ir.value import LEAVES, Node
from tessera.op import reference
from tessera.op.collective import NAMES, received_bytes
from tessera.op.opdef import get

COMBINE = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def run(
    part: Partitioned, whole: Mapping[tuple[str, str], np.ndarray], symbols: Mapping[str, int] | None = None
) -> tuple[dict[str, np.ndarray], int]:
    """The outputs and new state as whole arrays, and the bytes that all devices receive together.

    ``whole``: arrays by (kind of leaf, name); ``symbols``: the sizes of symbolic dimensions.
    """
    mesh, count = part.mesh, part.mesh.count(part.mesh.names)
    sizes = [{**mesh.coordinates(rank), **(symbols or {})} for rank in range(count)]
    values: dict[Any, list[np.ndarray]] = {}
    traffic = 0
    with np.errstate(all="ignore"):
        for node in part.graph.nodes():
            if node.op in LEAVES:
                values[node.results[0]] = [_leaf(part, node, rank, whole, symbols or {}) for rank in range(count)]
            elif node.op in NAMES:
                values[node.results[0]] = exchange(node, values[node.operands[0]], mesh, sizes)
                traffic += sum(evaluate(received_bytes(node), s) for s in sizes)
            else:
                for rank in range(count):
                    attrs = {k: reference.concrete(a, sizes[rank]) for k, a in node.attrs.items()}
                    operands = [values[v][rank] for v in node.operands]
                    got = reference.evaluate_operator(get(node.op), operands, attrs, node.types, sizes[rank])
                    for v, array in zip(node.results, got):
                        values.setdefault(v, []).append(array)
    found: dict[str, np.ndarray] = {}
    for name, value in part.graph.outputs.items():
        shape = tuple(evaluate(d, symbols or {}) for d in part.global_types["output", name].shape)
        found[name] = _joined(with_sizes(part.outputs[name], symbols or {}), shape, values[value])
    for param, value in part.graph.updates.items():
        name = param.node.attrs["name"]
        found[name] = _joined(part.state[name], part.global_types["param", name].shape, values[value], True)
    return found, traffic


def _leaf(
    part: Partitioned, node: Node, rank: int, whole: Mapping[tuple[str, str], np.ndarray], symbols: Mapping[str, int]
) -> np.ndarray:
    name = node.attrs["name"]
    array = np.asarray(node.payload) if node.op == "constant" else whole[node.op, name]
    sharding = {"input": part.inputs, "param": part.state}.get(node.op, {}).get(name)
    if sharding is None:
        return array
    sharding = with_sizes(sharding, symbols)
    found = array[slices(shard_ranges(sharding, array.shape, rank))]
    if node.op == "param":  # as long as a full block; what is beyond the part must not matter
        block = np.full(sharding.padded_shape(array.shape), 77).astype(array.dtype)
        block[tuple(slice(0, n) for n in found.shape)] = found
        return block
    return found


def _joined(sharding: Any, shape: Any, parts: list[np.ndarray], state: bool = False) -> np.ndarray:
    """The whole array; parts that several devices hold must be the same bits."""
    assert not sharding.partial
    out = np.zeros(shape, parts[0].dtype)
    written = np.zeros(shape, bool)
    for rank, part in enumerate(parts):
        index = slices(shard_ranges(sharding, shape, rank))
        old, seen = out[index], written[index]
        if state:
            assert part.shape == sharding.padded_shape(shape)
            part = part[tuple(slice(0, n) for n in old.shape)]
        assert part.shape == old.shape, (part.shape, old.shape, sharding)
        assert part[seen].tobytes() == old[seen].tobytes(), "replicas differ"
        out[index], written[index] = part, True
    assert written.all()
    return out


def exchange(
    node: Node, parts: list[np.ndarray], mesh: MeshShape, sizes: list[dict[str, int]]
) -> list[np.ndarray]:
    """A collective on the operands of all devices."""
    attrs, count = node.attrs, len(parts)
    places = [mesh.coordinates(rank) for rank in range(count)]
    groups: dict[Any, list[int]] = {}
    for rank, place in enumerate(places):
        key = tuple(v for k, v in place.items() if k.removeprefix(COORDINATE) not in attrs["axes"])
        groups.setdefault(key, []).append(rank)
    out: list[Any] = [None] * count
    for members in groups.values():
        members.sort(key=lambda r: [places[r][COORDINATE + a] for a in attrs["axes"]])
        got = [parts[r] for r in members]
        shapes = [[evaluate(d, sizes[r]) for d in node.results[0].shape] for r in members]
        for number, rank in enumerate(members):
            out[rank] = _receive(node, got, number, shapes)
    return out


def _receive(node: Node, got: list[np.ndarray], number: int, shapes: list[list[int]]) -> np.ndarray:
    attrs = node.attrs
    if node.op == "collective_permute":
        source = next((s for s, t in attrs["pairs"] if t == number), None)
        found = np.zeros_like(got[number]) if source is None else got[source]
    elif node.op == "all_gather":
        found = np.concatenate(got, attrs["dim"])
    elif node.op == "all_to_all":
        start = sum(s[attrs["split_dim"]] for s in shapes[:number])
        stop = start + shapes[number][attrs["split_dim"]]
        found = np.concatenate([np.moveaxis(np.moveaxis(g, attrs["split_dim"], 0)[start:stop], 0, attrs["split_dim"])
                                for g in got], attrs["dim"])
    else:
        wide = [g.astype(np.float32) if g.dtype.itemsize == 2 and g.dtype.kind not in "iu" else g for g in got]
        found = wide[0]
        for g in wide[1:]:
            found = COMBINE[attrs["combine"]](found, g)
        found = found.astype(got[0].dtype)
        if node.op == "reduce_scatter":
            start = sum(s[attrs["dim"]] for s in shapes[:number])
            found = np.moveaxis(np.moveaxis(found, attrs["dim"], 0)[start : start + shapes[number][attrs["dim"]]],
                                0, attrs["dim"])
    assert list(found.shape) == shapes[number], (node, found.shape, shapes[number])
    return found
