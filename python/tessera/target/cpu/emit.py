"""Writing LLVM IR as text: values, expressions and structured control flow.

The builder places every side-effect-free instruction in the outermost scope (function, loop or branch)
in which its operands exist, and never writes the same one twice there. So loop-invariant code motion and
common subexpression elimination are done while the text is written, and LLVM runs few passes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Union

import numpy as np

INTEGER_BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "i128": 128}


def float_text(value: float, t: str) -> str:
    """The LLVM literal of a float constant of type ``float`` or ``double``."""
    if t == "float":
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    return "0x" + struct.pack(">d", value).hex().upper()


class Val:
    """An LLVM value: element type ``t``, lanes ``n`` (1: a scalar), text ``s``, scope depth ``d``.

    Arithmetic operators emit code; floating-point ``*``, ``+``, ``-`` may be contracted to FMA.
    """

    __slots__ = ("b", "t", "n", "s", "d", "const")

    def __init__(self, b: Builder, t: str, n: int, s: str, d: int, const: bool = False) -> None:
        self.b, self.t, self.n, self.s, self.d, self.const = b, t, n, s, d, const

    @property
    def ty(self) -> str:
        """The LLVM type."""
        return self.t if self.n == 1 else f"<{self.n} x {self.t}>"

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.t[0] in "fdh"

    def __str__(self) -> str:
        return f"{self.ty} {self.s}"

    def _binary(self, integer: str, floating: str, other: Operand) -> Val:
        return self.b.binary(floating if self.is_float else integer, self, other)

    def __add__(self, o: Operand) -> Val:
        return self._binary("add", self.b.module.contracted("fadd"), o)

    def __sub__(self, o: Operand) -> Val:
        return self._binary("sub", self.b.module.contracted("fsub"), o)

    def __mul__(self, o: Operand) -> Val:
        return self._binary("mul", self.b.module.contracted("fmul"), o)

    def __truediv__(self, o: Operand) -> Val:
        return self._binary("sdiv", "fdiv", o)

    def __radd__(self, o: Operand) -> Val:
        return self.b.lift(o, self) + self

    def __rsub__(self, o: Operand) -> Val:
        return self.b.lift(o, self) - self

    def __rmul__(self, o: Operand) -> Val:
        return self.b.lift(o, self) * self

    def __rtruediv__(self, o: Operand) -> Val:
        return self.b.lift(o, self) / self

    def __neg__(self) -> Val:
        if self.is_float:
            return self.b.pure(self.t, self.n, f"fneg {self}", self)
        return self.b.lift(0, self) - self

    def __and__(self, o: Operand) -> Val:
        return self.b.binary("and", self, o)

    def __or__(self, o: Operand) -> Val:
        return self.b.binary("or", self, o)

    def __xor__(self, o: Operand) -> Val:
        return self.b.binary("xor", self, o)

    def __invert__(self) -> Val:
        return self.b.binary("xor", self, True if self.t == "i1" else -1)

    def __lshift__(self, o: Operand) -> Val:
        return self.b.binary("shl", self, o)

    def lshr(self, o: Operand) -> Val:
        """Logical shift right."""
        return self.b.binary("lshr", self, o)

    def ashr(self, o: Operand) -> Val:
        """Arithmetic shift right."""
        return self.b.binary("ashr", self, o)

    def lt(self, o: Operand) -> Val:
        """Signed or ordered less than."""
        return self.b.compare("slt", "olt", self, o)

    def le(self, o: Operand) -> Val:
        """Signed or ordered less or equal."""
        return self.b.compare("sle", "ole", self, o)

    def gt(self, o: Operand) -> Val:
        """Signed or ordered greater than."""
        return self.b.compare("sgt", "ogt", self, o)

    def ge(self, o: Operand) -> Val:
        """Signed or ordered greater or equal."""
        return self.b.compare("sge", "oge", self, o)

    def eq(self, o: Operand) -> Val:
        """Equal."""
        return self.b.compare("eq", "oeq", self, o)

    def ne(self, o: Operand) -> Val:
        """Not equal; true for NaN."""
        return self.b.compare("ne", "une", self, o)

    def ult(self, o: Operand) -> Val:
        """Unsigned (floats: unordered or) less than."""
        return self.b.compare("ult", "ult", self, o)

    def ugt(self, o: Operand) -> Val:
        """Unsigned (floats: unordered or) greater than."""
        return self.b.compare("ugt", "ugt", self, o)

    def isnan(self) -> Val:
        """Whether it is NaN."""
        return self.b.compare("ne", "uno", self, self)

    def abs(self) -> Val:
        """The absolute value of a float."""
        return self.b.call("fabs", self)

    def bitcast(self, t: str) -> Val:
        """The same bits as elements of another type of equal width."""
        return self.b.convert("bitcast", self, t)


Operand = Union[Val, int, float, bool]
"""What arithmetic accepts: a value, or a constant that takes its type."""


class Module:
    """One LLVM module as text: declarations, constants, helper functions and kernels."""

    def __init__(self, ordered: bool = False) -> None:
        self.ordered = ordered
        self.declarations: dict[str, str] = {}
        self.globals: dict[str, str] = {}
        self.functions: dict[str, str] = {}

    def contracted(self, operation: str) -> str:
        """A floating-point operation that may become part of an FMA, unless the level is ordered."""
        return operation if self.ordered else f"{operation} contract"

    def declare(self, name: str, signature: str) -> None:
        """Declare a function that the module calls."""
        self.declarations[name] = signature

    def table(self, name: str, t: str, values: Sequence[int]) -> str:
        """A constant array of integers; returns its symbol."""
        body = ", ".join(f"{t} {v}" for v in values)
        self.globals[name] = f"@{name} = internal unnamed_addr constant [{len(values)} x {t}] [{body}], align 64"
        return f"@{name}"

    def helper(self, name: str, write: Callable[[str], str]) -> str:
        """The internal function ``name``, written by ``write(name)`` when it is first asked for."""
        if name not in self.functions:
            self.functions[name] = ""  # reserved: helpers may ask for each other
            self.functions[name] = write(name)
        return f"@{name}"

    def text(self, attributes: str) -> str:
        """The whole module; ``attributes`` are those of every function."""
        parts = ['target triple = "x86_64-unknown-linux-gnu"', *self.globals.values(), *self.functions.values()]
        parts += self.declarations.values()
        parts.append(f"attributes #0 = {{ {attributes} }}")
        parts.append("!0 = !{i32 1}")
        return "\n".join(parts) + "\n"


class _Scope:
    __slots__ = ("lines", "cache")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.cache: dict[str, Val] = {}


class Loop:
    """An open counted loop: index ``i``, loop-carried ``vars``; ``results`` after it is closed."""

    __slots__ = ("i", "vars", "next", "results")

    def __init__(self, i: Val, carried: list[Val]) -> None:
        self.i, self.vars, self.next, self.results = i, carried, list(carried), carried


class Builder:
    """Writes one function.

    ``has_fma``: whether ``fma`` is a single exact instruction at this code level; ``mark``: bytes right before it.
    """

    def __init__(self, module: Module, name: str, returns: str, args: Sequence[tuple[str, str]], has_fma: bool,
                 internal: bool = True, mark: bytes = b"") -> None:
        self.module, self.name, self.has_fma = module, name, has_fma
        self.scopes = [_Scope()]
        self.count = 0
        self.raw_forms: dict[tuple[str, str], Val] = {}  # memory forms of narrow floats, by register value
        self.label = "entry"
        self.returns = returns
        linkage, tail = ("internal ", " noinline") if internal else ("", "")
        signature = ", ".join(f"{t} %{a}" for t, a in args)
        text = "".join(f"\\{byte:02x}" for byte in mark)
        prefix = f' prefix [{len(mark)} x i8] c"{text}"' if mark else ""
        self.header = f"define {linkage}{returns} @{name}({signature}){tail} #0{prefix} {{\nentry:"
        self.args = {}
        for t, a in args:
            base = t.split()[0]
            n = 1
            if base.startswith("<"):
                n, base = int(t[1:].split()[0]), t.split()[2].rstrip(">")
            self.args[a] = Val(self, base, n, f"%{a}", 0)

    # values

    def fresh(self) -> str:
        """A new value name."""
        self.count += 1
        return f"%v{self.count}"

    def const(self, value: int | float | bool, t: str, n: int = 1) -> Val:
        """A constant of element type ``t``, in all ``n`` lanes."""
        if t in ("float", "double"):
            text = float_text(float(value), t)
        elif t == "i1":
            text = "true" if value else "false"
        else:
            bits = INTEGER_BITS[t]
            value = int(value) & ((1 << bits) - 1)
            text = str(value - (1 << bits) if value >> (bits - 1) else value)
        return Val(self, t, n, text if n == 1 else f"splat ({t} {text})", 0, True)

    def lift(self, x: Operand, like: Val) -> Val:
        """``x`` with the type of ``like``: constants become typed, scalars are broadcast."""
        if not isinstance(x, Val):
            return self.const(x, like.t, like.n)
        return self.broadcast(x, like.n)

    def broadcast(self, x: Val, n: int) -> Val:
        """The scalar ``x`` in ``n`` lanes; a vector stays as it is."""
        if x.n == n or x.n > 1:
            return x
        if x.const:
            return Val(self, x.t, n, f"splat ({x.t} {x.s})", 0, True)
        one = self.pure(x.t, n, f"insertelement <{n} x {x.t}> poison, {x}, i64 0", x)
        return self.pure(x.t, n, f"shufflevector {one}, <{n} x {x.t}> poison, <{n} x i32> zeroinitializer", one)

    def pure(self, t: str, n: int, text: str, *operands: Val) -> Val:
        """An instruction without side effects, written in the outermost scope where it is possible."""
        depth = max([o.d for o in operands], default=0)
        scope = self.scopes[depth]
        found = scope.cache.get(text)
        if found is None:
            found = Val(self, t, n, self.fresh(), depth)
            scope.cache[text] = found
            scope.lines.append(f"  {found.s} = {text}")
        return found

    def here(self, t: str, n: int, text: str) -> Val:
        """An instruction that must stay where it is (loads, divisions that may trap, calls)."""
        depth = len(self.scopes) - 1
        value = Val(self, t, n, self.fresh(), depth)
        self.scopes[-1].lines.append(f"  {value.s} = {text}")
        return value

    def line(self, text: str) -> None:
        """A line of code that gives no value."""
        self.scopes[-1].lines.append("  " + text)

    def binary(self, operation: str, x: Val, y: Operand) -> Val:
        """A two-operand instruction with an optional flag."""
        y = self.lift(y, x)
        x = self.broadcast(x, y.n)
        return self.pure(x.t, x.n, f"{operation} {x}, {y.s}", x, y)

    def compare(self, integer: str, floating: str, x: Val, y: Operand) -> Val:
        """A comparison; gives i1."""
        y = self.lift(y, x)
        x = self.broadcast(x, y.n)
        operation = f"fcmp {floating}" if x.is_float else f"icmp {integer}"
        return self.pure("i1", x.n, f"{operation} {x}, {y.s}", x, y)

    def select(self, c: Val, x: Operand, y: Operand) -> Val:
        """``c ? x : y`` in each lane."""
        like = x if isinstance(x, Val) else y
        assert isinstance(like, Val)
        x, y = self.lift(x, like), self.lift(y, like)
        n = max(c.n, x.n, y.n)
        x, y = self.broadcast(x, n), self.broadcast(y, n)
        return self.pure(x.t, n, f"select {c}, {x}, {y}", c, x, y)

    def convert(self, operation: str, x: Val, t: str) -> Val:
        """A conversion instruction (``sext``, ``zext``, ``trunc``, ``fpext``, ``bitcast`` …) lane by lane."""
        if x.t == t:
            return x
        to = t if x.n == 1 else f"<{x.n} x {t}>"
        return self.pure(t, x.n, f"{operation} {x} to {to}", x)

    def intrinsic(self, base: str, x: Val, *rest: Operand, result: str | None = None) -> Val:
        """A call of ``llvm.<base>`` overloaded on the type of ``x``, all operands of that type."""
        n = max([x.n] + [r.n for r in rest if isinstance(r, Val)])
        args = [self.broadcast(x, n)]
        args += [self.broadcast(self.lift(r, x), n) for r in rest]
        t = result or x.t
        name = f"llvm.{base}.{_mangle(args[0])}"
        self.module.declare(name, f"declare {_type(t, n)} @{name}({', '.join(a.ty for a in args)})")
        return self.pure(t, n, f"call {_type(t, n)} @{name}({', '.join(map(str, args))})", *args)

    def call(self, base: str, x: Val, *rest: Operand) -> Val:
        """An intrinsic by its base name."""
        return self.intrinsic(base, x, *rest)

    def fma(self, x: Val, y: Operand, z: Operand) -> Val:
        """x·y + z: fused where the level has FMA, else multiplied and added."""
        if not isinstance(y, Val):
            y = self.const(y, x.t)
        return self.intrinsic("fmuladd", x, y, z)

    def exact(self, operation: str, x: Val, y: Operand) -> Val:
        """A floating-point operation that must not be contracted."""
        return self.binary(operation, x, y)

    def saturate(self, x: Val, t: str, signed: bool = True) -> Val:
        """Float to integer: truncated, saturated, NaN to 0."""
        name = f"llvm.fpto{'s' if signed else 'u'}i.sat.{_mangle_type(t, x.n)}.{_mangle(x)}"
        self.module.declare(name, f"declare {_type(t, x.n)} @{name}({x.ty})")
        return self.pure(t, x.n, f"call {_type(t, x.n)} @{name}({x})", x)

    def leading_zeros(self, x: Val) -> Val:
        """Leading zero bits; the width for 0."""
        name = f"llvm.ctlz.{_mangle(x)}"
        self.module.declare(name, f"declare {x.ty} @{name}({x.ty}, i1)")
        return self.pure(x.t, x.n, f"call {x.ty} @{name}({x}, i1 false)", x)

    def lane(self, x: Val, i: int | Val) -> Val:
        """Lane ``i`` of a vector."""
        if x.n == 1:
            return x
        index = i if isinstance(i, Val) else self.const(i, "i64")
        return self.pure(x.t, 1, f"extractelement {x}, {index}", x, index)

    def vector(self, t: str, values: Sequence[int]) -> Val:
        """An integer vector constant."""
        text = "<" + ", ".join(f"{t} {v}" for v in values) + ">"
        return Val(self, t, len(values), text, 0)

    def iota(self, t: str, n: int) -> Val:
        """0, 1, …, n - 1 (0 for a scalar)."""
        return self.const(0, t) if n == 1 else self.vector(t, range(n))

    def float_vector(self, values: Sequence[float]) -> Val:
        """An f32 vector constant."""
        text = "<" + ", ".join(f"float {float_text(v, 'float')}" for v in values) + ">"
        return Val(self, "float", len(values), text, 0)

    def permute(self, table: Val, index: Val) -> Val:
        """``table[index mod lanes]`` for 8 (AVX2) or 16 (AVX-512) lanes of f32."""
        name = "llvm.x86.avx2.permps" if table.n == 8 else "llvm.x86.avx512.permvar.sf.512"
        self.module.declare(name, f"declare {table.ty} @{name}({table.ty}, {index.ty})")
        return self.pure(table.t, table.n, f"call {table.ty} @{name}({table}, {index})", table, index)

    def shuffle(self, x: Val, y: Val | None, order: Sequence[int]) -> Val:
        """Lanes picked from one or two vectors."""
        other = f"{y}" if y is not None else f"{x.ty} poison"
        mask = ", ".join(f"i32 {i}" for i in order)
        operands = (x,) if y is None else (x, y)
        if len(order) == 1:
            return self.lane(x, order[0])
        return self.pure(x.t, len(order), f"shufflevector {x}, {other}, <{len(order)} x i32> <{mask}>", *operands)

    def any(self, mask: Val) -> Val:
        """Whether any lane of a bool vector is true."""
        if mask.n == 1:
            return mask
        bits = self.pure(f"i{mask.n}", 1, f"bitcast {mask} to i{mask.n}", mask)
        return self.pure("i1", 1, f"icmp ne {bits}, 0", bits)

    # memory

    def pointer(self, base: Val, offset: Val | int, t: str) -> Val:
        """``base`` + ``offset`` elements of type ``t``; a vector offset gives a vector of pointers."""
        if not isinstance(offset, Val):
            if offset == 0:
                return base
            offset = self.const(offset, "i64")
        return self.pure("ptr", offset.n, f"getelementptr {t}, {base}, {offset}", base, offset)

    def load(self, p: Val, t: str, n: int, align: int) -> Val:
        """A scalar or vector load."""
        return self.here(t, n, f"load {_type(t, n)}, {p}, align {align}")

    def invariant_load(self, p: Val, t: str, align: int) -> Val:
        """A load from memory that nothing writes: may be moved."""
        return self.pure(t, 1, f"load {t}, {p}, align {align}", p)

    def store(self, p: Val, x: Val, align: int, nontemporal: bool = False) -> None:
        """A scalar or vector store; ``nontemporal`` needs full alignment."""
        self.line(f"store {x}, {p}, align {align}" + (", !nontemporal !0" if nontemporal else ""))

    def masked_load(self, p: Val, t: str, n: int, align: int, mask: Val, other: Val) -> Val:
        """A contiguous load of the lanes in ``mask``; the others get ``other``."""
        ty = f"<{n} x {t}>"
        name = f"llvm.masked.load.v{n}{_SHORT.get(t, t)}.p0"
        self.module.declare(name, f"declare {ty} @{name}(ptr, <{n} x i1>, {ty})")
        other = self.broadcast(other, n)
        return self.here(t, n, f"call {ty} @{name}(ptr align {align} {p.s}, {mask}, {other})")

    def masked_store(self, p: Val, x: Val, align: int, mask: Val) -> None:
        """A contiguous store of the lanes in ``mask``."""
        ty = f"<{x.n} x {x.t}>"
        name = f"llvm.masked.store.v{x.n}{_SHORT.get(x.t, x.t)}.p0"
        self.module.declare(name, f"declare void @{name}({ty}, ptr, <{x.n} x i1>)")
        self.line(f"call void @{name}({x}, ptr align {align} {p.s}, {mask})")

    def gather(self, p: Val, t: str, align: int, mask: Val, other: Val) -> Val:
        """A load through a vector of pointers."""
        n = p.n
        ty = f"<{n} x {t}>"
        name = f"llvm.masked.gather.v{n}{_SHORT.get(t, t)}.v{n}p0"
        self.module.declare(name, f"declare {ty} @{name}(<{n} x ptr>, <{n} x i1>, {ty})")
        other = self.broadcast(other, n)
        return self.here(t, n, f"call {ty} @{name}(<{n} x ptr> align {align} {p.s}, {mask}, {other})")

    def scatter(self, p: Val, x: Val, align: int, mask: Val) -> None:
        """A store through a vector of pointers, in lane order."""
        ty = f"<{x.n} x {x.t}>"
        name = f"llvm.masked.scatter.v{x.n}{_SHORT.get(x.t, x.t)}.v{x.n}p0"
        self.module.declare(name, f"declare void @{name}({ty}, <{x.n} x ptr>, <{x.n} x i1>)")
        self.line(f"call void @{name}({x}, <{x.n} x ptr> align {align} {p.s}, {mask})")

    def prefetch(self, p: Val) -> None:
        """Ask for the cache line at ``p``; any address is allowed."""
        self.module.declare("llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.line(f"call void @llvm.prefetch.p0({p}, i32 0, i32 3, i32 1)")

    def alloca(self, t: str, count: int, align: int = 64) -> Val:
        """Stack memory, reserved on entry of the function."""
        value = Val(self, "ptr", 1, self.fresh(), 0)
        self.scopes[0].lines.insert(0, f"  {value.s} = alloca [{count} x {t}], align {align}")
        return value

    # control flow

    def _open(self) -> None:
        self.scopes.append(_Scope())

    def _close(self) -> list[str]:
        return self.scopes.pop().lines

    @contextmanager
    def loop(self, start: Val | int, end: Val | int, step: int | Val = 1, carried: Sequence[Val] = (),
             nonempty: bool = False) -> Iterator[Loop]:
        """``for i in range(start, end, step)`` over i64, with loop-carried values.

        ``nonempty``: it is known to run at least once. Set ``loop.next``; read ``loop.results`` afterwards.
        """
        start = start if isinstance(start, Val) else self.const(start, "i64")
        end = end if isinstance(end, Val) else self.const(end, "i64")
        step = step if isinstance(step, Val) else self.const(step, "i64")
        if start.const and end.const and int(start.s) < int(end.s):
            nonempty = True
        before = self.label
        self.count += 1
        k = self.count
        header, done = f"loop{k}", f"done{k}"
        outer = len(self.scopes) - 1
        guard = None if nonempty else start.lt(end)
        self._open()
        depth = outer + 1
        i = Val(self, "i64", 1, f"%i{k}", depth)
        phis = [Val(self, v.t, v.n, f"%p{k}.{j}", depth) for j, v in enumerate(carried)]
        loop = Loop(i, phis)
        self.label = header
        yield loop
        following = [self.broadcast(x, v.n) for x, v in zip(loop.next, carried)]
        self.line(f"%i{k}.n = add nsw i64 %i{k}, {step.s}")
        self.line(f"%i{k}.c = icmp slt i64 %i{k}.n, {end.s}")
        self.line(f"br i1 %i{k}.c, label %{header}, label %{done}")
        latch = self.label
        body = self._close()
        out = self.scopes[-1].lines
        out.append(f"  br label %{header}" if guard is None else f"  br {guard}, label %{header}, label %{done}")
        out.append(f"{header}:")
        out.append(f"  %i{k}.p = phi i64 [ {start.s}, %{before} ], [ %i{k}.n, %{latch} ]")
        for p, v, x in zip(phis, carried, following):
            name = f"{p.s}.p" if p.t == "ptr" else p.s
            out.append(f"  {name} = phi {v.ty} [ {v.s}, %{before} ], [ {x.s}, %{latch} ]")
        for p in [i, *(p for p in phis if p.t == "ptr")]:
            out.append(_opaque(p))
        out += body
        out.append(f"{done}:")
        results = []
        for j, (v, x) in enumerate(zip(carried, following)):
            r = Val(self, v.t, v.n, f"%r{k}.{j}", outer)
            skipped = "" if guard is None else f"[ {v.s}, %{before} ], "
            out.append(f"  {r.s} = phi {v.ty} {skipped}[ {x.s}, %{latch} ]")
            results.append(r)
        loop.results = results
        self.label = done

    def branch(self, condition: Val, then: Callable[[], Sequence[Val]],
               otherwise: Callable[[], Sequence[Val]] | None = None) -> list[Val]:
        """``if condition: then() else: otherwise()``; the values that the two return are merged."""
        self.count += 1
        k = self.count
        outer = len(self.scopes) - 1
        texts, values, ends = [], [], []
        before = self.label
        for name, write in (("then", then), ("else", otherwise)):
            if write is None:
                values.append([])
                ends.append(before)
                continue
            self._open()
            self.label = f"{name}{k}"
            values.append(list(write()))
            self.line(f"br label %join{k}")
            ends.append(self.label)
            texts.append([f"{name}{k}:", *self._close()])
        out = self.scopes[-1].lines
        target = f"else{k}" if otherwise is not None else f"join{k}"
        out.append(f"  br {condition}, label %then{k}, label %{target}")
        for text in texts:
            out += text
        out.append(f"join{k}:")
        merged = []
        for j, (x, y) in enumerate(zip(*values)):
            r = Val(self, x.t, x.n, f"%m{k}.{j}", outer)
            out.append(f"  {r.s} = phi {x.ty} [ {x.s}, %{ends[0]} ], [ {y.s}, %{ends[1]} ]")
            merged.append(r)
        self.label = f"join{k}"
        return merged

    def finish(self, result: Val | None = None) -> str:
        """The text of the function, which returns ``result``."""
        self.line("ret void" if result is None else f"ret {result}")
        return "\n".join([self.header, *self.scopes[0].lines, "}"])


def _opaque(x: Val) -> str:
    """``x`` from ``x.p`` by an empty instruction that hides how it was computed.

    Loops are written with the addressing that they should have; LLVM's loop strength reduction would take half of
    the compile time to think it over.
    """
    return f'  {x.s} = call {x.ty} asm "", "=r,0"({x.ty} {x.s}.p)'


_SHORT = {"float": "f32", "double": "f64", "half": "f16", "ptr": "p0"}


def _type(t: str, n: int) -> str:
    return t if n == 1 else f"<{n} x {t}>"


def _mangle_type(t: str, n: int) -> str:
    return (f"v{n}" if n > 1 else "") + _SHORT.get(t, t)


def _mangle(x: Val) -> str:
    return _mangle_type(x.t, x.n)
