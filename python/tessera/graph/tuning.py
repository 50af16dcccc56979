"""The autotuner: measures the kernels that products and attention can have on the device, and keeps what it found.

A measurement is of a program that runs one kernel many times over buffers that together are larger than the cache, as
a captured graph, through the runtime that will run it later. Candidates are run in turn, so that a change of the clock
meets all of them; a candidate counts with its median. One whose results differ from the generated kernel's is dropped.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np

from tessera import __version__, _core
from tessera._core import Array, Program, default_runtime
from tessera.artifact import layout, writer
from tessera.artifact.history import FORMAT_VERSION
from tessera.errors import CompileError, TesseraError
from tessera.interop.array import as_array
from tessera.ir.dims import Dim, evaluate, product, sym
from tessera.ir.dtype import DTYPES
from tessera.schedule.cost import typical
from tessera.schedule.options import LIBRARIES
from tessera.schedule.plan import Instruction, KernelCall, Plan, PlanBuffer, PlanTensor
from tessera.target import disk_cache
from tessera.target.triton.cache import key_of
from tessera.target.triton.candidates import Candidate, Choice, candidates, choose_by_model, default, library_of
from tessera.target.triton.compile import Architecture, build_image, present
from tessera.target.triton.head import Options
from tessera.target.triton.plan import compile_plan
from tessera.tile.ir import AttentionKernel, DotKernel, Kernel, Load
from tessera.tile.printer import content_key
from tessera.tile.report import kernel_bytes, kernel_flops

_CACHE_BYTES = 128 << 20
"""Operands together are made at least as large: more than the cache of any GPU."""
_MOST_BYTES = 4 << 30
_MOST_SETS = 16
_RUN_SECONDS = 3e-3
"""What one run of a measured program should take at least, so that its start does not count."""
_CALLS = (4, 64)
_ROUNDS = (3, 11)
_RATES = {16: 6e14, 32: 3e13, 64: 3e13}
"""Operations in a second by bits of the factors, and bytes in a second: they tell how often a kernel is run."""
_MEMORY_RATE = 3e12
_TOLERANCE = {16: 2e-2, 32: 2e-3, 64: 1e-9}
"""How far results may be apart, relative to their size, by bits of the factors."""
_PART_BYTES = 8 << 20
"""What is looked at of a larger result."""
_MARGIN = 1.02
"""Times that differ by less are the same: a call of a library has to bring more than that."""

Microseconds = Mapping[str, float]
Measure = Callable[[Kernel, Options, Sequence[Candidate], float], dict[str, float]]
"""Times in microseconds by name, of those that can be run; the last argument: seconds that it may take."""


class TuningWarning(UserWarning):
    """Something could not be measured; the message says what, why, and what is done instead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured of a kernel.

    ``tried``: candidates that were to be measured; those without a time cannot be run, or give other results.
    ``versions``: of the libraries that were there.
    """

    device: str
    microseconds: dict[str, float]
    tried: tuple[str, ...]
    versions: dict[str, int]

    def best(self, offered: Sequence[Candidate]) -> Candidate | None:
        """The first of those that are as fast as the fastest, within what measurements can tell."""
        known = [c for c in offered if c.name in self.microseconds]
        least = min((self.microseconds[c.name] for c in known), default=0.0)
        return next((c for c in known if self.microseconds[c.name] <= _MARGIN * least), None)


@lru_cache(maxsize=4)
def device_name(target: str) -> str:
    """The name of this machine's first GPU that the target serves; empty where there is none."""
    kind = "cuda" if target == "ptx" else "rocm"
    for gpus in _core.doctor().get("gpus", ()):
        if gpus["type"] == kind and gpus["devices"]:
            return str(gpus["devices"][0]["name"])
    return ""


class Tuner:
    """Chooses among candidates by measurements: those in the cache, and new ones where the GPU is present."""

    def __init__(
        self, architecture: Architecture, seconds: float, deterministic: bool = True, measure: Measure | None = None
    ) -> None:
        self.architecture, self.seconds = architecture, seconds
        here = architecture.name in present(architecture.target)
        self.device = device_name(architecture.target) if here else ""
        self.versions = {name: _core.vendor_library_version(name) for name in LIBRARIES} if self.device else {}
        self._measure = measure or DeviceMeasurement(architecture, deterministic).measure

    def choose(self, kernels: Sequence[Kernel], options: Sequence[Options], libraries: Sequence[str]) -> list[Choice]:
        """A choice for each kernel; what is not known and cannot be measured is left to the model."""
        choices = choose_by_model(kernels, options, libraries)
        products = [at for at, kernel in enumerate(kernels) if isinstance(kernel, (DotKernel, AttentionKernel))]
        keys = {at: self._key(kernels[at], options[at]) for at in products}
        found = {at: self._known(keys[at], kernels[at]) for at in products}
        offered = {at: self._offered(kernels[at], options[at], libraries, found[at]) for at in products}
        missing = [at for at in products if self.device and self._is_new(found[at], offered[at])]
        if missing:
            prepare(self.architecture, [(c, options[at]) for at in missing for c in offered[at]])
            with _progress(len(missing)) as advance:
                for at in missing:
                    advance(kernels[at].name)
                    known = self._known(keys[at], kernels[at])  # an equal kernel may have been measured meanwhile
                    found[at] = known if not self._is_new(known, offered[at]) else self._measured(
                        keys[at], kernels[at], options[at], offered[at])
        for at, finding in found.items():
            taken = None if finding is None else finding.best(offered[at])
            if finding is not None and taken is not None and len(offered[at]) > 1:
                times = {c.name: finding.microseconds[c.name] for c in offered[at] if c.name in finding.microseconds}
                choices[at] = Choice(taken, "measured", finding.device, times, keys[at], finding.versions)
        return choices

    def _offered(
        self, kernel: Kernel, options: Options, libraries: Sequence[str], finding: Finding | None
    ) -> list[Candidate]:
        versions = finding.versions if finding is not None and not self.device else self._versions(kernel)
        return candidates(kernel, options, libraries, versions)

    def _versions(self, kernel: Kernel) -> dict[str, int]:
        """The version of the library that may be called for a kernel."""
        return {name: version for name, version in self.versions.items() if name == library_of(kernel)}

    def _known(self, key: str, kernel: Kernel) -> Finding | None:
        finding = recall(key, self.device)
        outdated = finding is not None and self.device and finding.versions != self._versions(kernel)
        return None if outdated else finding

    @staticmethod
    def _is_new(finding: Finding | None, offered: Sequence[Candidate]) -> bool:
        """Whether there is something to measure."""
        return len(offered) > 1 and (finding is None or any(c.name not in finding.tried for c in offered))

    def _measured(
        self, key: str, kernel: Kernel, options: Options, offered: Sequence[Candidate]
    ) -> Finding | None:
        times: dict[str, float] = {}
        why = ""
        try:
            times = self._measure(kernel, options, offered, self.seconds)
        except TesseraError as error:
            why = f": {str(error).splitlines()[0]}"
        if not times:
            warnings.warn(
                f"autotune: no candidate for {kernel.name} could be measured on {self.device}{why}; the model chooses",
                TuningWarning, stacklevel=2,
            )
            return None
        finding = Finding(self.device, times, tuple(c.name for c in offered), self._versions(kernel))
        remember(key, finding)
        return finding

    def _key(self, kernel: Kernel, options: Options) -> str:
        """What a measurement depends on, but for device and libraries: kernel, shape class, options, versions."""
        if isinstance(kernel, DotKernel):
            shape = [typical(a.extent) for a in (*kernel.batch, kernel.m, kernel.n, kernel.k)]
        else:
            shape = [typical(d) for b in kernel.buffers for d in b.shape]
        programs = default(kernel).generate(options).programs
        generated = [key_of(p, self.architecture.name) for p in programs]
        text = repr((__version__, content_key(kernel), shape, repr(options), generated))
        return f"{self.architecture.name}-{disk_cache.digest_of(text)}"


# The cache.

_known: dict[tuple[str, str], Finding] = {}
_lock = threading.Lock()


def _entry(key: str, device: str) -> str:
    return f"tuned-{key}-{disk_cache.digest_of(device) if device else 'any'}"


def recall(key: str, device: str) -> Finding | None:
    """What was found for a kernel on a device; without a device, on the last that was measured."""
    with _lock:
        found = _known.get((key, device))
    if found is not None:
        return found
    entry = disk_cache.read(_entry(key, device))
    if entry is None:
        return None
    try:
        finding = _read(entry[0])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    with _lock:
        _known[key, device] = finding
    return finding


def _read(fields: Mapping[str, Any]) -> Finding:
    times = {str(name): float(t) for name, t in fields["microseconds"].items()}
    versions = {str(name): int(v) for name, v in fields["versions"].items()}
    return Finding(str(fields["device"]), times, tuple(map(str, fields.get("tried", times))), versions)


def remember(key: str, finding: Finding) -> None:
    """Keep what was found, in memory and on disk."""
    _note(key, finding)
    for device in (finding.device, ""):
        disk_cache.write(_entry(key, device), asdict(finding), b"")


def _note(key: str, finding: Finding) -> None:
    with _lock:
        for device in (finding.device, ""):
            _known[key, device] = finding


def learn(choices: str) -> None:
    """Take over what an artefact says was measured, for compiling its graph again in this process."""
    try:
        for record in json.loads(choices):
            if record.get("why") == "measured" and record.get("key"):
                _note(str(record["key"]), _read(record))
    except (AttributeError, KeyError, TypeError, ValueError):  # of another version; it is measured anew
        return


def forget() -> None:
    """Forget what is in memory."""
    with _lock:
        _known.clear()


@contextmanager
def _progress(count: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error, where that is a terminal; the function to call before each kernel."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("autotune {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=count)
        begun = False

        def advance(name: str) -> None:
            nonlocal begun
            bar.update(task, description=name, advance=1 if begun else 0)
            begun = True

        yield advance


def prepare(architecture: Architecture, offered: Sequence[tuple[Candidate, Options]]) -> None:
    """Compile candidates at once, on all cores; what does not compile is met again when it is measured."""
    with suppress(CompileError):
        build_image([c.generate(replace(o, guarded=False)) for c, o in offered], architecture)


# Measurements.


class DeviceMeasurement:
    """Measures on the first device of an architecture's target."""

    def __init__(self, architecture: Architecture, deterministic: bool = True) -> None:
        self.architecture, self.deterministic = architecture, deterministic
        self.device = "cuda:0" if architecture.target == "ptx" else "rocm:0"

    def measure(
        self, kernel: Kernel, options: Options, offered: Sequence[Candidate], seconds: float
    ) -> dict[str, float]:
        """Microseconds of each candidate that can be run and agrees with the first one."""
        work = _Work(kernel, self.device)
        started = time.perf_counter()
        ready: dict[str, Program] = {}
        reference: list[np.ndarray] | None = None
        failure: TesseraError | None = None
        for candidate in offered:
            try:
                program = self._program(kernel, candidate, options, work)
                found = work.results(program)
                if candidate.library is not None and not work.calls_library(program):
                    continue  # it has nothing for these sizes: generated kernels ran in its place
            except TesseraError as error:
                failure = error
                continue
            if reference is None:
                reference = found
            if all(agree(one, right, _TOLERANCE[_bits(kernel)]) for one, right in zip(found, reference)):
                ready[candidate.name] = program
            else:
                warnings.warn(
                    f"autotune: {candidate.name} for {kernel.name} gives other results than {offered[0].name}; "
                    "it is left out", TuningWarning, stacklevel=2,
                )
        if not ready and failure is not None:
            raise failure
        times: dict[str, list[float]] = {name: [] for name in ready}
        for program in ready.values():
            work.run(program)  # once more with the same addresses: this run is captured
        for at in range(_ROUNDS[1]):
            for name, program in ready.items():
                times[name].append(work.run(program) * 1e6 / work.calls)
            if at + 1 >= _ROUNDS[0] and time.perf_counter() - started > seconds:
                break
        return {name: round(median(found), 2) for name, found in times.items()}

    def _program(self, kernel: Kernel, candidate: Candidate, options: Options, work: _Work) -> Program:
        compiled = compile_plan(
            work.plan(kernel, options.float32), self.architecture, self.deterministic,
            lambda *_: [Choice(candidate)],
        )
        key = f"{self.architecture.target}.{compiled.level}"
        metadata = {layout.FORMAT: str(FORMAT_VERSION), layout.PLAN + key: compiled.text}
        return Program.load_bytes(writer.to_bytes(metadata, [writer.section(layout.KERNELS + key, compiled.code)]))


def agree(found: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    """Whether results are the same within a tolerance of their size; integers and NaN must be the same."""
    if found.dtype.kind in "iub":
        return bool(np.array_equal(found, right))
    same = (found == right) | (np.isnan(found) & np.isnan(right))
    with np.errstate(all="ignore"):
        difference = np.where(same, 0, found - right)
    size = np.linalg.norm(np.where(np.isfinite(right), right, 0))
    return bool(np.linalg.norm(difference) <= tolerance * size)


def _bits(kernel: Kernel) -> int:
    """Bits of the factors of a product, or of attention: 16, 32 or 64."""
    if not isinstance(kernel, DotKernel):
        return kernel.buffers[0].dtype.bits
    first = kernel.a[0]
    bits = kernel.buffers[first.buffer].dtype.bits if isinstance(first, Load) else kernel.acc.bits
    return max(16, min(bits, 64))


class _Work:
    """The operands of a kernel at its typical sizes, in as many sets as fill the cache, on a device."""

    def __init__(self, kernel: Kernel, device: str) -> None:
        self.sizes = {s.name: typical(sym(s)) for s in kernel.sizes}
        self.shapes = [tuple(evaluate(d, self.sizes) for d in b.shape) for b in kernel.buffers]
        self.kernel = kernel
        size = sum(int(np.prod(s)) * b.dtype.itemsize for s, b in zip(self.shapes, kernel.buffers))
        sets = max(1, min(_MOST_SETS, -(-_CACHE_BYTES // max(size, 1)), _MOST_BYTES // max(size, 1)))
        read, written = (evaluate(d, self.sizes) for d in kernel_bytes(kernel))
        estimate = max(evaluate(kernel_flops(kernel), self.sizes) / _RATES[_bits(kernel)],
                       (read + written) / _MEMORY_RATE, 2e-6)
        calls = max(_CALLS[0], min(_CALLS[1], int(_RUN_SECONDS / estimate)))
        self.calls = -(-calls // sets) * sets
        self.sets = sets
        factors = {o.buffer for body in (getattr(kernel, "a", ()), getattr(kernel, "b", ())) for o in body
                   if isinstance(o, Load)}
        if isinstance(kernel, AttentionKernel):
            factors = {0, 1, 2}  # queries, keys and values
        host = [_drawn(b.dtype.numpy, s, i in factors) for i, (b, s) in enumerate(zip(kernel.buffers, self.shapes))]
        arrays = [[as_array(x).to(device) for x in host] for _ in range(sets)]
        roles = [b.role for b in kernel.buffers]
        self.inputs = [a for found in arrays for a, role in zip(found, roles) if role == "in"]
        self.outputs: list[Array | None] = [a for found in arrays for a, role in zip(found, roles) if role != "in"]
        # What is read and written begins as drawn, what is written as zeros, where results are looked at.
        self._fresh = [as_array(x) if role == "inout" else None
                       for _ in range(sets) for x, role in zip(host, roles) if role != "in"]

    def plan(self, kernel: Kernel, float32: str) -> Plan:
        """The program that runs the kernel on one set of operands after the other."""
        buffers: list[PlanBuffer] = []
        inputs: list[PlanTensor] = []
        outputs: list[PlanTensor] = []
        for _ in range(self.sets):
            for b, shape in zip(kernel.buffers, self.shapes):
                kind, tensors = ("input", inputs) if b.role == "in" else ("output", outputs)
                number = len(buffers)
                tensors.append(PlanTensor(f"t{number}", b.dtype, shape, number))
                buffers.append(PlanBuffer(kind, int(product(shape)) * b.dtype.itemsize, b.name))  # type: ignore[call-overload]
        count = len(kernel.buffers)
        sizes: tuple[Dim, ...] = tuple(self.sizes[s.name] for s in kernel.sizes)
        calls: list[Instruction] = []
        for i in range(self.calls):
            first = i % self.sets * count
            calls.append(KernelCall(0, tuple(range(first, first + count)), sizes, kernel.loc))
        return Plan((), inputs, outputs, [], [], buffers, 0, [kernel], calls, float32=float32)

    def run(self, program: Program) -> float:
        """Run a program; the seconds until it has ended."""
        begin = time.perf_counter()
        program.run(default_runtime(), self.inputs, self.outputs)
        default_runtime().wait()
        return time.perf_counter() - begin

    def calls_library(self, program: Program) -> bool:
        """Whether a run of the program calls a library."""
        trace = _core.Trace()
        program.run(default_runtime(), self.inputs, self.outputs, trace=trace)
        return any(event["cat"] == "library" for event in json.loads(trace.to_json())["traceEvents"])

    def results(self, program: Program) -> list[np.ndarray]:
        """Samples of what a program makes of fresh outputs, of the first and the last set."""
        outputs = [a for a in self.outputs if a is not None]
        count = len(outputs) // self.sets
        ends = [p for a in outputs[:count] + outputs[-count:] for p in _parts(a)]
        for there, fresh in zip(outputs, self._fresh):
            if fresh is not None:
                there.copy_from(fresh)
        if None in self._fresh:
            for part in ends:
                part.copy_from(as_array(np.zeros(tuple(part.shape), DTYPES[part.dtype].numpy)))
        self.run(program)
        return [_values(part) for part in ends]


def _parts(array: Array) -> list[Array]:
    """A large array's first, middle and last rows; all of a small one."""
    rows = array.shape[0] if array.shape else 0
    if array.nbytes <= _PART_BYTES or rows < 3:
        return [array]
    count = max(1, rows * _PART_BYTES // array.nbytes // 3)
    return [array[first : first + count] for first in (0, (rows - count) // 2, rows - count)]


def _values(array: Array) -> np.ndarray:
    values = array.numpy().reshape(-1)
    return values if values.dtype.kind in "iub" else values.astype(np.float64)


def _drawn(dtype: Any, shape: tuple[int, ...], factor: bool) -> np.ndarray:
    """Numbers for an operand: of a product around 0, others positive, integers 0 (indices that exist everywhere)."""
    kind = np.dtype(dtype)
    if kind.kind in "iub":
        return np.zeros(shape, kind)
    generator = np.random.default_rng(len(shape))
    block = generator.standard_normal(1 << 20) if factor else generator.uniform(0.1, 1, 1 << 20)
    return np.resize(block.astype(kind), shape)
