"""``tessera doctor``: what this machine offers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
from typing import Any

OPTIONAL = {
    "llvmlite": "compiling for the CPU",
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
    found["packages"] = {name: {"version": _version(name), "for": purpose} for name, purpose in OPTIONAL.items()}
    found["settings"] = {v.name: {"value": v.text(), "default": v.default, "doc": v.doc} for v in config.VARIABLES}
    return found


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version({"sklearn": "scikit-learn"}.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


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
        for one in runtime.get("gpus", ()):
            lines.append(f"{one['type']}: {'; '.join(one['devices']) or one['why']}")
        lines.append("libraries:")
        for one in runtime["libraries"]:
            state = f"found, {one['file']}" if one["found"] else f"not found: {one['why']}"
            lines.append(f"  {one['name']} ({one['purpose']}): {state}")
    lines.append("Python packages:")
    lines += [f"  {name}: {p['version'] or 'not installed'} (for {p['for']})" for name, p in found["packages"].items()]
    lines.append("settings:")
    lines += [f"  {name}={s['value']!r}  {s['doc']}" for name, s in found["settings"].items()]
    return "\n".join(lines)
