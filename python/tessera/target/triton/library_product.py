"""Products as a vendor library computes them, and the kernel for what it does not.

A library multiplies matrices whose rows or columns are contiguous, and adds a bias, a residual or an activation that it
knows. What an epilogue computes is found by evaluating it: an operator of the graph may come as any number of simple
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera.ir.dims import Dim, Expr, Symbol, add, mul, product, substitute, sym
from tessera.ir.dtype import DType, bf16, f8e4m3, f8e5m2, f16, f32, f64
from tessera.op.opdef import get
from tessera.schedule.index import strides
from tessera.target.triton import product_sums
from tessera.tile.ir import (
    Axis,
    Buffer,
    Compute,
    Const,
    DotKernel,
    Load,
    LoopKernel,
    Op,
    Ref,
    Stage,
    Store,
    references,
    same_memory,
)

_NARROW = (f8e4m3, f8e5m2)
_FACTORS = (bf16, f16, f32, f64, *_NARROW)
_RESULTS = (bf16, f16, f32, f64)
_ALIGNED = 16
_SAMPLES = 64
_TOLERANCE = 1e-9
_FLOATS = 64


@dataclass(frozen=True, slots=True)
class Matrix:
    """Element (r, c) of entry b is element offset + b·batch_step + r·step + c of a buffer; transposed: + c·step + r."""

    buffer: int
    dtype: DType
    offset: Dim
    step: Dim
    batch_step: Dim
    transposed: bool = False

    def turned(self) -> Matrix:
        """The transposed matrix in the same memory."""
        return replace(self, transposed=not self.transposed)


@dataclass(frozen=True, slots=True)
class LibraryProduct:
    """d = activation(alpha·scales·a·b + beta·c + bias), over the sizes of the kernel that it stands for.

    ``bias``: buffer and dtype of a vector that is added to each row. ``scales``: buffers of single numbers in f32, for
    products of 8-bit floats. ``rest``: the kernel that runs behind the call, in
    which the buffer after the kernel's own is the workspace, of so many bytes; None when nothing is left to do.
    """

    rows: Dim
    columns: Dim
    terms: Dim
    batch: Dim
    a: Matrix
    b: Matrix
    d: Matrix
    c: Matrix | None = None
    bias: tuple[int, DType] | None = None
    alpha: float = 1.0
    beta: float = 0.0
    activation: str = ""
    scales: tuple[int, ...] = ()
    rest: LoopKernel | None = None
    workspace: Dim = 0


@dataclass(frozen=True, slots=True)
class _Function:
    """What an op of an epilogue computes: activation(alpha·scales·acc + beta·residual + bias).

    ``bias``, ``residual`` and ``scales`` are positions of loads in the epilogue.
    """

    alpha: float = 1.0
    beta: float = 0.0
    activation: str = ""
    bias: int | None = None
    residual: int | None = None
    scales: tuple[int, ...] = ()


def library_product(kernel: DotKernel, guarded: bool = False) -> LibraryProduct | None:
    """The product as a call of a library and perhaps a kernel behind it; None when the library cannot do it.

    As much of the epilogue as the library can do is part of the call. ``guarded``: the call must not write what
    outlives the run.
    """
    a, b = _factor(kernel, kernel.a, kernel.m), _factor(kernel, kernel.b, kernel.n)
    if a is None or b is None or not _types_suit(kernel, a, b) or product_sums.of(kernel):
        return None
    found: LibraryProduct | None = None
    least = 0
    for position in (*reversed(range(len(kernel.epilogue))), -1):
        call = _through(kernel, a, b, position, guarded)
        if call is not None:
            cost = _cost(kernel, call)
            if found is None or cost < least:
                found, least = call, cost
    return found


def _cost(kernel: DotKernel, call: LibraryProduct) -> int:
    """Bytes for each element of the result that a kernel behind the call moves, and its operations."""
    if call.rest is None:
        return 0
    ops = call.rest.stages[0].ops
    moved = sum(kernel.buffers[o.buffer].dtype.itemsize if o.buffer < len(kernel.buffers) else call.d.dtype.itemsize
                for o in ops if isinstance(o, (Load, Store)))
    return 1000 * (1 + moved) + len(ops)


def _types_suit(kernel: DotKernel, a: Matrix, b: Matrix) -> bool:
    if a.dtype not in _FACTORS or (a.dtype != b.dtype and not (a.dtype in _NARROW and b.dtype in _NARROW)):
        return False
    return kernel.acc == (f64 if a.dtype == f64 else f32)


# Where matrices lie.


def _linear(buffer: Buffer, index: Sequence[Any], axes: Sequence[Symbol]) -> tuple[Dim, dict[Symbol, Dim]] | None:
    """An access as a first element and a step along each axis; None when it is not of that form."""
    total: Dim = 0
    for entry, stride in zip(index, buffer.strides):
        if not isinstance(entry, (int, Expr)):
            return None
        total = add(total, mul(entry, stride))
    start: dict[Symbol, Dim] = {s: 0 for s in axes}
    first = substitute(total, start)
    steps: dict[Symbol, Dim] = {}
    again = first
    for s in axes:
        steps[s] = add(substitute(total, {**start, s: 1}), mul(first, -1))
        again = add(again, mul(sym(s), steps[s]))
    return (first, steps) if again == total else None


def _matrix(
    kernel: DotKernel, buffer: int, index: Sequence[Any], rows: Axis, columns: Axis, turn: bool
) -> Matrix | None:
    """The matrix that an access to a buffer sees; ``turn``: whether it may be transposed."""
    found = _linear(kernel.buffers[buffer], index, [x.symbol for x in (*kernel.batch, rows, columns)])
    if found is None:
        return None
    first, steps = found
    if not isinstance(first, int) or first * kernel.buffers[buffer].dtype.bits // 8 % _ALIGNED:
        return None
    batch_step = _batch_step(kernel, steps)
    if batch_step is None:
        return None
    dtype = kernel.buffers[buffer].dtype
    for outer, inner, transposed in ((rows, columns, False), (columns, rows, True)):
        if steps[inner.symbol] == 1 or inner.extent == 1:
            step = inner.extent if outer.extent == 1 else steps[outer.symbol]
            if step != 0 and (turn or not transposed):
                return Matrix(buffer, dtype, first, step, batch_step, transposed)
    return None


def _batch_step(kernel: DotKernel, steps: dict[Symbol, Dim]) -> Dim | None:
    """The step between entries of the batch, when one step leads through all of its axes."""
    step: Dim = 0
    inside: Dim = 1
    for axis in reversed(kernel.batch):
        mine = steps[axis.symbol]
        if axis is kernel.batch[-1]:
            step = mine
        elif mine != mul(step, inside):
            return None
        inside = mul(inside, axis.extent)
    return step


def _factor(kernel: DotKernel, body: tuple[Op, ...], outer: Axis) -> Matrix | None:
    """An operand, perhaps widened to the dtype of the sums, as the library does itself; b's rows are the terms."""
    load, *more = body
    if not isinstance(load, Load) or load.mask is not None:
        return None
    narrow = kernel.buffers[load.buffer].dtype
    if more and not (len(more) == 1 and isinstance(more[0], Compute) and more[0].function == "cast" and (
        more[0].dtype == kernel.acc == f32) and narrow in (*_NARROW, bf16, f16)):
        return None
    rows, columns = (outer, kernel.k) if outer is kernel.m else (kernel.k, outer)
    return _matrix(kernel, load.buffer, load.index, rows, columns, turn=True)


# The epilogue.


def _through(kernel: DotKernel, a: Matrix, b: Matrix, position: int, guarded: bool) -> LibraryProduct | None:
    """The call that computes the epilogue's op of that position (-1: the sums alone), the rest as a kernel."""
    ops = kernel.epilogue
    value = Ref(2, position) if position >= 0 else Ref(3, 0)
    if position >= 0 and not isinstance(ops[position], Compute):
        return None
    dtype = ops[position].dtype if position >= 0 else kernel.acc  # type: ignore[union-attr]
    if dtype not in _RESULTS or (dtype == f64) != (kernel.acc == f64):
        return None
    function = _Function() if position < 0 else _function(kernel, position)
    if function is None:
        return None
    stores = [i for i, o in enumerate(ops) if isinstance(o, Store) and o.value == value and _is_whole(o)]
    for target in () if guarded else stores:
        store = ops[target]
        assert isinstance(store, Store)
        rest = [o for i, o in enumerate(ops) if i != target]
        call = _call(kernel, a, b, function, store, dtype, last=not any(isinstance(o, Store) for o in rest))
        if call is not None and any(isinstance(o, Store) for o in rest):
            call = _with_rest(kernel, call, value, target, dtype)
        if call is not None:
            return call
    if position >= 0 and isinstance(ops[position], Compute) and not stores and function.residual is not None:
        return None  # another pass over the residual is no worse than over the result
    axes = (*kernel.batch, kernel.m, kernel.n)
    shape: tuple[Dim, ...] = tuple(x.extent for x in axes)
    workspace = Buffer("sums", dtype, shape, strides(shape), "out")
    with_workspace = replace(kernel, buffers=(*kernel.buffers, workspace))
    store = Store(len(kernel.buffers), tuple(sym(x.symbol) for x in axes), value)
    call = _call(with_workspace, a, b, function, store, dtype, last=False)
    if call is None:
        return None
    call = replace(call, workspace=mul(dtype.itemsize, product(shape)))
    return _with_rest(with_workspace, call, value, None, dtype, store)


def _is_whole(store: Store) -> bool:
    return store.mode == "set" and store.mask is None


def _call(
    kernel: DotKernel, a: Matrix, b: Matrix, function: _Function, store: Store, dtype: DType, last: bool
) -> LibraryProduct | None:
    """The call that writes the value of an op where a store wants it."""
    rows, columns = kernel.m, kernel.n
    d = _matrix(kernel, store.buffer, store.index, rows, columns, turn=True)
    if d is None:
        return None
    if d.transposed:
        rows, columns, a, b, d = columns, rows, b.turned(), a.turned(), d.turned()
    c: Matrix | None = None
    if function.residual is not None:
        load = kernel.epilogue[function.residual]
        assert isinstance(load, Load)
        c = _matrix(kernel, load.buffer, load.index, rows, columns, turn=False)
        if c is None or c.dtype != dtype:
            return None
        if c.buffer in same_memory(kernel.buffers, d.buffer) and c != replace(d, buffer=c.buffer):
            return None
    bias: tuple[int, DType] | None = None
    if function.bias is not None:
        load = kernel.epilogue[function.bias]
        assert isinstance(load, Load)
        found = _linear(kernel.buffers[load.buffer], load.index, [x.symbol for x in (*kernel.batch, rows, columns)])
        if found is None or found[0] != 0 or kernel.buffers[load.buffer].dtype not in (dtype, f32):
            return None
        if any(step != (1 if s == columns.symbol else 0) for s, step in found[1].items()):
            return None
        bias = load.buffer, kernel.buffers[load.buffer].dtype
    batch: Dim = product(x.extent for x in kernel.batch)
    size = rows.extent
    if kernel.batch and b.batch_step == 0 and not a.transposed and all(
        x is None or x.batch_step == mul(x.step, size) for x in (a, c, d)
    ):  # one product with more rows
        size, batch = mul(size, batch), 1
    scales = tuple(kernel.epilogue[i].buffer for i in function.scales)  # type: ignore[union-attr]
    return LibraryProduct(
        size, columns.extent, kernel.k.extent, batch, a, b, d, c, bias, function.alpha, function.beta,
        function.activation, scales,
    )


def _with_rest(
    kernel: DotKernel, call: LibraryProduct, value: Ref, target: int | None, dtype: DType, store: Store | None = None
) -> LibraryProduct | None:
    """The call with the kernel that computes the rest of the epilogue from what was stored."""
    written = kernel.epilogue[target] if target is not None else store
    assert isinstance(written, Store)
    ops: list[Op] = [Load(written.buffer, written.index)]
    moved: dict[Ref, Ref] = {value: Ref(0, 0)}
    for i, op in enumerate(kernel.epilogue):
        if i == target or Ref(2, i) == value or i not in _needed(kernel, value, target):
            continue
        changed = _moved(op, moved)
        if changed is None or (isinstance(op, Load) and op.buffer in same_memory(kernel.buffers, written.buffer)):
            return None  # what the call has overwritten cannot be read behind it
        moved[Ref(2, i)] = Ref(0, len(ops))
        ops.append(changed)
    buffers = tuple(
        replace(x, role="inout" if target is not None else "in") if i == written.buffer else x
        for i, x in enumerate(kernel.buffers)
    )
    rest = LoopKernel(
        f"{kernel.name}_rest", kernel.sizes, buffers, (*kernel.batch, kernel.m, kernel.n), (Stage((), tuple(ops)),),
        kernel.loc,
    )
    return replace(call, rest=rest)


def _needed(kernel: DotKernel, value: Ref, target: int | None) -> set[int]:
    """The positions of the ops that the stores but ``target`` need, given the value."""
    needed: set[int] = set()
    work = [i for i, o in enumerate(kernel.epilogue) if isinstance(o, Store) and i != target]
    while work:
        i = work.pop()
        if i not in needed:
            needed.add(i)
            work += [r.index for r in references(kernel.epilogue[i]) if r.scope == 2 and r != value]
    return needed


def _moved(op: Op, moved: dict[Ref, Ref]) -> Op | None:
    """An op with its references followed; None when it needs what is not there."""
    if any(r not in moved for r in references(op)):
        return None

    def entry(e: Any) -> Any:
        return moved[e] if isinstance(e, Ref) else e

    if isinstance(op, Compute):
        return replace(op, args=tuple(moved[r] for r in op.args))
    if isinstance(op, Load):
        return replace(op, index=tuple(map(entry, op.index)), mask=op.mask and moved[op.mask])
    if isinstance(op, Store):
        index = tuple(map(entry, op.index))
        return replace(op, index=index, value=moved[op.value], mask=op.mask and moved[op.mask])
    if hasattr(op, "key"):
        return replace(op, key=tuple(moved[r] for r in op.key))  # type: ignore[call-arg]
    return op


# What an op computes.


def _function(kernel: DotKernel, position: int) -> _Function | None:
    """The function that an op of the epilogue is, found by evaluating it at points; None: no function of a library."""
    loads = _loads_of(kernel, position)
    if loads is None:
        return None
    scales = tuple(i for i in loads if _is_scale(kernel, i))
    vectors = [i for i in loads if i not in scales and _varies(kernel, i) < 2]
    tensors = [i for i in loads if _varies(kernel, i) == 2]
    if len(vectors) > 1 or len(tensors) > 1 or len(scales) > 2 or len(scales + tuple(vectors + tensors)) < len(loads):
        return None
    bias, residual = (found[0] if found else None for found in (vectors, tensors))
    generator = np.random.default_rng(7)
    points = {i: generator.normal(0, 2, _SAMPLES) for i in (-1, *loads)}

    def at(position_of: int) -> float:
        """Where that load (-1: the sum) and all scales are 1, everything else 0."""
        given = {i: np.full(1, float(i == position_of or i in scales)) for i in points}
        return float(_evaluated(kernel, position, given)[0])

    with np.errstate(all="ignore"):
        right = _evaluated(kernel, position, points)
        alpha, beta = at(-1), 0.0 if residual is None else at(residual)
        factor = np.prod([points[i] for i in scales], axis=0) if scales else 1.0
        for function in (
            _Function(alpha, beta, "", bias, residual, scales), _Function(alpha, beta, "relu", bias, residual, scales),
            _Function(1.0, float(residual is not None), "gelu_tanh", bias, residual, scales),
        ):
            total = function.alpha * factor * points[-1]
            total = total if residual is None else total + function.beta * points[residual]
            total = total if bias is None else total + points[bias]
            if np.allclose(_activated(total, function.activation), right, rtol=_TOLERANCE, atol=_TOLERANCE):
                return function
    return None


def _is_scale(kernel: DotKernel, position: int) -> bool:
    """Whether a load is of one number, by which a library can multiply: in f32, for factors of 8 bits."""
    load = kernel.epilogue[position]
    first = kernel.a[0]
    assert isinstance(load, Load)
    if not isinstance(first, Load) or kernel.buffers[first.buffer].dtype not in _NARROW:
        return False
    buffer = kernel.buffers[load.buffer]
    return buffer.dtype == f32 and all(e == 0 for e in load.index)


def _activated(x: np.ndarray, activation: str) -> np.ndarray:
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x


def _varies(kernel: DotKernel, position: int) -> int:
    """Along how many of the two axes of the result a load varies."""
    load = kernel.epilogue[position]
    assert isinstance(load, Load)
    found = _linear(kernel.buffers[load.buffer], load.index, [kernel.m.symbol, kernel.n.symbol])
    return 3 if found is None else sum(step != 0 for step in found[1].values())


def _loads_of(kernel: DotKernel, position: int) -> list[int] | None:
    """The loads that an op depends on; None when it depends on what libraries do not know."""
    found: set[int] = set()
    seen: set[int] = set()
    work = [position]
    while work:
        i = work.pop()
        if i in seen:
            continue
        seen.add(i)
        op = kernel.epilogue[i]
        if isinstance(op, Load):
            if op.mask is not None or not kernel.buffers[op.buffer].dtype.is_float:
                return None
            found.add(i)
        elif isinstance(op, Compute):
            if not op.dtype.is_float or op.dtype.bits < 16 or len(seen) > _FLOATS:
                return None
            work += [r.index for r in op.args if r.scope == 2]
        elif not isinstance(op, Const):
            return None
    return sorted(found)


def _evaluated(kernel: DotKernel, position: int, given: dict[int, np.ndarray]) -> np.ndarray:
    """An op at points, in f64 and without the roundings between; ``given``: the sums (-1) and the loads."""
    values: dict[Ref, np.ndarray] = {Ref(3, 0): given[-1]}

    def value(ref: Ref) -> np.ndarray:
        if ref not in values:
            op = kernel.epilogue[ref.index]
            if isinstance(op, Const):
                values[ref] = np.asarray(float(op.value))
            elif isinstance(op, Load):
                values[ref] = given[ref.index]
            else:
                assert isinstance(op, Compute)
                arguments = [value(r) for r in op.args]
                reference = get(op.function).reference
                assert reference is not None
                values[ref] = arguments[0] if op.function == "cast" else np.asarray(reference(*arguments))
        return values[ref]

    return np.broadcast_to(value(Ref(2, position)), given[-1].shape)
