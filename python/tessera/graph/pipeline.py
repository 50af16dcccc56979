"""From a prepared graph to what a file or a program holds: passes, schedule, kernels, plan; each graph built once."""

from __future__ import annotations

import gc
import hashlib
import json
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tessera import __version__
from tessera.artifact import layout, writer
from tessera.artifact.history import FORMAT_VERSION
from tessera.errors import UnsupportedError
from tessera.graph import build_cache
from tessera.ir.graph import Graph
from tessera.ir.printer import print_graph
from tessera.ir.value import Value
from tessera.op.custom_ops import requirements
from tessera.schedule.options import Schedule
from tessera.target.cpu.levels import level_named
from tessera.transform.pipeline import to_gpu_operators, to_primitives

if TYPE_CHECKING:
    from tessera.target.triton.candidates import Chooser
    from tessera.target.triton.compile import Architecture

GPU_TARGETS = ("ptx", "hsaco")
"""The targets that compile for GPUs."""
_CACHED = 128  # builds kept in memory, least recently used dropped
_LARGE = 1000  # operators from which processes that compile kernels are started before there are any kernels


class TargetWarning(UserWarning):
    """Something else was built than was asked for, or than is usual; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a graph is built for.

    ``targets``: empty for the default; ``levels``: CPU code levels, empty for that of the running CPU;
    ``architectures``: of GPUs, empty for those of the targets' defaults; ``max_collective_bytes``: the
    most that a device of a mesh may receive in one run, None for no limit; ``planned_only``: the program
    is looked at and not run, so that its mesh may have devices that are not here.
    """

    targets: tuple[str, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    levels: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    max_collective_bytes: int | None = None
    planned_only: bool = False


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, dtype and shape (integers, or the text of symbolic dimensions) of an input, output or state."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Built:
    """The parts of an artefact that do not depend on weights.

    ``metadata``: its text entries; ``kernels``: image by section name; ``schedules``: printed schedule by target.
    """

    metadata: dict[str, str]
    kernels: dict[str, bytes]
    targets: tuple[str, ...]
    schedules: dict[str, Callable[[], str]]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    state: tuple[TensorInfo, ...]

    def kernel_sections(self) -> list[writer.Section]:
        """The kernel images as tensors of the file."""
        return [writer.section(name, image) for name, image in self.kernels.items()]

    def schedule_text(self) -> str:
        """The schedule of each target, one after the other."""
        return "\n".join(text() for text in self.schedules.values())


def _info(name: str, value: Value) -> TensorInfo:
    return TensorInfo(name, value.dtype.name, tuple(d if isinstance(d, int) else str(d) for d in value.shape))


_pauses = 0
_pausing = threading.Lock()


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for garbage cycles meanwhile: a build makes many objects that live as long as it does.

    It takes a fifth of the time of a large build otherwise.
    """
    global _pauses
    with _pausing:
        enabled = gc.isenabled() or _pauses > 0
        _pauses += enabled
        gc.disable()
    try:
        yield
    finally:
        with _pausing:
            _pauses -= enabled
            if enabled and not _pauses:
                gc.enable()


@lru_cache(maxsize=1)
def default_targets() -> tuple[str, ...]:
    """The CPU, or ``portable`` on a machine for which there is no CPU code generator."""
    try:
        level_named()
    except UnsupportedError as error:
        warnings.warn(f"graphs run operator by operator on this machine: {error}", TargetWarning, stacklevel=2)
        return ("portable",)
    return ("cpu",)


_builds: OrderedDict[bytes, Built] = OrderedDict()
_lock = threading.Lock()


def build(graph: Graph, options: Options) -> Built:
    """Build a prepared graph, or take what the same text with the same options gave before."""
    if not options.targets:
        options = replace(options, targets=default_targets())
    text = print_graph(graph)
    key = _key(graph, text, options)
    with _lock:
        if key in _builds:
            _builds.move_to_end(key)
            return _builds[key]
    name = build_cache.name_of(key, graph, options, _architectures(options))
    built = None if name is None else _stored(name)
    if built is None:
        built = _build(graph, text, options)
        if name is not None:
            build_cache.write(name, built)
    with _lock:
        _builds[key] = built
        while len(_builds) > _CACHED:
            _builds.popitem(last=False)
    return built


def _key(graph: Graph, text: str, options: Options) -> bytes:
    """What a build depends on: the text, the data of constants (folded into kernels), the options."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for leaf in graph.constants():
        digest.update(np.ascontiguousarray(leaf.node.payload).tobytes())
    digest.update(repr(options).encode())
    return digest.digest()


def _architectures(options: Options) -> list[str]:
    """The GPU architectures and CPU levels that a build is for, by name."""
    found = [a.name for t in GPU_TARGETS if t in options.targets for a in _architectures_of(t, options)]
    if "cpu" in options.targets:
        found += [level_named(level).name for level in options.levels or (options.schedule.level,)]
    return found


def _stored(name: str) -> Built | None:
    """A build that is kept on disk."""
    fields = build_cache.read(name)
    if fields is None:
        return None

    def infos(part: str) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(i["name"], i["dtype"], tuple(i["shape"])) for i in fields[part])

    try:
        schedules = {target: lambda text=text: text for target, text in fields["schedules"].items()}
        found = fields["metadata"], fields["kernels"], tuple(fields["targets"])
        return Built(*found, schedules, infos("inputs"), infos("outputs"), infos("state"))
    except (AttributeError, KeyError, TypeError):
        return None


def _build_cpu(
    primitives: Graph,
    options: Options,
    metadata: dict[str, str],
    kernels: dict[str, bytes],
    schedules: dict[str, Callable[[], str]],
) -> None:
    """Add plan and kernel image of each CPU level."""
    from tessera.schedule.machine import CPU, ORDERED_CPU
    from tessera.target.cpu.compile import compile_kernels
    from tessera.tile.plan import build_plan
    from tessera.tile.report import report

    ordered = options.schedule.same_on_meshes
    scheduled = build_plan(primitives, options.schedule, ORDERED_CPU if ordered else CPU)
    schedules["cpu"] = lambda: report(scheduled)
    for level in options.levels or (options.schedule.level,):
        image = compile_kernels(scheduled.kernels, level, options.schedule.tiles, ordered)
        metadata[f"{layout.PLAN}cpu.{image.level}"] = scheduled.to_json(image.kernels, "cpu", image.level)
        kernels[f"{layout.KERNELS}cpu.{image.level}"] = image.code


def _build_gpu(
    target: str,
    primitives: Graph,
    options: Options,
    metadata: dict[str, str],
    kernels: dict[str, bytes],
    schedules: dict[str, Callable[[], str]],
) -> None:
    """Add plan, image and kernel sources of each architecture of a GPU target."""
    from tessera.schedule.machine import GPU
    from tessera.target.choices import choices_text
    from tessera.target.triton.plan import compile_plan
    from tessera.target.triton.toolchain import check_toolchain
    from tessera.tile.plan import build_plan
    from tessera.tile.report import report

    if options.schedule.same_on_meshes:
        raise UnsupportedError(
            f"[Schedule] deterministic = 'mesh' is for the targets 'cpu' and 'portable', not {target!r}; use True"
        )
    check_toolchain(target)
    scheduled = build_plan(primitives, options.schedule, GPU)
    chosen: list[str] = []
    for architecture in _architectures_of(target, options):
        compiled = compile_plan(
            scheduled, architecture, bool(options.schedule.deterministic), _chooser(architecture, options.schedule)
        )
        key = f"{target}.{compiled.level}"
        choices = json.loads(compiled.choices)
        if choices:
            metadata[layout.CHOICES + key] = compiled.choices
            chosen += choices_text(choices, architecture.name)
        metadata[layout.PLAN + key] = compiled.text
        metadata[layout.SOURCE + key] = compiled.sources
        kernels[layout.KERNELS + key] = compiled.code
    schedules[target] = lambda: "\n".join([report(scheduled), *chosen])


def _chooser(architecture: Architecture, schedule: Schedule) -> Chooser:
    """What chooses among the kernels that there can be for a product."""
    from tessera.graph.tuning import Tuner
    from tessera.target.triton.candidates import choose_by_model

    if not schedule.tuning_seconds:
        return choose_by_model
    return Tuner(architecture, schedule.tuning_seconds, bool(schedule.deterministic)).choose


def gpu_architectures(target: str) -> dict[str, Architecture]:
    """The architectures of a GPU target by name."""
    from tessera.target.hsaco import architectures as hsaco
    from tessera.target.ptx import architectures as ptx

    return {"ptx": ptx, "hsaco": hsaco}[target].ARCHITECTURES


def _architectures_of(target: str, options: Options) -> list[Architecture]:
    """Those of a GPU target that a build is for."""
    named = gpu_architectures(target)
    return [named[a] for a in options.architectures if a in named] or default_architectures(target)


def default_architectures(target: str) -> list[Architecture]:
    """What is compiled for when no architecture is named: the GPUs that are present, or the usual ones."""
    from tessera.target.hsaco import architectures as hsaco
    from tessera.target.ptx import architectures as ptx

    names = {"ptx": ptx, "hsaco": hsaco}[target].default_architectures()
    return [gpu_architectures(target)[name] for name in names]


def _build(graph: Graph, text: str, options: Options) -> Built:
    with ExitStack() as stack:
        stack.enter_context(collector_paused())
        if any(t in GPU_TARGETS for t in options.targets) and len(graph.nodes()) >= _LARGE:
            from tessera.target.triton.compile import processes_for
            from tessera.target.triton.worker import started

            stack.enter_context(started(processes_for(_LARGE)))
        return _build_all(graph, text, options)


def _build_all(graph: Graph, text: str, options: Options) -> Built:
    for_gpu = any(target in GPU_TARGETS for target in options.targets)
    gpu_operators = to_gpu_operators(graph) if for_gpu else graph
    if options.schedule.same_on_meshes:
        primitives = graph  # already
    else:
        primitives = gpu_operators if set(options.targets) <= set(GPU_TARGETS) else to_primitives(graph)
    metadata = {
        layout.FORMAT: str(FORMAT_VERSION),
        layout.PRODUCER: f"tessera {__version__}",
        layout.GRAPH: text,
        layout.STATE: json.dumps([leaf.node.attrs["name"] for leaf in graph.updates]),
    }
    if needed := requirements([*(n.op for n in graph.nodes()), *(n.op for n in primitives.nodes())]):
        metadata[layout.CUSTOM_OPS] = needed
    kernels: dict[str, bytes] = {}
    schedules: dict[str, Callable[[], str]] = {}
    if "cpu" in options.targets:
        _build_cpu(primitives, options, metadata, kernels, schedules)
    for target in GPU_TARGETS:
        if target in options.targets:
            _build_gpu(target, gpu_operators, options, metadata, kernels, schedules)
    if "portable" in options.targets:
        metadata[layout.PORTABLE] = print_graph(primitives)
        schedules["portable"] = lambda: (
            f"portable: {len(primitives.nodes())} operators, executed one by one in graph order"
        )
    return Built(
        metadata,
        kernels,
        options.targets,
        schedules,
        tuple(_info(v.node.attrs["name"], v) for v in graph.inputs),
        tuple(_info(name, v) for name, v in graph.outputs.items()),
        tuple(_info(v.node.attrs["name"], v) for v in graph.params()),
    )
