"""Kernels that differ only in constants become one kernel that takes these constants as size arguments.

The parts of a concatenation are stored at different offsets, random operators have different ids: such kernels need
one compilation. Constants that all of them have in common stay constants, and the arguments have the range and the
common divisor of the values that they stand for, so that targets decide as they do for constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd

from tessera.ir.dims import Dim, Expr, Symbol, add, substitute, sym
from tessera.tile.ir import Axis, Kernel, Load, LoopKernel, Op, Random, Ref, Store
from tessera.tile.printer import content_key
from tessera.tile.rewrite import axes, bodies, map_axes, substitute_symbols, with_bodies

FEW = 3
"""Kernels that differ in offsets only, from which they are joined: an offset in a register costs next to nothing."""
MANY = 48
"""Kernels of different sizes from which they are joined: unknown sizes cost a little in every run."""
MOST_OFFSETS = 4
MOST_SIZES = 8
"""Different constants up to which kernels are joined: arguments take registers."""

_HOLE = sym(Symbol("hole"))


@dataclass(frozen=True, slots=True)
class Joined:
    """The kernel that stands for another, and the values of its further size arguments."""

    kernel: Kernel
    values: tuple[int, ...]


def join(kernels: Sequence[Kernel]) -> list[Joined]:
    """For each kernel, in canonical names, the kernel to run in its place: itself, or one shared with others."""
    found = [Joined(k, ()) for k in kernels]
    for with_sizes, least, most in ((False, FEW, MOST_OFFSETS), (True, MANY, MOST_SIZES)):
        alike: dict[str, list[int]] = {}
        for number, kernel in enumerate(kernels):
            if isinstance(kernel, LoopKernel) and found[number].kernel is kernel:
                alike.setdefault(_skeleton(kernel, with_sizes), []).append(number)
        for members in alike.values():
            if len(members) >= least:
                same = [k for i in members if isinstance(k := kernels[i], LoopKernel)]
                for number, joined in zip(members, _join(same, with_sizes, most)):
                    found[number] = joined
    return found


def _join(kernels: Sequence[LoopKernel], with_sizes: bool, most: int) -> list[Joined]:
    """One kernel for all; each of them as it is when they differ in more than ``most`` constants."""
    columns = list(zip(*(_constants(k, with_sizes) for k in kernels)))
    arguments: dict[tuple[int, ...], Symbol] = {}
    for column in columns:
        if len(set(column)) > 1 and column not in arguments:
            step = gcd(*column) or 1
            arguments[column] = Symbol(f"c{len(arguments)}", min(column), max(column), step)
    if not 0 < len(arguments) <= most:
        return [Joined(k, ()) for k in kernels]
    new = iter([sym(arguments[c]) if c in arguments else c[0] for c in columns])
    kernel = _replaced(kernels[0], with_sizes, lambda _: next(new))
    kernel = replace(_with_ranges(kernel, kernels), sizes=(*kernel.sizes, *arguments.values()))
    return [Joined(kernel, values) for values in zip(*arguments)]


def _with_ranges(kernel: LoopKernel, kernels: Sequence[LoopKernel]) -> LoopKernel:
    """The kernel whose axes have the ranges of the axes of all kernels."""
    changed: dict[Symbol, Symbol] = {}
    for same in zip(*(axes(k) for k in kernels)):
        own = same[0].symbol
        highs = [a.symbol.max for a in same]
        changed[own] = Symbol(own.name, 0, None if None in highs else max(h for h in highs if h is not None))
    values: dict[Symbol, Dim] = {old: sym(new) for old, new in changed.items()}
    result = substitute_symbols(
        kernel, lambda d: d if isinstance(d, int) else substitute(d, values), lambda s: changed.get(s, s)
    )
    assert isinstance(result, LoopKernel)
    return result


def _skeleton(kernel: LoopKernel, with_sizes: bool) -> str:
    """Text that is equal for kernels that differ in constants only."""
    text = content_key(_replaced(kernel, with_sizes, lambda _: _HOLE))
    ranges = "" if with_sizes else str([(a.symbol.min, a.symbol.max) for a in axes(kernel)])
    aliases = str([b.may_alias for b in kernel.buffers])
    return f"{ranges}{aliases}{text}"


def _constants(kernel: LoopKernel, with_sizes: bool) -> list[int]:
    found: list[int] = []

    def note(constant: int) -> Dim:
        found.append(constant)
        return constant

    _replaced(kernel, with_sizes, note)
    return found


def _replaced(kernel: LoopKernel, with_sizes: bool, change: Callable[[int], Dim]) -> LoopKernel:
    """The kernel with its constants replaced in a fixed order: offsets of accesses, ids of draws, sizes if asked."""

    def offset(d: Dim | Ref) -> Dim | Ref:
        if isinstance(d, Ref):
            return d
        constant = d if isinstance(d, int) else next((c for atoms, c in d.terms if not atoms), 0)
        return d if constant < 0 else add(add(d, -constant), change(constant))

    def op(o: Op) -> Op:
        if isinstance(o, (Load, Store)):
            return replace(o, index=tuple(map(offset, o.index)))
        if isinstance(o, Random) and isinstance(o.operation, int):
            return replace(o, operation=change(o.operation))
        return o

    def sizes(dims: Iterable[Dim]) -> tuple[Dim, ...]:
        return tuple(d if isinstance(d, Expr) else change(d) for d in dims)

    kernel = with_bodies(kernel, [tuple(map(op, body)) for body in bodies(kernel)])
    if not with_sizes:
        return kernel
    buffers = tuple(replace(b, shape=sizes(b.shape), strides=sizes(b.strides)) for b in kernel.buffers)
    changed = map_axes(kernel, lambda a: Axis(a.symbol, *sizes((a.extent,))))
    assert isinstance(changed, LoopKernel)
    return replace(changed, buffers=buffers)
