"""``tessera inspect FILE``."""

from __future__ import annotations

import json
from typing import Any

from tessera.artifact import layout, reader
from tessera.artifact.reader import Artifact
from tessera.errors import NameMissingError, TesseraError
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import Symbol, evaluate
from tessera.target.choices import choices_text


def inspect(path: str, *, as_json: bool = False, graph: bool = False, verify: bool = True) -> str:
    """A description of the file, as text or JSON. Raises FileAccessError, FormatError, VersionError."""
    artifact = reader.load(path, verify=verify)
    found = describe(artifact)
    if graph:
        found["graph"] = artifact.metadata.get(layout.GRAPH, "")
    return json.dumps(found, indent=2) if as_json else _text(found)


def source(path: str, name: str, *, verify: bool = True) -> str:
    """The Triton source of the GPU kernels of a name, each different text once, under where it comes from.

    Raises NameMissingError when the file has no such kernel.
    """
    artifact = reader.load(path, verify=verify)
    texts: dict[str, list[str]] = {}
    known: dict[str, None] = {}
    for (target, level), plan in artifact.plans().items():
        listed = json.loads(artifact.metadata.get(f"{layout.SOURCE}{target}.{level}", "[]"))
        for number, kernel in enumerate(plan.get("kernels", [])):
            at = kernel.get("source")
            if not isinstance(at, int) or not 0 <= at < len(listed):
                continue
            known[kernel["name"]] = None
            if kernel["name"] == name:
                called = [i["loc"] for i in _launches(plan) if i.get("kernel") == number and i.get("loc")]
                where = ", ".join(dict.fromkeys(called))
                texts.setdefault(listed[at], []).append(f"# {target} {level}{f': {where}' if where else ''}")
    if not texts:
        offered = ", ".join(known) or "none"
        raise NameMissingError(f"{path}: there is no GPU kernel {name!r}; the file has source of: {offered}")
    return "\n".join("\n".join([*dict.fromkeys(heads), text]) for text, heads in texts.items())


def collectives(path: str, *, as_json: bool = False, verify: bool = True) -> str:
    """What the devices exchange in one run, as text or JSON. Raises FileAccessError, FormatError, VersionError."""
    artifact = reader.load(path, verify=verify)
    mesh = artifact.mesh()
    if mesh is None:
        return "[]" if as_json else f"{path}: runs on one device; nothing is exchanged"
    items = mesh["collectives"]
    if as_json:
        return json.dumps(items, indent=2)
    axes = ", ".join(f"{name} = {size}" for name, size in mesh["axes"])
    lines = [f"{path}: mesh {axes} of {mesh['kind']} devices, {len(items)} collectives; bytes that a device receives"]
    for number, c in enumerate(items):
        line = f" at {c['line']}" if c["line"] else ""
        lines.append(
            f"  {number + 1}. {c['kind']} over {' and '.join(c['axes'])} of {c['tensor']}: {c['bytes']} bytes over "
            f"{c['link']}, for {c['cause']}{line}; to avoid it, {c['fix']}"
        )
    return "\n".join(lines)


def describe(artifact: Artifact) -> dict[str, Any]:
    """Everything that ``inspect`` shows, as plain data."""
    text = artifact.metadata.get(layout.GRAPH, artifact.metadata.get(layout.PORTABLE))
    mesh = artifact.mesh()
    interface = _interface(text) if text is not None else {}
    state = set(json.loads(artifact.metadata.get(layout.STATE, "[]")))
    weights = [
        {
            "name": name,
            "dtype": e.dtype.name,
            "shape": list(e.shape),
            "bytes": e.stop - e.start,
            "mutable": name in state,
        }
        for name in artifact.weights()
        for e in (artifact.entries[name],)
    ]
    return {
        "file": artifact.where,
        "format": int(artifact.metadata[layout.FORMAT]),
        "producer": artifact.metadata.get(layout.PRODUCER, ""),
        **interface,
        "custom_operators": [
            {key: str(entry.get(key, "")) for key in ("name", "schema", "library")}
            for entry in json.loads(artifact.metadata.get(layout.CUSTOM_OPS, "[]"))
        ],
        "weights": weights,
        "weight_bytes": sum(w["bytes"] for w in weights),
        "targets": _targets(artifact),
        **({} if mesh is None else {"mesh": mesh}),
        "user": artifact.user_metadata(),
    }


def _interface(text: str) -> dict[str, Any]:
    """Inputs, outputs and dimensions, from the graph's text."""
    import tessera.op  # noqa: F401 - the parser infers types with the registered operators
    from tessera.ir.parser import parse_graph

    try:
        graph = parse_graph(text)
    except TesseraError as error:  # such as an operator that this build does not have
        return {"graph_error": str(error)}
    return {
        "inputs": [{"name": v.node.attrs["name"], "type": str(v.type)} for v in graph.inputs],
        "outputs": [{"name": name, "type": str(v.type)} for name, v in graph.outputs.items()],
        "dimensions": [
            {"name": s.name, "min": s.min, "max": s.max, "multiple_of": s.multiple_of} for s in graph.symbols()
        ],
        "operators": len(graph.nodes()),
    }


def _targets(artifact: Artifact) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for (target, level), plan in artifact.plans().items():
        image = artifact.entries.get(f"{layout.KERNELS}{target}.{level}")
        found.append(
            {
                "target": target,
                "level": level,
                "kernels": [k["name"] for k in plan.get("kernels", [])],
                "kernel_details": [_details(k) for k in plan.get("kernels", [])],
                "kernel_bytes": image.stop - image.start if image else 0,
                "instructions": len(plan.get("instructions", [])),
                "library_calls": _library_calls(plan),
                "exchanges": sum("collective" in i for i in plan.get("instructions", [])),
                "exchanges_beside_kernels": sum("start" in i for i in plan.get("instructions", [])),
                "choices": json.loads(artifact.metadata.get(f"{layout.CHOICES}{target}.{level}", "[]")),
                "peak_memory": str(plan.get("peak", plan.get("arena", 0))),
                "peak_memory_at": _peaks(plan),
            }
        )
    if layout.PORTABLE in artifact.metadata:
        found.append({"target": "portable", "level": "", "kernels": [], "kernel_bytes": 0})
    return found


def _launches(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The instructions of a plan, with those that follow the call of a library or take its place."""
    found: list[dict[str, Any]] = []
    for i in plan["instructions"]:
        found += [i, *i.get("then", []), *i.get("otherwise", [])]
    return found


def _library_calls(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The instructions that call a vendor library, and the kernels that run in its place where it is missing."""
    names = [k["name"] for k in plan.get("kernels", [])]
    return [
        {
            "library": i["library"], "function": i["function"], "loc": i.get("loc"),
            "otherwise": [names[k["kernel"]] for k in i.get("otherwise", [])],
        }
        for i in plan.get("instructions", []) if "library" in i
    ]


def _details(kernel: dict[str, Any]) -> dict[str, int]:
    """What is known of a GPU kernel."""
    return {k: kernel[k] for k in ("threads", "shared", "registers") if kernel.get(k) is not None}


def _detail_text(details: dict[str, int]) -> str:
    parts = [f"{details['threads']} threads"] if "threads" in details else []
    parts += [f"{_bytes(details['shared'])} shared memory"] if details.get("shared") else []
    parts += [f"{details['registers']} registers"] if "registers" in details else []
    return f"  ({', '.join(parts)})" if parts else ""


def _peaks(plan: dict[str, Any]) -> dict[str, int]:
    """Peak temporary memory in bytes at the smallest and the largest legal sizes."""
    names = {d["name"]: Symbol(d["name"], d["min"], d["max"], d["multiple_of"]) for d in plan.get("dims", [])}
    peak = plan.get("peak", 0)
    if isinstance(peak, int):
        return {"any": peak}
    expression = parse_dim(peak, names)
    found = {"smallest": evaluate(expression, {name: s.min for name, s in names.items()})}
    if all(s.max is not None for s in names.values()):
        found["largest"] = evaluate(expression, {name: int(s.max or 0) for name, s in names.items()})
    return found


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _text(found: dict[str, Any]) -> str:
    lines = [f"{found['file']}  (format {found['format']}, {found['producer'] or 'unknown producer'})"]

    def section(title: str, rows: list[str]) -> None:
        lines.append(f"{title}:" if rows else f"{title}: none")
        lines.extend(f"  {row}" for row in rows)

    if "graph_error" in found:
        lines.append(f"graph: {found['graph_error']}")
    else:
        section("inputs", [f"{v['name']}: {v['type']}" for v in found.get("inputs", [])])
        section("outputs", [f"{v['name']}: {v['type']}" for v in found.get("outputs", [])])
        if found.get("dimensions"):
            section(
                "dimensions",
                [
                    f"{d['name']} in [{d['min']}, {'inf' if d['max'] is None else d['max']}]"
                    + (f", multiple of {d['multiple_of']}" if d["multiple_of"] > 1 else "")
                    for d in found["dimensions"]
                ],
            )
    custom = [f"{c['name']} of {c['library']}" for c in found["custom_operators"]]
    lines.append(f"custom operators: {', '.join(custom) or 'none'}")
    section(
        f"weights ({_bytes(found['weight_bytes'])})",
        [
            f"{w['name']}: {w['dtype']}{w['shape']}  {_bytes(w['bytes'])}{'  (mutable)' if w['mutable'] else ''}"
            for w in found["weights"]
        ],
    )
    for target in found["targets"]:
        name = f"target {target['target']} {target['level']}".rstrip()
        if target["target"] == "portable":
            lines.append(f"{name}: the graph, executed operator by operator")
            continue
        peaks = ", ".join(
            _bytes(n) if at == "any" else f"{_bytes(n)} ({at} sizes)" for at, n in target["peak_memory_at"].items()
        )
        lines.append(
            f"{name}: {len(target['kernels'])} kernels ({_bytes(target['kernel_bytes'])}), "
            f"{target['instructions']} instructions, peak memory {peaks}"
        )
        if target["exchanges"]:
            beside = target["exchanges_beside_kernels"]
            lines.append(f"  {target['exchanges']} exchanges with other devices, {beside} of them beside kernels")
        details = target["kernel_details"]
        lines.extend(f"  {kernel}{_detail_text(d)}" for kernel, d in zip(target["kernels"], details))
        for c in target["library_calls"]:
            at = f" at {c['loc']}" if c["loc"] else ""
            otherwise = f"without it {', '.join(c['otherwise'])}" if c["otherwise"] else "not without it"
            lines.append(f"  call of {c['library']}: {c['function']}{at}; {otherwise}")
        lines.extend(f"  {line}" for line in choices_text(target["choices"], target["level"]))
    section("user metadata", [f"{k}: {v}" for k, v in found["user"].items()])
    if "graph" in found:
        lines += ["", found["graph"]]
    return "\n".join(lines)
