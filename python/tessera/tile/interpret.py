"""A NumPy interpreter of Tile IR kernels and plans: the meaning of kernels, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tessera.errors import IndexRangeError, ShapeError, UnsupportedError
from tessera.ir.dims import Dim, Expr, evaluate
from tessera.ir.dtype import DType
from tessera.op.opdef import get
from tessera.op.philox import philox4x32, uniform_f32, uniform_f64
from tessera.op.reference import rounded
from tessera.schedule.plan import CollectiveCall, Copy, KernelCall, Operand, Plan, PortableCall, RangeCheck, Wait
from tessera.tile.ir import (
    AttentionKernel,
    Axis,
    Compute,
    Const,
    DotKernel,
    Index,
    Kernel,
    Load,
    LoopKernel,
    Op,
    Random,
    Reduce,
    Ref,
    Scan,
    Stage,
    Store,
)
from tessera.tile.rewrite import accesses

Sizes = Mapping[str, int]


class _Frame:
    """Values of the axes in scope, as arrays that broadcast against each other, and results of ops."""

    def __init__(self, buffers: Sequence[np.ndarray], sizes: Sizes) -> None:
        self.buffers, self.sizes = buffers, sizes
        self.axes: dict[str, Any] = {}
        self.results: dict[Ref, np.ndarray] = {}

    def expr(self, d: Dim | Ref) -> Any:
        """An index expression."""
        if isinstance(d, Ref):
            return self.results[d]
        if isinstance(d, int):
            return d
        total: Any = 0
        for atoms, c in d.terms:
            term: Any = c
            for atom in atoms:
                term = term * self._atom(atom)
            total = total + term
        return total

    def _atom(self, atom: Any) -> Any:
        if not hasattr(atom, "function"):
            return self.axes[atom.name] if atom.name in self.axes else self.sizes[atom.name]
        a, b = self.expr(atom.a), self.expr(atom.b)
        functions = {"floordiv": np.floor_divide, "mod": np.mod, "max": np.maximum, "min": np.minimum}
        return functions[atom.function](a, b)


def run_kernel(
    kernel: Kernel, arrays: Sequence[np.ndarray], sizes: Sizes, shuffle: np.random.Generator | None = None
) -> None:
    """Run a kernel on flat arrays, one per buffer. With ``shuffle`` grid points run one by one in random order."""
    with np.errstate(all="ignore"):
        buffers = [
            a.reshape(tuple(evaluate(d, sizes) for d in b.shape)) for a, b in zip(arrays, kernel.buffers, strict=True)
        ]
        for _, _, op in accesses(kernel):
            if isinstance(op, Store) and op.mode == "sum":
                buffers[op.buffer][...] = 0
        if isinstance(kernel, AttentionKernel):
            raise UnsupportedError(f"kernel {kernel.name}: attention is interpreted decomposed, not as one kernel")
        grid = kernel.grid if isinstance(kernel, LoopKernel) else (*kernel.batch, kernel.m, kernel.n)
        extents = [evaluate(a.extent, sizes) for a in grid]
        if 0 in extents:
            return
        if shuffle is None:
            _run(kernel, buffers, sizes, None)
            return
        points = list(np.ndindex(*extents))
        for at in shuffle.permutation(len(points)):
            _run(kernel, buffers, sizes, list(points[at]))


def _run(kernel: LoopKernel | DotKernel, buffers: Sequence[np.ndarray], sizes: Sizes, point: list[int] | None) -> None:
    if isinstance(kernel, LoopKernel):
        _run_loop(kernel, buffers, sizes, point)
    else:
        _run_dot(kernel, buffers, sizes, point)


def _enter(frame: _Frame, axes: Sequence[Axis], at: int, rank: int, fixed: list[int] | None) -> None:
    for i, axis in enumerate(axes):
        shape = [1] * rank
        if fixed is not None:
            frame.axes[axis.symbol.name] = np.full(shape, fixed[i], dtype=np.int64)
            continue
        n = evaluate(axis.extent, frame.sizes)
        shape[at + i] = n
        frame.axes[axis.symbol.name] = np.arange(n, dtype=np.int64).reshape(shape)


def _run_loop(kernel: LoopKernel, buffers: Sequence[np.ndarray], sizes: Sizes, point: list[int] | None) -> None:
    frame = _Frame(buffers, sizes)
    loops = max((len(s.axes) for s in kernel.stages), default=0)
    rank = len(kernel.grid) + loops
    _enter(frame, kernel.grid, 0, rank, point)
    for number, stage in enumerate(kernel.stages):
        _enter(frame, stage.axes, len(kernel.grid), rank, None)
        space = [1 if point is not None else evaluate(a.extent, sizes) for a in kernel.grid]
        space += [evaluate(a.extent, sizes) for a in stage.axes] + [1] * (loops - len(stage.axes))
        for i, op in enumerate(stage.ops):
            frame.results[Ref(number, i)] = _apply(op, frame, stage, tuple(space), len(kernel.grid))


def _apply(op: Op, frame: _Frame, stage: Stage, space: tuple[int, ...], grid: int) -> Any:
    if isinstance(op, Reduce):
        value = np.broadcast_to(frame.results[op.value], space)
        return _reduce(op, value, tuple(range(grid, len(space))))
    if isinstance(op, Scan):
        value = np.broadcast_to(frame.results[op.value], space)
        return _narrow(np.cumsum(_wide(value), axis=grid), op.dtype)
    if isinstance(op, Store):
        return _store(op, frame, space)
    return _simple(op, frame)


def _simple(op: Op, frame: _Frame) -> Any:
    if isinstance(op, Const):
        return np.asarray(op.value, dtype=op.dtype.numpy)
    if isinstance(op, Index):
        return np.asarray(frame.expr(op.expr), dtype=np.int64)
    if isinstance(op, Load):
        return _load(op, frame)
    if isinstance(op, Compute):
        return _compute(op, [frame.results[a] for a in op.args])
    assert isinstance(op, Random)
    return _random(op, frame)


def _load(op: Load, frame: _Frame) -> np.ndarray:
    source = frame.buffers[op.buffer]
    index = [np.asarray(frame.expr(e)) for e in op.index]
    if op.mask is None:
        return source[tuple(index)] if index else source[()]
    mask = np.broadcast_arrays(frame.results[op.mask], *index)[0]
    if source.size == 0:
        return np.full(mask.shape, op.other, dtype=source.dtype)
    inside = tuple(np.where(mask, i, 0) for i in index)
    return np.where(mask, source[inside] if index else source[()], np.asarray(op.other, dtype=source.dtype))


def _store(op: Store, frame: _Frame, space: tuple[int, ...]) -> None:
    target = frame.buffers[op.buffer]
    index = tuple(np.broadcast_to(np.asarray(frame.expr(e)), space) for e in op.index)
    value = np.broadcast_to(frame.results[op.value], space)
    mask = np.ones(space, bool) if op.mask is None else np.broadcast_to(frame.results[op.mask], space)
    index = tuple(i[mask] for i in index)
    assert value.dtype == target.dtype, f"a store of {value.dtype} into {target.dtype}"
    if op.mode == "set":
        target[index if index else ...] = value[mask] if index else value.reshape(-1)[-1]
    else:
        added = value[mask]
        places = np.ravel_multi_index(index, target.shape) if index else np.zeros(added.shape, np.int64)
        np.add.at(target.reshape(-1), places, added)


def _wide(a: np.ndarray) -> np.ndarray:
    narrow = a.dtype.kind == "V" or (a.dtype.itemsize < 4 and a.dtype.kind not in "iub")
    return a.astype(np.float32) if narrow else a


def _narrow(a: Any, dtype: DType) -> np.ndarray:
    return rounded(np.asarray(a), dtype)


def _compute(op: Compute, args: list[np.ndarray]) -> np.ndarray:
    attrs = {"dtype": op.dtype} if op.function == "cast" else {}
    kinds = {a.dtype for a in (args[1:] if op.function == "where" else args)}
    assert len(kinds) == 1, f"operands of {op.function} have dtypes {kinds}"
    reference = get(op.function).reference
    assert reference is not None
    return _narrow(reference(*map(_wide, args), **attrs), op.dtype)


def _reduce(op: Reduce, value: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if op.combine.startswith("arg"):
        assert len(axes) == 1
        wide = _wide(value)
        return np.expand_dims((np.argmax if op.combine == "argmax" else np.argmin)(wide, axis=axes[0]), axes[0])
    assert value.dtype == op.dtype.numpy, f"a reduction of {value.dtype} to {op.dtype}"
    functions = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min, "or": np.any, "and": np.all}
    kinds = {"dtype": _wide(value).dtype} if op.combine in ("sum", "prod") else {}
    return _narrow(functions[op.combine](_wide(value), axis=axes, keepdims=True, **kinds), op.dtype)


def _random(op: Random, frame: _Frame) -> np.ndarray:
    seed, counter = (int(np.asarray(frame.results[r]).reshape(-1)[0]) for r in op.key)
    element = np.asarray(frame.expr(op.element), dtype=np.int64)
    mask = 0xFFFFFFFF
    words = philox4x32(
        (
            (element & mask).astype(np.uint64), (element >> 32).astype(np.uint64) & np.uint64(mask),
            frame.expr(op.operation), counter & mask,
        ),
        (seed & mask, (seed >> 32) & mask),
    )
    drawn = uniform_f32(words[0]) if op.dtype.bits == 32 else uniform_f64(words[0], words[1])
    return drawn.reshape(element.shape)


def _run_dot(kernel: DotKernel, buffers: Sequence[np.ndarray], sizes: Sizes, point: list[int] | None) -> None:
    frame = _Frame(buffers, sizes)
    outer = (*kernel.batch, kernel.m, kernel.n)
    rank = len(outer) + 1
    _enter(frame, outer, 0, rank, point)
    _enter(frame, (kernel.k,), len(outer), rank, None)
    k = evaluate(kernel.k.extent, sizes)
    grid = tuple(1 if point is not None else evaluate(a.extent, sizes) for a in outer)
    operands = []
    for scope, body in enumerate((kernel.a, kernel.b)):
        for i, op in enumerate(body):
            frame.results[Ref(scope, i)] = _simple(op, frame)
        operands.append(np.asarray(frame.results[Ref(scope, len(body) - 1)]))
    wide = kernel.acc.numpy
    a, b = (np.broadcast_to(o.astype(wide), (*grid, k)) for o in operands)
    frame.results[Ref(3, 0)] = np.sum(a * b, axis=-1, dtype=wide, keepdims=True)
    for i, op in enumerate(kernel.epilogue):
        if isinstance(op, Store):
            _store(op, frame, (*grid, 1))
        else:
            frame.results[Ref(2, i)] = _simple(op, frame)


def run_plan(
    plan: Plan, inputs: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None,
    constants: Mapping[str, np.ndarray] | None = None, shuffle: np.random.Generator | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run a plan as the runtime would, in one arena; returns outputs and state after the run."""
    sizes: dict[str, int] = {}
    for tensor in plan.inputs:
        for d, n in zip(tensor.shape, inputs[tensor.name].shape):
            if isinstance(d, Expr) and str(d) in {s.name for s in plan.dims}:
                sizes.setdefault(str(d), n)
    for check in plan.checks:
        if evaluate(check.expr, sizes) < check.min:
            raise ShapeError(check.message)
    memory = _Memory(plan, sizes)
    for tensors, values in ((plan.inputs, inputs), (plan.state, state or {}), (plan.constants, constants or {})):
        for tensor in tensors:
            data = np.ascontiguousarray(values[tensor.name]).tobytes()
            memory.bytes[tensor.buffer][...] = np.frombuffer(data, np.uint8)
    for instruction in plan.instructions:
        _execute(plan, instruction, memory, sizes, shuffle)

    def found(tensors: Sequence[Any]) -> dict[str, np.ndarray]:
        return {t.name: memory.view(t.buffer, t.dtype, t.shape).copy() for t in tensors}

    return found(plan.outputs), found(plan.state)


class _Memory:
    """The buffers of a run as byte arrays; those of the arena overlap as planned."""

    def __init__(self, plan: Plan, sizes: Sizes) -> None:
        self.sizes = sizes
        arena = np.full(evaluate(plan.arena, sizes), 0xA5, np.uint8)
        self.bytes: list[np.ndarray] = []
        for buffer in plan.buffers:
            n = evaluate(buffer.bytes, sizes)
            if buffer.kind == "arena":
                assert buffer.offset is not None
                start = evaluate(buffer.offset, sizes)
                assert start % 64 == 0 and start + n <= len(arena)
                self.bytes.append(arena[start : start + n])
            else:
                self.bytes.append(np.full(n, 0xA5, np.uint8))

    def view(self, buffer: int, dtype: DType, shape: Sequence[Dim]) -> np.ndarray:
        """A buffer as an array."""
        return self.bytes[buffer].view(dtype.numpy).reshape(tuple(evaluate(d, self.sizes) for d in shape))


def _execute(plan: Plan, i: Any, memory: _Memory, sizes: Sizes, shuffle: np.random.Generator | None) -> None:
    if isinstance(i, Wait):  # an exchange is done where it is started
        return
    if isinstance(i, Copy):
        memory.bytes[i.target][...] = memory.bytes[i.source]
    elif isinstance(i, RangeCheck):
        values = memory.view(i.buffer, i.dtype, (i.count,))
        low, high = evaluate(i.low, sizes), evaluate(i.high, sizes)
        wrong = (values < low) | (values > high)
        if i.ignore is not None:
            wrong &= values != i.ignore
        if wrong.any():
            raise IndexRangeError(f"{i.what}: {values[wrong][0]} is outside [{low}, {high}]")
    elif isinstance(i, KernelCall):
        kernel = plan.kernels[i.kernel]
        local = {s.name: evaluate(d, sizes) for s, d in zip(kernel.sizes, i.sizes, strict=True)}
        arrays = [memory.bytes[n].view(b.dtype.numpy) for n, b in zip(i.buffers, kernel.buffers, strict=True)]
        run_kernel(kernel, arrays, local, shuffle)
    elif isinstance(i, CollectiveCall) and _size(i.operand, sizes) == _size(i.result, sizes):  # a group of one device
        memory.bytes[i.result.buffer][...] = memory.bytes[i.operand.buffer]
    else:
        assert isinstance(i, (PortableCall, CollectiveCall))
        raise NotImplementedError(f"the operator {i.op} is not interpreted")


def _size(o: Operand, sizes: Sizes) -> list[int]:
    return [evaluate(d, sizes) for d in o.shape]
