"""``tessera doctor``: what this machine offers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
from typing import Any

OPTIONAL = {
    "llvmlite": "compiling for the CPU",
    "triton": "compiling for GPUs",
    "rich": "progress bars",
    "safetensors": "reading weights elsewhere",
    "torch": "exchange with PyTorch",
    "jax": "exchange with JAX",
    "onnxruntime": "benchmarks",
    "sklearn": "the demo",
}
"""Python packages that Tessera uses when they are there, and what for."""


def report() -> dict[str, Any]:
    """Versions, devices, libraries and settings, as plain data."""
    from tessera import __version__, config

    found: dict[str, Any] = {"tessera": __version__, "python": platform.python_version(), "system": platform.platform()}
    try:
        from tessera import _core

        found["runtime"] = dict(_core.doctor())
    except ImportError as error:
        found["runtime_error"] = f"the native module tessera._core cannot be loaded: {error}"
    found["targets"] = targets(found.get("runtime", {}))
    found["packages"] = {name: {"version": _version(name), "for": purpose} for name, purpose in OPTIONAL.items()}
    found["settings"] = {v.name: {"value": v.text(), "default": v.default, "doc": v.doc} for v in config.VARIABLES}
    return found


def targets(runtime: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Per target: ``compiles``, "" or why it cannot be compiled for here, and ``runs``, the code that runs here.

    ``runs`` is by device: the names that ``graph.compile(arch=)`` takes, for the CPU its code level.
    """
    from tessera.errors import UnsupportedError
    from tessera.target.hsaco import architectures as amd
    from tessera.target.ptx import architectures as nvidia
    from tessera.target.triton.toolchain import check_toolchain

    llvm = "" if _version("llvmlite") else "needs the package llvmlite"
    level = runtime.get("cpu", {}).get("level")
    found: dict[str, dict[str, Any]] = {
        "cpu": {"compiles": llvm, "runs": {"cpu": [level]} if level else {}},
        "portable": {"compiles": "", "runs": {"cpu": ["any"]} if level else {}},
    }
    for target, kind, known in (("ptx", "cuda", nvidia.ARCHITECTURES), ("hsaco", "rocm", amd.ARCHITECTURES)):
        try:
            check_toolchain(target)
            why = ""
        except UnsupportedError as error:
            why = str(error).partition("needs ")[2]
            why = f"needs {why}"
        gpus = next((g for g in runtime.get("gpus", ()) if g["type"] == kind), {"devices": []})
        runs = {f"{kind}:{i}": [a for a in known if _runs(a, d["level"])] for i, d in enumerate(gpus["devices"])}
        found[target] = {"compiles": why, "runs": runs}
    return found


def _runs(arch: str, device: str) -> bool:
    """Whether code for an architecture runs on a device of a level ("sm_90", "gfx942")."""
    if not arch.startswith("sm_") or not device.startswith("sm_"):
        return arch == device
    return arch[:-1] == device if arch.endswith("a") else int(arch[3:]) <= int(device[3:])


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version({"sklearn": "scikit-learn"}.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _devices(one: dict[str, Any]) -> list[str]:
    if not one["devices"]:
        return [f"{one['type']}: none: {one['why']}"]
    lines = [f"{one['type']}: driver {one['driver']}, {one['library']}"]
    for i, d in enumerate(one["devices"]):
        size = f"{d['memory'] / 2**30:.1f} GiB, {d['multiprocessors']} multiprocessors"
        lines.append(f"  {one['type']}:{i}: {d['name']}, {d['level']}, {size}")
    return lines


def _ability(one: dict[str, Any]) -> str:
    runs = "; ".join(f"on {device}: {', '.join(names) or 'none'}" for device, names in one["runs"].items())
    compiles = f"not compiled for here: {one['compiles']}" if one["compiles"] else "can be compiled for"
    return f"{compiles}; {f'runs code {runs}' if runs else 'has no device here'}"


def doctor(*, as_json: bool = False) -> str:
    """The report as text or JSON."""
    found = report()
    if as_json:
        return json.dumps(found, indent=2)
    lines = [f"tessera {found['tessera']}, Python {found['python']}, {found['system']}"]
    if "runtime_error" in found:
        lines.append(found["runtime_error"])
    else:
        runtime = found["runtime"]
        lines.append(f"runtime {runtime['version']}")
        lines.append(f"CPU: code level {runtime['cpu']['level']}, {runtime['cpu']['cores']} cores")
        for one in runtime["gpus"]:
            lines += _devices(one)
        lines.append("targets:")
        lines += [f"  {name}: {_ability(one)}" for name, one in found["targets"].items()]
        lines.append("libraries:")
        for one in runtime["libraries"]:
            state = f"found, {one['file']}" if one["found"] else f"not found: {one['why']}"
            lines.append(f"  {one['name']} ({one['purpose']}): {state}")
    lines.append("Python packages:")
    lines += [f"  {name}: {p['version'] or 'not installed'} (for {p['for']})" for name, p in found["packages"].items()]
    lines.append("settings:")
    lines += [f"  {name}={s['value']!r}  {s['doc']}" for name, s in found["settings"].items()]
    return "\n".join(lines)
