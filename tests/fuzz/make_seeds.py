"""Writes the seeds of the fuzz corpora from real artefacts: ``make_seeds.py FOLDER``.

Machine code is cleared, but for the marks before its entries: fuzz targets never run it. Texts of graphs and of
dimensions come from the same artefacts.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tessera import dist, graph, op, optim
from tessera.ir.provenance import Location, location

MARK = b"\xcctessera"


def programs() -> Iterator[tuple[str, object]]:
    """Small programs that between them use every kind of plan instruction, state, constants and symbols."""
    B = op.dim("B", min=1, max=64)
    x = op.tensor((B, 4), name="x")
    yield "linear", {"y": op.linear(4, 3)(x)}
    table = op.constant(np.arange(12, dtype=np.float32).reshape(3, 4))
    index = op.tensor((B,), "i64", name="index")
    yield "take", {"row": op.take(table, index, axis=0), "sum": op.sum(op.take(table, index, axis=0))}
    a = op.tensor((op.dim("N", min=0), 2, 3), "bf16", name="a")
    yield "layout", {"t": op.transpose(a, (2, 0, 1)), "c": op.concat([a, a], axis=1), "s": op.softmax(a, axis=-1)}
    yield "random", {"u": op.random.uniform((3,)), "p": op.cumsum(op.tensor((4,), "i32", name="i"), axis=0)}


def training(target: str) -> object:
    """A training step: state that is updated, a range check, random numbers."""
    logits = op.mlp(in_dim=2, hidden=[3], out_dim=2)
    optimizer = optim.SGD(0.1)

    @graph.training_step
    def step(batch):
        loss = op.cross_entropy(op.dropout(logits(batch["x"]), 0.5), batch["labels"])
        optimizer.apply(graph.backward(loss))
        return {"loss": loss}

    N = op.dim("N", min=1, max=8)
    return graph.compile(step, {"x": op.tensor((N, 2)), "labels": op.tensor((N,), "i64")},
                         target=target, level="x86-64-v2" if target == "cpu" else None)


def sharded() -> object:
    """One device's program of a mesh: a product whose parts are exchanged, and another mesh axis that does nothing."""
    mesh = dist.Mesh(axes=["dp", "tp"], devices=range(4), shape=(2, 2))
    layout = dist.ShardSpec(partition=("row", "col"), mesh_axes=("dp", "tp"))
    w = dist.tensor((4, 4), layout=layout, mesh=mesh, init=1.0)
    return graph.compile({"y": op.matmul(w, w.T)}, level="x86-64-v2")


def pack(metadata: dict[str, str], tensors: list[tuple[str, str, list[int], bytes]]) -> bytes:
    """A .tsr file without hashes."""
    header: dict[str, object] = {"__metadata__": metadata}
    body = b""
    for name, dtype, shape, part in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + body


def marks(plan: dict[str, Any], image: bytes) -> bytes:
    """The image of a CPU's plan with nothing but the marks before the kernels."""
    out = b""
    for kernel in plan["kernels"]:
        out += image[kernel["entry"] - 16:kernel["entry"]]
        kernel["entry"] = len(out)
        out += bytes(16)
    return out


def headers(plan: dict[str, Any], image: bytes) -> bytes:
    """The image of a GPU's plan with the header and one section of each cubin, and the first line of each PTX text."""
    out = b""
    for module in plan["modules"]:
        code = bytearray(image[module["offset"]:module["offset"] + module["bytes"]])
        if module["format"] == "ptx":
            code = code[:code.index(b"\n")] + b"\0"
        else:
            first = struct.unpack_from("<Q", code, 40)[0]
            code = code[:64] + code[first:first + 64]
            struct.pack_into("<QQ", code, 32, 0, 64)  # program headers, section headers
            struct.pack_into("<HHHH", code, 56, 0, 64, 1, 0)  # counts and sizes of both, the names' section
        module["offset"], module["bytes"] = len(out), len(code)
        out += code
    for kernel in plan["kernels"]:  # programs this small have no tensor maps
        kernel["arguments"][0] = {"tensor_map": {
            "buffer": 0, "dtype": "bf16", "shape": [{"size": 0}, 16], "strides": [{"size": 0, "times": 16}, 1],
            "box": [64, 16], "swizzle": 32,
        }}
    plan.pop("sources", None)
    return out


def cleared(data: bytes) -> bytes:
    """The artefact without machine code, hashes and the text that the runtime does not read."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8:8 + length]), data[8 + length:]
    metadata = {key: text for key, text in header.pop("__metadata__").items()
                if key not in ("tessera.hashes", "tessera.graph")}
    tensors = []
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        part = body[slice(*entry["data_offsets"])]
        if name.startswith("tessera.kernels."):
            key = name.replace("kernels", "plan")
            plan = json.loads(metadata[key])
            part = marks(plan, part) if plan["target"] == "cpu" else headers(plan, part)
            metadata[key] = json.dumps(plan, separators=(",", ":"))
            entry["shape"] = [len(part)]
        tensors.append((name, entry["dtype"], entry["shape"], part))
    return pack(metadata, tensors)


def interpreted() -> bytes:
    """A plan that the runtime executes by itself: a range check, copies, a fill and portable instructions."""
    table = np.arange(12, dtype=np.float32).tobytes()
    x, y = {"dtype": "f32", "shape": ["B", 4]}, {"dtype": "f32", "shape": [3, 4]}
    index = {"buffer": 1, "dtype": "i64", "shape": ["B"]}
    plan = {
        "version": 1, "target": "cpu", "level": "x86-64-v2",
        "dims": [{"name": "B", "min": 1, "max": 64, "multiple_of": 1}],
        "inputs": [{"name": "x", **x, "buffer": 0}, {"name": "i", "dtype": "i64", "shape": ["B"], "buffer": 1}],
        "outputs": [{"name": "y", **x, "buffer": 2}],
        "state": [{"name": "s", **y, "trainable": True, "mutated": True, "buffer": 3}],
        "constants": [{"name": "c", **y, "buffer": 4}],
        "buffers": [{"kind": "input", "bytes": "16*B"}, {"kind": "input", "bytes": "8*B"},
                    {"kind": "output", "bytes": "16*B"}, {"kind": "state", "bytes": 48},
                    {"kind": "constant", "bytes": 48}, {"kind": "arena", "bytes": "16*B", "offset": 0}],
        "arena": "64*((B + 3) // 4)", "kernels": [], "peak": 0,
        "instructions": [
            {"check_range": 1, "dtype": "i64", "count": "B", "low": 0, "high": 2, "ignore": -1, "what": "i"},
            {"portable": "take", "attrs": "{axis = 0}", "operands": [{"buffer": 4, **y}, index],
             "results": [{"buffer": 5, **x}], "loc": "model.py:3"},
            {"portable": "add", "attrs": "", "operands": [{"buffer": 0, **x}, {"buffer": 5, **x}],
             "results": [{"buffer": 2, **x}]},
            {"zero": 5, "bytes": "16*B"}, {"copy": [4, 3], "bytes": 48}],
        "checks": [{"expr": "64 - B", "min": 0, "message": "too large", "loc": "model.py:2"}],
    }
    return pack({"tessera.format": "1", "tessera.plan.cpu.x86-64-v2": json.dumps(plan, separators=(",", ":"))},
                [("s", "F32", [3, 4], table), ("tessera.constant.c", "F32", [3, 4], table)])


def main(folder: Path) -> None:
    """Write all seeds."""
    compiled = {
        name: graph.compile(outputs, target=["cpu", "portable"], level="x86-64-v2") for name, outputs in programs()
    }
    x = op.tensor((op.dim("M", min=1), 16), "bf16", name="x")
    compiled["gpu"] = graph.compile({"y": op.linear(16, 16, dtype="bf16")(x)}, target="ptx", arch=["sm_90a"])
    compiled["sharded"] = sharded()
    compiled["training"], compiled["training_portable"] = training("cpu"), training("portable")
    for name in ("tsr", "graph", "dims", "json"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    expressions = {"B", "4*B + 3", "64*((B + 3) // 4)", "max(B, N) - min(K, 2*M)", "(N*K - 1) % (B + 2)", "-N*N*B // 5"}
    for name, program in compiled.items():
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "seed.tsr"
            program.save(path)
            data = path.read_bytes()
        (folder / "tsr" / name).write_bytes(cleared(data))
        length = struct.unpack("<Q", data[:8])[0]
        metadata = json.loads(data[8:8 + length])["__metadata__"]
        if text := metadata.get("tessera.portable"):
            (folder / "graph" / name).write_text(text)
        if plan := metadata.get("tessera.plan.cpu.x86-64-v2"):
            (folder / "json" / name).write_text(plan)
    (folder / "tsr" / "interpreted").write_bytes(interpreted())
    for number, text in enumerate(sorted(expressions)):
        (folder / "dims" / f"expression_{number}").write_text(text)


if __name__ == "__main__":
    with location(Location("model.py", 1)):  # the same on every machine
        main(Path(sys.argv[1]))
