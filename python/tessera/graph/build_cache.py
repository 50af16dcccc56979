"""What graphs were built to, in the folder ``TESSERA_CACHE_DIR``: a program compiled before is not scheduled again.

An entry is found by all that it depends on: the graph's text with the user's lines, the data of constants, the options,
the architectures, this package's own source and the compilers' versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera import config
from tessera.ir.graph import Graph
from tessera.op.custom_ops import CUSTOM
from tessera.op.opdef import REGISTRY
from tessera.target import disk_cache

if TYPE_CHECKING:
    from tessera.graph.pipeline import Built, Options


def name_of(key: bytes, graph: Graph, options: Options, architectures: Iterable[str]) -> str | None:
    """The entry of a build by the key that it has in memory; None for one that is not kept on disk.

    Those are builds with measurements, which keep what they found themselves, and graphs of operators that are
    defined outside of this package, whose code is not part of the key.
    """
    if not config.CACHE_DIR.text() or options.schedule.tuning_seconds:
        return None
    watched = config.VERIFY_PASSES.flag() or config.PRINT_PASSES.flag()
    if watched or not all(map(_is_own, {n.op for n in graph.nodes()})):
        return None
    return f"build-{disk_cache.digest_of(repr((key, tuple(architectures), _source())))}"


def _is_own(op: str) -> bool:
    """Whether an operator is this package's."""
    definition = REGISTRY.get(op)
    return op not in CUSTOM and (definition is None or definition.infer.__module__.partition(".")[0] == "tessera")


@lru_cache(maxsize=1)
def _source() -> str:
    """A digest that changes with this package's files and with the compilers."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".json")):
        found = path.stat()
        digest.update(f"{path.relative_to(root)} {found.st_size} {found.st_mtime_ns}\n".encode())
    for package in ("llvmlite", "triton", "ml_dtypes", "numpy"):
        try:
            digest.update(f"{package} {version(package)}\n".encode())
        except PackageNotFoundError:
            continue
    return digest.hexdigest()


def read(name: str) -> dict[str, Any] | None:
    """The fields of a ``Built``, as text where they are no kernels; None when there is no whole entry."""
    entry = disk_cache.read(name)
    if entry is None:
        return None
    fields, code = entry
    try:
        kernels, at = {}, 0
        for section, size in fields["kernels"]:
            kernels[section] = code[at : at + size]
            at += size
        return {**fields, "kernels": kernels} if at == len(code) else None
    except (KeyError, TypeError, ValueError):
        return None


def write(name: str, built: Built) -> None:
    """Keep a build."""
    fields = {
        "metadata": built.metadata, "targets": built.targets,
        "kernels": [(section, len(image)) for section, image in built.kernels.items()],
        "schedules": {target: text() for target, text in built.schedules.items()},
        **{part: [asdict(info) for info in getattr(built, part)] for part in ("inputs", "outputs", "state")},
    }
    disk_cache.write(name, fields, b"".join(built.kernels.values()))
