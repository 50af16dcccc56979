"""``tessera op-check``: tries custom operators on their samples and says what does not hold.

Each check takes a ``Subject``, one sample of one operator, and returns what is wrong, or None; it raises ``Skipped``
with a reason where it does not apply. Kernels run as they do in programs: by the runtime, through the C ABI.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tessera.cli.op_sharding import check_sharding
from tessera.cli.op_stub import declared
from tessera.cli.op_subject import Skipped, Subject, close, difference, subjects
from tessera.errors import ArgumentError, DTypeError, ShapeError, TesseraError
from tessera.graph.compile import compile_values
from tessera.graph.pipeline import Options
from tessera.ir.dims import Symbol, sym
from tessera.ir.dims import evaluate as evaluate_dim
from tessera.ir.dtype import DTYPES
from tessera.ir.value import TensorType
from tessera.op import custom_ops
from tessera.op.arguments import FLOATS
from tessera.op.opdef import NoVjp, apply, get
from tessera.transform.autodiff import gradients

THREADS, ROUNDS = 8, 4


def check_shape(subject: Subject) -> str | None:
    """The shape function gives for symbolic sizes what it gives for numbers, and the kernel writes every element."""
    types = subject.types
    for size in sorted({d for t in types for d in t.shape if isinstance(d, int)}):
        symbol = Symbol("_n", 0)
        symbolic = tuple(TensorType(t.dtype, tuple(sym(symbol) if d == size else d for d in t.shape)) for t in types)
        try:
            general = subject.infer(symbolic)
        except TesseraError:
            continue  # this size is not free
        for value in (size, size + 1, 2 * size + 3):
            concrete = tuple(TensorType(t.dtype, tuple(value if d == size else d for d in t.shape)) for t in types)
            try:
                expected = subject.infer(concrete)
            except TesseraError:
                continue
            found = tuple(TensorType(t.dtype, tuple(evaluate_dim(d, {"_n": value}) for d in t.shape)) for t in general)
            if found != expected:
                return (
                    f"for operands {_listed(symbolic)} the shape function gives {_listed(general)}, which for "
                    f"_n = {value} is {_listed(found)}; for numbers it gives {_listed(expected)}"
                )
    results = [subject.compiled(fill) for fill in (0x00, 0xFF)]
    for i, (a, b) in enumerate(zip(*results, strict=True)):
        if a.tobytes() != b.tobytes():
            return f"the kernel leaves elements of result {i} ({a.dtype}{list(a.shape)}) unwritten, or varies"
    return None


def _listed(types: Sequence[TensorType]) -> str:
    return ", ".join(str(t) for t in types) or "none"


def check_dtype(subject: Subject) -> str | None:
    """Every float dtype is refused by the shape function, or computed and close to the widest one's result."""
    if not any(i.kind == "float" for i in subject.sample.inputs):
        raise Skipped("no operand whose dtype is free")
    accepted: list[str] = []
    for name in FLOATS:
        try:
            subject.infer(tuple(replace(t, dtype=DTYPES[name]) if i.kind == "float" else t
                                for t, i in zip(subject.types, subject.sample.inputs, strict=True)))
        except DTypeError:
            continue
        accepted.append(name)
    missing = [d for d in custom_ops.accepted_dtypes(subject.custom.schema) if d in FLOATS and d not in accepted]
    if missing and any(a.dtypes for a in subject.custom.schema.tensors):
        return f"the schema accepts {missing[0]}, the shape function does not"
    for name in accepted:
        narrow = subject.in_dtype(name)
        try:
            found = narrow.run()
        except TesseraError as error:
            return f"the shape function accepts {name}, the kernel fails: {error}"
        for i, (array, t) in enumerate(zip(found, narrow.infer(narrow.types), strict=True)):
            if array.dtype != t.dtype.numpy:
                return f"{name}: result {i} is {array.dtype}, the shape function says {t.dtype}"
        wide = narrow.widened(accepted[0])
        if name == accepted[0]:
            continue
        for i, (array, expected) in enumerate(zip(found, wide.run(), strict=True)):
            if array.dtype.kind not in "fV":
                continue  # decisions may turn on rounding
            if wrong := difference(array, expected, name, subject.sample.tolerance):
                return f"{name}: result {i} differs from that of {accepted[0]}: {wrong}"
    return None


def check_gradient(subject: Subject) -> str | None:
    """The gradient agrees with central differences, along random directions of all operands at once."""
    definition = get(subject.custom.name)
    if isinstance(definition.vjp, NoVjp):
        raise Skipped(definition.vjp.reason)
    if not subject.sample.grad:
        raise Skipped("the sample leaves it out")
    subject = subject.in_dtype(subject.widest())
    floats = [i for i, a in enumerate(subject.arrays) if a.dtype.kind in "fV"]
    if not floats or not any(subject.arrays[i].size for i in floats):
        raise Skipped("no floating-point elements")
    leaves = subject.leaves()
    results = apply(subject.custom.name, leaves, subject.sample.attrs)
    random = subject.random("gradient")
    weights = [random.uniform(-1, 1, r.shape) if r.dtype.is_float else None for r in results]
    seeds = [None if w is None else custom_seed(w, r) for w, r in zip(weights, results, strict=True)]
    if all(s is None for s in seeds):
        raise Skipped("no floating-point result")
    built = gradients(list(results), [leaves[i] for i in floats], seeds)
    program = compile_values({f"g{k}": g for k, g in enumerate(built)}, Options())
    feeds = {v.node.attrs["name"]: a for v, a in zip(leaves, subject.arrays, strict=True)}
    found = program(**{info.name: feeds[info.name] for info in program.inputs})
    slopes = [np.asarray(found[f"g{k}"]).astype(np.float64) for k in range(len(floats))]

    step = {"f64": 1e-5, "f32": 2e-3}.get(subject.dtype, 5e-2)
    allowed = {"f64": 1e-6, "f32": 1e-2}.get(subject.dtype, 0.2) * subject.sample.tolerance
    for _ in range(4):
        directions = {i: random.choice([-1.0, 1.0], subject.arrays[i].shape) for i in floats}
        high, low = (_loss(subject, directions, sign * step, weights) for sign in (1, -1))
        numeric = (high - low) / (2 * step)
        analytic = sum(float((d * s).sum()) for d, s in zip(directions.values(), slopes))
        scale = max(1.0, sum(float(np.abs(s).sum()) for s in slopes))
        if not close(numeric, analytic, allowed * scale):
            return f"along a random direction the gradient says {analytic:.6g}, central differences {numeric:.6g}"
    return None


def _loss(
    subject: Subject, directions: dict[int, np.ndarray], step: float, weights: Sequence[np.ndarray | None]
) -> float:
    """The weighted sum of the results, for operands that are moved a step along the directions."""
    moved = list(subject.arrays)
    for i, d in directions.items():
        moved[i] = (moved[i].astype(np.float64) + step * d).astype(moved[i].dtype)
    outputs = replace(subject, arrays=tuple(moved)).run()
    return sum(float((w * y.astype(np.float64)).sum()) for w, y in zip(weights, outputs) if w is not None)


def custom_seed(weight: np.ndarray, result: Any) -> Any:
    """A constant gradient of a result."""
    from tessera.op import as_tensor

    return as_tensor(weight.astype(result.dtype.numpy))


def check_strides(subject: Subject) -> str | None:
    """Operands that are strided, reversed or not aligned give the same results."""
    expected = subject.compiled()
    for what, change in (("strided", _strided), ("reversed", _reversed), ("unaligned", _unaligned)):
        found = subject.compiled(arrays=[change(a) for a in subject.arrays])
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            if a.tobytes() != b.tobytes():
                return f"{what} operands change result {i}"
    return None


def _strided(a: np.ndarray) -> np.ndarray:
    if a.ndim == 0:
        return a
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def _reversed(a: np.ndarray) -> np.ndarray:
    return a if a.ndim == 0 else np.flip(np.ascontiguousarray(np.flip(a)))


def _unaligned(a: np.ndarray) -> np.ndarray:
    raw = np.empty(a.size + 1 + 64, a.dtype)
    start = -(raw.ctypes.data // a.itemsize) % (64 // a.itemsize) + 1  # one element behind a multiple of 64 bytes
    out = raw[start : start + a.size].reshape(a.shape)
    out[...] = a
    return out


def check_empty(subject: Subject) -> str | None:
    """Sizes of 0 and 1 are computed, or refused by the shape function."""
    for size in sorted({n for a in subject.arrays for n in a.shape}):
        for small in (0, 1):
            shapes = [tuple(small if n == size else n for n in a.shape) for a in subject.arrays]
            arrays = tuple(np.resize(a, s) if a.size else np.zeros(s, a.dtype) for a, s in zip(subject.arrays, shapes))
            changed = replace(subject, arrays=arrays)
            try:
                types = changed.infer(changed.types)
            except (ShapeError, ArgumentError):
                continue
            except TesseraError as error:
                return f"operands {_listed(changed.types)}: the shape function fails: {error}"
            try:
                found = changed.run()
            except TesseraError as error:
                return f"operands {_listed(changed.types)}: the shape function accepts them, the kernel fails: {error}"
            for array, t in zip(found, types, strict=True):
                if array.shape != t.shape:
                    return f"operands {_listed(changed.types)}: a result has shape {array.shape}, expected {t.shape}"
    return None


def check_threads(subject: Subject) -> str | None:
    """The same samples from many threads at once, and with one thread and several, give equal results."""
    expected = [a.tobytes() for a in subject.run(threads=1)]
    if [a.tobytes() for a in subject.run(threads=4)] != expected:
        return "the result depends on the number of threads of the runtime"
    wrong: list[str] = []
    start = threading.Barrier(THREADS)

    def work() -> None:
        start.wait()
        try:
            for _ in range(ROUNDS):
                if [a.tobytes() for a in subject.run(threads=1)] != expected:
                    wrong.append("calls from several threads at once give other results")
        except TesseraError as error:
            wrong.append(f"calls from several threads at once fail: {error}")

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return wrong[0] if wrong else None


CHECKS: dict[str, Callable[[Subject], str | None]] = {
    "shape": check_shape,
    "gradient": check_gradient,
    "dtype": check_dtype,
    "non-contiguous": check_strides,
    "empty": check_empty,
    "sharding": check_sharding,
    "threads": check_threads,
}
"""All checks, in the order of the table."""


@dataclass(slots=True)
class Outcome:
    """What a check of an operator gave: samples that ``passed``, ``failures``, and reasons for ``skipped`` ones."""

    passed: int = 0
    failures: list[str] = field(default_factory=list[str])
    skipped: list[str] = field(default_factory=list[str])

    @property
    def mark(self) -> str:
        """ok, failed or skipped."""
        return "failed" if self.failures else "ok" if self.passed else "skipped"


Report = dict[str, dict[str, Outcome]]


def check_operators(names: Sequence[str]) -> Report:
    """Run every check of every operator on all its samples."""
    report: Report = {}
    for name in names:
        found = report[name] = {check: Outcome() for check in CHECKS}
        samples = subjects(name)
        if not samples:
            found["shape"].failures.append("the operator has no samples: declare some, or nothing is checked")
        for number, subject in enumerate(samples):
            for check, function in CHECKS.items():
                _one(found[check], function, subject, number)
    return report


def _one(outcome: Outcome, function: Callable[[Subject], str | None], subject: Subject, number: int) -> None:
    try:
        wrong = function(subject)
    except Skipped as reason:
        outcome.skipped.append(str(reason))
        return
    except TesseraError as error:
        wrong = str(error)
    if wrong is None:
        outcome.passed += 1
    else:
        outcome.failures.append(f"sample {number}: {wrong}")


def op_check(path: str, *, as_json: bool = False) -> tuple[str, bool]:
    """Load a library (``.so``, or a Python file that declares operators) and check it: table, and whether all held."""
    report = check_operators(declared(path))
    held = not any(o.failures for checks in report.values() for o in checks.values())
    return (_json(report) if as_json else _table(report)), held


def _json(report: Report) -> str:
    data = {
        name: {
            check: {"outcome": o.mark, "passed": o.passed, "failures": o.failures, "skipped": sorted(set(o.skipped))}
            for check, o in checks.items()
        }
        for name, checks in report.items()
    }
    return json.dumps(data, indent=2)


def _table(report: Report) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("operator", *CHECKS):
        table.add_column(heading, no_wrap=True)
    styles = {"ok": "green", "failed": "bold red", "skipped": "dim"}
    for name, checks in report.items():
        table.add_row(name, *(Text(o.mark, style=styles[o.mark]) for o in checks.values()))
    console = Console(width=140, highlight=False)
    with console.capture() as capture:
        console.print(table)
        for name, checks in report.items():
            for check, o in checks.items():
                for failure in o.failures:
                    console.print(Text(f"{name}: {check}: {failure}", style="red"), soft_wrap=True)
                for reason in sorted(set(o.skipped)) if o.mark == "skipped" else ():
                    console.print(Text(f"{name}: {check}: skipped: {reason}", style="dim"), soft_wrap=True)
    return capture.get().rstrip("\n")
