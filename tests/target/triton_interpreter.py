"""Generated Triton programs under Triton's interpreter, on NumPy arrays: no GPU, no compiler.

Triton decides when it is imported whether functions are compiled or interpreted. Tests do both in one process, so its
own functions are exchanged for interpreted ones while a kernel runs. The functions of libdevice, which are machine
code, are those of NumPy and SciPy here.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import torch
import triton
import triton.experimental.gluon.language  # noqa: F401  # takes Triton's functions as they are when it is imported
import triton.language as tl
from scipy import special
from tessera.ir.dims import evaluate
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.launch import BufferArgument, Program, SizeArgument
from tessera.tile.ir import Kernel
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

_UNARY: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "erf": special.erf, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "pow": np.power, "atan2": np.arctan2, "fmod": np.fmod, "copysign": np.copysign,
}


def _tensor(data: np.ndarray, like: Any) -> Any:
    kind = like.type
    return tl.core.tensor(interpreter.TensorHandle(data, kind.scalar), kind)


def _unary(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        data = x.handle.data
        with np.errstate(all="ignore"):
            return _tensor(np.asarray(function(data.astype(np.float64))).astype(data.dtype), x)

    return call


def _binary(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def call(x: Any, y: Any) -> Any:
        a, b = tl.broadcast(x, y)
        first, second = a.handle.data, b.handle.data
        with np.errstate(all="ignore"):
            wide = np.asarray(function(first.astype(np.float64), second.astype(np.float64)))
        return _tensor(wide.astype(first.dtype), a)

    return call


LIBDEVICE = SimpleNamespace(
    **{n: _unary(f) for n, f in _UNARY.items()}, **{n: _binary(f) for n, f in _BINARY.items()}
)


def _reduce(self: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """As ReduceOps.generic_reduce, a whole slice at a time."""
    axis = 0 if self.axis is None else self.axis
    data = [x.handle.data.reshape(-1) if self.axis is None else x.handle.data for x in inputs]
    kinds = [x.dtype for x in inputs]
    parts = [self.to_tensor(np.take(d, [0], axis), k) for d, k in zip(data, kinds)]
    for at in range(1, data[0].shape[axis]):
        new = [self.to_tensor(np.take(d, [at], axis), k) for d, k in zip(data, kinds)]
        found = self.combine_fn.fn(*parts, *new)
        parts = list(found) if isinstance(found, tuple) else [found]
    out = []
    for part, kind in zip(parts, kinds):
        array = part.handle.data
        if self.axis is None:
            array = array.reshape(-1)[0]
        elif not self.keep_dims:
            array = np.squeeze(array, axis)
        out.append(self.to_tensor(array, kind))
    return out


def _cast(self: Any, source: Any, kind: Any) -> Any:
    """As InterpreterBuilder.cast_impl, which cuts f32 to bf16 where the machine rounds to nearest even."""
    data, to = source.data, kind.scalar
    if source.dtype.scalar == tl.float32 and to == tl.bfloat16:
        return interpreter.TensorHandle(data.astype(ml_dtypes.bfloat16).view(np.uint16), to)
    if source.dtype.scalar == tl.bfloat16 and to == tl.float32:
        return interpreter.TensorHandle(data.view(ml_dtypes.bfloat16).astype(np.float32), to)
    return interpreter.TensorHandle(data.astype(interpreter._get_np_dtype(kind)), to)


def _dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
    """As InterpreterBuilder.create_dot, which takes the bits of bf16 for integers."""
    left, right = (
        (x.data.view(ml_dtypes.bfloat16) if x.dtype.scalar == tl.bfloat16 else x.data).astype(d.data.dtype)
        for x in (a, b)
    )
    return interpreter.TensorHandle(left @ right + d.data, d.dtype.scalar)


asked: list[tuple[int, int]] = []
"""The first address and the bytes of all that programs asked for ahead."""


def _assembly(self: Any, text: str, constraints: str, values: Sequence[Any], kinds: Any, pure: bool, pack: int) -> Any:
    """As InterpreterBuilder.create_inline_asm, for those that generated kernels in Triton have."""
    if "cp.async.bulk.prefetch.L2.global" in text:
        address, inside, size = (int(v.data.reshape(-1)[0]) for v in values)
        if inside:
            asked.append((address & -16, size))
        return SimpleNamespace(get_result=lambda _: interpreter.TensorHandle(np.zeros(1, np.int32), tl.int32))
    assert text.startswith("ex2.approx.ftz.f32 "), text
    value, = values
    power = np.exp2(value.data)
    flushed = np.where(power < np.finfo(np.float32).tiny, np.float32(0), power)
    return SimpleNamespace(get_result=lambda _: interpreter.TensorHandle(flushed, tl.float32))


def _patched_tensor(original: Callable[..., None]) -> Callable[..., None]:
    """As the interpreter's patch of tensors, whose conversion to integers newer versions of NumPy refuse."""

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.reshape(-1)[0]))
        scope.set_attr(tensor, "__bool__", lambda self: bool(self.handle.data.reshape(-1)[0]))

    return patch


@contextmanager
def interpreted() -> Iterator[None]:
    """Triton's own functions, interpreted."""
    saved: list[tuple[Any, str, Any]] = []

    def put(place: Any, name: str, value: Any) -> None:
        saved.append((place, name, getattr(place, name)))
        setattr(place, name, value)

    known: dict[int, Any] = {}
    for place in (tl, tl.core, tl.standard, tl.math, tl.random, tl.core.tensor):
        for name, value in list(vars(place).items()):
            if isinstance(value, JITFunction):
                put(place, name, known.setdefault(id(value), interpreter.InterpretedFunction(value.fn)))
    put(interpreter.ReduceOps, "generic_reduce", _reduce)
    put(interpreter, "_patch_lang_tensor", _patched_tensor(interpreter._patch_lang_tensor))
    put(interpreter.InterpreterBuilder, "cast_impl", _cast)
    put(interpreter.InterpreterBuilder, "create_dot", _dot)
    put(interpreter.InterpreterBuilder, "create_inline_asm", _assembly)
    interpret = triton.knobs.runtime.interpret
    triton.knobs.runtime.interpret = True
    before = [(place, dict(vars(place))) for place in (tl, tl.core, tl.math, tl.core.tensor, tl.core.dtype)]
    try:
        yield
    finally:
        triton.knobs.runtime.interpret = interpret
        for place, entries in before:
            for name, value in entries.items():
                if vars(place).get(name) is not value:
                    setattr(place, name, value)
        for place, name, value in reversed(saved):
            setattr(place, name, value)


_FROM_GLUON: tuple[tuple[str, Any], ...] = (
    (r"import triton\.language\.core as core\n(from .*\n)+?from triton\.language\.extra",
     "import triton\nimport triton.language as tl\nfrom triton.language.extra"),
    (r"@gluon\.jit", "@triton.jit"), (r"core\.PropagateNan", "tl.PropagateNan"),
    (r"tl\.thread_barrier", "tl.debug_barrier"), (r" +(line|flat): tl\.constexpr = .*\n", ""),
    (r", (layout=)?line\)", ")"), (r" +(\w+) = tl\.allocate_shared_memory\(.*\n", ""),
    (r"hopper\.async_copy\.async_copy_global_to_shared\((\w+), (.*?)(, mask=.*)?\)\n",
     lambda m: f"{m[1]} = tl.load({m[2]}{m[3] + ', other=77' if m[3] else ''})\n"),
    (r" +hopper\.async_copy\.(commit|wait)_group\(.*\n", ""), (r"\.load\(line\)", ""),
)


def _in_triton(source: str) -> str:
    """The text of a loop kernel in Gluon as Triton: what is copied to shared memory is loaded at once.

    Beyond the end of a row there is 77.
    """
    for words, other in _FROM_GLUON:
        source = re.sub(words, other, source)
    return source


def load(program: Program) -> Any:
    """The program's function, interpreted."""
    file = f"<interpreted {program.name}>"
    source = _in_triton(program.source) if program.gluon else program.source
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    names: dict[str, Any] = {"__name__": "interpreted"}
    exec(compile(source, file, "exec"), names)
    names["libdevice"] = LIBDEVICE
    for value in list(names.values()):
        if isinstance(value, interpreter.InterpretedFunction):
            value.rewrite()
    return names[program.name]


def _pointer(array: np.ndarray) -> Any:
    """The array's memory as a tensor of an element type that PyTorch has, with room behind an empty one."""
    data = array if array.size else np.zeros(64, array.dtype)
    name = {"bool": "uint8", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8", "bfloat16": "int16"}.get(data.dtype.name)
    flat = data.reshape(-1).view(name) if name else data.reshape(-1)
    tensor = torch.from_numpy(flat)
    return tensor.view(torch.bfloat16) if data.dtype.name == "bfloat16" else tensor


def launch(program: Program, arrays: Sequence[np.ndarray], sizes: Sequence[int], grid: Sequence[int],
           words: Mapping[str, np.ndarray] | None = None) -> None:
    """Run a program on arrays, one per buffer."""
    if 0 in grid:
        return
    with interpreted():
        function = load(program)
        arguments: list[Any] = []
        for a in program.arguments:
            if isinstance(a, BufferArgument):
                array = arrays[a.index]
                if array.dtype.itemsize != a.dtype.itemsize:  # a workspace
                    array = array.view(a.dtype.numpy)
                arguments.append(_pointer(array))
            elif isinstance(a, SizeArgument):
                arguments.append(int(sizes[a.index]))
            else:
                arguments.append(torch.from_numpy((words or {})[a.word]))  # type: ignore[union-attr]
        with np.errstate(all="ignore"):
            function[tuple(grid)](*arguments)


def run_kernel(
    kernel: Kernel, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], options: Options | None = None
) -> None:
    """Generate the programs of a kernel and run them, as ``tile.interpret.run_kernel`` runs the kernel itself."""
    generated = generate(kernel, options or Options())
    values = [sizes[s.name] for s in kernel.sizes]
    workspace = np.full(evaluate(generated.workspace, sizes), 0xA5, np.uint8)
    for program in generated.programs:
        grid = [evaluate(d, sizes) for d in program.grid]
        launch(program, [*arrays, workspace], values, grid)
